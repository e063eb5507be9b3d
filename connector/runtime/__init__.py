"""What runs: the worker that says when, metrics, health, and the HTTP listener."""
