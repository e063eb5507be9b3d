"""A short consumer, right or wrong: the suite must refuse it with each of its faults.

It reads `changes` from the beginning, so it is right only while no event is deleted before
its start. It compares no topic ids, and waits for an open transaction without an end.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, NewTopic

from connector.kafka.avro import Codec, SingleObject
from tests.conformance.judge import expected_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.core.model import Event, State

_POLL_SECONDS = 0.2
FAULTS = ("uncommitted", "last_state", "skips_errors", "creates_topics")


def main() -> None:
    """Print the states, then the events, until there is an error."""
    parser = argparse.ArgumentParser()
    for name in ("--bootstrap", "--prefix", "--feed", "--patience"):
        parser.add_argument(name)
    parser.add_argument("--fault", choices=FAULTS)
    options = parser.parse_args()
    fault = options.fault
    isolation = "read_uncommitted" if fault == "uncommitted" else "read_committed"
    settings = {
        "bootstrap.servers": options.bootstrap,
        "group.id": "unused",
        "isolation.level": isolation,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
    }
    topic = f"{options.prefix}.{options.feed}"
    codec = Codec(SingleObject())
    states = _restored(settings, f"{topic}.current", codec, fault)
    known: dict[str, tuple[int, str | None]] = {}
    for state in states.values():
        _show(state, known)
    _print({"type": "restored", "symbols": len(states)})

    consumer = ck.Consumer(settings)
    _assign(consumer, f"{topic}.changes")
    while True:
        message = consumer.poll(_POLL_SECONDS)
        if message is None or _is_end(message):
            continue
        error = message.error()
        if error is None and message.headers():
            _show(codec.decode_event(message.value() or b""), known)
        elif error is not None and fault != "skips_errors":
            remedy = "retention deleted events, or READ is missing: start again"
            sys.exit(f"error: {topic}.changes: {error.str()}: {remedy}")


def _restored(
    settings: Mapping[str, Any], topic: str, codec: Codec, fault: str | None
) -> dict[str, State]:
    consumer = ck.Consumer(dict(settings))
    unfinished = _assign(consumer, topic)
    if not unfinished:
        if fault == "creates_topics":
            _create(str(settings["bootstrap.servers"]), topic)
        sys.exit(f"error: no topic {topic}: check --feed")
    found: dict[str, State] = {}
    while unfinished:
        message = consumer.poll(_POLL_SECONDS)
        if message is not None and _is_end(message):
            unfinished.discard(message.partition() or 0)
        elif message is not None and message.headers():
            state = codec.decode_state(message.value() or b"")
            known = found.get(state.symbol)
            is_newer = known is None or state.sequence >= known.sequence
            if is_newer or fault == "last_state":
                found[state.symbol] = state
    return found


def _create(bootstrap: str, topic: str) -> None:
    """Create a topic, as a broker does by itself if a client asks for it."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()


def _assign(consumer: ck.Consumer, topic: str) -> set[int]:
    """Read a topic from its beginning, and return its partitions."""
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign(
        [ck.TopicPartition(topic, number, ck.OFFSET_BEGINNING) for number in partitions]
    )
    return set(partitions)


def _is_end(message: ck.Message) -> bool:
    error = message.error()
    return error is not None and error.code() == ck.KafkaError._PARTITION_EOF


def _show(record: Event | State, known: dict[str, tuple[int, str | None]]) -> None:
    sequence, model = known.get(record.symbol, (0, None))
    if record.sequence > sequence:
        line = expected_line(record, model)
        known[record.symbol] = (record.sequence, line["model"] or model)
        _print(line)


def _print(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
