"""Measurements, as ratios in one run against a peer; run them with ``python -m benchmarks.NAME``."""
