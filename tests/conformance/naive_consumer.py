"""A short consumer, right or wrong: the suite must refuse it with `read_uncommitted`.

It reads `changes` from the beginning, so it is right only while no event is deleted.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck

from connector.kafka.avro import Codec, SingleObject
from tests.conformance.judge import expected_line

if TYPE_CHECKING:
    from connector.core.model import Event, State

_POLL_SECONDS = 0.2


def main() -> None:
    """Print the states, then the events, until the process is killed."""
    parser = argparse.ArgumentParser()
    for name in ("--isolation", "--bootstrap", "--prefix", "--feed"):
        parser.add_argument(name)
    options = parser.parse_args()
    settings = {
        "bootstrap.servers": options.bootstrap,
        "group.id": "unused",
        "isolation.level": options.isolation,
        "enable.partition.eof": True,
    }
    topic = f"{options.prefix}.{options.feed}"
    codec = Codec(SingleObject())
    states = _restored(ck.Consumer(settings), f"{topic}.current", codec)
    known: dict[str, tuple[int, str | None]] = {}
    for state in states.values():
        _show(state, known)
    _print({"type": "restored", "symbols": len(states)})

    consumer = ck.Consumer(settings)
    _assign(consumer, f"{topic}.changes")
    while True:
        message = consumer.poll(_POLL_SECONDS)
        if message is not None and message.error() is None and message.headers():
            _show(codec.decode_event(message.value() or b""), known)


def _restored(consumer: ck.Consumer, topic: str, codec: Codec) -> dict[str, State]:
    _assign(consumer, topic)
    found: dict[str, State] = {}
    while True:
        message = consumer.poll(_POLL_SECONDS)
        if message is None:
            continue
        if message.error() is not None:
            return found
        if message.headers():
            state = codec.decode_state(message.value() or b"")
            found[state.symbol] = state


def _assign(consumer: ck.Consumer, topic: str) -> None:
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign(
        [ck.TopicPartition(topic, number, ck.OFFSET_BEGINNING) for number in partitions]
    )


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
