"""Tests of the local image store."""
