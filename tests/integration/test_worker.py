"""A worker against a real broker and the simulator: the promises to a consumer."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

import confluent_kafka
import confluent_kafka.admin
import pytest

from connector.core.model import Kind, Status
from connector.devkit.simulator.settings import DEFAULT_KEY
from tests.support import checker
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from connector.core.model import Event
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
FAST = {
    "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.05",
    "GEX_SCHEDULE__MIN_INTERVAL_SECONDS": "0.05",
}


class Published:
    """Everything that the worker has published."""

    def __init__(self, kafka: LocalKafka, names: Names) -> None:
        self._kafka = kafka
        self._prefix = names.topic_prefix

    def events(self) -> list[Event]:
        """Return all events; none if the topic does not exist yet."""
        try:
            return checker.events(self._kafka, self._prefix)
        except KeyError:
            return []

    def of_kind(self, kind: Kind, symbol: str = "BTCUSDT") -> list[Event]:
        found = []
        for event in self.events():
            if event.kind is kind and event.symbol == symbol:
                found.append(event)
        return found

    def kinds(self, *kinds: Kind, symbol: str = "BTCUSDT") -> list[Kind]:
        """Return the kinds of a symbol's events in order, as far as they are in `kinds`."""
        found = []
        for event in checker.by_symbol(self.events())[symbol]:
            if event.kind in kinds:
                found.append(event.kind)
        return found

    def quarantined(self) -> list[checker.Record]:
        return self.records("quarantine")

    def records(self, topic: str) -> list[checker.Record]:
        return checker.records(self._kafka, f"{self._prefix}.{topic}")

    def violations(self) -> Sequence[str]:
        """Return the promises that the records break."""
        states = checker.states(self._kafka, self._prefix)
        return checker.violations(self.events(), states)

    def wait_for(self, kind: Kind, worker: Program) -> list[Event]:
        """Wait for an event of BTCUSDT."""
        return wait_until(lambda: self.of_kind(kind), f"an event {kind}", worker)

    def wait_for_another_change(self, worker: Program, symbol: str = "BTCUSDT") -> None:
        before = len(self.of_kind(Kind.CHANGED, symbol))
        wait_until(
            lambda: len(self.of_kind(Kind.CHANGED, symbol)) > before,
            f"another change of {symbol}",
            worker,
        )


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--jitter", "0.1", "--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Mapping[str, str]:
    return variables_for(kafka, names, simulator, SYMBOLS) | FAST


@pytest.fixture
def published(kafka: LocalKafka, names: Names) -> Published:
    return Published(kafka, names)


def without(variables: Mapping[str, str], removed: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name != removed}


def wait_for_more_requests(simulator: Program, worker: Program) -> None:
    def total() -> int:
        return int(simulator.ask("/_control/stats")["requests_total"])

    before = total()
    wait_until(lambda: total() > before + 5, "more requests", worker)


def clear_faults(simulator: Program) -> None:
    request = urllib.request.Request(
        f"{simulator.url}/_control/faults", method="DELETE"
    )
    urllib.request.urlopen(request, timeout=10).close()


# --- events ---


def test_every_refresh_that_was_served_is_one_event_in_order(
    published: Published, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: len(published.events()) >= 15, "some events", worker)
        assert worker.terminate() == 0
    served: dict[str, list[str]] = {symbol: [] for symbol in SYMBOLS}
    for answer in simulator.ask("/_control/truth")["answers"]:
        if answer["status"] != 200:
            continue
        for symbol, entry in answer["shown"].items():
            if entry["computed_at"] not in served[symbol]:
                served[symbol].append(entry["computed_at"])
    events = checker.by_symbol(published.events())
    assert published.violations() == []
    for symbol in SYMBOLS:
        # An answer that the stop cut off was sent, but may not have been received.
        assert len(served[symbol]) - len(events[symbol]) in (0, 1)
        moments = [event.computed_at or 0 for event in events[symbol]]
        assert moments == sorted(set(moments))


def test_a_restart_publishes_nothing_but_changes(
    published: Published, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: len(published.of_kind(Kind.CHANGED)) >= 2, "changes", worker)
        simulator.ask("/_control/faults", {"fault": "freeze"})
        wait_for_more_requests(simulator, worker)
        worker.terminate()
    before = {event.event_id for event in published.events()}
    with start_worker(variables) as worker:
        wait_for_more_requests(simulator, worker)
        assert worker.terminate() == 0
    after = [event.event_id for event in published.events()]
    assert sorted(after) == sorted(before)


