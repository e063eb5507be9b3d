"""`gex-connector` in a world where months last hours and days last seconds.

For tests of facts that the connector learns from a month's pace, or on its daily look, of
feeds that nobody has refreshed for a while, and of topics and transactions that it looks at
now and then. Only these durations differ from the real program.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final
from unittest.mock import patch

from connector import cli
from connector.app import looks, parts
from connector.kafka import orphans
from connector.runtime import held_back, orphaned_feeds, topic_look
from connector.runtime.daily_look import DailyLook
from connector.upstream.budget import Month
from connector.upstream.budget.month import Period

if TYPE_CHECKING:
    from collections.abc import Iterator

# A pace is visible after 1/1500 of the month: 7 s.
_MONTH_SECONDS: Final = 3 * 3600.0
# The server's clock may be behind ours.
_BEGUN_BEFORE_SECONDS: Final = 60.0
_DAY_SECONDS: Final = 5.0
# States of the simulator are refreshed each second.
_IDLE_SECONDS: Final = 8.0
# Longer than any transaction of a worker takes.
_TRANSACTION_SECONDS: Final = 8.0
_LOOK_SECONDS: Final = 1.0


async def _sleep(_seconds: float) -> None:
    await asyncio.sleep(_DAY_SECONDS)


@contextmanager
def short_months_and_days() -> Iterator[None]:
    """Let workers of this process live in a month that has just begun, with short days."""
    starts_at = time.time() - _BEGUN_BEFORE_SECONDS
    month = Period(starts_at, starts_at + _MONTH_SECONDS)
    with ExitStack() as stack:
        # Fails if a worker gets its month or its look elsewhere by now.
        for module, original, shorter in (
            (parts, Month, partial(Month, period_of=lambda *_: month)),
            (looks, DailyLook, partial(DailyLook, sleep=_sleep)),
        ):
            assert vars(module)[original.__name__] is original
            stack.enter_context(patch.object(module, original.__name__, shorter))
        # `patch` fails if there is no such name any more.
        for module, name, seconds in (
            (orphans, "IDLE_SECONDS", _IDLE_SECONDS),
            (orphaned_feeds, "_FIRST_LOOK_SECONDS", _LOOK_SECONDS),
            (orphaned_feeds, "_LOOK_SECONDS", _LOOK_SECONDS),
            (looks, "PATIENCE_SECONDS", _TRANSACTION_SECONDS),
            (held_back, "_LOOK_INTERVAL_SECONDS", _LOOK_SECONDS),
            (topic_look, "_CALM_INTERVALS", 1),
            (topic_look, "_TROUBLE_INTERVAL_SECONDS", _LOOK_SECONDS),
        ):
            stack.enter_context(patch.object(module, name, seconds))
        yield


def main() -> None:
    """Run the command line."""
    with short_months_and_days():
        cli.main()


if __name__ == "__main__":
    main()
