"""Reasons why a refresh that the upstream showed may have no event of its own.

A refresh without an event and without an excuse is lost. An excuse must therefore be as
narrow as the product's promise: "Only a worker that died or was fenced with an
observation in hand, or observations collapsed while Kafka was away, may leave one out."
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import Counter, defaultdict
from itertools import accumulate
from typing import TYPE_CHECKING

from connector.kafka.names import partition_of
from tests.chaos.evidence import numbers_of
from tests.support.log_messages import (
    SHARD_FENCED,
    SHARD_HANDED_OVER,
    SHARD_LOST,
    SHARD_OPEN,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from connector.core.model import Event, State
    from tests.chaos.evidence import (
        Evidence,
        Numbers,
        Refresh,
        ShardMessage,
        Showing,
        WorkerLogs,
    )
    from tests.chaos.fleet import Life

# Messages of a worker whose shard went to another one without its consent.
LEFT = frozenset({SHARD_FENCED, SHARD_LOST})

GIVEN_UP = LEFT | {SHARD_HANDED_OVER}
CHANGED_HANDS = GIVEN_UP | {SHARD_OPEN}

# An answer shown so shortly before SIGTERM or a freeze may reach a worker too late: a busy
# machine can hold its event loop up for half a second.
IN_FLIGHT_SECONDS = 1.0

# Longest way of an answer to Kafka in a running worker, if nothing stands between. It takes
# milliseconds, but seconds on a busy machine.
IN_HAND_SECONDS = 10.0

# How long a trouble with Kafka has consequences: a commit is retried for 30 s.
RECOVERY_SECONDS = 35.0

# About the time-out of an upstream request: a worker frozen for longer discards the
# answer.
REQUEST_TIMEOUT_SECONDS = 4.0

# Longest doubt of a worker which clock is wrong. It measures that of the brokers meanwhile,
# several times, which a busy machine delays.
CLOCK_DOUBT_SECONDS = 40.0

BEFORE_REQUEST_SECONDS = 0.05
# Allowance for the way between worker and upstream, whose clocks mark a request. A worker
# whose event loop is held up takes an answer that much later.
AFTER_ANSWER_SECONDS = 1.0


class ContentExcuses:
    """Excuses that hold whichever worker the refresh was shown to."""

    def __init__(
        self,
        evidence: Evidence,
        by_symbol: Mapping[str, Sequence[Event]],
        showings: Mapping[Refresh, Sequence[Showing]],
    ) -> None:
        self._by_symbol = by_symbol
        self._quarantined = set()
        for record in evidence.quarantined:
            self._quarantined.add(hashlib.sha256(record.value).hexdigest())
        self._newest = _newest_shown(showings)
        self._collapsed = Counter[str]()

    def find(self, refresh: Refresh, first: Showing) -> str | None:
        """Return the excuse for a refresh, None if there is none.

        Each call that finds a collapsed observation uses up one that the event counts.
        """
        if self._equals_what_was_published(refresh):
            return "no difference to the last event"
        if first.sha256 in self._quarantined:
            return "quarantined"
        if self._is_older(refresh, first):
            return "older than a refresh shown before"
        if self._is_collapsed(refresh):
            return "collapsed, as an event after it says"
        return None

    def _equals_what_was_published(self, refresh: Refresh) -> bool:
        events = self._by_symbol.get(refresh.symbol, ())
        following = following_event(events, refresh)
        before = events if following is None else events[: following.sequence - 1]
        # One refresh can have several versions: compare with and without its own events.
        older = []
        for event in before:
            if (event.computed_at or 0) < refresh.computed_at:
                older.append(event)
        published = (_published_numbers(before), _published_numbers(older))
        return refresh.numbers in published

    def _is_older(self, refresh: Refresh, showing: Showing) -> bool:
        moments, newest = self._newest[refresh.symbol]
        index = bisect_right(moments, showing.answered_at) - 1
        return index >= 0 and newest[index] > refresh.computed_at

    def _is_collapsed(self, refresh: Refresh) -> bool:
        events = self._by_symbol.get(refresh.symbol, ())
        for event in _events_around(events, refresh):
            # Each of the observations that an event counts excuses one refresh.
            if self._collapsed[event.event_id] < event.collapsed_observations:
                self._collapsed[event.event_id] += 1
                return True
        return False


class WorkerExcuses:
    """Excuses in the fate of the worker that a refresh was shown to."""

    def __init__(
        self,
        evidence: Evidence,
        by_symbol: Mapping[str, Sequence[Event]],
        logs: WorkerLogs,
    ) -> None:
        self._evidence = evidence
        self._by_symbol = by_symbol
        self._logs = logs
        self.oldest_in_hand_seconds = 0.0

    def find(self, refresh: Refresh, showing: Showing) -> str | None:
        """Return the excuse for one showing of a refresh, None if there is none."""
        life = showing.life
        following = following_event(self._by_symbol.get(refresh.symbol, ()), refresh)
        # A worker that published the next event itself had no reason to leave one out.
        is_last_word = (
            following is None or following.source.worker != self._logs.worker(life)
        )
        for message in self._messages(refresh, life):
            # The shard went away while the refresh was in hand, and others may have
            # written.
            has_left = message.text in LEFT and message.at >= showing.requested_at
            if has_left and (
                is_last_word or self._others_wrote(refresh, following, life)
            ):
                return "in hand of a worker that was fenced"
            # A worker takes answers only from an opening to the end of its ownership.
            if message.text in CHANGED_HANDS and is_during(message, showing):
                return "under way when its shard was opened, lost or handed over"
            if message.text in GIVEN_UP and _gave_up_for_its_clock(message, showing):
                return "in hand of a worker whose clock was wrong"
        if was_frozen_during(showing):
            return "under way to a worker that was frozen"
        if is_last_word:
            return self._excuse_in_its_end(refresh, showing)
        return None

    def _excuse_in_its_end(self, refresh: Refresh, showing: Showing) -> str | None:
        life = showing.life
        # A stop has a deadline, within which a commit that Kafka does not answer may
        # not end.
        has_ended = life.ended_at is not None
        was_asked_to_stop = life.stopping_at is not None
        if has_ended and was_asked_to_stop and self._was_in_trouble(showing):
            return "in hand of a worker that was stopped while Kafka was away"
        # If it gave the shard up before its end, its end explains nothing.
        for message in self._messages(refresh, life):
            if message.text in GIVEN_UP and message.at >= showing.requested_at:
                return None
        # A crash takes along the observation in hand, but not one that waited for longer.
        if has_ended and life.status not in {0, None}:
            waited_seconds = seconds_awake(life, showing.answered_at)
            if waited_seconds < IN_HAND_SECONDS or self._was_in_trouble(showing):
                self.oldest_in_hand_seconds = max(
                    self.oldest_in_hand_seconds, waited_seconds
                )
                return "in hand of a worker that died"
        if was_asked_to_stop and _is_just_before_stop(showing):
            return "under way to a worker that stopped"
        return None

    def _messages(self, refresh: Refresh, life: Life) -> Sequence[ShardMessage]:
        partition = partition_of(refresh.symbol, self._evidence.shards)
        return self._logs.of_shard(life, f"all-{partition}")

    def _was_in_trouble(self, showing: Showing) -> bool:
        """Return whether the worker could not reach Kafka between the showing and its end."""
        ended_at = showing.life.ended_at
        assert ended_at is not None
        return was_in_trouble(showing.answered_at, ended_at, self._evidence.troubles)

    def _others_wrote(
        self, refresh: Refresh, following: Event | None, life: Life
    ) -> bool:
        """Return whether another worker wrote to the shard around the refresh.

        That is between the last older state that this worker wrote and the event that
        follows.
        """
        if following is None:
            return True
        # `current` is not compacted in a chaos run: it has every state that was ever
        # written.
        partition = partition_of(refresh.symbol, self._evidence.shards)
        states = [state for _, state in self._evidence.current[partition]]
        until = _index_of_sequence(states, refresh.symbol, following.sequence)
        worker = self._logs.worker(life)
        since = 0
        for index, state in enumerate(states[:until]):
            is_its_own = (
                state.symbol == refresh.symbol and state.source.worker == worker
            )
            if is_its_own and (state.computed_at or 0) < refresh.computed_at:
                since = index + 1
        return any(state.source.worker != worker for state in states[since:until])


def following_event(events: Sequence[Event], refresh: Refresh) -> Event | None:
    """Return the first event of a later refresh of the symbol."""
    for event in events:
        if (event.computed_at or 0) > refresh.computed_at:
            return event
    return None


def _events_around(events: Sequence[Event], refresh: Refresh) -> list[Event]:
    """Return the events behind those of older refreshes, up to the one of a later refresh.

    An absence that overtakes a refresh has an event without `computed_at`.
    """
    found: list[Event] = []
    for event in events:
        if event.computed_at is not None and event.computed_at < refresh.computed_at:
            found.clear()
            continue
        found.append(event)
        if event.computed_at is not None and event.computed_at > refresh.computed_at:
            break
    return found


def seconds_awake(life: Life, since: float) -> float:
    """Return how long a process ran from a moment to its end, without the time it was frozen.

    A process killed while it is frozen has in hand all that it had before the freeze.
    """
    assert life.ended_at is not None
    seconds = life.ended_at - since
    counted_until = since
    # Freezes can overlap: count each second once.
    for frozen_at, woken_at in sorted(life.frozen):
        from_at = max(frozen_at, counted_until)
        until = min(woken_at, life.ended_at)
        if until > from_at:
            seconds -= until - from_at
            counted_until = until
    return seconds


def was_in_trouble(
    since: float, until: float, troubles: Iterable[tuple[float, float]]
) -> bool:
    """Return whether Kafka could not be written to in a time, or had not recovered."""
    for began_at, over_at in troubles:
        if began_at < until and since < over_at + RECOVERY_SECONDS:
            return True
    return False


def _newest_shown(
    showings: Mapping[Refresh, Sequence[Showing]],
) -> dict[str, tuple[list[float], list[int]]]:
    """Return each symbol's first showings, and the newest `computed_at` by each of them."""
    first_shown: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for refresh, its_showings in showings.items():
        moment = its_showings[0].answered_at
        first_shown[refresh.symbol].append((moment, refresh.computed_at))
    found = {}
    for symbol, pairs in first_shown.items():
        pairs.sort()
        moments = [moment for moment, _ in pairs]
        newest = list(accumulate((computed_at for _, computed_at in pairs), max))
        found[symbol] = (moments, newest)
    return found


