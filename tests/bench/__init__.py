"""Measure the connector's cost: CPU by stage, and the whole worker end to end.

`python -m tests.bench --help` lists the options.
"""
