"""The API of running workers: snapshots on request, ownership, and the event stream."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from connector.core.model import Kind
from connector.devkit.ports import free_port
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
LOG_LEVEL = "/api/log-level"


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Mapping[str, str]:
    return {
        **variables_for(kafka, names, simulator, SYMBOLS),
        "GEX_HTTP__TOKEN": TOKEN,
    }


def call(
    worker: Program, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, Any]:
    """Return the status and the decoded body of an answer."""
    data = None if body is None else json.dumps(body).encode()
    all_headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        **headers,
    }
    request = urllib.request.Request(
        worker.url + path, data, all_headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with closing(error):
            return error.code, json.load(error)


def snapshot(worker: Program, symbol: str) -> tuple[int, Any]:
    status, body = call(worker, "POST", SNAPSHOT.format(symbol=symbol))
    return status, checked(SNAPSHOT, "post", status, body)


def set_log_level(worker: Program, level: str) -> tuple[int, Any]:
    return call(worker, "PUT", LOG_LEVEL, {"level": level})


def learned_period(worker: Program) -> float:
    """Return the refresh period that the worker has learned, 0 if none."""
    batch = worker.ask("/api/schedule")["batches"][0]
    return float(batch["symbols"][0]["period_seconds"] or 0)


def group_members(worker: Program) -> Any:
    return worker.ask("/api/status")["group"]["members"]


def events_of(kafka: LocalKafka, names: Names, symbol: str) -> list[Event]:
    found = checker.events(kafka, names.topic_prefix)
    return [event for event in found if event.symbol == symbol]


def asked_events(kafka: LocalKafka, names: Names, symbol: str) -> list[Event]:
    """Return the snapshots that somebody asked for."""
    found = events_of(kafka, names, symbol)
    return [event for event in found if event.reason == "asked"]


def assert_no_violations(kafka: LocalKafka, names: Names) -> None:
    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events, states) == []


def test_a_requested_snapshot_is_an_event_in_sequence_and_sends_no_request_upstream(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(
            lambda: len(events_of(kafka, names, "BTCUSDT")) > 2, "changes", worker
        )
        simulator.ask("/_control/faults", {"fault": "drop"})
        status, body = snapshot(worker, "btcusdt")
        assert worker.terminate() == 0
    assert status == 200

    (event,) = asked_events(kafka, names, "BTCUSDT")
    assert event.event_id == body["event_id"]
    assert event.sequence == body["sequence"]
    assert event.kind is Kind.SNAPSHOT
    assert event.after is not None
    earlier = events_of(kafka, names, "BTCUSDT")[: event.sequence - 1]
    assert event.computed_at == max(one.computed_at or 0 for one in earlier)
    assert asked_events(kafka, names, "ETHUSDT") == []
    assert_no_violations(kafka, names)


def test_a_worker_that_does_not_own_a_symbol_names_the_owner(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as first, start_worker(variables) as second:
        owner, standby = first, second
        if not first.ask("/api/status")["worker"]["shards"]:
            owner, standby = second, first
        owner_name = owner.ask("/api/status")["worker"]["name"]
        standby_name = standby.ask("/api/status")["worker"]["name"]
        wait_until(lambda: events_of(kafka, names, "ETHUSDT"), "an event", owner)

        status, body = snapshot(standby, "ETHUSDT")
        assert (status, body["owner"]) == (409, owner_name)
        assert snapshot(standby, "NONE")[0] == 404
        assert snapshot(owner, "ETHUSDT")[0] == 200

        members = wait_until(lambda: group_members(standby), "the group", standby)
        shards = {member["name"]: member["shards"] for member in members}
        assert shards == {owner_name: ["all-0"], standby_name: []}

        owner.terminate()
        wait_until(
            lambda: snapshot(standby, "ETHUSDT")[0] == 200,
            "the standby owns it",
            standby,
        )
        standby.terminate()
    assert len(asked_events(kafka, names, "ETHUSDT")) == 2
    assert_no_violations(kafka, names)


def test_status_and_schedule_fit_their_description_and_the_simulator(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(
            lambda: learned_period(worker) == pytest.approx(1, abs=0.3),
            "the period",
            worker,
        )
        schedule = checked("/api/schedule", "get", 200, worker.ask("/api/schedule"))
        wait_until(lambda: group_members(worker), "the group", worker)
        status = checked("/api/status", "get", 200, worker.ask("/api/status"))
        requests = simulator.ask("/_control/stats")["requests_total"]

        simulator.ask("/_control/set", {"keys": ["bq_live_" + "x" * 32]})
        wait_until(
            lambda: worker.ask("/api/schedule")["key_refused_until"],
            "the key is refused",
            worker,
        )
        (batch,) = worker.ask("/api/schedule")["batches"]
        worker.terminate()

    symbols = schedule["batches"][0]["symbols"]
    assert [row["symbol"] for row in symbols] == list(SYMBOLS)
    assert "key" in batch["why"]
    assert status["worker"]["ready"]
    shown = [(row["symbol"], row["status"]) for row in status["symbols"]]
    assert shown == [(symbol, "LIVE") for symbol in SYMBOLS]
    assert abs(status["symbols"][0]["observed_at"] - status["at"]) < 60_000_000
    assert 0 < status["budget"]["spent_last_minute"] <= requests


def test_the_event_stream_has_the_events_of_the_topic(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    streamed = {}
    with (
        start_worker(variables) as worker,
        urllib.request.urlopen(f"{worker.url}/api/events", timeout=30) as stream,
    ):
        for _ in range(12):
            event = next_event(stream)
            streamed[event["event_id"]] = event
        assert worker.terminate() == 0
    assert len(streamed) == 12

    published = {}
    for event in checker.events(kafka, names.topic_prefix):
        published[event.event_id] = event
    for event_id, event in streamed.items():
        expected = published[event_id]
        assert event["sequence"] == expected.sequence
        assert event["observed_at"] == expected.observed_at
        assert event["kind"] == expected.kind
        levels = [change["after"] for change in event["changed_levels"]]
        assert levels == [change.after for change in expected.changed_levels]


def next_event(stream: HTTPResponse) -> Any:
    """Return the next event of a stream of server-sent events."""
    prefix = b"data: "
    while True:
        line = stream.readline()
        assert line, "the stream has ended"
        if line.startswith(prefix):
            return json.loads(line.removeprefix(prefix))


def test_the_log_level_can_be_changed(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        wait_until(
            lambda: len(events_of(kafka, names, "BTCUSDT")) > 2, "changes", worker
        )
        assert '"kind": "CHANGED"' not in worker.log()
        changed = set_log_level(worker, "DEBUG")
        assert changed == (200, {"level": "DEBUG", "before": "INFO"})
        wait_until(
            lambda: '"kind": "CHANGED"' in worker.log(), "a DEBUG message", worker
        )
        assert set_log_level(worker, "ERROR")[0] == 200
        worker.terminate()
        assert '"message": "log level changed"' in worker.log()
        assert '"message": "stopped"' not in worker.log()


def test_no_page_and_no_log_shows_the_token_or_the_key(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    wrong = {"Authorization": f"Bearer {TOKEN}x"}
    with start_worker(variables, arguments=["--log-level", "DEBUG"]) as worker:
        wait_until(lambda: events_of(kafka, names, "BTCUSDT"), "an event", worker)
        answers = [
            call(worker, "PUT", LOG_LEVEL, {"level": "DEBUG"}, **wrong),
            snapshot(worker, "BTCUSDT"),
            call(worker, "POST", SNAPSHOT.format(symbol=TOKEN)),
        ]
        texts = []
        for path in ("/metrics", "/status", "/api/status", "/api/schedule"):
            texts.append(worker.text(path))
        worker.terminate()
        texts.append(worker.log())
    assert [status for status, _ in answers] == [401, 200, 404]
    # The last answer repeats the symbol that was asked for, which is the token here.
    texts.append(str(answers[:2]))
    for text in texts:
        assert TOKEN not in text
        assert DEFAULT_KEY not in text


def test_a_listener_on_all_addresses_needs_a_token(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str], tmp_path: Path
) -> None:
    port = free_port()
    settings = {**variables, "GEX_HTTP__LISTEN": f"0.0.0.0:{port}"}
    del settings["GEX_HTTP__TOKEN"]
    with start_worker(settings, wait_ready=False) as worker:
        assert worker.wait() == 2
        assert "set http.token_file" in worker.log()

    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    settings["GEX_HTTP__TOKEN_FILE"] = str(file)
    with start_worker(settings) as worker:
        assert ("0.0.0.0", port) in listening(worker.pid)
        assert call(worker, "GET", "/api/status", Authorization="")[0] == 401
        assert call(worker, "GET", "/api/status")[0] == 200
        assert worker.text("/metrics")
        worker.terminate()