def _published_numbers(events: Sequence[Event]) -> Numbers | None:
    """Return the numbers of the last event that had levels."""
    for event in reversed(events):
        if event.after is not None:
            return numbers_of(event.after)
    return None


def _index_of_sequence(states: Sequence[State], symbol: str, sequence: int) -> int:
    """Return the index of the symbol's first state with this sequence or a later one."""
    for index, state in enumerate(states):
        if state.symbol == symbol and state.sequence >= sequence:
            return index
    return len(states)


def is_during(message: ShardMessage, showing: Showing) -> bool:
    """Return whether a shard changed while an answer was under way."""
    earliest = showing.requested_at - BEFORE_REQUEST_SECONDS
    latest = showing.answered_at + AFTER_ANSWER_SECONDS
    return earliest <= message.at and message.began_at <= latest


def was_frozen_during(showing: Showing) -> bool:
    """Return whether the worker was frozen for so long that it discarded the answer.

    It may have been frozen before it read the answer.
    """
    latest = showing.answered_at + IN_FLIGHT_SECONDS
    for began_at, over_at in showing.life.frozen:
        is_long = over_at - began_at > REQUEST_TIMEOUT_SECONDS
        if is_long and began_at < latest and showing.requested_at < over_at:
            return True
    return False


def _gave_up_for_its_clock(message: ShardMessage, showing: Showing) -> bool:
    """Return whether a worker with a wrong clock gave up the shard soon after a showing.

    It asks several times before it knows which clock is wrong, and drops the answers of
    that time, since their ages are wrong.
    """
    waited_seconds = message.at - showing.requested_at
    for began_at, over_at in showing.life.clock_ahead:
        is_wrong = began_at < showing.answered_at < over_at + AFTER_ANSWER_SECONDS
        if is_wrong and 0 <= waited_seconds < CLOCK_DOUBT_SECONDS:
            return True
    return False


def _is_just_before_stop(showing: Showing) -> bool:
    stopping_at = showing.life.stopping_at
    assert stopping_at is not None
    return showing.answered_at > stopping_at - IN_FLIGHT_SECONDS
