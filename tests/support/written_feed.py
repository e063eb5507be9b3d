"""A feed whose events and states a test writes, as a worker does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

import msgspec

from connector.config.model import Kafka
from connector.core.model import (
    AllExpiry,
    Event,
    Kind,
    Levels,
    Source,
    State,
    Status,
)
from connector.errors import KafkaUnavailable
from connector.kafka import admin
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.clients import Clients
from connector.kafka.names import ShardId, Topics
from connector.kafka.reader import Reader
from connector.kafka.registry import Registry
from connector.kafka.shard_log import ShardLog, Transaction
from tests.support.processes import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    import confluent_kafka as ck

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

FEED = "all"
SYMBOL = "BTCUSDT"
MICROS = 1_000_000
# So long that no test is too slow for it.
PERIOD_SECONDS = 3600
WRITER = Source("0", "group", "worker")


def now() -> int:
    """Return the present moment in microseconds."""
    return time.time_ns() // 1000


def levels_of(sequence: int) -> Levels:
    """Return levels whose flip is the sequence."""
    return Levels(
        spot_price=100.0,
        positioning="flow",
        all_expiry=AllExpiry(
            hvl=float(sequence), call_resistance=110.0, put_support=90.0
        ),
    )


def an_event(
    sequence: int,
    symbol: str = SYMBOL,
    *,
    status: Status = Status.LIVE,
    levels: Levels | None = None,
    reason: str | None = None,
    group: str = WRITER.group,
) -> Event:
    """Return an event; its levels are those of its sequence unless others are given."""
    after = levels or levels_of(sequence)
    at = now()
    return Event(
        event_id=f"{FEED}/{symbol}/{sequence}",
        feed=FEED,
        symbol=symbol,
        sequence=sequence,
        kind=Kind.CHANGED if status is Status.LIVE else Kind(status),
        status=status,
        reason=reason,
        computed_at=at if status.has_levels else None,
        previous_computed_at=None,
        observed_at=at,
        changed_levels=(),
        changed_sections=(),
        collapsed_observations=0,
        source=msgspec.structs.replace(WRITER, group=group),
        before=None,
        after=after if status.has_levels else None,
    )


def state_of(event: Event, levels: Levels | None = None) -> State:
    """Return the state after an event, or after a refresh with other levels."""
    at = now()
    refreshes = tuple(at - back * PERIOD_SECONDS * MICROS for back in (2, 1, 0))
    return State(
        feed=event.feed,
        symbol=event.symbol,
        sequence=event.sequence,
        status=event.status,
        computed_at=event.computed_at,
        observed_at=at,
        request_fingerprint="",
        source=event.source,
        recent_computed_at=refreshes,
        levels=levels or event.after or levels_of(event.sequence),
    )


def moment(*events: Event) -> Transaction:
    """Return events and the states after the last of each symbol."""
    last = {event.symbol: event for event in events}
    states = [state_of(event) for event in last.values()]
    return Transaction(list(events), states)


class WrittenFeed:
    """The topics of a feed with one shard. Use it in a `with` block."""

    def __init__(
        self,
        kafka: LocalKafka,
        names: Names,
        registry: str | None = None,
        *,
        partitions: int = 2,
    ) -> None:
        self.settings = Kafka(
            bootstrap_servers=kafka.bootstrap_servers,
            topic_prefix=names.topic_prefix,
            partitions=partitions,
        )
        self.bootstrap = kafka.bootstrap_servers
        self.clients = Clients(self.settings)
        self.topics = Topics(self.settings.topic_prefix)
        self.changes = self.topics.changes(FEED)
        self.current = self.topics.current(FEED)
        self.framing = SingleObject() if registry is None else Registry(registry, {})
        self.codec = Codec(self.framing)
        self.reader = Reader(self.clients)
        self._log: ShardLog | None = None
        self._opened: ck.Producer | None = None

    def __enter__(self) -> Self:
        self.make()
        return self

    def make(self) -> None:
        """Make the topics, and register the schemas if there is a registry."""
        wait_until(self._is_made, "the topics are there")
        if isinstance(self.framing, Registry):
            self.framing.prepare(self.changes, "LevelsEvent")
            self.framing.prepare(self.current, "LevelsState")

    def __exit__(self, *_: object) -> None:
        self.reader.close()
        if self._log is not None:
            self._log.abort()
        if isinstance(self.framing, Registry):
            self.framing.close()

    def publish(self, *events: Event) -> None:
        """Commit events and the states after them."""
        self.commit(moment(*events))

    def commit(self, transaction: Transaction) -> None:
        self.log.publish(transaction)

    def begin(self, *events: Event) -> None:
        """Write events and states in a transaction that stays open."""
        producer = self.log._producer
        assert producer is not None
        producer.begin_transaction()
        self.log._produce(producer, moment(*events))
        assert producer.flush(PATIENCE_SECONDS) == 0
        self._opened = producer

    def end(self, *, commit: bool) -> None:
        """End the transaction that `begin` has begun."""
        assert self._opened is not None
        if commit:
            self._opened.commit_transaction(PATIENCE_SECONDS)
        else:
            self._opened.abort_transaction(PATIENCE_SECONDS)

    @property
    def log(self) -> ShardLog:
        """The log of the feed's only shard, opened as a worker does."""
        if self._log is None:
            self._log = self.open_log()
        return self._log

    def open_log(self) -> ShardLog:
        """Open the shard, which fences its owner before."""
        log = ShardLog(
            ShardId(FEED, 0),
            1,
            topics=self.topics,
            clients=self.clients,
            reader=self.reader,
            codec=self.codec,
        )
        log.open()
        self._log = log
        return log

    def _is_made(self) -> bool:
        """Make the topics; the broker's parts learn of them one after the other."""
        wanted = admin.topic_specs(self.topics, [FEED], self.settings)
        try:
            admin.prepare_topics(self.clients, wanted, 1)
            for spec in wanted:
                for partition in range(spec.partitions):
                    self.reader.high_watermark(spec.name, partition)
        except KafkaUnavailable:
            return False
        return True
