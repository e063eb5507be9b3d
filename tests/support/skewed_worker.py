"""`gex-connector` with another clock than the brokers and the upstream.

The file named by SKEW_FILE has the seconds by which the wall clock is ahead. Write it again to
set the clock while the program runs.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from connector import cli

if TYPE_CHECKING:
    from collections.abc import Callable

SKEW_FILE = "SKEW_FILE"
_NANOS = 1_000_000_000


def _skewed(file: Path, real: Callable[[], int]) -> Callable[[], int]:
    def time_ns() -> int:
        return real() + round(float(file.read_text()) * _NANOS)

    return time_ns


def main() -> None:
    """Run the command line."""
    time_ns = _skewed(Path(os.environ[SKEW_FILE]), time.time_ns)
    with ExitStack() as stack:
        stack.enter_context(patch.object(time, "time_ns", time_ns))
        stack.enter_context(patch.object(time, "time", lambda: time_ns() / _NANOS))
        cli.main()


if __name__ == "__main__":
    main()
