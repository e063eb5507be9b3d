"""`gex-connector` whose event loop gets stuck at SIGUSR1, until SIGUSR2.

Other threads go on, as they do while the loop waits in a blocking call.
"""

from __future__ import annotations

import signal
import time
from unittest.mock import patch

from connector import cli
from connector.runtime import loop_watch

# Longer than a test: the loop must go on before the worker ends itself.
HOPELESS_SECONDS = 600

# No event: its lock could be held by the very call that a signal interrupts.
_releases: list[int] = []


def _get_stuck(_number: int, _frame: object) -> None:
    # Python runs this in the main thread, which is the event loop's.
    while not _releases:
        time.sleep(0.1)


def _release(number: int, _frame: object) -> None:
    # Runs in the middle of the other handler.
    _releases.append(number)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _get_stuck)
    signal.signal(signal.SIGUSR2, _release)
    with patch.object(loop_watch, "HOPELESS_SECONDS", HOPELESS_SECONDS):
        cli.main()
