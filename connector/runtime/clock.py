"""Our wall clock, and an estimate of the upstream's."""

from __future__ import annotations

import logging
import time
from collections import deque
from statistics import median
from typing import Final, NamedTuple

from connector.core.model import MICROS, Moment
from connector.core.timestamps import Timestamps

_log = logging.getLogger(__name__)

# A server's clock that is further off is not believed at all. NTP keeps clocks within a
# second, so such a clock is broken, and half of its error would be as wrong as all of it.
MAX_CORRECTION_SECONDS: Final = 300

# The median of this many follows a step of the server's clock within half of them.
_SAMPLES: Final = 15

# With fewer, a single bogus timestamp could be the median.
_MIN_SAMPLES: Final = 3
_MIN_BELIEVED_SAMPLES: Final = 2

# A server's clock that seems further off has to be confirmed: levels would be refused as of
# the future, or be called stale, because of our own clock.
_MAX_UNCONFIRMED_SECONDS: Final = 5

# Smaller changes of our clock are NTP at work, and are learnt from the next answers.
_MIN_STEP_MICROS: Final = MICROS // 2


class _Sample(NamedTuple):
    """A server's timestamp, and the offset of its clock from ours, in microseconds."""

    server_at: int
    offset: int


class Clock:
    """Wall time in microseconds since the epoch, by our clock and by the upstream's."""

    def __init__(self, *, has_witness: bool = False) -> None:
        """`has_witness` says that somebody compares our clock with a third one."""
        self.correction = 0
        """Estimated upstream clock minus ours, in microseconds."""
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._ahead = self._ahead_of_monotonic()
        self._timestamps = Timestamps()
        self._is_doubted = False
        self._has_witness = has_witness
        self._is_ours_confirmed = not has_witness

    @property
    def needs_confirmation(self) -> bool:
        """True if the clocks seem to differ by much, and it is not known yet which is wrong.

        More responses confirm a difference that is corrected. A larger one waits for the
        brokers' clock.
        """
        if not self._samples:
            return False
        if self.needs_witness:
            return True
        if len(self._samples) >= _MIN_SAMPLES:
            return False
        offset_seconds = abs(self._samples[-1].offset) / MICROS
        if offset_seconds > MAX_CORRECTION_SECONDS:
            return not self._is_ours_confirmed
        return offset_seconds > _MAX_UNCONFIRMED_SECONDS

    @property
    def needs_witness(self) -> bool:
        """True if the upstream's clock is not believed, and no third clock has confirmed ours."""
        self._follow_steps()
        return self._is_doubted and not self._is_ours_confirmed

    def confirm(self) -> None:
        """Take note that a third clock agrees with ours, or that none can be asked."""
        self._is_ours_confirmed = True

    @property
    def offset_seconds(self) -> float | None:
        """The upstream's clock minus ours in the last response, None before the first."""
        if not self._samples:
            return None
        return self._samples[-1].offset / MICROS

    @property
    def ahead(self) -> int:
        """Our clock minus one that nobody steps, in microseconds. See `step_since`."""
        return self._ahead_of_monotonic()

    def step_since(self, ahead: int) -> int:
        """Return by how much our clock was stepped since it was `ahead` (microseconds)."""
        step = self._ahead_of_monotonic() - ahead
        return 0 if abs(step) < _MIN_STEP_MICROS else step

    @staticmethod
    def now() -> int:
        """Return the present by our clock."""
        return time.time_ns() // 1000

    def upstream(self, ours: int) -> int:
        """Return the upstream's time at a moment of our clock."""
        self._follow_steps()
        return ours + self.correction

    def moment(self) -> Moment:
        """Return the present by our clock and by the upstream's."""
        local_at = self.now()
        return Moment(local_at, self.upstream(local_at))

    def learn(self, sent_at: int, received_at: int, server_at: int) -> bool:
        """Learn from a response's `meta.timestamp`, created between sending and receiving.

        A difference that the round trip can explain is not corrected. The median of the
        last samples counts, so that a bogus timestamp changes nothing.

        Return False if the response is a copy of an earlier one: its timestamp is older than
        the request. A cache serves the same bytes for minutes.
        """
        self._follow_steps()
        # On the monotonic clock, since ours may be stepped between two responses.
        is_copy = self._timestamps.is_repeated(
            server_at, sent_at - self._ahead, received_at - self._ahead
        )
        if is_copy:
            # The first response with this timestamp may have been an old copy, too.
            self._forget(server_at)
            return False

        # A timestamp in whole seconds may stand for any moment of its second.
        resolution = MICROS if server_at % MICROS == 0 else 0
        smallest = server_at - received_at
        largest = server_at + resolution - sent_at
        if smallest <= 0 <= largest:
            offset = 0
        else:
            offset = min(smallest, largest, key=abs)
        self._samples.append(_Sample(server_at, offset))
        self._settle()
        return True

    def _forget(self, server_at: int) -> None:
        kept = [sample for sample in self._samples if sample.server_at != server_at]
        if len(kept) < len(self._samples):
            self._samples = deque(kept, maxlen=_SAMPLES)
            self._settle()

    def _settle(self) -> None:
        """Set the correction from the samples: 0 if too few of them are believed."""
        limit = MAX_CORRECTION_SECONDS * MICROS
        believed = []
        doubted = []
        for sample in self._samples:
            if abs(sample.offset) <= limit:
                believed.append(sample.offset)
            else:
                doubted.append(sample.offset)
        has_enough = (
            len(self._samples) >= _MIN_SAMPLES
            and len(believed) >= _MIN_BELIEVED_SAMPLES
        )
        self.correction = round(median(believed)) if has_enough else 0
        self._report(doubted)

    def _report(self, doubted: list[int]) -> None:
        """Log once that the server's clock is not believed, and once that it is again."""
        if not self._is_doubted and len(doubted) >= _MIN_SAMPLES:
            self._is_doubted = True
            fields = {
                "offset_seconds": round(median(doubted) / MICROS, 1),
                "limit_seconds": MAX_CORRECTION_SECONDS,
            }
            _log.warning(
                "upstream clock is not believed; measuring ages by our own clock",
                extra=fields,
            )
        elif self._is_doubted and not doubted:
            self._is_doubted = False
            self._is_ours_confirmed = not self._has_witness
            _log.info("upstream clock is believed again")

    def _ahead_of_monotonic(self) -> int:
        # CLOCK_BOOTTIME continues while the machine is suspended. With time.monotonic a
        # suspension would look like a step of the wall clock.
        return self.now() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000

    def _follow_steps(self) -> None:
        """Shift the samples when our clock is stepped."""
        ahead = self._ahead_of_monotonic()
        step = ahead - self._ahead
        if abs(step) < _MIN_STEP_MICROS:
            return
        self._ahead = ahead
        self._is_ours_confirmed = not self._has_witness
        shifted = []
        for sample in self._samples:
            shifted.append(_Sample(sample.server_at, sample.offset - step))
        self._samples = deque(shifted, maxlen=_SAMPLES)
        self._settle()
