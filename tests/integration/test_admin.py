"""The API of workers as they run: a snapshot taken again, who owns what, events as Kafka has them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from connector.core.model import Kind
from connector.devkit.java import free_port
from connector.devkit.simulator.settings import DEFAULT_KEY
from tests.contract.test_api import checked
from tests.support import checker
from tests.support.listening import listening
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from http.client import HTTPResponse
    from pathlib import Path

    from connector.core.model import Event
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program

TOKEN = "a-token-that-nobody-knows"
SYMBOLS = ("BTCUSDT", "ETHUSDT")
SNAPSHOT = "/api/symbols/{symbol}/snapshot"


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Mapping[str, str]:
    return variables_for(kafka, names, simulator, SYMBOLS) | {"GEX_HTTP__TOKEN": TOKEN}


def call(
    worker: Program, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    sent = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        **headers,
    }
    request = urllib.request.Request(worker.url + path, data, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with closing(error):
            return error.code, json.load(error)


def snapshot(worker: Program, symbol: str) -> tuple[int, Any]:
    status, body = call(worker, "POST", SNAPSHOT.format(symbol=symbol))
    return status, checked(SNAPSHOT, "post", status, body)


def period(worker: Program) -> float:
    return float(
        worker.ask("/api/schedule")["batches"][0]["symbols"][0]["period_seconds"] or 0
    )


def of(kafka: LocalKafka, names: Names, symbol: str) -> list[Event]:
    return [
        event
        for event in checker.events(kafka, names.topic_prefix)
        if event.symbol == symbol
    ]


def test_a_snapshot_asked_for_is_one_event_in_the_symbols_sequence_and_asks_the_upstream_for_nothing(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: len(of(kafka, names, "BTCUSDT")) > 2, "changes", worker)
        simulator.ask("/_control/faults", {"fault": "drop"})
        status, body = snapshot(worker, "btcusdt")
        assert worker.terminate() == 0
    assert status == 200
    its = of(kafka, names, "BTCUSDT")
    [found] = [event for event in its if event.reason == "asked"]
    assert (found.event_id, found.sequence, found.kind) == (
        body["event_id"],
        body["sequence"],
        Kind.SNAPSHOT,
    )
    assert found.after is not None
    assert found.computed_at == max(
        event.computed_at or 0 for event in its[: found.sequence - 1]
    )
    assert not [
        event for event in of(kafka, names, "ETHUSDT") if event.reason == "asked"
    ]
    events, current = (
        checker.events(kafka, names.topic_prefix),
        checker.states(kafka, names.topic_prefix),
    )
    assert checker.violations(events, current) == []


def test_a_worker_that_does_not_own_a_symbol_names_the_one_that_does(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as one, start_worker(variables) as other:
        owner, standby = sorted(
            (one, other),
            key=lambda worker: not worker.ask("/api/status")["worker"]["shards"],
        )
        name = owner.ask("/api/status")["worker"]["name"]
        wait_until(lambda: of(kafka, names, "ETHUSDT"), "an event", owner)
        status, body = snapshot(standby, "ETHUSDT")
        assert (status, body["owner"]) == (409, name)
        assert snapshot(standby, "NONE")[0] == 404
        assert snapshot(owner, "ETHUSDT")[0] == 200
        group = wait_until(
            lambda: standby.ask("/api/status")["group"]["members"], "the group", standby
        )
        shares = {one["name"]: one["shards"] for one in group}
        assert shares == {
            name: ["all-0"],
            standby.ask("/api/status")["worker"]["name"]: [],
        }
        owner.terminate()
        wait_until(
            lambda: snapshot(standby, "ETHUSDT")[0] == 200,
            "the standby has it",
            standby,
        )
        standby.terminate()
    asked = [event for event in of(kafka, names, "ETHUSDT") if event.reason == "asked"]
    assert len(asked) == 2
    events, current = (
        checker.events(kafka, names.topic_prefix),
        checker.states(kafka, names.topic_prefix),
    )
    assert checker.violations(events, current) == []


def test_status_and_schedule_are_as_described_and_say_what_the_simulator_knows(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(
            lambda: period(worker) == pytest.approx(1, abs=0.3), "the rhythm", worker
        )
        schedule = checked("/api/schedule", "get", 200, worker.ask("/api/schedule"))
        wait_until(
            lambda: worker.ask("/api/status")["group"]["members"], "the group", worker
        )
        status = checked("/api/status", "get", 200, worker.ask("/api/status"))
        asked = simulator.ask("/_control/stats")["requests_total"]
        simulator.ask("/_control/set", {"keys": ["bq_live_" + "x" * 32]})
        wait_until(
            lambda: worker.ask("/api/schedule")["key_refused_until"],
            "the key is refused",
            worker,
        )
        [batch] = worker.ask("/api/schedule")["batches"]
        worker.terminate()
    assert [one["symbol"] for one in schedule["batches"][0]["symbols"]] == list(SYMBOLS)
    assert "key" in batch["why"]
    assert status["worker"]["ready"]
    assert [(row["symbol"], row["status"]) for row in status["symbols"]] == [
        (symbol, "LIVE") for symbol in SYMBOLS
    ]
    assert abs(status["symbols"][0]["observed_at"] - status["at"]) < 60_000_000
    assert 0 < status["budget"]["spent_last_minute"] <= asked


def test_a_stream_has_the_events_that_kafka_has(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    with (
        start_worker(variables) as worker,
        urllib.request.urlopen(f"{worker.url}/api/events", timeout=30) as stream,
    ):
        streamed = {
            event["event_id"]: event
            for event in (next_event(stream) for _ in range(12))
        }
        assert worker.terminate() == 0
    published = {
        event.event_id: event for event in checker.events(kafka, names.topic_prefix)
    }
    assert len(streamed) == 12
    for event_id, event in streamed.items():
        its = published[event_id]
        assert (event["sequence"], event["observed_at"], event["kind"]) == (
            its.sequence,
            its.observed_at,
            its.kind,
        )
        assert [one["after"] for one in event["changed_levels"]] == [
            change.after for change in its.changed_levels
        ]


def next_event(stream: HTTPResponse) -> Any:
    while not (line := stream.readline()).startswith(b"data: "):
        assert line
    return json.loads(line[6:])


def test_the_log_level_changes_what_is_logged(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(lambda: len(of(kafka, names, "BTCUSDT")) > 2, "changes", worker)
        assert '"kind": "CHANGED"' not in worker.log()
        assert call(worker, "PUT", "/api/log-level", {"level": "DEBUG"}) == (
            200,
            {"level": "DEBUG", "before": "INFO"},
        )
        wait_until(
            lambda: '"kind": "CHANGED"' in worker.log(), "what is of DEBUG", worker
        )
        assert call(worker, "PUT", "/api/log-level", {"level": "ERROR"})[0] == 200
        worker.terminate()
        assert '"message": "log level changed"' in worker.log()
        assert '"message": "stopped"' not in worker.log()


def test_token_and_key_are_nowhere(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    with start_worker(variables, arguments=["--log-level", "DEBUG"]) as worker:
        wait_until(lambda: of(kafka, names, "BTCUSDT"), "an event", worker)
        said = [
            call(
                worker,
                "PUT",
                "/api/log-level",
                {"level": "DEBUG"},
                Authorization=f"Bearer {TOKEN}x",
            )
        ]
        said += [
            snapshot(worker, "BTCUSDT"),
            call(worker, "POST", SNAPSHOT.format(symbol=TOKEN)),
        ]
        pages = [
            worker.text(path)
            for path in ("/metrics", "/status", "/api/status", "/api/schedule")
        ]
        worker.terminate()
        seen = worker.log() + "".join(pages) + str(said[:2])
    assert [status for status, _ in said] == [401, 200, 404]
    assert TOKEN not in seen
    assert DEFAULT_KEY not in seen


def test_beyond_this_machine_a_token_is_needed_to_start_and_then_to_look(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str], tmp_path: Path
) -> None:
    listen = f"0.0.0.0:{free_port()}"
    without = {
        name: value for name, value in variables.items() if name != "GEX_HTTP__TOKEN"
    }
    with start_worker(
        {**without, "GEX_HTTP__LISTEN": listen}, wait_ready=False
    ) as worker:
        assert worker.wait() == 2
        assert "set http.token_file" in worker.log()
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    with start_worker(
        {**without, "GEX_HTTP__LISTEN": listen, "GEX_HTTP__TOKEN_FILE": str(file)}
    ) as worker:
        assert ("0.0.0.0", int(listen.rpartition(":")[2])) in listening(worker.pid)
        assert call(worker, "GET", "/api/status", Authorization="")[0] == 401
        assert call(worker, "GET", "/api/status")[0] == 200
        assert worker.text("/metrics")
        worker.terminate()
