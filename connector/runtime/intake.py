"""Turns raw answers into observations. Pure: clock values come in with each answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from connector.core.entry import decode_entry
from connector.core.model import MICROS, Observation, Status, Value
from connector.core.positioning import ResponseModels
from connector.core.transition import DROPPED_OLDER
from connector.errors import EntryError
from connector.kafka.quarantine import Quarantined
from connector.runtime.refresh_values import RefreshValues

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.core.model import Entry
    from connector.core.transition import FeedRules
    from connector.runtime.ports import AnswerTimes

# An answer, and the models that its response names.
_Answer = tuple[bytes | Status, ResponseModels]

# The reason to drop a value that another one of the same refresh has replaced.
DROPPED_FLAPPING: Final = "flapping"


class Reading(Value, frozen=True):
    """The result of an answer.

    `observation` and `quarantined` are both None if nothing is new. `computed_at` is set if
    these levels are newer than all before them, and `detection_seconds` if earlier ones are
    known, so that this is a refresh. `dropped` is the reason the levels were dropped.
    """

    observation: Observation | None = None
    quarantined: Quarantined | None = None
    computed_at: int | None = None
    detection_seconds: float | None = None
    dropped: str | None = None


class Intake:
    """Compares each answer with the last one, and decodes it if it may differ."""

    def __init__(self, rules: FeedRules) -> None:
        self._values = RefreshValues(rules.rules)
        self._stale_after_micros = rules.stale_after_micros
        self._last: dict[str, _Answer] = {}
        self._quarantined: dict[str, bytes] = {}
        self._answered_at: dict[str, int] = {}
        self._computed_at: dict[str, int] = {}
        self._observed_at: dict[str, int] = {}
        self._sent_at: dict[str, float] = {}
        """By symbol, when the newest request that was answered was sent (monotonic)."""
        self._refused: dict[str, tuple[_Answer | None, float]] = {}
        """By symbol, an answer that the brokers refuse, and until when (monotonic)."""
        self._ignored_before = float("-inf")

    def ignore_requests_before(self, moment: float) -> None:
        """Treat answers as outdated if they were requested before this moment (monotonic)."""
        self._ignored_before = moment

    def is_outdated(self, times: AnswerTimes) -> bool:
        """Return True if an answer may be older than the records of another worker."""
        return times.sent_at < self._ignored_before

    def restart(self) -> None:
        """Forget the answers.

        The shard was restored, so each answer has to be compared with the restored state,
        and an answer counts for a symbol's freshness only from here on.
        """
        self._last.clear()
        self._quarantined.clear()
        self._answered_at.clear()
        self._values.clear()

    def refuse(self, symbol: str, until: float) -> None:
        """Ignore a symbol's last answer if it comes again before this moment (monotonic).

        The brokers refuse its records, and each refusal closes the shard for a moment.
        """
        self._refused[symbol] = (self._last.get(symbol), until)

    def learn_computed_at(self, symbol: str, computed_at: int | None) -> None:
        """Take note of levels that somebody has published."""
        newest = self._computed_at.get(symbol, 0)
        if computed_at is not None and computed_at > newest:
            self._computed_at[symbol] = computed_at

    def accept(
        self,
        symbol: str,
        answer: bytes | Status,
        times: AnswerTimes,
        reason: str | None = None,
        *,
        may_become_fresh: bool = False,
    ) -> Reading:
        """Take an answer: an entry's bytes, or the status of a symbol without levels.

        `may_become_fresh` says that the symbol's levels are stale, and that the same answer
        would make them fresh again. Recognizing an answer that is the same as the last one
        costs next to nothing, which matters since most are.
        """
        self._observed_at[symbol] = times.at
        # A symbol may move to another batch while a request about it is under way.
        newest_sent_at = self._sent_at.get(symbol, float("-inf"))
        self._sent_at[symbol] = max(newest_sent_at, times.sent_at)
        is_overtaken = times.sent_at < newest_sent_at
        if is_overtaken and isinstance(answer, Status):
            return Reading(dropped=DROPPED_OLDER)
        # A quarantined entry may become valid: `computed_at` is no longer in the future.
        is_quarantined = symbol in self._quarantined
        is_undecided = self._values.is_undecided(symbol)
        may_differ = may_become_fresh or is_quarantined or is_undecided
        # The same bytes are other levels if the response names another model for them.
        latest = (answer, times.models)
        is_same = self._last.get(symbol) == latest and not may_differ
        if is_same or self._is_refused(symbol, latest, times):
            self._note_valid(symbol, times)
            return Reading()

        self._last[symbol] = latest
        if isinstance(answer, Status):
            self._answered_at[symbol] = times.upstream_at
            self._values.forget(symbol)
            absence = Observation(
                symbol,
                answer,
                None,
                observed_at=times.at,
                upstream_at=times.upstream_at,
                source=times.source,
                reason=reason,
            )
            return Reading(absence)
        return self._decode(
            symbol,
            answer,
            times,
            may_become_fresh=may_become_fresh,
            is_overtaken=is_overtaken,
        )

    def note_answer(self, symbol: str, times: AnswerTimes) -> None:
        """Note that the upstream answered, but neither with levels nor with an absence.

        Levels without `computed_at` are as old as the last answer, so it must not count.
        """
        if symbol in self._computed_at:
            self._answered_at[symbol] = times.upstream_at

    def last_answers(self) -> Mapping[str, int]:
        """Return each symbol's last valid answer since `restart`, by the upstream's clock."""
        return self._answered_at

    def computed_at(self, symbol: str) -> int | None:
        """Return the moment when a symbol's newest levels were computed, published or not."""
        return self._computed_at.get(symbol)

    def observed_at(self, symbol: str) -> int | None:
        """Return the moment when a symbol's last answer was complete, by our clock."""
        return self._observed_at.get(symbol)

    def _is_refused(self, symbol: str, latest: _Answer, times: AnswerTimes) -> bool:
        refused, until = self._refused.get(symbol, (None, 0.0))
        return refused == latest and times.sent_at < until

    def _note_valid(self, symbol: str, times: AnswerTimes) -> None:
        """Note that the upstream answered with levels that are valid."""
        if times.is_copy:
            self.note_answer(symbol, times)
        else:
            self._answered_at[symbol] = times.upstream_at

    def _decode(
        self,
        symbol: str,
        raw: bytes,
        times: AnswerTimes,
        *,
        may_become_fresh: bool,
        is_overtaken: bool,
    ) -> Reading:
        try:
            entry = decode_entry(
                raw, times.upstream_at, symbol=symbol, models=times.models
            )
        except EntryError as error:
            return self._quarantine(symbol, raw, times, error)

        if is_overtaken and entry.computed_at is None:
            # The next answer must not seem to be the same as this one.
            del self._last[symbol]
            return Reading(dropped=DROPPED_OLDER)
        self._quarantined.pop(symbol, None)
        self._note_valid(symbol, times)
        is_flapping = self._values.is_flapping(symbol, entry)
        becomes_fresh = may_become_fresh and self._is_fresh(entry, times)
        if is_flapping and not becomes_fresh:
            return Reading(dropped=DROPPED_FLAPPING)
        observation = Observation(
            symbol,
            Status.LIVE,
            entry,
            observed_at=times.at,
            upstream_at=times.upstream_at,
            source=times.source,
        )
        known = self._computed_at.get(symbol)
        if entry.computed_at is None or entry.computed_at <= (known or 0):
            return Reading(observation)

        self._computed_at[symbol] = entry.computed_at
        # The first levels of a symbol may have been there long before the first check.
        delay_seconds = None
        if known is not None:
            delay_seconds = (times.upstream_at - entry.computed_at) / MICROS
        return Reading(
            observation,
            computed_at=entry.computed_at,
            detection_seconds=delay_seconds,
        )

    def _is_fresh(self, entry: Entry, times: AnswerTimes) -> bool:
        """Return True if an entry is young enough to end the staleness of its symbol."""
        if entry.computed_at is None:
            return False
        return times.upstream_at - entry.computed_at <= self._stale_after_micros

    def _quarantine(
        self, symbol: str, raw: bytes, times: AnswerTimes, error: EntryError
    ) -> Reading:
        """Quarantine an entry once, however often the upstream repeats it."""
        # Its levels become stale because they are old, not because nobody answers or asks.
        self.note_answer(symbol, times)
        if self._quarantined.get(symbol) == raw:
            return Reading()
        self._quarantined[symbol] = raw
        quarantined = Quarantined(
            symbol=symbol,
            raw=raw,
            reason=error.reason,
            message=str(error),
            observed_at=times.at,
            request_id=times.source.request_id,
        )
        return Reading(quarantined=quarantined)
