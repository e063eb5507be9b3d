"""The upstream over HTTP: the client, its errors, its rate limit."""
