"""What a person asks of a set-up: `check`, `history`, `verify`, and the table of `watch`."""
