"""Log messages of the connector that tests look for.

The judge of a chaos run reads the workers' logs. If a message were reworded in the
connector only, the judge would no longer find it, and would excuse too much or too
little without a sign of it. `tests/unit/test_log_messages.py` fails if the connector no
longer logs one of these.
"""

from __future__ import annotations

from typing import Final

LISTENING: Final = "listening"
SHARD_OPEN: Final = "shard open"
SHARD_LOST: Final = "shard lost"
SHARD_FENCED: Final = "another worker took the shard"
SHARD_HANDED_OVER: Final = "shard handed over"
STANDS_BY: Final = "standing by: every shard is another worker's"
KAFKA_UNREACHABLE: Final = "Kafka is unreachable"
KAFKA_REACHABLE: Final = "Kafka is reachable again"
DEFECT: Final = "a defect of the connector"
OTHER_FLEET: Final = "another fleet uses these topics"
NOT_USABLE_YET: Final = "is not usable yet"

# Messages that tests compare with a whole message.
WHOLE_MESSAGES: Final = (
    LISTENING,
    SHARD_OPEN,
    SHARD_LOST,
    SHARD_FENCED,
    SHARD_HANDED_OVER,
    STANDS_BY,
    KAFKA_UNREACHABLE,
    KAFKA_REACHABLE,
)

# Texts that tests search for anywhere in a log.
PARTS_OF_MESSAGES: Final = (DEFECT, OTHER_FLEET, NOT_USABLE_YET)
