"""Finds transactions that stay open, and so hide records from read_committed consumers.

A consumer reads up to the last stable offset: the beginning of the oldest transaction
that is still open in the partition, of whichever program. A program that stops in the
middle of one, or a transaction that the brokers have lost, holds back everybody's records.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from connector.core.model import Value
from connector.errors import KafkaUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from connector.kafka.names import Partition

_MAX_LOOK_SECONDS: Final = 10


class Offsets(Protocol):
    """Tells the two ends of a partition. Implemented by `connector.kafka.reader.Reader`."""

    def last_stable_offset(self, topic: str, partition: int) -> int:
        """Return the offset before which everything is committed or aborted."""

    def high_watermark(self, topic: str, partition: int) -> int:
        """Return the offset after the last record."""


class HeldBack(Value, frozen=True):
    """A partition whose records from `offset` on cannot be read, `records` with markers."""

    topic: str
    partition: int
    offset: int
    records: int

    def remedy(self, servers: str) -> str:
        """Return how to end the transaction. `servers` are the bootstrap servers."""
        tool = f"kafka-transactions --bootstrap-server {servers}"
        where = f"--topic {self.topic} --partition {self.partition}"
        return (
            f"stop the program that `{tool} describe-producers {where}` names, or abort "
            f"its transaction: `{tool} abort {where} --start-offset {self.offset}`"
        )


class _Seen(Value, frozen=True):
    """The ends of a partition, and since when it is behind, None if it is not."""

    stable: int
    end: int
    behind_since: float | None


class HeldBackFinder:
    """Finds partitions whose last stable offset stays behind for `patience_seconds`."""

    def __init__(
        self,
        offsets: Offsets,
        patience_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._offsets = offsets
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._seen: dict[Partition, _Seen] = {}

    @property
    def suspects(self) -> bool:
        """True if the last look found a partition behind, however short."""
        return any(seen.behind_since is not None for seen in self._seen.values())

    def look(self, partitions: Iterable[Partition]) -> list[HeldBack]:
        """Return the partitions that are held back. Blocks.

        Leaves out partitions that cannot be asked for, such as those of a deleted topic.
        Raises KafkaUnavailable if that is true of all of them.
        """
        seen = {}
        failure: KafkaUnavailable | None = None
        started_at = self._monotonic()
        for partition in partitions:
            try:
                seen[partition] = self._look_at(partition, self._seen.get(partition))
            except KafkaUnavailable as error:
                failure = error
                # Without a broker, each request takes its whole time-out.
                if self._monotonic() - started_at > _MAX_LOOK_SECONDS:
                    break
        self._seen = seen
        if failure is not None and not seen:
            raise failure

        now = self._monotonic()
        found = []
        for (topic, number), state in seen.items():
            since = state.behind_since
            if since is not None and now - since >= self._patience_seconds:
                hidden = state.end - state.stable
                found.append(HeldBack(topic, number, state.stable, hidden))
        return found

    def _look_at(self, partition: Partition, before: _Seen | None) -> _Seen:
        stable = self._offsets.last_stable_offset(*partition)
        if before is not None and stable != before.stable:
            # A busy partition costs one request: its records become readable.
            return _Seen(stable, stable, None)

        # Ask for the end last. A transaction that ends between the requests looks open,
        # but has moved the stable offset by the next look.
        end = self._offsets.high_watermark(*partition)
        if end <= stable:
            return _Seen(stable, end, None)
        since = None if before is None else before.behind_since
        if since is None:
            since = self._monotonic()
        return _Seen(stable, end, since)
