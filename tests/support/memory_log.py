"""A shard's transactional log in memory, with faults that a test puts in.

It behaves as `connector.kafka.shard_log.ShardLog` does: `tests/support/log_statements.py`
runs over both.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from connector.errors import KafkaUnavailable, ShardFenced, Unpublishable
from connector.kafka.shard_log import Restored, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from connector.core.model import Event, Levels, State
    from connector.errors import KafkaError
    from connector.kafka.restore import Stray
    from connector.kafka.shard_log import Transaction

# librdkafka's default of `message.max.bytes`.
LARGEST_RECORD_BYTES: Final = 1_000_000

_COMMIT_SECONDS: Final = 10


@dataclass(slots=True)
class MemoryTopic:
    """The committed records of one shard, and the log that may write to it.

    `strays` and `recovered` are what the next opening finds, as in `Restored`.
    """

    owner: MemoryLog | None = None
    writer: Writer | None = None
    events: list[Event] = field(default_factory=list)
    states: dict[str, State] = field(default_factory=dict)
    state_records: int = 0
    used_fractions: list[float] = field(default_factory=list)
    last_used_fraction: float | None = None
    strays: tuple[Stray, ...] = ()
    recovered: tuple[str, ...] = ()


class MemoryLog:
    """A `TransactionalLog` on a topic in memory.

    Each call of `publish` raises the next of `errors`, and Unpublishable for a state that
    `refuses` returns True of. With `committed_all_the_same` it
    commits before it raises, as a commit does whose answer is lost. `publish` waits
    while `goes_on` is cleared. `opened` counts the calls of `open`.
    """

    waiting = 0

    def __init__(self, topic: MemoryTopic | None = None) -> None:
        self.topic = topic or MemoryTopic()
        self.errors: list[KafkaError] = []
        self.refuses: Callable[[State], bool] = lambda _: False
        self.committed_all_the_same = False
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.opened = 0
        self._is_open = False

    @property
    def events(self) -> list[Event]:
        return self.topic.events

    @property
    def states(self) -> dict[str, State]:
        return self.topic.states

    @property
    def used_fractions(self) -> list[float]:
        """Return `Transaction.used_fraction` of each commit."""
        return self.topic.used_fractions

    @property
    def writer(self) -> Writer | None:
        return self.topic.writer

    @writer.setter
    def writer(self, writer: Writer) -> None:
        """Pretend that somebody else wrote the last record."""
        self.topic.writer = writer

    def open(self, symbols: Collection[str] = ()) -> Restored:
        topic = self.topic
        topic.owner = self
        self.opened += 1
        self._is_open = True
        return Restored(
            dict(topic.states),
            topic.state_records,
            seconds=0.0,
            used_fraction=topic.last_used_fraction,
            writer=topic.writer,
            strays=topic.strays,
            recovered=topic.recovered,
        )

    def publish(self, transaction: Transaction) -> None:
        if not self._is_open:
            raise KafkaUnavailable("the shard is not open")
        assert self.goes_on.wait(_COMMIT_SECONDS)
        try:
            self._commit(transaction)
        except BaseException:
            self._is_open = False
            raise

    def serve_callbacks(self) -> None: ...

    def abort(self) -> None:
        self._is_open = False

    def abandon(self) -> None: ...

    def _commit(self, transaction: Transaction) -> None:
        if self.topic.owner is not self:
            raise ShardFenced("another worker opened the shard")
        if any(_is_too_large(levels) for levels in _all_levels(transaction)):
            raise Unpublishable("a record is too large")
        if any(self.refuses(state) for state in transaction.states):
            raise Unpublishable("a state is refused")
        error = self.errors.pop(0) if self.errors else None
        if error is None or self.committed_all_the_same:
            self._append(transaction)
        if error is not None:
            raise error

    def _append(self, transaction: Transaction) -> None:
        topic = self.topic
        topic.events += transaction.events
        topic.used_fractions.append(transaction.used_fraction)
        for state in transaction.states:
            topic.states[state.symbol] = state
            topic.writer = Writer(
                state.source.worker, state.source.group, topic.state_records
            )
            topic.state_records += 1
            topic.recovered = tuple(set(topic.recovered) - {state.symbol})
            topic.last_used_fraction = transaction.used_fraction


def _all_levels(transaction: Transaction) -> Iterator[Levels | None]:
    for event in transaction.events:
        yield from (event.before, event.after)
    for state in transaction.states:
        yield from (state.levels, state.published)


def _is_too_large(levels: Levels | None) -> bool:
    if levels is None or levels.extra is None:
        return False
    return len(levels.extra) > LARGEST_RECORD_BYTES
