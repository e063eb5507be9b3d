"""`gex-connector` under a limit of threads.

The variable PERMITTED_THREADS is the number of threads that it may start. Without it, there
are enough when the worker looks, and none from then on.
"""

from __future__ import annotations

import os
import threading
from unittest.mock import patch

from connector import cli
from connector.runtime import process_limits
from connector.runtime.threads import require_threads

_start = threading.Thread.start
_permitted = float(os.environ.get("PERMITTED_THREADS", "inf"))


def _start_if_permitted(thread: threading.Thread) -> None:
    global _permitted  # noqa: PLW0603 -- the limit is the process's
    if _permitted < 1:
        raise RuntimeError("can't start new thread")
    _permitted -= 1
    _start(thread)


def _require_the_last_threads(count: int) -> None:
    global _permitted  # noqa: PLW0603 -- as above
    require_threads(count)
    _permitted = 0


if __name__ == "__main__":
    with (
        patch.object(threading.Thread, "start", _start_if_permitted),
        patch.object(process_limits, "require_threads", _require_the_last_threads),
    ):
        cli.main()
