"""Request quota: a number of requests per key and calendar minute."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from connector.devkit.simulator.levels import MICROS

_MINUTE_SECONDS: Final = 60
_MINUTE_MICROS: Final = _MINUTE_SECONDS * MICROS


class Quota:
    """Requests spent by each key. A limit of 0 means no limit; `now` is microseconds."""

    def __init__(self) -> None:
        self._spent: Counter[tuple[str, int]] = Counter()

    def spend(self, key: str, requests: int, now: int) -> None:
        """Count requests, even over the limit, as another program's would be."""
        self._spent[key, now // _MINUTE_MICROS] += requests

    def try_spend(self, key: str, limit: int, now: int) -> bool:
        """Count a request. Return False, without counting it, if none is left."""
        if limit and self._spent[key, now // _MINUTE_MICROS] >= limit:
            return False
        self.spend(key, 1, now)
        return True

    def fields(self, key: str, limit: int, now: int) -> dict[str, Any]:
        """Return the documented fields `limit`, `remaining` and `reset`."""
        minute = now // _MINUTE_MICROS
        return {
            "limit": limit,
            "remaining": max(0, limit - self._spent[key, minute]),
            "reset": (minute + 1) * _MINUTE_SECONDS,
        }


def seconds_left(now: int) -> int:
    """Return the seconds until the next minute, at least 1."""
    return _MINUTE_SECONDS - now // MICROS % _MINUTE_SECONDS
