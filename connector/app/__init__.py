"""Build a worker from a configuration, and let it work."""
