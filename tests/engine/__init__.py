"""Tests of `aioruntime.engine`: pure parsers by table and property, the rest against real engines."""
