"""The configuration: its model, and how it is loaded from a file and the environment."""
