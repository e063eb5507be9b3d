"""What we write is read by programs that share no code with us: kafka-python, and Apache's `avro`."""

from __future__ import annotations

import io
import json
import urllib.request
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import avro.io
import avro.name
import avro.schema
import msgspec
import pytest

from connector.kafka.avro import Codec, SingleObject
from connector.kafka.registry import Registry
from tests.conftest import Names
from tests.support.processes import (
    PATIENCE_SECONDS,
    Program,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # kafka-python's own
    from kafka import KafkaConsumer
    from kafka import TopicPartition as Place
    from kafka.partitioner.default import murmur2

pytestmark = pytest.mark.filterwarnings(
    "ignore:read_text is deprecated:DeprecationWarning"
)  # kafka-python's own

SCHEMAS = Path(__file__).parents[2] / "schemas"
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "NOSUCH")
COLD = "ETHUSDT"
MISSING_AND_BACK = {"SNAPSHOT", "CHANGED", "MISSING", "RESTORED", "INVALID"}


class Other:
    """Apache's Avro. Schemas come from our files, or from the registry over its REST API."""

    def __init__(self, registry: str | None) -> None:
        self._registry = registry
        named = ("Status", "Source", "Levels", "LevelsEvent", "LevelsState")
        files = [
            json.loads((SCHEMAS / f"gex.levels.{name}.avsc").read_text())
            for name in named
        ]
        names, simple_names = avro.name.Names(), avro.name.Names()
        self._by_fingerprint = {
            avro.schema.make_avsc_object(
                simple(file), simple_names
            ).fingerprint(): avro.schema.make_avsc_object(file, names)
            for file in files
        }

    def decode(self, topic: str, value: bytes) -> Any:
        """The record as plain values, moments in microseconds."""
        schema, datum = (
            self._framed_by_id(topic, value)
            if self._registry
            else self._framed_by_itself(value)
        )
        record = avro.io.DatumReader(schema).read(
            avro.io.BinaryDecoder(io.BytesIO(datum))
        )
        return plain(record)

    def _framed_by_itself(self, value: bytes) -> tuple[Any, bytes]:
        assert value[:2] == b"\xc3\x01"
        return self._by_fingerprint[value[2:10]], value[10:]

    def _framed_by_id(self, topic: str, value: bytes) -> tuple[Any, bytes]:
        assert value[0] == 0
        latest = self._ask(f"/subjects/{topic}-value/versions/latest")
        assert latest["id"] == int.from_bytes(value[1:5], "big")
        by_id = self._ask(f"/schemas/ids/{latest['id']}")
        assert json.loads(by_id["schema"]) == json.loads(latest["schema"])
        return avro.schema.parse(by_id["schema"]), value[5:]

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(
            f"{self._registry}{path}", timeout=PATIENCE_SECONDS
        ) as response:
            return json.load(response)


class Topics(NamedTuple):
    """What a worker wrote, raw, and what decodes it: theirs, and ours."""

    changes: list[Any]
    current: list[Any]
    other: Other
    ours: Codec
    partitions: int
    prefix: str


def plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.to_builtins(value))
    if isinstance(value, datetime):
        return round(
            (value - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000
        )
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def simple(schema: Any) -> Any:
    """Primitive types by their names alone, as the specification's canonical form has them.

    `avro` 1.12 leaves `{"type": "long"}` of a logical type there, and so has other fingerprints than Java.
    """
    if isinstance(schema, dict):
        if "logicalType" in schema:
            return schema["type"]
        return {key: simple(value) for key, value in schema.items()}
    return [simple(item) for item in schema] if isinstance(schema, list) else schema


def read(kafka: LocalKafka, topic: str) -> tuple[list[Any], int]:
    """Every committed record, and how many partitions there are."""
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, isolation_level="read_committed"
    )
    try:
        places = [
            Place(topic, partition)
            for partition in sorted(consumer.partitions_for_topic(topic))
        ]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = consumer.end_offsets(places)
        records: list[Any] = []

        def read_all() -> bool:
            for batch in consumer.poll(timeout_ms=200).values():
                records.extend(batch)
            return all(consumer.position(place) >= ends[place] for place in places)

        wait_until(read_all, f"all of {topic} is read")
        return records, len(places)
    finally:
        consumer.close()


def kinds_so_far(worker: Program) -> set[str]:
    with urllib.request.urlopen(
        f"{worker.url}/metrics", timeout=PATIENCE_SECONDS
    ) as response:
        text = response.read().decode()
    counted = [
        line.split()
        for line in text.splitlines()
        if line.startswith("gex_events_total")
    ]
    return {
        series.split('kind="')[1].split('"')[0]
        for series, count in counted
        if float(count) > 0
    }


