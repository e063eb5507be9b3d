"""Records of other programs in the topics, and feeds that are no longer configured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import confluent_kafka as ck
import pytest

from connector.core.model import Kind, Status
from connector.kafka.names import partition_of
from tests.support import checker, odd_headers
from tests.support.processes import (
    PATIENCE_SECONDS,
    Program,
    start,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)
from tests.support.tools import SYMBOLS, publish_events, run_tool

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connector.core.model import Event
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

# Partitions of `changes` by default.
PARTITIONS = 6
EXAMPLE = Path(__file__).parents[2] / "examples" / "consumer.py"
NO_HEADERS: Mapping[str, bytes] = {}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--limit", "6000") as program:
        yield program


@pytest.fixture
def published(kafka: LocalKafka, simulator: Program) -> dict[str, str]:
    """Variables of a stopped worker that has published events of each symbol."""
    return publish_events(kafka, simulator)


class Topics:
    """The topics of feed `all`, to which other programs write."""

    def __init__(self, kafka: LocalKafka, variables: dict[str, str]) -> None:
        self._kafka = kafka
        self.prefix = variables["GEX_KAFKA__TOPIC_PREFIX"]

    def write_state(self, key: bytes, value: bytes | None) -> None:
        self._write(f"{self.prefix}.all.current", key, value, 0)

    def write_event(
        self, key: bytes, value: bytes | None, headers: Mapping[str, bytes] = NO_HEADERS
    ) -> None:
        partition = partition_of(key.decode(), PARTITIONS)
        self._write(f"{self.prefix}.all.changes", key, value, partition, headers)

    def events(self, symbol: str) -> list[Event]:
        events = checker.events(self._kafka, self.prefix)
        return [event for event in events if event.symbol == symbol]

    def sequences(self, symbol: str) -> list[int]:
        return [event.sequence for event in self.events(symbol)]

    def _write(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        partition: int,
        headers: Mapping[str, bytes] = NO_HEADERS,
    ) -> None:
        settings = {"bootstrap.servers": self._kafka.bootstrap_servers}
        producer = ck.Producer(settings)
        producer.produce(topic, value, key, partition=partition, headers=dict(headers))
        assert producer.flush(PATIENCE_SECONDS) == 0


def test_strays_in_current_neither_end_a_worker_nor_restart_a_sequence(
    kafka: LocalKafka, published: dict[str, str]
) -> None:
    topics = Topics(kafka, published)
    before = {symbol: topics.sequences(symbol) for symbol in SYMBOLS}
    topics.write_state(b"some other key", b"not avro")
    topics.write_state(b"BTCUSDT", b"not avro")
    topics.write_state(b"ETHUSDT", None)

    code, printed = run_tool("check", variables=published)
    assert code == 0, printed
    warned = [line for line in printed.splitlines() if line.startswith("warn  states")]
    assert len(warned) == 3, printed
    for key in ("some other key", "BTCUSDT", "ETHUSDT"):
        assert any(f"key {key}" in line for line in warned), printed

    def has_published_more() -> bool:
        return all(
            len(topics.sequences(symbol)) > len(before[symbol]) + 1
            for symbol in SYMBOLS
        )

    with start_worker(published) as worker:
        wait_until(has_published_more, "more events of each symbol", worker)
        assert worker.metric("gex_stray_records") == 3
        assert "skipped a record of another program in the state topic" in worker.log()
        assert worker.terminate() == 0
    for symbol in SYMBOLS:
        found = topics.sequences(symbol)
        assert found == list(range(1, len(found) + 1))

    code, printed = run_tool("verify", variables=published)
    assert code == 0, printed
    assert "0 faults, 3 stray records" in printed
    assert printed.count("stray record: ") == 3

    # The states were written again. Only the key that is not ours is left.
    code, printed = run_tool("check", variables=published)
    assert printed.count("warn  states") == 1, printed
    assert "key some other key" in printed


def test_check_names_an_event_of_a_newer_version_that_would_end_a_worker(
    kafka: LocalKafka, published: dict[str, str]
) -> None:
    topics = Topics(kafka, published)
    # It has no state, so a worker looks for its last event.
    topics.write_event(b"SOLUSDT", b"of a later schema", {"worker": b"w"})
    variables = {**published, "GEX_SYMBOLS": ",".join([*SYMBOLS, "SOLUSDT"])}

    code, printed = run_tool("check", variables=variables)

    assert code == 4, printed
    (line,) = [line for line in printed.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL  states")
    assert "key SOLUSDT: a connector wrote an event" in line
    assert "start the newer version" in line


def test_check_names_a_worker_of_another_group_that_writes_the_same_topics(
    kafka: LocalKafka, simulator: Program, names: Names
) -> None:
    variables = variables_for(kafka, names, simulator, SYMBOLS)
    with start_worker(variables) as worker:

        def has_written() -> bool:
            return bool(checker.states(kafka, names.topic_prefix))

        wait_until(has_written, "a state", worker)
        another = {**variables, "GEX_KAFKA__GROUP_ID": "another-group"}
        code, printed = run_tool("check", variables=another)
        assert worker.terminate() == 0

    assert code == 0, printed
    (line,) = [line for line in printed.splitlines() if "fence each other" in line]
    assert line.startswith("warn  states")
    assert f"of group {names.group_id} has written it" in line
    assert "s ago. If it still runs" in line


def test_readers_skip_and_name_strays_in_changes(
    kafka: LocalKafka, published: dict[str, str]
) -> None:
    topics = Topics(kafka, published)
    last = topics.events("BTCUSDT")[-1]
    topics.write_event(b"BTCUSDT", b"not avro")
    topics.write_event(b"BTCUSDT", None)

    with start_worker(published) as worker:
        command = [sys.executable, "-m", "connector", "watch", "--from-beginning"]
        with start([*command, "--json"], published) as watch:
            # One after the strays.
            wait_for_log(watch, f"all/BTCUSDT/{last.sequence + 1}")
            assert watch.terminate() == 0
            assert watch.log().count("skipped a record that cannot be read") == 2
        assert worker.terminate() == 0

    code, printed = run_tool("history", "BTCUSDT", "--csv", variables=published)
    assert code == 0, printed
    assert f",{last.sequence + 1}," in printed
    assert printed.count("skipped a record that cannot be read") == 2

    code, printed = run_tool("verify", variables=published)
    assert code == 0, printed
    assert "0 faults, 2 stray records" in printed


def test_a_renamed_feed_leaves_no_symbol_live(
    kafka: LocalKafka, simulator: Program, names: Names, tmp_path: Path
) -> None:
    # The old worker must stay a member while the new one looks, however slow the machine.
    session = {"GEX_KAFKA__CLIENT__SESSION_TIMEOUT_MS": "45000"}
    variables = variables_for(kafka, names, simulator, SYMBOLS) | session
    prefix = names.topic_prefix

    def has_published() -> bool:
        return len(checker.events(kafka, prefix)) >= len(SYMBOLS)

    renamed = tmp_path / "renamed.toml"
    renamed.write_text('[[feeds]]\nname = "crypto"\nsymbols = ["BTCUSDT", "ETHUSDT"]\n')
    arguments = ("--config", str(renamed))
    of_file = {key: text for key, text in variables.items() if key != "GEX_SYMBOLS"}
    hasty = "tests.support.hasty_worker"

    with start_worker(variables) as old:
        wait_until(has_published, "events of the old feed", old)

        # The fleet is changed one worker after the other.
        with start_worker(of_file, arguments=arguments, module=hasty) as new:
            wait_for_log(new, "symbols of a feed that is not configured")
            wait_until(
                lambda: new.metric("gex_orphaned_symbols") == len(SYMBOLS),
                "the metric",
                new,
            )
            statuses = {
                state.status for state in checker.states(kafka, prefix).values()
            }
            assert Status.REMOVED not in statuses

            code, printed = run_tool("check", *arguments, variables=of_file)
            assert code == 0, printed
            assert "warn  feeds" in printed
            assert "feed all is not configured" in printed

            assert old.terminate() == 0
            wait_for_log(new, "removed the symbols of a feed that is not configured")
            assert new.terminate() == 0

    states = checker.states(kafka, prefix)
    assert {state.status for state in states.values()} == {Status.REMOVED}
    events = checker.events(kafka, prefix)
    assert checker.violations(events, states) == []
    assert [event.kind for event in events].count(Kind.REMOVED) == len(SYMBOLS)
    code, printed = run_tool("check", *arguments, variables=of_file)
    assert "feed all is not configured" not in printed
    code, printed = run_tool("verify", *arguments, variables=of_file)
    assert code == 0, printed


def test_strays_whose_header_names_are_no_text_end_nothing(
    kafka: LocalKafka, published: dict[str, str]
) -> None:
    topics = Topics(kafka, published)
    servers = kafka.bootstrap_servers
    for topic in ("current", "changes"):
        odd_headers.write(servers, f"{topics.prefix}.all.{topic}", 0, b"BTCUSDT")

    for tool in ("check", "verify", "history"):
        code, printed = run_tool(tool, variables=published)
        assert code == 0, printed
    follow = ("--bootstrap", servers, "--prefix", topics.prefix, "--seconds", "0")
    with start([sys.executable, str(EXAMPLE), *follow]) as consumer:
        assert consumer.wait() == 0, consumer.log()
    with start_worker(published) as worker:
        wait_until(worker.ready, "ready", worker)
        wait_for_log(worker, "behind a record of another program")
        assert worker.terminate() == 0
