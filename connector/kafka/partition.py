"""Which partition a key belongs to, as Java's clients decide it: murmur2, positive, modulo the count.

Source: `org.apache.kafka.common.utils.Utils.murmur2` and `BuiltInPartitioner.partitionForKey` of Apache Kafka;
librdkafka's `partitioner=murmur2_random` agrees.
"""

from __future__ import annotations

from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_WORD: Final = 0xFFFFFFFF


def partition_of(key: str, count: int) -> int:
    """The partition of `key` in a topic of `count` partitions."""
    return (_murmur2(key.encode()) & 0x7FFFFFFF) % count


def _murmur2(data: bytes) -> int:
    mixed = (_SEED ^ len(data)) & _WORD
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _M & _WORD
        word = (word ^ word >> 24) * _M & _WORD
        mixed = mixed * _M & _WORD ^ word
    if rest := data[whole:]:
        mixed = (mixed ^ int.from_bytes(rest, "little")) * _M & _WORD
    mixed = (mixed ^ mixed >> 13) * _M & _WORD
    return mixed ^ mixed >> 15
