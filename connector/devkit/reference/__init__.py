"""Generate the reference pages in `docs/` from the code that they describe."""
