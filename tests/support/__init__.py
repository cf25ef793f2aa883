"""What the tests stand on: real engines, faulty servers and proxies, cancellation at every step."""
