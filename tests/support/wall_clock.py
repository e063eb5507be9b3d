"""The wall clock of this machine, as the program sees it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def set_clock(monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """Step the wall clock. No other clock changes."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + seconds * 10**9)
