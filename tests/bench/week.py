"""Restore time after a week: 80 symbols that refresh every 30 s, written with a week of timestamps in minutes.

`python -m tests.bench.week [--days 7]`. Kafka rolls and compacts segments by the records' timestamps, so the topic
ends up as it would in real time but for the broker's cleaner, which wakes every second here (15 s by default). The
records are written outside transactions: commit markers carry the broker's clock, and segments would not roll.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import confluent_kafka as ck

from connector.config.model import Kafka
from connector.core.entry import decode_entry
from connector.core.model import MICROS, Source, State, Status
from connector.devkit.local_kafka import LocalKafka
from connector.kafka import admin
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.clients import Clients
from connector.kafka.names import ShardId, Topics
from connector.kafka.reader import Reader
from connector.kafka.shard_log import ShardLog

if TYPE_CHECKING:
    from collections.abc import Iterator

SYMBOLS = tuple(f"COIN{number:02}USDT" for number in range(80))
PERIOD_SECONDS = 30
ROUNDS_ENCODED_ONCE = 20
CLEANER_SECONDS = 30
ENTRY = b"""{"all_expiry": {"hvl": 99500.5, "call_resistance": 103000, "call_wall_2": 104000, "call_wall_3": 105000,
"put_support": 98000, "put_wall_2": 97000, "put_wall_3": 96000}, "odte": {"hvl": 99700, "call_resistance": 101000,
"put_support": 99000}, "spot_price": 100005.25, "computed_at": "2026-01-01T00:00:00Z"}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=7)
    days = parser.parse_args().days
    with (
        tempfile.TemporaryDirectory(prefix="gex-week-") as folder,
        LocalKafka(Path(folder)) as broker,
    ):
        kafka = Kafka(bootstrap_servers=broker.bootstrap_servers)
        clients, names = Clients(kafka), Topics(kafka.topic_prefix)
        admin.prepare_topics(clients, admin.topic_specs(names, ["all"], kafka), 1)
        log = ShardLog(
            ShardId("all", 0),
            1,
            topics=names,
            clients=clients,
            reader=Reader(clients),
            codec=Codec(SingleObject()),
        )
        started = time.monotonic()
        written = _write(broker, names.current("all"), days)
        print(
            f"{written:,} states of {len(SYMBOLS)} symbols, {days:g} days, in {time.monotonic() - started:.0f} s"
        )
        _report("restored at once", log)
        time.sleep(CLEANER_SECONDS)
        _report(f"restored {CLEANER_SECONDS} s later", log)


def _write(broker: LocalKafka, topic: str, days: float) -> int:
    """A state per symbol and round, as a shard writes them, but with values encoded once for several rounds."""
    producer = ck.Producer(
        {"bootstrap.servers": broker.bootstrap_servers, "enable.idempotence": True}
    )
    codec, end, written = Codec(SingleObject()), time.time(), 0
    moments = [
        end - days * 86_400 + at
        for at in range(0, round(days * 86_400), PERIOD_SECONDS)
    ]
    for first in range(0, len(moments), ROUNDS_ENCODED_ONCE):
        batch = moments[first : first + ROUNDS_ENCODED_ONCE]
        values = [codec.state(topic, state) for state in _states(first + 1, batch[-1])]
        for moment in batch:
            for symbol, value in zip(SYMBOLS, values, strict=True):
                _produce(producer, topic, symbol, value, round(moment * 1000))
            written += len(SYMBOLS)
    producer.flush()
    return written


def _states(sequence: int, moment: float) -> Iterator[State]:
    entry = decode_entry(ENTRY, 2_000_000_000 * MICROS)
    at = round(moment * MICROS)
    for symbol in SYMBOLS:
        yield State(
            feed="all",
            symbol=symbol,
            sequence=sequence,
            status=Status.LIVE,
            computed_at=at,
            observed_at=at,
            request_fingerprint="",
            source=Source("bench", "bench", "bench"),
            levels=entry.levels,
        )


def _produce(
    producer: ck.Producer, topic: str, symbol: str, value: bytes, timestamp_ms: int
) -> None:
    while True:
        try:
            return producer.produce(
                topic, value, symbol.encode(), partition=0, timestamp=timestamp_ms
            )
        except BufferError:
            producer.poll(0.05)


def _report(what: str, log: ShardLog) -> None:
    started = time.monotonic()
    restored = log.open()
    seconds = time.monotonic() - started
    print(
        f"{what}: {len(restored.states)} states from {restored.records:,} records in {seconds:.2f} s, fencing included"
    )
    log.drop()


if __name__ == "__main__":
    main()
