"""Tests of the demonstration images and their registry."""
