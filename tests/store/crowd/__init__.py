"""Many processes on one store: what they do, what they promise, and who judges it."""
