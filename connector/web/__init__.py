"""The HTTP listener: metrics, health checks, status page and API."""
