"""Rejected entries go to a topic of their own, and hold up nothing if it is unusable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import confluent_kafka.admin
import pytest

from connector.config.model import Kafka
from connector.kafka import quarantine as quarantine_module
from connector.kafka.clients import Clients
from connector.kafka.names import Topics
from connector.kafka.quarantine import Quarantine, Quarantined
from tests.support import checker
from tests.support.log_statements import NOW
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)
from tests.support.topics import create_topics

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

# Longer raw entries are cut.
MAX_RECORD_BYTES = 65_536
NOT_WRITTEN = "cannot quarantine an entry"

BAD = Quarantined("BTCUSDT", b"{", "malformed", "no JSON", NOW, "r-1")


class Fixture:
    """A quarantine on a broker, the records in it, and the number of failures."""

    def __init__(self, kafka: LocalKafka, names: Names) -> None:
        settings = Kafka(
            bootstrap_servers=kafka.bootstrap_servers, topic_prefix=names.topic_prefix
        )
        topics = Topics(names.topic_prefix)
        self.topic = topics.quarantine
        self.failures = 0
        self.quarantine = Quarantine(Clients(settings), topics, self._count)
        self._kafka = kafka

    def create_topic(self, **config: str) -> None:
        topic = confluent_kafka.admin.NewTopic(self.topic, 1, 1, config=config)
        create_topics(self._kafka, topic)

    def delete_topic(self) -> None:
        delete_topic(self._kafka, self.topic)

    def records(self) -> list[checker.Record]:
        return checker.records(self._kafka, self.topic)

    def wait_until_failed(self) -> None:
        def has_failed() -> bool:
            self.quarantine.serve_callbacks()
            return self.failures > 0

        wait_until(has_failed, "an entry is not written")

    def _count(self) -> None:
        self.failures += 1


@pytest.fixture
def fixture(
    kafka: LocalKafka, names: Names, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Fixture]:
    # Broker and machine may be slow. A worker that ends would not wait for so long.
    monkeypatch.setattr(quarantine_module, "_CLOSE_SECONDS", 60)
    fixture = Fixture(kafka, names)
    yield fixture
    fixture.quarantine.close()


def lines_about_entries(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the log records of the quarantine. librdkafka may log something, too."""
    name = quarantine_module.__name__
    return [record for record in caplog.records if record.name == name]


def delete_topic(kafka: LocalKafka, topic: str) -> None:
    admin = confluent_kafka.admin.AdminClient(
        {"bootstrap.servers": kafka.bootstrap_servers}
    )
    for future in admin.delete_topics([topic]).values():
        future.result(PATIENCE_SECONDS)


def test_an_entry_keeps_its_bytes_and_the_reason(
    fixture: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    fixture.create_topic()
    # Too long for the topic, whose records must stay readable by any tool.
    raw = b'{"spot_price": NaN}' + b" " * 70_000
    entry = Quarantined("BTCUSDT", raw, "too_large", "70019 bytes", NOW, "r-1")
    fixture.quarantine.add("all", entry)
    fixture.quarantine.close()

    (record,) = fixture.records()
    assert record.key == b"BTCUSDT"
    assert record.value == raw[:MAX_RECORD_BYTES]
    assert record.headers["why"] == b"too_large: 70019 bytes"
    assert record.headers["where"] == b"all/BTCUSDT/r-1"
    assert record.timestamp_ms == NOW // 1000
    (line,) = lines_about_entries(caplog)
    assert line.message == "entry quarantined"
    assert fixture.failures == 0


def test_entries_are_logged_while_the_topic_is_gone_and_written_when_it_is_back(
    fixture: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    fixture.create_topic()
    fixture.quarantine.add("all", BAD)
    fixture.quarantine.close()
    fixture.delete_topic()

    def is_refused() -> bool:
        # Right after the deletion, the broker may still take a record.
        fixture.quarantine.add("all", BAD)
        fixture.quarantine.close()
        return fixture.failures > 0

    wait_until(is_refused, "an entry is not written")
    failure = lines_about_entries(caplog)[-1]
    assert failure.message == NOT_WRITTEN
    assert fixture.topic in vars(failure)["error"]
    # The log is the only place that has the entry now.
    assert vars(failure)["entry"] == "{"

    fixture.create_topic()

    def is_written() -> bool:
        fixture.quarantine.add("all", BAD)
        fixture.quarantine.close()
        return bool(fixture.records())

    wait_until(is_written, "an entry is written again")


def test_an_entry_that_the_topic_does_not_take_is_counted(
    fixture: Fixture, caplog: pytest.LogCaptureFixture
) -> None:
    fixture.create_topic(**{"max.message.bytes": "1000"})
    large = Quarantined("BTCUSDT", b"x" * 2000, "malformed", "no JSON", NOW, None)
    fixture.quarantine.add("all", large)
    fixture.wait_until_failed()
    (failure,) = lines_about_entries(caplog)
    assert "MSG_SIZE_TOO_LARGE" in vars(failure)["error"]


def test_entries_that_are_not_written_by_the_end_are_logged(
    names: Names, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine_module, "_CLOSE_SECONDS", 0.1)
    failures: list[None] = []
    nowhere = Kafka(bootstrap_servers="127.0.0.1:1", topic_prefix=names.topic_prefix)
    quarantine = Quarantine(
        Clients(nowhere), Topics(names.topic_prefix), lambda: failures.append(None)
    )
    quarantine.add("all", BAD)

    quarantine.close()

    assert len(failures) == 1
    (failure,) = lines_about_entries(caplog)
    assert failure.message == NOT_WRITTEN
    assert vars(failure)["entry"] == "{"


def test_a_worker_publishes_good_symbols_while_the_topic_is_gone(
    kafka: LocalKafka, names: Names
) -> None:
    symbols = ("BTCUSDT", "ETHUSDT")

    def changes_of_eth() -> int:
        found = checker.events(kafka, names.topic_prefix)
        return len([event for event in found if event.symbol == "ETHUSDT"])

    with start_simulator("--period", "1", "--limit", "0") as simulator:
        variables = variables_for(kafka, names, simulator, symbols)
        with start_worker(variables) as worker:
            delete_topic(kafka, f"{names.topic_prefix}.quarantine")
            fault = {"fault": "nan", "symbols": ["BTCUSDT"]}
            simulator.ask("/_control/faults", fault)
            wait_for_log(worker, NOT_WRITTEN)

            # Entries fail, and events go on.
            before = changes_of_eth()
            wait_until(
                lambda: changes_of_eth() > before + 3, "events of ETHUSDT", worker
            )
            assert worker.metric("gex_transactions_total") > 0
            text = worker.text("/metrics")
            assert 'gex_transactions_total{result="aborted"} 0.0' in text
            assert "gex_quarantine_failed_total 0.0" not in text
            assert 'gex_quarantined_total{reason="malformed"}' in text
            assert worker.terminate() == 0
