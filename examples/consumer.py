"""A consumer that keeps no file: restores what holds now from `current`, then follows `changes`, no gap, no duplicate.

An event and the state after it are one transaction, but each partition learns of its commit by itself, so a reader may
see one before the other. So that no event falls in between, `main` keeps this order:

1. Note where the committed events of `changes` end (E), and only then where `current` ends (H), uncommitted included.
2. Read `current` as far as H, committed records only. A transaction with an event below E has its state below H, for
   it was committed after all of it was written. So whatever happened below E is restored.
3. Follow `changes` from E, skip what is not newer than the state's `sequence`, and see that it then grows by one.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
import urllib.request
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

SCHEMAS, EVENT, STATE = (
    Path(__file__).parent.parent / "schemas",
    "gex.levels.LevelsEvent",
    "gex.levels.LevelsState",
)
TIMEOUT_SECONDS = 10


class Decoder:
    """Avro, framed as Confluent's registry has it (a zero byte, an id) or by itself (C3 01, a fingerprint)."""

    def __init__(self, registry: str | None) -> None:
        self._registry = registry
        # load_schema puts in the types that a schema refers to, from the files beside it; released/ has older ones.
        self._ours = {
            name: fastavro.schema.load_schema(str(SCHEMAS / f"{name}.avsc"))
            for name in (EVENT, STATE)
        }
        self._writers: dict[bytes, Any] = {}
        for schema in (
            fastavro.schema.load_schema(str(path))
            for path in SCHEMAS.rglob("*Levels[ES]*.avsc")
        ):
            digits = fastavro.schema.fingerprint(
                fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO"
            )
            self._writers[b"\xc3\x01" + bytes.fromhex(digits)] = schema

    def decode(self, value: bytes, name: str) -> Any:
        """The record as our schema `name` has it, whichever version of it wrote it."""
        prefix = value[: 5 if value[0] == 0 else 10]
        writer = self._writers.get(prefix) or self._writers.setdefault(
            prefix, self._fetch(prefix)
        )
        return fastavro.schemaless_reader(
            io.BytesIO(value[len(prefix) :]), writer, self._ours[name]
        )

    def _fetch(self, prefix: bytes) -> Any:
        if prefix[0] != 0 or self._registry is None:
            raise SystemExit(
                f"unknown schema {prefix.hex()}: newer files in schemas/, or --registry, are needed"
            )
        url = f"{self._registry.rstrip('/')}/schemas/ids/{int.from_bytes(prefix[1:], 'big')}"
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 -- the user's own address
            return fastavro.parse_schema(json.loads(json.load(response)["schema"]))


def consumer(bootstrap: str, isolation: str) -> Consumer:
    """Assigned by hand: librdkafka wants the name of a group, but none is joined and no offset committed."""
    settings: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": "unused",
        "isolation.level": isolation,
    }
    settings |= {
        "auto.offset.reset": "error",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
    }
    return Consumer(settings)


def ends(reader: Consumer, topic: str) -> dict[int, int]:
    """Where each partition ends: for a read_committed consumer, before the first transaction that is still open."""
    places = [
        TopicPartition(topic, p)
        for p in reader.list_topics(topic, TIMEOUT_SECONDS).topics[topic].partitions
    ]
    if not places:
        raise SystemExit(f"no topic {topic}: see --prefix and --feed")
    return {
        p.partition: reader.get_watermark_offsets(p, TIMEOUT_SECONDS, cached=False)[1]
        for p in places
    }


def messages(reader: Consumer, until: float = math.inf) -> Iterator[Message]:
    """Records and ends of partitions, as they come. Raises KafkaException for any other error."""
    while time.monotonic() < until:
        if (message := reader.poll(0.2)) is None:
            continue
        if (error := message.error()) and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 -- librdkafka's own
            raise KafkaException(error)
        yield message


def restore(
    reader: Consumer, topic: str, high: dict[int, int], decoder: Decoder
) -> dict[str, Any]:
    """The last state of each symbol, of all that is committed below `high`."""
    reader.assign(
        [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in high]
    )
    states, waiting = {}, set(high)
    for message in messages(reader):
        if message.error() is None:
            state = decoder.decode(bytes(message.value() or b""), STATE)
            states[state["symbol"]] = state
        elif (message.offset() or 0) >= high[
            message.partition() or 0
        ]:  # said again whenever the end has moved
            waiting.discard(message.partition() or 0)
            if not waiting:
                break
    return states


def follow(
    reader: Consumer, known: dict[str, int], decoder: Decoder, until: float
) -> Iterator[Any]:
    """Every event newer than `known`, the last sequence of each symbol: once and in order."""
    for message in messages(reader, until):
        if message.error():
            continue
        event = decoder.decode(bytes(message.value() or b""), EVENT)
        last = known.get(event["symbol"], 0)
        if event["sequence"] > last + 1:
            raise SystemExit(f"{event['event_id']} follows {last}")
        if event["sequence"] == last + 1:
            known[event["symbol"]] = last + 1
            yield event


def show(what: str, record: Any, levels: Any) -> None:
    """Where a trading system would act: LIVE levels are to be used, STALE ones with care, and else there are none."""
    status, said = record["status"], "no levels"
    if status in {
        "LIVE",
        "STALE",
    }:  # in `current` the last levels stay whatever the status
        said = " ".join(
            f"{name}={levels['all_expiry'][name]}"
            for name in ("hvl", "call_resistance", "put_support")
        )
    warning = " (old: careful)" if status == "STALE" else ""
    print(
        f"{record['symbol']} #{record['sequence']} {what} {status} {said}{warning}",
        flush=True,
    )


def main() -> None:
    """Follow one feed until Ctrl-C, or for as long as the options say."""
    parser = argparse.ArgumentParser(
        description="Follows one feed of gex-levels-connector."
    )
    parser.add_argument("--bootstrap", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument(
        "--prefix", default="gex.levels", help="the connector's kafka.topic_prefix"
    )
    parser.add_argument("--feed", default="all")
    parser.add_argument(
        "--registry",
        metavar="URL",
        help="of the schema registry, where the connector uses one",
    )
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="end so long after the restore"
    )
    parser.add_argument("--max-events", type=int, help="end after so many")
    options = parser.parse_args()
    changes, current = (
        f"{options.prefix}.{options.feed}.{topic}" for topic in ("changes", "current")
    )
    decoder, reader = (
        Decoder(options.registry),
        consumer(options.bootstrap, "read_committed"),
    )
    start = ends(reader, changes)
    states = restore(
        reader,
        current,
        ends(consumer(options.bootstrap, "read_uncommitted"), current),
        decoder,
    )
    for state in states.values():
        show("state", state, state["levels"])
    reader.assign(
        [
            TopicPartition(changes, partition, offset)
            for partition, offset in start.items()
        ]
    )
    known = {symbol: state["sequence"] for symbol, state in states.items()}
    events = follow(reader, known, decoder, time.monotonic() + options.seconds)
    for event in islice(events, options.max_events):
        show(event["kind"], event, event["after"])


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            main()
        except KafkaException as error:
            raise SystemExit(f"Kafka: {error.args[0]}") from None
