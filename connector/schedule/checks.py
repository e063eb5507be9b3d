"""Name the settings, purposes and outcomes of checks. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from connector.core.model import Value

# Interval between tries of a refused key or a refused symbol. It is longer if many symbols
# are refused.
SLOW_RETRY_SECONDS: Final = 60


class CheckSettings(Value, frozen=True):
    """The target delay, and the bounds of the interval between checks of a batch."""

    target_delay_seconds: float = 0.4
    min_interval_seconds: float = 0.25
    max_interval_seconds: float = 60


class Outcome(StrEnum):
    """The outcome of a check, as far as the next check depends on it."""

    ANSWERED = "answered"
    FAILED = "failed"
    """No answer, for a reason that concerns this batch: back off."""

    DEFERRED = "held"
    """No answer, for a reason that pauses all batches: due when the pause is over."""

    UNCONFIRMED = "unconfirmed"
    """An answer that waits until other answers confirm the upstream's clock."""


class Purpose(StrEnum):
    """The reason for a check."""

    FIRST = "first"
    """The current state is unknown, after a start or a take-over."""

    EXPECTED = "expected"
    """A refresh is expected."""

    SEARCH = "search"
    """No rhythm is known, or it was lost."""

    RETRY = "retry"
    """The previous check failed."""

    REFUSED = "refused"
    """The upstream refuses this symbol. It is requested alone and rarely."""
