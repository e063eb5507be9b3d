"""Run a worker that keeps checking symbols that it cannot publish.

`python -m tests.bench.unstuck run ...` is `gex-connector run ...` without the longer interval
between checks while Kafka is away.
"""

from __future__ import annotations

from connector.cli import main
from connector.runtime import stuck_checks

if __name__ == "__main__":
    # Fail if the constant has another name by now: an assignment would go unnoticed.
    assert stuck_checks._STUCK_INTERVAL_SECONDS > 0
    vars(stuck_checks)["_STUCK_INTERVAL_SECONDS"] = 0
    main()
