"""The engine's HTTP API (L2): endpoint, client, streams, capabilities, images, containers."""
