"""Programs that share no code with us read our topics: kafka-python, Apache's `avro`."""

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
    from kafka import KafkaConsumer, TopicPartition
    from kafka.partitioner.default import murmur2

pytestmark = pytest.mark.filterwarnings(
    "ignore:read_text is deprecated:DeprecationWarning"
)  # kafka-python's own

SCHEMAS = Path(__file__).parents[2] / "schemas"
SCHEMA_NAMES = ("Status", "Source", "Levels", "LevelsEvent", "LevelsState")
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "NOSUCH")
# This symbol goes missing for a while.
COLD = "ETHUSDT"
EXPECTED_KINDS = {"SNAPSHOT", "CHANGED", "MISSING", "RESTORED", "INVALID"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Kafka's timestamp type of a record whose producer set the timestamp.
CREATE_TIME = 0
# Avro single-object encoding: C3 01, then 8 bytes of the schema's fingerprint.
SINGLE_OBJECT_MARK = b"\xc3\x01"
SINGLE_OBJECT_BYTES = 10
# Confluent framing: a zero byte, then 4 bytes of the schema's id.
CONFLUENT_BYTES = 5


class ApacheReader:
    """Apache's Avro, with schemas from our files or from a registry's REST API."""

    def __init__(self, registry: str | None) -> None:
        self._registry = registry
        # Both sets of schemas use the same names, so each needs a space of its own.
        names = avro.name.Names()
        plain_names = avro.name.Names()
        self._by_fingerprint = {}
        for name in SCHEMA_NAMES:
            path = SCHEMAS / f"gex.levels.{name}.avsc"
            file = json.loads(path.read_text())
            # The fingerprint is that of the schema without logical types.
            plain_schema = avro.schema.make_avsc_object(plain_types(file), plain_names)
            schema = avro.schema.make_avsc_object(file, names)
            self._by_fingerprint[plain_schema.fingerprint()] = schema

    def decode(self, topic: str, value: bytes) -> Any:
        """Return the record as plain values, moments in microseconds."""
        if self._registry is None:
            schema, datum = self._by_prefix(value)
        else:
            schema, datum = self._by_id(topic, value)
        decoder = avro.io.BinaryDecoder(io.BytesIO(datum))
        record = avro.io.DatumReader(schema).read(decoder)
        return plain(record)

    def _by_prefix(self, value: bytes) -> tuple[Any, bytes]:
        assert value.startswith(SINGLE_OBJECT_MARK)
        fingerprint = value[len(SINGLE_OBJECT_MARK) : SINGLE_OBJECT_BYTES]
        return self._by_fingerprint[fingerprint], value[SINGLE_OBJECT_BYTES:]

    def _by_id(self, topic: str, value: bytes) -> tuple[Any, bytes]:
        assert value[0] == 0
        schema_id = int.from_bytes(value[1:CONFLUENT_BYTES], "big")
        latest = self._ask(f"/subjects/{topic}-value/versions/latest")
        assert latest["id"] == schema_id

        # Readers look a schema up by its id, and administrators by its subject.
        by_id = self._ask(f"/schemas/ids/{schema_id}")
        assert json.loads(by_id["schema"]) == json.loads(latest["schema"])
        return avro.schema.parse(by_id["schema"]), value[CONFLUENT_BYTES:]

    def _ask(self, path: str) -> Any:
        url = f"{self._registry}{path}"
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as response:
            return json.load(response)


class Written(NamedTuple):
    """The records of a worker, and both decoders."""

    changes: list[Any]
    current: list[Any]
    apache: ApacheReader
    ours: Codec
    partitions: int
    prefix: str

    def decode(self, record: Any) -> Any:
        """Decode a record by Apache's package."""
        return self.apache.decode(record.topic, record.value)


def plain(value: Any) -> Any:
    """Return plain values, with moments in microseconds."""
    if isinstance(value, msgspec.Struct):
        return plain(msgspec.to_builtins(value))
    if isinstance(value, datetime):
        seconds = (value - EPOCH).total_seconds()
        return round(seconds * 1_000_000)
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def plain_types(schema: Any) -> Any:
    """Return primitive types by their names, as the canonical form has them.

    `avro` 1.12 leaves `{"type": "long"}` of a logical type there, so that its
    fingerprints differ from Java's.
    """
    if isinstance(schema, list):
        return [plain_types(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "logicalType" in schema:
        return schema["type"]
    return {key: plain_types(value) for key, value in schema.items()}


def read(kafka: LocalKafka, topic: str) -> tuple[list[Any], int]:
    """Return every committed record, and the number of partitions."""
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers, isolation_level="read_committed"
    )
    try:
        partitions = []
        for number in sorted(consumer.partitions_for_topic(topic)):
            partitions.append(TopicPartition(topic, number))
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        records: list[Any] = []

        def read_all() -> bool:
            for batch in consumer.poll(timeout_ms=200).values():
                records.extend(batch)
            # Commit markers have offsets too, so compare positions and not records.
            unread = [one for one in partitions if consumer.position(one) < ends[one]]
            return unread == []

        wait_until(read_all, f"all of {topic} is read")
        return records, len(partitions)
    finally:
        consumer.close()


def published_kinds(worker: Program) -> set[str]:
    """Return the kinds of the events that the worker has published."""
    kinds = set()
    for line in worker.text("/metrics").splitlines():
        if not line.startswith("gex_events_total"):
            continue
        series, count = line.split()
        # A kind that was never published is a series with the value 0.
        if float(count) > 0:
            _, _, after = series.partition('kind="')
            kind, _, _ = after.partition('"')
            kinds.add(kind)
    return kinds


def wait_for_kinds(worker: Program, *kinds: str) -> None:
    """Wait until the worker has published events of all these kinds."""

    def are_published() -> bool:
        return published_kinds(worker).issuperset(kinds)

    wait_until(are_published, f"events {kinds}", worker)


@pytest.fixture(params=["single-object", "registry"], scope="module")
def written(request: pytest.FixtureRequest, kafka: LocalKafka) -> Iterator[Written]:
    """Return events of many kinds with every section, with and without a registry."""
    names = Names(f"others-{request.param}")
    registry = None
    framing: Registry | SingleObject = SingleObject()
    if request.param == "registry":
        registry = request.getfixturevalue("registry").url
        framing = Registry(registry, {})

    arguments = ["--period", "0.5", "--jitter", "0.1", "--limit", "0"]
    with start_simulator(*arguments) as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        variables["GEX_INCLUDE"] = "max_pain,expected_move,ranked,zones"
        if registry:
            variables["GEX_SCHEMA_REGISTRY__URL"] = registry
        with start_worker(variables) as worker:
            wait_for_kinds(worker, "CHANGED", "INVALID")
            simulator.ask("/_control/set", {"cold": [COLD]})
            wait_for_kinds(worker, "MISSING")
            simulator.ask("/_control/set", {"cold": []})
            # The symbol is back: RESTORED was the last of these that was missing.
            wait_for_kinds(worker, *EXPECTED_KINDS)
            assert worker.terminate() == 0

    changes, partitions = read(kafka, f"{names.topic_prefix}.all.changes")
    current, _ = read(kafka, f"{names.topic_prefix}.all.current")
    yield Written(
        changes,
        current,
        ApacheReader(registry),
        Codec(framing),
        partitions,
        names.topic_prefix,
    )
    if isinstance(framing, Registry):
        framing.close()


def test_every_event_is_the_same_for_both(written: Written) -> None:
    events = [written.decode(record) for record in written.changes]
    ours = [written.ours.decode_event(record.value) for record in written.changes]
    assert events == plain(ours)

    # The comparison covered every kind and the section with the deepest nesting.
    assert {event["kind"] for event in events} >= EXPECTED_KINDS
    with_levels = [event["after"] for event in events if event["after"]]
    with_zones = [levels for levels in with_levels if levels["zones"]]
    assert with_zones


def test_every_state_is_the_same_for_both(written: Written) -> None:
    states = [written.decode(record) for record in written.current]
    ours = [written.ours.decode_state(record.value) for record in written.current]
    assert states == plain(ours)
    assert {state["symbol"] for state in states} == set(SYMBOLS)


def test_the_sequence_of_a_symbol_has_no_gap_and_ends_with_its_state(
    written: Written,
) -> None:
    sequences: dict[str, list[int]] = {symbol: [] for symbol in SYMBOLS}
    for record in written.changes:
        event = written.decode(record)
        sequences[event["symbol"]].append(event["sequence"])
    for sequence in sequences.values():
        assert sequence == list(range(1, len(sequence) + 1))

    last_sequences = {}
    for record in written.current:
        state = written.decode(record)
        last_sequences[state["symbol"]] = state["sequence"]
    expected = {symbol: len(sequence) for symbol, sequence in sequences.items()}
    assert last_sequences == expected


def test_key_and_partition_are_those_that_java_chooses(written: Written) -> None:
    for record in written.changes:
        event = written.decode(record)
        assert record.key == event["symbol"].encode()
        # As Java's default partitioner: the sign bit is dropped.
        positive = murmur2(record.key) & 0x7FFFFFFF
        assert record.partition == positive % written.partitions
    for record in written.current:
        assert record.key == written.decode(record)["symbol"].encode()

    # With a single partition in use, every choice would have passed.
    used = {record.partition for record in written.changes}
    assert len(used) > 1


def test_the_timestamp_is_the_moment_of_the_observation(written: Written) -> None:
    for record in (*written.changes, *written.current):
        # Kafka counts in milliseconds.
        assert record.timestamp == written.decode(record)["observed_at"] // 1000
        assert record.timestamp_type == CREATE_TIME


def test_the_headers_are_a_cloud_event_and_the_writer(written: Written) -> None:
    for record in (*written.changes, *written.current):
        value = written.decode(record)
        headers = {name: content.decode() for name, content in record.headers}
        # Compare the moment and not its text, which could be in any time zone.
        at = datetime.fromisoformat(headers.pop("ce_time"))
        assert plain(at) == value["observed_at"]

        if record in written.current:
            assert 0 <= float(headers.pop("spent")) <= 1
            # A state is written again for a new observation with the same sequence.
            event_id = f"all/{value['symbol']}/{value['sequence']}"
            record_id = f"{event_id}/{value['observed_at']}"
            kind = "state"
        else:
            record_id = value["event_id"]
            kind = value["kind"].lower()
        assert headers == {
            "ce_specversion": "1.0",
            "ce_id": record_id,
            "ce_type": f"gex.levels.{kind}",
            "ce_source": f"/{written.prefix}/all",
            "group": value["source"]["group"],
            "worker": value["source"]["worker"],
        }
