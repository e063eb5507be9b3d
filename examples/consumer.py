"""Follow a feed without a gap or a duplicate, and without storing an offset.

The consumer restores the present state from `current`, then follows `changes`.

An event and the state after it are one transaction. Each partition learns of the commit by
itself, however, so a reader may see one before the other. To miss no event in between,
`main` keeps this order:

1. Note where the committed events of `changes` end (E). Only then note where `current`
   ends (H), open transactions included.
2. Read the committed records of `current` up to H. A transaction with an event below E has
   its state below H, because it was committed after all its records were written. So every
   change below E is restored.
3. Follow `changes` from E. Skip events that are not newer than the `sequence` of the state,
   and check that the sequence then grows by one.

If partitions are added to `changes`, they are read as well. Some symbols move to them, and a
reader may see such a symbol's next events before the last ones in its former partition. The
`sequence` puts them in order.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
import urllib.request
from collections import defaultdict
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fastavro
import fastavro.schema
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMAS = Path(__file__).parent.parent / "schemas"
EVENT = "gex.levels.LevelsEvent"
STATE = "gex.levels.LevelsState"
TIMEOUT_SECONDS = 10
POLL_SECONDS = 0.2
PARTITION_LOOK_SECONDS = 10

# Confluent framing: a zero byte and the schema's id in the registry.
# Avro single-object encoding: C3 01 and the schema's fingerprint.
CONFLUENT_PREFIX_BYTES = 5
SINGLE_OBJECT_PREFIX_BYTES = 10


class Decoder:
    """Decode values that were written with any version of the schemas."""

    def __init__(self, registry: str | None) -> None:
        self._registry = registry
        # load_schema inserts the named types that a schema uses, from the files beside it.
        self._readers = {
            name: fastavro.schema.load_schema(str(SCHEMAS / f"{name}.avsc"))
            for name in (EVENT, STATE)
        }
        # The folder schemas/released has the older versions.
        self._writers: dict[bytes, Any] = {}
        for path in SCHEMAS.rglob("*Levels[ES]*.avsc"):
            schema = fastavro.schema.load_schema(str(path))
            canonical = fastavro.schema.to_parsing_canonical_form(schema)
            digits = fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")
            self._writers[b"\xc3\x01" + bytes.fromhex(digits)] = schema

    def decode(self, value: bytes, name: str) -> Any:
        """Return the record in the newest version of schema `name`."""
        is_confluent = value[0] == 0
        size = CONFLUENT_PREFIX_BYTES if is_confluent else SINGLE_OBJECT_PREFIX_BYTES
        prefix = value[:size]
        if prefix not in self._writers:
            self._writers[prefix] = self._fetch(prefix)
        content = io.BytesIO(value[size:])
        return fastavro.schemaless_reader(
            content, self._writers[prefix], self._readers[name]
        )

    def _fetch(self, prefix: bytes) -> Any:
        if prefix[0] != 0 or self._registry is None:
            raise SystemExit(
                f"unknown schema {prefix.hex()}: update schemas/, or pass --registry"
            )
        schema_id = int.from_bytes(prefix[1:], "big")
        url = f"{self._registry.rstrip('/')}/schemas/ids/{schema_id}"
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 -- the user's own address
            schema = json.load(response)["schema"]
        return fastavro.parse_schema(json.loads(schema))


def consumer(bootstrap: str, isolation_level: str) -> Consumer:
    """Create a consumer that assigns its partitions itself.

    librdkafka requires a group name, but no group is joined and no offset committed.
    """
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": "unused",
        "isolation.level": isolation_level,
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }
    return Consumer(settings)


def ends(reader: Consumer, topic: str) -> dict[int, int]:
    """Return the end of each partition.

    To a read_committed consumer, a partition ends before its first open transaction.
    """
    partitions = reader.list_topics(topic, TIMEOUT_SECONDS).topics[topic].partitions
    if not partitions:
        raise SystemExit(f"no topic {topic}: see --prefix and --feed")

    found = {}
    for number in partitions:
        partition = TopicPartition(topic, number)
        _, end = reader.get_watermark_offsets(partition, TIMEOUT_SECONDS, cached=False)
        found[number] = end
    return found


def assign(reader: Consumer, topic: str, offsets: dict[int, int]) -> None:
    """Read the partitions of a topic from these offsets."""
    partitions = []
    for number, offset in offsets.items():
        partitions.append(TopicPartition(topic, number, offset))
    reader.assign(partitions)


def read_added_partitions(reader: Consumer, topic: str) -> None:
    """Read the partitions that were added to a topic, from their beginning."""
    known = {partition.partition for partition in reader.assignment()}
    # If Kafka is away, look again later.
    with suppress(KafkaException):
        found = reader.list_topics(topic, TIMEOUT_SECONDS).topics[topic].partitions
        added = [
            TopicPartition(topic, number, OFFSET_BEGINNING)
            for number in sorted(set(found) - known)
        ]
        if added:
            reader.incremental_assign(added)


def messages(reader: Consumer, until: float = math.inf) -> Iterator[Message | None]:
    """Yield records and ends of partitions, and None if nothing came for a while.

    Raises KafkaException for other errors.
    """
    while time.monotonic() < until:
        message = reader.poll(POLL_SECONDS)
        error = None if message is None else message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 -- librdkafka's own
            raise KafkaException(error)
        yield message


def is_ours(message: Message) -> bool:
    """Return False for a stray: a record that the connector did not write.

    Another program may have the right to write to the topics, and an operator may delete
    a state by mistake. The connector continues as if strays were not there.
    """
    headers = dict(message.headers() or [])
    if "ce_type" in headers:
        return True
    place = f"{message.topic()}-{message.partition()}, offset {message.offset()}"
    print(f"skipped a record of another program: {place}", flush=True)
    return False


def restore(
    reader: Consumer, topic: str, high: dict[int, int], decoder: Decoder
) -> dict[str, Any]:
    """Return the last state of each symbol that is committed below `high`."""
    assign(reader, topic, dict.fromkeys(high, OFFSET_BEGINNING))
    states: dict[str, Any] = {}
    waiting = set(high)
    for message in messages(reader):
        if message is None:
            continue
        if message.error() is None:
            if not is_ours(message):
                continue
            state = decoder.decode(bytes(message.value() or b""), STATE)
            states[state["symbol"]] = state
            continue

        # The end of a partition. A commit moves it, and it is then reported again.
        partition = message.partition() or 0
        if (message.offset() or 0) >= high[partition]:
            waiting.discard(partition)
            if not waiting:
                break
    return states


def follow(
    reader: Consumer,
    topic: str,
    known: dict[str, int],
    decoder: Decoder,
    until: float,
    patience: float,
) -> Iterator[Any]:
    """Yield every newer event once and in order.

    `known` has the last sequence of each symbol. An event is missing if it has not come
    `patience` seconds after a later one.
    """
    early: dict[str, dict[int, Any]] = defaultdict(dict)
    early_since: dict[str, float] = {}
    looked_at = time.monotonic()
    for message in messages(reader, until):
        now = time.monotonic()
        if now - looked_at > PARTITION_LOOK_SECONDS:
            read_added_partitions(reader, topic)
            looked_at = now
        for symbol, since in early_since.items():
            if now - since > patience:
                later = early[symbol][min(early[symbol])]
                raise SystemExit(f"{later['event_id']} follows {known.get(symbol, 0)}")
        if message is None or message.error() is not None or not is_ours(message):
            continue

        event = decoder.decode(bytes(message.value() or b""), EVENT)
        symbol = event["symbol"]
        if event["sequence"] > known.get(symbol, 0):
            early[symbol][event["sequence"]] = event
        # Yield all that follow each other now.
        expected = known.get(symbol, 0) + 1
        while expected in early[symbol]:
            early_since.pop(symbol, None)
            known[symbol] = expected
            yield early[symbol].pop(expected)
            expected += 1
        if early[symbol]:
            early_since.setdefault(symbol, now)
        else:
            early_since.pop(symbol, None)


def show(kind: str, record: Any, levels: Any) -> None:
    """Print a record; a trading system would act here.

    Use LIVE levels, use STALE levels with care, and use none with any other status.
    """
    status = record["status"]
    text = "no levels"
    # In `current` a state keeps the last levels whatever its status, so look at that first.
    if status in {"LIVE", "STALE"}:
        all_expiry = levels["all_expiry"]
        names = ("hvl", "call_resistance", "put_support")
        text = " ".join(f"{name}={all_expiry[name]}" for name in names)
    warning = " (old: careful)" if status == "STALE" else ""
    number = f"#{record['sequence']}"
    print(f"{record['symbol']} {number} {kind} {status} {text}{warning}", flush=True)


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Follow one feed of gex-levels-connector until Ctrl-C."
    )
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument(
        "--prefix", default="gex.levels", help="the connector's kafka.topic_prefix"
    )
    parser.add_argument("--feed", default="all")
    parser.add_argument(
        "--registry", metavar="URL", help="schema registry, if the connector uses one"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=math.inf,
        help="end this long after the states are restored",
    )
    parser.add_argument(
        "--max-events", type=int, help="end after this number of events"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=90,
        help="end with an error if an event is missing for so many seconds "
        "(default: %(default)s)",
    )
    return parser.parse_args()


def main() -> None:
    """Restore the states of a feed, then follow its events."""
    options = parse_options()
    changes = f"{options.prefix}.{options.feed}.changes"
    current = f"{options.prefix}.{options.feed}.current"
    decoder = Decoder(options.registry)
    reader = consumer(options.bootstrap, "read_committed")

    # 1. Note both ends, in this order.
    start = ends(reader, changes)
    high = ends(consumer(options.bootstrap, "read_uncommitted"), current)

    # 2. Restore.
    states = restore(reader, current, high, decoder)
    known = {}
    for symbol, state in states.items():
        known[symbol] = state["sequence"]
        show("state", state, state["levels"])

    # 3. Follow.
    assign(reader, changes, start)
    until = time.monotonic() + options.seconds
    events = follow(reader, changes, known, decoder, until, options.patience)
    for event in islice(events, options.max_events):
        show(event["kind"], event, event["after"])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            main()
        except KafkaException as error:
            raise SystemExit(f"Kafka: {error.args[0]}") from None
