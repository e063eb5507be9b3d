"""A worker as it runs, against a real broker and the simulator over HTTP: what the design promises a consumer."""

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
    from collections.abc import Iterator, Mapping
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


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--jitter", "0.1", "--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Mapping[str, str]:
    return variables_for(kafka, names, simulator, SYMBOLS) | FAST


def events(kafka: LocalKafka, names: Names) -> list[Event]:
    """None yet where the topic is not there yet."""
    try:
        return checker.events(kafka, names.topic_prefix)
    except KeyError:
        return []


def of_kind(
    kafka: LocalKafka, names: Names, kind: Kind, symbol: str = "BTCUSDT"
) -> list[Event]:
    return [
        event
        for event in events(kafka, names)
        if event.kind is kind and event.symbol == symbol
    ]


def text(worker: Program, path: str) -> str:
    with urllib.request.urlopen(worker.url + path, timeout=10) as response:
        return str(response.read().decode())


def test_every_refresh_that_was_shown_is_one_event_in_its_order(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: len(events(kafka, names)) >= 15, "some events", worker)
        assert worker.terminate() == 0
    shown: dict[str, list[str]] = {symbol: [] for symbol in SYMBOLS}
    for answer in simulator.ask("/_control/truth")["answers"]:
        for symbol, entry in answer["shown"].items():
            if answer["status"] == 200 and entry["computed_at"] not in shown[symbol]:
                shown[symbol].append(entry["computed_at"])
    published = checker.by_symbol(events(kafka, names))
    current = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events(kafka, names), current) == []
    for symbol in SYMBOLS:
        # An answer that the stop cut off was sent, but may not have been received.
        assert len(shown[symbol]) - len(published[symbol]) in (0, 1)
        moments = [event.computed_at for event in published[symbol]]
        assert moments == sorted(set(moments), key=lambda at: at or 0)


def test_a_restart_publishes_nothing_but_what_differs(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(
            lambda: len(of_kind(kafka, names, Kind.CHANGED)) >= 2, "changes", worker
        )
        simulator.ask("/_control/faults", {"fault": "freeze"})
        asked = simulator.ask("/_control/stats")["requests_total"]
        wait_until(
            lambda: simulator.ask("/_control/stats")["requests_total"] > asked + 5,
            "checks",
            worker,
        )
        worker.terminate()
    before = events(kafka, names)
    with start_worker(variables) as worker:
        asked = simulator.ask("/_control/stats")["requests_total"]
        wait_until(
            lambda: simulator.ask("/_control/stats")["requests_total"] > asked + 5,
            "checks",
            worker,
        )
        assert worker.terminate() == 0
    assert sorted(event.event_id for event in events(kafka, names)) == sorted(
        event.event_id for event in before
    )


def test_one_bad_entry_goes_to_quarantine_and_the_others_go_on(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.CHANGED), "changes", worker)
        simulator.ask("/_control/faults", {"fault": "nan", "symbols": ["BTCUSDT"]})
        topic = f"{names.topic_prefix}.quarantine"
        wait_until(
            lambda: checker.records(kafka, topic), "an entry in quarantine", worker
        )
        already = len(of_kind(kafka, names, Kind.CHANGED, "ETHUSDT"))
        wait_until(
            lambda: len(of_kind(kafka, names, Kind.CHANGED, "ETHUSDT")) > already,
            "others",
            worker,
        )
        metrics = text(worker, "/metrics")
        worker.terminate()
    record = checker.records(kafka, topic)[0]
    assert record.key == b"BTCUSDT"
    assert b"NaN" in record.value
    assert record.headers["why"].startswith(b"malformed: ")
    assert 'gex_quarantined_total{reason="malformed"}' in metrics
    assert (
        checker.violations(
            events(kafka, names), checker.states(kafka, names.topic_prefix)
        )
        == []
    )


