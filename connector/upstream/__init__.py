"""The upstream over HTTP: sending requests, decoding replies, and the request budget."""
