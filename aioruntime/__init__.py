"""Pull, keep, assemble and run OCI images from asyncio, on Docker or Podman."""
