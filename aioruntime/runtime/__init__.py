"""Containers (L4): specifications, the runtime contract, Docker and Podman."""
