"""Commands for people: check a setup, and watch, list and verify its events."""
