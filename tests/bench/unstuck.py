"""`python -m tests.bench.unstuck run ...`: `gex-connector run ...` that asks on as ever for what it cannot publish."""

from __future__ import annotations

from connector.cli import main
from connector.runtime import poller

if __name__ == "__main__":
    assert poller._STUCK_INTERVAL_SECONDS > 0
    vars(poller)["_STUCK_INTERVAL_SECONDS"] = 0
    main()
