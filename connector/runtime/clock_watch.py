"""Notices that our own clock is wrong, so that a worker with a right one can take over."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, Protocol

from connector.errors import KafkaError
from connector.runtime.clock import MAX_CORRECTION_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Executor

    from connector.runtime.clock import Clock

_log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
# Each look at the brokers' clock costs a transaction.
_WRONG_LOOK_SECONDS: Final = 10.0
# After so many looks without an answer, only a new attempt can tell: five minutes, or half a
# minute if our clock was set.
_MAX_UNANSWERED: Final = 30
# Levels wait meanwhile, so the brokers are not asked for long.
_MAX_UNANSWERED_IN_DOUBT: Final = 3

# NTP keeps clocks within a second. Well below the hour that brokers permit, so that the next
# record is not refused again.
_RIGHT_SECONDS: Final = 60
_REMEDY: Final = "correct this machine's clock (timedatectl, chronyc tracking)"


class BrokerTime(Protocol):
    """The brokers' clock. Implemented by `connector.kafka.broker_clock`."""

    def difference_seconds(self) -> float:
        """Return the brokers' clock minus ours. Blocks. Raises KafkaError."""


class ClockWatch:
    """Compares our clock with the brokers' when there is a reason to doubt ours.

    There are two: the brokers refuse the time of a record, or the upstream's clock is so far
    from ours that it is not believed. If the brokers' clock is far from ours as well, ours is
    wrong: `is_wrong` is True until it is right again, and the worker leaves the group. When
    somebody sets our clock, it is compared again at once.

    `changed` is called when `is_wrong` changes, and with each new difference.
    """

    def __init__(
        self,
        brokers: BrokerTime,
        clock: Clock,
        executor: Executor,
        changed: Callable[[bool, float | None], object],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.is_wrong = False
        """True if no shard can be served because of our clock. Any thread may look."""
        self.difference_seconds: float | None = None
        """The brokers' clock minus ours, None before the first look."""
        self._brokers = brokers
        self._clock = clock
        self._executor = executor
        self._changed = changed
        self._sleep = sleep
        self._upstream_seconds: float | None = None
        self._compared_ahead = clock.ahead
        self._unanswered = 0
        self._waited_seconds = 0.0
        # A refusal and `run` may look at the same moment.
        self._looking = asyncio.Lock()

    async def run(self) -> None:
        """Look while there is a reason to, until cancelled."""
        while True:
            await self._sleep(_LOOK_SECONDS)
            if self.is_wrong:
                self._waited_seconds += _LOOK_SECONDS
                if self._may_be_right():
                    await self._look_again()
            elif self._clock.needs_witness:
                await self._ask_for_a_witness()

    async def explains_refusal(self) -> bool:
        """Return True if our clock is the reason why brokers refuse the time of a record."""
        async with self._looking:
            if self.is_wrong:
                return True
            # Without an answer too: what the brokers refuse must not be given up for that.
            ahead = self._clock.ahead
            difference = await self._measure()
            if difference is None or abs(difference) > _RIGHT_SECONDS:
                self._give_up(ahead)
        return self.is_wrong

    def why_not_ready(self) -> list[str]:
        """Return the reason against being ready."""
        if not self.is_wrong:
            return []
        return [f"{self._description()}; {_REMEDY}"]

    async def _ask_for_a_witness(self) -> None:
        """Ask the brokers which clock is wrong: ours or the upstream's."""
        async with self._looking:
            if self.is_wrong:
                return
            ahead = self._clock.ahead
            difference = await self._measure()
            if difference is None:
                self._unanswered += 1
                if self._unanswered < _MAX_UNANSWERED_IN_DOUBT:
                    return
            elif abs(difference) > MAX_CORRECTION_SECONDS:
                self._give_up(ahead)
                return
            # Also without an answer: nothing better is known.
            self._unanswered = 0
            self._clock.confirm()

    def _may_be_right(self) -> bool:
        """Return True if our clock was set since it was compared, or that is long ago."""
        was_set = self._clock.step_since(self._compared_ahead) != 0
        return was_set or self._waited_seconds >= _WRONG_LOOK_SECONDS

    async def _look_again(self) -> None:
        self._waited_seconds = 0.0
        ahead = self._clock.ahead
        async with self._looking:
            difference = await self._measure()
        if difference is None:
            # A broker that has just become a leader may refuse to answer. If our clock was
            # set, the next turn asks again.
            self._unanswered += 1
            if self._unanswered < _MAX_UNANSWERED:
                return
        elif abs(difference) > _RIGHT_SECONDS:
            self._unanswered = 0
            self._compared_ahead = ahead
            return
        self._go_on()

    async def _measure(self) -> float | None:
        """Return the brokers' clock minus ours, None if it cannot be measured."""
        loop = asyncio.get_running_loop()
        try:
            difference = await loop.run_in_executor(
                self._executor, self._brokers.difference_seconds
            )
        except KafkaError as error:
            _log.warning(
                "cannot compare our clock with the brokers'",
                extra={"error": str(error)},
            )
            return None
        self.difference_seconds = difference
        self._changed(self.is_wrong, difference)
        return difference

    def _give_up(self, ahead: int) -> None:
        """Leave the group. `ahead` is that of our clock before it was compared."""
        self.is_wrong = True
        self._unanswered = 0
        self._waited_seconds = 0.0
        # Somebody may have set it during the comparison.
        self._compared_ahead = ahead
        self._upstream_seconds = self._clock.offset_seconds
        self._changed(True, self.difference_seconds)
        fields = {
            "brokers_minus_ours_seconds": _rounded(self.difference_seconds),
            "upstream_minus_ours_seconds": _rounded(self._upstream_seconds),
            "remedy": _REMEDY,
        }
        _log.error("this machine's clock is wrong; leaving the group", extra=fields)

    def _go_on(self) -> None:
        self.is_wrong = False
        self._changed(False, self.difference_seconds)
        fields = {"brokers_minus_ours_seconds": _rounded(self.difference_seconds)}
        _log.warning(
            "this machine's clock is right again; joining the group", extra=fields
        )

    def _description(self) -> str:
        if self.difference_seconds is None:
            return (
                "this machine's clock is wrong: the brokers refuse the time of records"
            )
        text = f"this machine's clock is {_apart(self.difference_seconds)} the brokers'"
        if self._upstream_seconds is not None:
            text += f" and {_apart(self._upstream_seconds)} the API's"
        return text


def _apart(difference_seconds: float) -> str:
    """Describe our clock by the difference of another clock from it."""
    side = "behind" if difference_seconds > 0 else "ahead of"
    return f"{abs(difference_seconds):.0f} s {side}"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
