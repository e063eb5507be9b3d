"""Names of topics and shards, and the partition that a key belongs to.

Keys go where Java's clients put them: murmur2, made positive, modulo the number of
partitions. Source: `org.apache.kafka.common.utils.Utils.murmur2` and
`BuiltInPartitioner.partitionForKey` of Apache Kafka. librdkafka's
`partitioner=murmur2_random` agrees.
"""

from __future__ import annotations

from typing import Final

from connector.core.model import Value

# The constants of murmur2 in Java's clients.
_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_WORD: Final = 0xFFFFFFFF

# A topic and the number of one of its partitions.
Partition = tuple[str, int]


class ShardId(Value, frozen=True, order=True):
    """A partition of a feed's compacted topic: the unit that workers share out."""

    feed: str
    partition: int

    def __str__(self) -> str:
        return f"{self.feed}-{self.partition}"


class Topics(Value, frozen=True):
    """The names of the topics."""

    prefix: str

    def changes(self, feed: str) -> str:
        """Return the topic of a feed's events, kept for days."""
        return f"{self.prefix}.{feed}.changes"

    def current(self, feed: str) -> str:
        """Return the compacted topic of the state of each symbol."""
        return f"{self.prefix}.{feed}.current"

    def is_changes(self, topic: str) -> bool:
        """Return True if `topic` holds the events of a feed."""
        return self.feed_of_changes(topic) is not None

    def feed_of_changes(self, topic: str) -> str | None:
        """Return the feed whose events are in `topic`, None if it has other records."""
        return self._feed_of(topic, ".changes")

    def feed_of_current(self, topic: str) -> str | None:
        """Return the feed whose states are in `topic`, None if it has other records."""
        return self._feed_of(topic, ".current")

    def _feed_of(self, topic: str, end: str) -> str | None:
        """Return what stands between the prefix and the end of a topic's name, if anything.

        A feed's name may have dots. So the topic can also be one of a longer prefix, or of a
        shorter one: `gex.levels.changes` is that of feed `levels` of the prefix `gex`.
        """
        start = f"{self.prefix}."
        if not topic.startswith(start) or not topic.endswith(end):
            return None
        return topic[len(start) : -len(end)] or None

    @property
    def quarantine(self) -> str:
        """Return the topic of rejected entries, as they came."""
        return f"{self.prefix}.quarantine"

    @property
    def clock_id(self) -> str:
        """Return the transactional id of the transactions that ask for the brokers' time.

        All workers share it: the brokers remember each id for days.
        """
        return f"{self.prefix}.clock"


def partition_of(key: str, count: int) -> int:
    """Return the partition of `key` in a topic of `count` partitions."""
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % count


def _murmur2(data: bytes) -> int:
    mixed = (_SEED ^ len(data)) & _WORD
    whole = len(data) & ~3

    # Java's int overflows: every step is cut to 32 bits.
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _M & _WORD
        word = (word ^ word >> 24) * _M & _WORD
        mixed = mixed * _M & _WORD ^ word

    # The last one to three bytes.
    rest = data[whole:]
    if rest:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * _M & _WORD

    mixed = (mixed ^ mixed >> 13) * _M & _WORD
    return mixed ^ mixed >> 15
