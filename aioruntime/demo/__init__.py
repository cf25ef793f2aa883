"""Build factored images from Debian packages and serve them from a registry on loopback."""