def test_a_bad_entry_is_quarantined_and_other_symbols_are_published(
    published: Published, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        simulator.ask("/_control/faults", {"fault": "nan", "symbols": ["BTCUSDT"]})
        wait_until(published.quarantined, "an entry in quarantine", worker)
        published.wait_for_another_change(worker, "ETHUSDT")
        metrics = worker.text("/metrics")
        worker.terminate()
    record = published.quarantined()[0]
    assert record.key == b"BTCUSDT"
    assert b"NaN" in record.value
    assert record.headers["why"].startswith(b"malformed: ")
    assert 'gex_quarantined_total{reason="malformed"}' in metrics
    assert published.violations() == []


def test_absence_is_published_once_and_so_is_its_end(
    published: Published, simulator: Program, variables: Mapping[str, str]
) -> None:
    status = 'gex_symbol_status{feed="all",status="MISSING",symbol="BTCUSDT"} 1.0'
    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        simulator.ask("/_control/faults", {"fault": "missing", "symbols": ["BTCUSDT"]})
        published.wait_for(Kind.MISSING, worker)
        wait_until(
            lambda: status in worker.text("/metrics"), "the status as a metric", worker
        )
        clear_faults(simulator)
        published.wait_for(Kind.RESTORED, worker)
        simulator.ask("/_control/faults", {"fault": "invalid", "symbols": ["BTCUSDT"]})
        published.wait_for(Kind.INVALID, worker)
        worker.terminate()
    expected = [Kind.MISSING, Kind.RESTORED, Kind.INVALID]
    assert published.kinds(*expected) == expected
    for event in published.of_kind(Kind.MISSING) + published.of_kind(Kind.INVALID):
        assert event.after is None


def test_levels_become_stale_without_answers_and_fresh_again(
    published: Published,
    simulator: Program,
    variables: Mapping[str, str],
    tmp_path: Path,
) -> None:
    config = tmp_path / "stale.toml"
    symbols = json.dumps(SYMBOLS)
    config.write_text(
        f'[[feeds]]\nname = "all"\nsymbols = {symbols}\nstale_after_seconds = 3\n'
    )
    settings = without(variables, "GEX_SYMBOLS")
    settings["GEX_UPSTREAM__TIMEOUT_SECONDS"] = "1"
    with start_worker(settings, arguments=["--config", str(config)]) as worker:
        published.wait_for(Kind.CHANGED, worker)
        simulator.ask("/_control/faults", {"fault": "503"})
        stale = published.wait_for(Kind.STALE, worker)[0]
        assert (stale.status, stale.reason) == (Status.STALE, "no_answer")
        assert worker.ask("/health/live")["ok"]
        assert worker.ready()
        clear_faults(simulator)
        published.wait_for(Kind.FRESH, worker)
        worker.terminate()
    assert published.violations() == []


def test_a_symbol_that_is_removed_and_added_again_continues_its_sequence(
    published: Published, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        worker.terminate()
    with start_worker({**variables, "GEX_SYMBOLS": "ETHUSDT"}) as worker:
        published.wait_for(Kind.REMOVED, worker)
        worker.terminate()
    with start_worker(variables) as worker:
        published.wait_for(Kind.RESTORED, worker)
        worker.terminate()
    assert published.violations() == []


def test_an_older_entry_is_counted_and_dropped(
    published: Published, simulator: Program, variables: Mapping[str, str]
) -> None:
    none_dropped = 'gex_observations_dropped_total{feed="all",reason="older"} 0'
    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        simulator.ask(
            "/_control/faults",
            {"fault": "computed_at", "variant": "older", "symbols": ["BTCUSDT"]},
        )
        wait_until(
            lambda: none_dropped not in worker.text("/metrics"),
            "an older entry is counted",
            worker,
        )
        clear_faults(simulator)
        published.wait_for_another_change(worker)
        worker.terminate()
    assert published.violations() == []


# --- the API key ---


def test_the_key_appears_nowhere(
    published: Published, simulator: Program, variables: Mapping[str, str]
) -> None:
    key = DEFAULT_KEY
    with start_worker(variables, arguments=["--log-level", "DEBUG"]) as worker:
        published.wait_for(Kind.CHANGED, worker)
        simulator.ask("/_control/set", {"keys": ["bq_live_" + "x" * 32]})
        wait_until(lambda: "key_refused" in worker.log(), "a refused key", worker)
        assert not worker.ready()
        assert worker.ask("/health/live")["ok"]
        simulator.ask("/_control/set", {"keys": [key]})
        pages = worker.text("/metrics") + worker.text("/health/live")
        worker.terminate()
        shown = worker.log() + pages
    assert key not in shown
    for topic in ("all.changes", "all.current", "quarantine"):
        for record in published.records(topic):
            assert key.encode() not in record.value
            for header in record.headers.values():
                assert key.encode() not in header


def test_a_key_that_is_rotated_in_its_file_is_used(
    published: Published,
    simulator: Program,
    variables: Mapping[str, str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "key"
    new_key = "bq_live_" + "n" * 32
    file.write_text(f"  {DEFAULT_KEY}\n")
    settings = without(variables, "GEX_UPSTREAM__API_KEY")
    settings["GEX_UPSTREAM__API_KEY_FILE"] = str(file)
    with start_worker(settings) as worker:
        published.wait_for(Kind.CHANGED, worker)
        simulator.ask("/_control/set", {"keys": [new_key]})
        wait_until(lambda: not worker.ready(), "not ready: the key is refused", worker)
        assert "gex_key_refused 1.0" in worker.text("/metrics")
        file.write_text(new_key)
        wait_until(worker.ready, "ready again", worker)
        published.wait_for_another_change(worker)
        worker.terminate()


# --- trouble ---


@pytest.mark.parametrize(
    "fault",
    [
        {"fault": "html"},
        {"fault": "empty"},
        {"fault": "truncated"},
        {"fault": "huge"},
        {"fault": "gzip_bomb"},
        {"fault": "redirect"},
        {"fault": "success_false"},
        {"fault": "drop"},
        {"fault": "500"},
        {"fault": "429", "retry_after_seconds": 1},
    ],
    ids=lambda fault: fault["fault"],
)
def test_a_worker_survives_a_bad_response(
    fault: dict[str, object],
    published: Published,
    simulator: Program,
    variables: Mapping[str, str],
) -> None:
    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        simulator.ask("/_control/faults", {**fault, "count": 2})
        wait_until(
            lambda: "a check failed" in worker.log(),
            "a classified error in the log",
            worker,
        )
        published.wait_for_another_change(worker)
        assert worker.terminate() == 0
        assert "Traceback" not in worker.log()
    assert published.violations() == []


def test_a_worker_is_not_ready_while_one_of_its_shards_cannot_be_opened(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        worker.terminate()
    foreign = confluent_kafka.Producer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "transactional.id": names.transactional_id,
        }
    )
    foreign.init_transactions(30)
    foreign.begin_transaction()
    foreign.produce(f"{names.topic_prefix}.all.current", b"x", b"BTCUSDT", partition=0)
    foreign.flush()
    with start_worker(variables, wait_ready=False) as worker:
        wait_until(
            lambda: "in a transaction with another id" in worker.log(),
            "the shard is refused",
            worker,
        )
        assert not worker.ready()
        assert worker.ask("/health/live")["ok"]
        foreign.abort_transaction(30)
        wait_until(worker.ready, "ready after the other has aborted", worker)
        worker.terminate()


def test_a_worker_notices_that_its_topics_were_deleted(
    kafka: LocalKafka,
    names: Names,
    published: Published,
    variables: Mapping[str, str],
) -> None:
    with start_worker(variables) as worker:
        published.wait_for(Kind.CHANGED, worker)
        admin = confluent_kafka.admin.AdminClient(
            {"bootstrap.servers": kafka.bootstrap_servers}
        )
        topics = [
            f"{names.topic_prefix}.all.changes",
            f"{names.topic_prefix}.all.current",
        ]
        for future in admin.delete_topics(topics).values():
            future.result(30)
        wait_until(lambda: "topics are gone" in worker.log(), "a log message", worker)
        assert not worker.ready()
        assert worker.ask("/health/live")["ok"]
        assert worker.terminate() == 0
