"""Number of cases that a property test tries.

`make test` tries a few cases, the same in every run; `make fuzz` multiplies them and draws
new ones.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

VARIABLE = "FUZZ_TIMES"
FUZZING = VARIABLE in os.environ


def cases(count: int, weight: int = 1) -> settings:
    """Try `count` cases, or in a fuzzing run `count * FUZZ_TIMES * weight` random ones."""
    if not FUZZING:
        # A loaded machine is slow, and that is no fault of the test.
        return settings(
            deadline=None,
            derandomize=True,
            max_examples=count,
            suppress_health_check=[HealthCheck.too_slow],
        )
    times = int(os.environ[VARIABLE]) * weight
    return settings(
        deadline=None,
        database=None,
        max_examples=count * times,
        suppress_health_check=list(HealthCheck),
    )
