"""Time to restore a shard's topic that has a week of states: 80 symbols, every 30 s.

Run `python -m tests.bench.week [--days 7]`; writing a week takes minutes.

Kafka rolls and compacts segments by the timestamps of the records, so the topic ends up
as it would in real time. Only the broker's cleaner differs: it wakes every second here
instead of every 15 s. The records are written outside transactions, since commit markers
would carry the broker's clock and no segment would roll.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

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

SYMBOLS: Final = tuple(f"COIN{number:02}USDT" for number in range(80))
PERIOD_SECONDS: Final = 30
SECONDS_PER_DAY: Final = 86_400

# Encoding takes longer than writing: reuse the values, only the timestamps must differ.
ROUNDS_PER_ENCODING: Final = 20

# Time in which the broker's cleaner compacts everything it can.
CLEANER_SECONDS: Final = 30

ENTRY: Final = b"""{
    "all_expiry": {
        "hvl": 99500.5,
        "call_resistance": 103000, "call_wall_2": 104000, "call_wall_3": 105000,
        "put_support": 98000, "put_wall_2": 97000, "put_wall_3": 96000
    },
    "odte": {"hvl": 99700, "call_resistance": 101000, "put_support": 99000},
    "spot_price": 100005.25,
    "computed_at": "2026-01-01T00:00:00Z"
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=float, default=7)
    days = parser.parse_args().days
    with (
        tempfile.TemporaryDirectory(prefix="gex-week-") as folder,
        LocalKafka(Path(folder)) as broker,
    ):
        kafka = Kafka(bootstrap_servers=broker.bootstrap_servers)
        clients = Clients(kafka)
        names = Topics(kafka.topic_prefix)
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
        seconds = time.monotonic() - started
        print(
            f"wrote {written:,} states of {len(SYMBOLS)} symbols, {days:g} days, "
            f"in {seconds:.0f} s"
        )

        _restore(log, "restored at once")
        time.sleep(CLEANER_SECONDS)
        _restore(log, f"restored {CLEANER_SECONDS} s later")


def _write(broker: LocalKafka, topic: str, days: float) -> int:
    """Write a state per symbol and round, as a shard does. Return their number."""
    settings = {
        "bootstrap.servers": broker.bootstrap_servers,
        # Keeps the order of the records without a transaction.
        "enable.idempotence": True,
    }
    producer = ck.Producer(settings)
    codec = Codec(SingleObject())
    seconds = round(days * SECONDS_PER_DAY)
    begin = time.time() - seconds
    moments = [begin + after for after in range(0, seconds, PERIOD_SECONDS)]

    written = 0
    # The sequence of a state stays the same within these rounds, which no reader minds.
    for first in range(0, len(moments), ROUNDS_PER_ENCODING):
        rounds = moments[first : first + ROUNDS_PER_ENCODING]
        states = _states(first + 1, rounds[-1])
        values = {state.symbol: codec.encode_state(topic, state) for state in states}
        for moment in rounds:
            timestamp_ms = round(moment * 1000)
            for symbol, value in values.items():
                _produce(producer, topic, symbol, value, timestamp_ms)
            written += len(values)
    producer.flush()
    return written


def _states(sequence: int, moment: float) -> Iterator[State]:
    entry = decode_entry(ENTRY, 2_000_000_000 * MICROS)
    at = round(moment * MICROS)
    source = Source("bench", "bench", "bench")
    for symbol in SYMBOLS:
        yield State(
            feed="all",
            symbol=symbol,
            sequence=sequence,
            status=Status.LIVE,
            computed_at=at,
            observed_at=at,
            request_fingerprint="",
            source=source,
            levels=entry.levels,
        )


def _produce(
    producer: ck.Producer, topic: str, symbol: str, value: bytes, timestamp_ms: int
) -> None:
    """Produce, and wait as long as the client's queue is full."""
    while True:
        try:
            producer.produce(
                topic, value, symbol.encode(), partition=0, timestamp=timestamp_ms
            )
        except BufferError:
            # Serving delivery reports makes room.
            producer.poll(0.05)
        else:
            return


def _restore(log: ShardLog, label: str) -> None:
    started = time.monotonic()
    # Opening fences the previous producer, then reads the topic to its end.
    restored = log.open()
    seconds = time.monotonic() - started
    print(
        f"{label}: {len(restored.states)} states from {restored.records:,} records "
        f"in {seconds:.2f} s, fencing included"
    )
    log.abort()


if __name__ == "__main__":
    main()
