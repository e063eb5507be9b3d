"""What the connector costs: CPU by stage, and the whole worker end to end. `python -m tests.bench --help`."""
