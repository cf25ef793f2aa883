"""The command line (L5); the only place that prints."""
