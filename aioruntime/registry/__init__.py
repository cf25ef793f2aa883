"""The remote side (L2): credentials, authentication, manifests and blobs."""
