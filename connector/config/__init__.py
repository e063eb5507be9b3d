"""The configuration: its model, and how it is loaded from a TOML file and the environment."""
