"""Decide when to check each batch of symbols. Pure: no I/O, no clock."""
