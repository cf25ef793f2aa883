"""Blobs on disk (L2): an OCI image layout shared by tasks and processes."""