def test_absence_is_said_once_with_its_end(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.CHANGED), "changes", worker)
        simulator.ask("/_control/faults", {"fault": "missing", "symbols": ["BTCUSDT"]})
        wait_until(lambda: of_kind(kafka, names, Kind.MISSING), "missing", worker)
        said = 'gex_symbol_status{feed="all",status="MISSING",symbol="BTCUSDT"} 1.0'
        wait_until(
            lambda: said in text(worker, "/metrics"), "the metric says so", worker
        )
        _clear_faults(simulator)
        wait_until(lambda: of_kind(kafka, names, Kind.RESTORED), "restored", worker)
        simulator.ask("/_control/faults", {"fault": "invalid", "symbols": ["BTCUSDT"]})
        wait_until(lambda: of_kind(kafka, names, Kind.INVALID), "invalid", worker)
        worker.terminate()
    its = checker.by_symbol(events(kafka, names))["BTCUSDT"]
    absent = [
        event.kind
        for event in its
        if event.kind in (Kind.MISSING, Kind.RESTORED, Kind.INVALID)
    ]
    assert absent == [Kind.MISSING, Kind.RESTORED, Kind.INVALID]
    assert [
        event.after for event in its if event.kind in (Kind.MISSING, Kind.INVALID)
    ] == [None, None]


def test_levels_become_stale_by_the_timer_while_nothing_answers_and_fresh_again(
    kafka: LocalKafka,
    names: Names,
    simulator: Program,
    variables: Mapping[str, str],
    tmp_path: Path,
) -> None:
    config = tmp_path / "stale.toml"
    config.write_text(
        f'[[feeds]]\nname = "all"\nsymbols = {json.dumps(SYMBOLS)}\nstale_after_seconds = 3\n'
    )
    given = {name: value for name, value in variables.items() if name != "GEX_SYMBOLS"}
    with start_worker(
        {**given, "GEX_UPSTREAM__TIMEOUT_SECONDS": "1"},
        arguments=["--config", str(config)],
    ) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.CHANGED), "changes", worker)
        simulator.ask("/_control/faults", {"fault": "503"})
        stale = wait_until(lambda: of_kind(kafka, names, Kind.STALE), "stale", worker)
        assert (stale[0].status, stale[0].reason) == (Status.STALE, "no_answer")
        assert worker.ask("/health/live")["ok"]
        assert worker.ready()
        _clear_faults(simulator)
        wait_until(lambda: of_kind(kafka, names, Kind.FRESH), "fresh", worker)
        worker.terminate()
    assert (
        checker.violations(
            events(kafka, names), checker.states(kafka, names.topic_prefix)
        )
        == []
    )


def test_a_symbol_that_is_no_longer_configured_is_removed_and_comes_back_with_the_next_sequence(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.CHANGED), "changes", worker)
        worker.terminate()
    with start_worker({**variables, "GEX_SYMBOLS": "ETHUSDT"}) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.REMOVED), "removed", worker)
        worker.terminate()
    with start_worker(variables) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.RESTORED), "restored", worker)
        worker.terminate()
    assert (
        checker.violations(
            events(kafka, names), checker.states(kafka, names.topic_prefix)
        )
        == []
    )


def test_an_older_entry_is_counted_and_dropped(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.CHANGED), "changes", worker)
        simulator.ask(
            "/_control/faults",
            {"fault": "computed_at", "variant": "older", "symbols": ["BTCUSDT"]},
        )
        wait_until(
            lambda: (
                'gex_observations_dropped_total{feed="all",reason="older"} 0'
                not in text(worker, "/metrics")
            ),
            "an older one is counted",
            worker,
        )
        _clear_faults(simulator)
        already = len(of_kind(kafka, names, Kind.CHANGED))
        wait_until(
            lambda: len(of_kind(kafka, names, Kind.CHANGED)) > already,
            "newer ones go on",
            worker,
        )
        worker.terminate()
    assert (
        checker.violations(
            events(kafka, names), checker.states(kafka, names.topic_prefix)
        )
        == []
    )


