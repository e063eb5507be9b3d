"""How many cases a property is tried with: a few that are always the same, or as many as `make fuzz` says."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

VARIABLE = "FUZZ_TIMES"
FUZZING = VARIABLE in os.environ


def cases(count: int, weight: int = 1) -> settings:
    """So many; in a fuzzing run as many times `weight` as it says, and others with each seed."""
    if not FUZZING:
        return settings(deadline=None, derandomize=True, max_examples=count)
    times = int(os.environ[VARIABLE]) * weight
    return settings(
        deadline=None,
        database=None,
        max_examples=count * times,
        suppress_health_check=list(HealthCheck),
    )