@pytest.fixture(params=["single-object", "registry"], scope="module")
def written(request: pytest.FixtureRequest, kafka: LocalKafka) -> Iterator[Topics]:
    """A worker's events of many kinds, with every section, once with a registry and once without."""
    names = Names(f"others-{request.param}")
    registry = (
        request.getfixturevalue("registry").url if request.param == "registry" else None
    )
    framing = Registry(registry, {}) if registry else SingleObject()
    with start_simulator(
        "--period", "0.5", "--jitter", "0.1", "--limit", "0"
    ) as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        variables["GEX_INCLUDE"] = "max_pain,expected_move,ranked,zones"
        if registry:
            variables["GEX_SCHEMA_REGISTRY__URL"] = registry
        with start_worker(variables) as worker:
            wait_until(
                lambda: {"CHANGED", "INVALID"} <= kinds_so_far(worker),
                "levels change",
                worker,
            )
            simulator.ask("/_control/set", {"cold": [COLD]})
            wait_until(
                lambda: "MISSING" in kinds_so_far(worker), "one goes missing", worker
            )
            simulator.ask("/_control/set", {"cold": []})
            wait_until(
                lambda: kinds_so_far(worker) >= MISSING_AND_BACK, "it is back", worker
            )
            assert worker.terminate() == 0
    changes, partitions = read(kafka, f"{names.topic_prefix}.all.changes")
    current, _ = read(kafka, f"{names.topic_prefix}.all.current")
    yield Topics(
        changes,
        current,
        Other(registry),
        Codec(framing),
        partitions,
        names.topic_prefix,
    )
    if isinstance(framing, Registry):
        framing._client.close()


def test_every_event_says_the_same_to_both(written: Topics) -> None:
    events = [
        written.other.decode(record.topic, record.value) for record in written.changes
    ]
    assert events == [
        plain(written.ours.decode_event(record.value)) for record in written.changes
    ]
    assert {event["kind"] for event in events} >= MISSING_AND_BACK
    assert any(event["after"] and event["after"]["zones"] for event in events)


def test_every_state_says_the_same_to_both(written: Topics) -> None:
    states = [
        written.other.decode(record.topic, record.value) for record in written.current
    ]
    assert states == [
        plain(written.ours.decode_state(record.value)) for record in written.current
    ]
    assert {state["symbol"] for state in states} == set(SYMBOLS)


def test_each_symbols_sequence_has_no_gap_and_ends_where_its_state_says(
    written: Topics,
) -> None:
    sequences: dict[str, list[int]] = {symbol: [] for symbol in SYMBOLS}
    for record in written.changes:
        event = written.other.decode(record.topic, record.value)
        sequences[event["symbol"]].append(event["sequence"])
    assert sequences == {
        symbol: list(range(1, len(found) + 1)) for symbol, found in sequences.items()
    }
    states = [
        written.other.decode(record.topic, record.value) for record in written.current
    ]
    assert {state["symbol"]: state["sequence"] for state in states} == {
        s: len(n) for s, n in sequences.items()
    }


def test_key_and_partition_are_the_symbols_as_java_decides(written: Topics) -> None:
    for record in written.changes:
        event = written.other.decode(record.topic, record.value)
        assert record.key == event["symbol"].encode()
        assert (
            record.partition == (murmur2(record.key) & 0x7FFFFFFF) % written.partitions
        )
    for record in written.current:
        assert (
            record.key
            == written.other.decode(record.topic, record.value)["symbol"].encode()
        )
    assert len({record.partition for record in written.changes}) > 1


def test_the_timestamp_is_when_it_was_observed(written: Topics) -> None:
    for record in (*written.changes, *written.current):
        observed_at = written.other.decode(record.topic, record.value)["observed_at"]
        assert (record.timestamp, record.timestamp_type) == (
            observed_at // 1000,
            0,
        )  # 0: CreateTime


def test_the_headers_are_a_cloud_event_and_who_wrote_it(written: Topics) -> None:
    for record in (*written.changes, *written.current):
        value = written.other.decode(record.topic, record.value)
        headers = {name: content.decode() for name, content in record.headers}
        at = datetime.fromisoformat(headers.pop("ce_time"))
        assert plain(at) == value["observed_at"]
        assert (0 <= float(headers.pop("spent", "-1")) <= 1) == (
            record in written.current
        )
        event_id = (
            value.get("event_id")
            or f"all/{value['symbol']}/{value['sequence']}/{value['observed_at']}"
        )
        assert headers == {
            "ce_specversion": "1.0",
            "ce_id": event_id,
            "ce_type": f"gex.levels.{value.get('kind', 'state').lower()}",
            "ce_source": f"/{written.prefix}/all",
            "group": value["source"]["group"],
            "worker": value["source"]["worker"],
        }
