"""How late a schedule of checks sees refreshes, and for how many requests: virtual time, and the best that can be."""