def test_the_key_is_shown_nowhere(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Mapping[str, str]
) -> None:
    key = DEFAULT_KEY
    with start_worker(variables, arguments=["--log-level", "DEBUG"]) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.CHANGED), "changes", worker)
        simulator.ask("/_control/set", {"keys": ["bq_live_" + "x" * 32]})
        wait_until(lambda: "key_refused" in worker.log(), "the key is refused", worker)
        assert not worker.ready()
        assert worker.ask("/health/live")["ok"]
        simulator.ask("/_control/set", {"keys": [key]})
        pages = "".join(text(worker, path) for path in ("/metrics", "/health/live"))
        worker.terminate()
        said = worker.log() + pages
    kept = [
        record.value + b"".join(record.headers.values())
        for name in ("all.changes", "all.current", "quarantine")
        for record in checker.records(kafka, f"{names.topic_prefix}.{name}")
    ]
    assert key not in said
    assert not [value for value in kept if key.encode() in value]


def test_a_key_that_is_rotated_in_its_file_is_taken_up(
    kafka: LocalKafka,
    names: Names,
    simulator: Program,
    variables: Mapping[str, str],
    tmp_path: Path,
) -> None:
    file, new = tmp_path / "key", "bq_live_" + "n" * 32
    file.write_text(f"  {DEFAULT_KEY}\n")
    given = {
        name: value
        for name, value in variables.items()
        if name != "GEX_UPSTREAM__API_KEY"
    }
    with start_worker({**given, "GEX_UPSTREAM__API_KEY_FILE": str(file)}) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.CHANGED), "changes", worker)
        simulator.ask("/_control/set", {"keys": [new]})
        wait_until(lambda: not worker.ready(), "not ready with a refused key", worker)
        assert "gex_key_refused 1.0" in text(worker, "/metrics")
        file.write_text(new)
        wait_until(worker.ready, "ready again", worker)
        already = len(of_kind(kafka, names, Kind.CHANGED))
        wait_until(
            lambda: len(of_kind(kafka, names, Kind.CHANGED)) > already,
            "changes go on",
            worker,
        )
        worker.terminate()


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
def test_an_answer_that_is_none_is_survived(
    fault: dict[str, object],
    kafka: LocalKafka,
    names: Names,
    simulator: Program,
    variables: Mapping[str, str],
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.CHANGED), "changes", worker)
        simulator.ask("/_control/faults", {**fault, "count": 2})
        wait_until(
            lambda: "a check failed" in worker.log(),
            "a classified error in the log",
            worker,
        )
        already = len(of_kind(kafka, names, Kind.CHANGED))
        wait_until(
            lambda: len(of_kind(kafka, names, Kind.CHANGED)) > already,
            "changes go on",
            worker,
        )
        assert worker.terminate() == 0
        assert "Traceback" not in worker.log()
    assert (
        checker.violations(
            events(kafka, names), checker.states(kafka, names.topic_prefix)
        )
        == []
    )


def _clear_faults(simulator: Program) -> None:
    request = urllib.request.Request(
        f"{simulator.url}/_control/faults", method="DELETE"
    )
    urllib.request.urlopen(request, timeout=10).close()


def test_a_worker_is_not_ready_while_a_shard_of_its_own_cannot_be_opened(
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
            lambda: "in a transaction of another id" in worker.log(),
            "it refuses the shard",
            worker,
        )
        assert not worker.ready()
        assert worker.ask("/health/live")["ok"]
        foreign.abort_transaction(30)
        wait_until(worker.ready, "ready once the other has let go", worker)
        worker.terminate()


def test_topics_that_are_deleted_under_a_worker_are_noticed(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: of_kind(kafka, names, Kind.CHANGED), "changes", worker)
        admin = confluent_kafka.admin.AdminClient(
            {"bootstrap.servers": kafka.bootstrap_servers}
        )
        topics = [
            f"{names.topic_prefix}.all.changes",
            f"{names.topic_prefix}.all.current",
        ]
        for future in admin.delete_topics(topics).values():
            future.result(30)
        wait_until(lambda: "topics are gone" in worker.log(), "it says so", worker)
        assert not worker.ready()
        assert worker.ask("/health/live")["ok"]
        assert worker.terminate() == 0
