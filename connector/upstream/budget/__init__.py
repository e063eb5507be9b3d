"""The request budget: how many requests may be sent, and when."""
