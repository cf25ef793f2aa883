"""The tests of aioruntime."""
