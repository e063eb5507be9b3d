"""Publishes past events as the workers did: an event and its state in one transaction."""

from __future__ import annotations

import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from connector.core.transition import RECENT_REFRESHES_KEPT, state_after
from connector.errors import KafkaUnavailable
from connector.kafka.names import ShardId, partition_of
from connector.kafka.reader import Reader
from connector.kafka.shard_log import ShardLog, Transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from connector.core.model import Event, State
    from connector.kafka.avro import Codec
    from connector.kafka.clients import Clients
    from connector.kafka.names import Topics
    from connector.tools.replay.plan import Plan
    from connector.tools.replay.target import Sizes

# The consumer group in the states of a replay, which has no members. The day's own group would
# tell the client something about a connector that does not write these topics: that it runs
# while the replay has stopped, or that none runs while the replay does.
REPLAY_GROUP: Final = "replay"

_MAX_THREADS: Final = 16
_OPEN_SECONDS: Final = 30
_RETRY_SECONDS: Final = 0.5


class ReplayPublisher:
    """Writes events and the states after them. Every call blocks.

    It knows the states from the events alone: refreshes that made no event have left no
    trace in `changes`.
    """

    def __init__(
        self, clients: Clients, topics: Topics, codec: Codec, sizes: Mapping[str, Sizes]
    ) -> None:
        self._clients = clients
        self._topics = topics
        self._codec = codec
        self._sizes = sizes
        self._logs: dict[ShardId, ShardLog] = {}
        self._states: dict[tuple[str, str], State] = {}

    def open(self, plan: Plan, states: Iterable[State]) -> None:
        """Open the shards of a plan, and publish the `states` that it begins from.

        Raises KafkaError.
        """
        reader = Reader(self._clients)
        for feed, symbols in plan.symbols.items():
            for symbol in symbols:
                shard = self._shard_of(feed, symbol)
                self._logs[shard] = ShardLog(
                    shard,
                    self._sizes[feed].shards,
                    topics=self._topics,
                    clients=self._clients,
                    reader=reader,
                    codec=self._codec,
                )
        # Each opening waits for the brokers, so open them all at once.
        with ThreadPoolExecutor(_MAX_THREADS) as pool:
            list(pool.map(_open, self._logs.values()))
        reader.close()

        by_shard = defaultdict(list)
        for from_plan in states:
            state = _of_replay(from_plan)
            self._states[state.feed, state.symbol] = state
            by_shard[self._shard_of(state.feed, state.symbol)].append(state)
        for shard, first_states in by_shard.items():
            self._logs[shard].publish(Transaction(states=first_states))

    def publish(self, events: Iterable[Event]) -> None:
        """Publish events, in one transaction for each shard. Raises KafkaError."""
        by_shard: dict[ShardId, list[Event]] = defaultdict(list)
        for event in events:
            by_shard[self._shard_of(event.feed, event.symbol)].append(event)
        for shard, its_events in by_shard.items():
            states: dict[str, State] = {}
            for event in its_events:
                states[event.symbol] = self._next_state(event)
            transaction = Transaction(its_events, list(states.values()))
            self._logs[shard].publish(transaction)

    def serve_callbacks(self) -> None:
        """Run the callbacks that wait in the producers. Call every second."""
        for log in self._logs.values():
            log.serve_callbacks()

    def close(self) -> None:
        """Abort what is open, so that no reader waits for it."""
        for log in self._logs.values():
            log.abort()

    def _shard_of(self, feed: str, symbol: str) -> ShardId:
        return ShardId(feed, partition_of(symbol, self._sizes[feed].shards))

    def _next_state(self, event: Event) -> State:
        key = event.feed, event.symbol
        last = self._states.get(key)
        computed_at = event.computed_at
        recent: tuple[int, ...] = ()
        if last is not None:
            recent = last.recent_computed_at
            # Events without levels have none, but the state keeps it.
            if computed_at is None:
                computed_at = last.computed_at
        if event.computed_at is not None and event.computed_at not in recent:
            recent = (*recent, event.computed_at)[-RECENT_REFRESHES_KEPT:]
        state = replace(state_after(event, computed_at), recent_computed_at=recent)
        state = _of_replay(state)
        self._states[key] = state
        return state


def _of_replay(state: State) -> State:
    return replace(state, source=replace(state.source, group=REPLAY_GROUP))


def _open(log: ShardLog) -> None:
    """Open a shard. Raises KafkaError if that fails again and again."""
    deadline = time.monotonic() + _OPEN_SECONDS
    while True:
        try:
            log.open()
        except KafkaUnavailable:
            # A topic that was just created may have no leader yet.
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return
