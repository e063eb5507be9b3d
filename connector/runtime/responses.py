"""Gives the answers of the upstream to the shards that own the symbols."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.decode import RateLimit
from connector.core.entry import is_empty_entry
from connector.core.model import MICROS, Status, Value
from connector.logs import Bounded
from connector.runtime.ports import AnswerTimes, ResponseReport
from connector.schedule.symbols import ComputedTimes

if TYPE_CHECKING:
    from connector.core.decode import Response
    from connector.runtime.coverage import Coverage
    from connector.runtime.ports import PollerContext
    from connector.schedule.batches import Batch
    from connector.upstream.client import LevelsAnswer


_log = logging.getLogger(__name__)

# The upstream repeats such things with every answer: a line an hour is enough.
_LOG_INTERVAL_SECONDS: Final = 3600

# Answers of a process that may wait for the upstream's clock. Two wait for the third, which
# confirms it. If timestamps are missing or cached, levels must not wait for ever.
_MAX_WAITS: Final = 4


class _Accepted(Value, frozen=True):
    """An answer to a batch, with MISSING for entries without levels, and when it was asked for.

    `clock_ahead` tells if our clock was stepped since.
    """

    batch: Batch
    answer: LevelsAnswer
    answers: dict[str, bytes | Status]
    sent_at: float
    clock_ahead: int


class Responses:
    """Learns from each response, and passes on its answers."""

    def __init__(self, coverage: Coverage, context: PollerContext) -> None:
        self.rate_limit = RateLimit()
        """The quota as the upstream last reported it."""
        self._coverage = coverage
        self._context = context
        self._unconfirmed: list[_Accepted] = []
        """Answers that wait until the upstream's clock is known, in their order."""
        self._waits_left = _MAX_WAITS
        self._bounded = Bounded(_LOG_INTERVAL_SECONDS, time.monotonic)

    def accept(
        self, batch: Batch, answer: LevelsAnswer, sent_at: float
    ) -> ComputedTimes | None:
        """Give every entry and absence to its shard.

        Return the moments when the levels were computed. Return None if the answer waits
        until it is known by how much the upstream's clock is off: ask again.
        """
        clock = self._context.clock
        is_copy = False
        server_at = answer.response.meta.server_at
        if server_at is not None:
            is_copy = not clock.learn(answer.sent_at, answer.received_at, server_at)
        self.rate_limit = answer.rate_limit
        if answer.is_fallback_limit:
            self._log_fallback_limit(answer)
        answers, inconsistencies = _without_empty_entries(answer.response)
        if is_copy:
            inconsistencies += ("copy",)
        report = ResponseReport(
            answer.rate_limit,
            inconsistencies,
            clock_correction_seconds=clock.correction / MICROS,
        )
        self._context.observer.response_decoded(report)

        accepted = _Accepted(batch, answer, answers, sent_at, clock.ahead)
        if self._waits():
            self._log_clock_difference(answer)
            self._unconfirmed.append(accepted)
            return None
        # No answer is left out: each may show another refresh.
        for earlier in self._unconfirmed:
            self._give_to_shards(earlier)
        self._unconfirmed.clear()
        computed_at = self._give_to_shards(accepted)
        return ComputedTimes(
            computed_at, self.upstream_minus_monotonic_seconds(), is_copy=is_copy
        )

    def _waits(self) -> bool:
        """Return True if an answer has to wait, since one of the clocks is wrong."""
        clock = self._context.clock
        # That ends by itself: the brokers' clock is asked at once.
        if clock.needs_witness:
            return True
        if not clock.needs_confirmation or not self._waits_left:
            return False
        self._waits_left -= 1
        return True

    def _give_to_shards(self, accepted: _Accepted) -> dict[str, int]:
        """Give an answer's entries and absences to the shards.

        Return the moments when the levels were computed.
        """
        batch, answer = accepted.batch, accepted.answer
        meta = answer.response.meta
        source = replace(
            self._context.source,
            request_id=meta.request_id,
            exchanges=meta.exchanges,
        )
        clock = self._context.clock
        # Our clock may have been set while the answer waited.
        at = answer.received_at + clock.step_since(accepted.clock_ahead)
        # After `learn`, so that this answer's own timestamp is taken into account.
        times = AnswerTimes(
            sent_at=accepted.sent_at,
            at=at,
            upstream_at=clock.upstream(at),
            source=source,
            models=meta.models,
            is_copy=answer.is_copy,
        )

        for symbol, name in answer.response.other_spellings.items():
            self._note_spelling(batch.feed, symbol, name, meta.request_id)
            shard = self._coverage.owner(batch.feed, symbol)
            if shard is not None:
                # Otherwise its levels would be stale because nobody answers.
                shard.note_answer(symbol, times)
        computed_at = {}
        for symbol, entry in accepted.answers.items():
            has_levels = not isinstance(entry, Status)
            # Levels tell how old they are. An absence does not, so an old copy says nothing.
            if answer.is_copy and not has_levels:
                continue
            newest = self._pass_on(batch.feed, symbol, entry, times)
            if has_levels and newest is not None:
                computed_at[symbol] = newest
        return computed_at

    def accept_refusal(
        self, batch: Batch, status: Status, request_id: str | None, sent_at: float
    ) -> None:
        """Give every symbol of a refused request the same status."""
        now = self._context.clock.moment()
        source = replace(self._context.source, request_id=request_id)
        times = AnswerTimes(
            sent_at=sent_at,
            at=now.local_at,
            upstream_at=now.upstream_at,
            source=source,
        )
        for symbol in batch.symbols:
            self._pass_on(batch.feed, symbol, status, times, "refused")

    def upstream_minus_monotonic_seconds(self) -> float:
        """Return the upstream's clock minus our monotonic one."""
        upstream_seconds = self._context.clock.moment().upstream_at / MICROS
        return upstream_seconds - time.monotonic()

    def _log_clock_difference(self, answer: LevelsAnswer) -> None:
        if self._bounded.admit("clock difference") is None:
            return
        fields = {"request_id": answer.response.meta.request_id}
        _log.info(
            "upstream clock seems to differ from ours; asking again", extra=fields
        )

    def _log_fallback_limit(self, answer: LevelsAnswer) -> None:
        # Otherwise it would look like a smaller plan.
        if self._bounded.admit("fallback limit") is None:
            return
        fields = {
            "limit_per_minute": answer.rate_limit.limit,
            "request_id": answer.response.meta.request_id,
        }
        _log.warning("upstream limits requests by a stricter fallback", extra=fields)

    def _note_spelling(
        self, feed: str, symbol: str, name: str, request_id: str | None
    ) -> None:
        """Count and log an entry whose name is similar to that of a symbol without one."""
        self._context.observer.other_spelling(feed, symbol, name)
        suppressed = self._bounded.admit((feed, symbol, name))
        if suppressed is None:
            return
        fields = {
            "feed": feed,
            "symbol": symbol,
            "spelling": name,
            "request_id": request_id,
            "not_logged_before": suppressed,
        }
        _log.warning("upstream spells a symbol in another way", extra=fields)

    def _pass_on(
        self,
        feed: str,
        symbol: str,
        answer: bytes | Status,
        times: AnswerTimes,
        reason: str | None = None,
    ) -> int | None:
        """Give an answer to its shard.

        Return the moment when the symbol's newest levels were computed.
        """
        status = answer if isinstance(answer, Status) else Status.LIVE
        self._context.observer.symbol_answered(feed, symbol, status)
        shard = self._coverage.owner(feed, symbol)
        # The shard may have been lost while the request was under way.
        if shard is None:
            return None
        return shard.observe(symbol, answer, times, reason)


def _without_empty_entries(
    response: Response,
) -> tuple[dict[str, bytes | Status], tuple[str, ...]]:
    """Return the answers with MISSING for entries without any level, and the inconsistencies.

    Otherwise such a symbol would be LIVE with nothing in it.
    """
    answers = dict(response.answers)
    inconsistencies = list(response.inconsistencies)
    for symbol, entry in response.answers.items():
        if not isinstance(entry, Status) and is_empty_entry(entry):
            answers[symbol] = Status.MISSING
            inconsistencies.append("empty_entry")
    return answers, tuple(inconsistencies)
