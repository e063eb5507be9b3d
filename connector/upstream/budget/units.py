"""Units that all parts of the budget share."""

from __future__ import annotations

from math import ceil, floor
from typing import Final

MINUTE_SECONDS: Final = 60.0

# Shares are sums of fractions such as 1/3, which miss a whole number by about 1e-16.
_ROUNDING_ERROR: Final = 1e-6


def round_down(requests: float) -> int:
    """Return the whole requests in a computed number of requests."""
    return floor(requests + _ROUNDING_ERROR)


def round_up(requests: float) -> int:
    """Return the whole requests that cover a computed number of requests."""
    return ceil(requests - _ROUNDING_ERROR)


def exceeds(requests: float, limit: float) -> bool:
    """Return True if a computed number is above the limit by more than rounding."""
    return requests > limit + _ROUNDING_ERROR
