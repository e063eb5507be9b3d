"""`gex-connector` whose event loop gets stuck for a while at each SIGUSR1.

Other threads go on, as they do while the loop waits in a blocking call.
"""

from __future__ import annotations

import signal
import time
from typing import Final

from connector import cli
from connector.runtime import loop_watch

STUCK_SECONDS: Final = 30


def _get_stuck(_number: int, _frame: object) -> None:
    # Python runs this in the main thread, which is the event loop's.
    end = time.monotonic() + STUCK_SECONDS
    while time.monotonic() < end:
        time.sleep(0.1)


if __name__ == "__main__":
    # The test must know that the loop comes back in time.
    assert loop_watch.STALL_SECONDS < STUCK_SECONDS < loop_watch.HOPELESS_SECONDS
    signal.signal(signal.SIGUSR1, _get_stuck)
    cli.main()
