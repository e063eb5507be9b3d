"""The API of running workers: snapshots on request, ownership, and the event stream."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from connector.core.model import Kind
from connector.devkit.loopback_ports import free_port
from connector.devkit.simulator.settings import DEFAULT_KEY
from tests.contract.test_api import checked
from tests.support import checker
from tests.support.listening import listening
from tests.support.ownership import owner_and_standby
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse
    from pathlib import Path

    from connector.core.model import Event
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program, Variables

TOKEN = "a-token-that-nobody-knows"
SYMBOLS = ("BTCUSDT", "ETHUSDT")
# Paths as the description of the API has them.
SNAPSHOT = "/api/symbols/{symbol}/snapshot"
LOG_LEVEL = "/api/log-level"
DEBUG_MESSAGE = '"kind": "CHANGED"'
MAX_CLOCK_DIFFERENCE_MICROS = 60_000_000


@pytest.fixture
def simulator() -> Iterator[Program]:
    # Without a limit, so that the worker polls as fast as it wants to.
    with start_simulator("--period", "1", "--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Variables:
    return {
        **variables_for(kafka, names, simulator, SYMBOLS),
        "GEX_HTTP__TOKEN": TOKEN,
    }


def call(
    worker: Program, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, Any]:
    """Return the status and the decoded body of an answer."""
    data = None
    if body is not None:
        data = json.dumps(body).encode()
    all_headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Content-Type": "application/json",
        **headers,
    }
    url = worker.url + path
    request = urllib.request.Request(url, data, all_headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with closing(error):
            return error.code, json.load(error)


def snapshot(worker: Program, symbol: str) -> tuple[int, Any]:
    """Ask for a snapshot. Return the status and the body, checked by the description."""
    status, body = call(worker, "POST", SNAPSHOT.format(symbol=symbol))
    return status, checked(SNAPSHOT, "post", status, body)


def set_log_level(worker: Program, level: str) -> tuple[int, Any]:
    return call(worker, "PUT", LOG_LEVEL, {"level": level})


def has_learned_the_period(worker: Program) -> bool:
    """Return True once the worker knows the simulator's period of a second."""
    return learned_period(worker) == pytest.approx(1, abs=0.3)


def learned_period(worker: Program) -> float:
    """Return the refresh period that the worker has learned, 0 if none."""
    batch = worker.ask("/api/schedule")["batches"][0]
    # The period is null until enough refreshes were seen.
    return float(batch["symbols"][0]["period_seconds"] or 0)


def group_members(worker: Program) -> Any:
    return worker.ask("/api/status")["group"]["members"]


def wait_for_group(worker: Program) -> Any:
    """Return the group's members. The worker asks Kafka in the background."""

    def members() -> Any:
        return group_members(worker)

    return wait_until(members, "the group", worker)


def wait_for_events(
    kafka: LocalKafka, names: Names, worker: Program, symbol: str, count: int = 1
) -> None:
    """Wait until at least `count` events of a symbol are published."""

    def has_published() -> bool:
        return len(events_of(kafka, names, symbol)) >= count

    wait_until(has_published, f"{count} events of {symbol}", worker)


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
    kafka: LocalKafka, names: Names, simulator: Program, variables: Variables
) -> None:
    with start_worker(variables) as worker:
        wait_for_events(kafka, names, worker, "BTCUSDT", count=3)
        # Without an upstream, the snapshot can only come from the worker's own state.
        simulator.ask("/_control/faults", {"fault": "drop"})
        status, body = snapshot(worker, "btcusdt")
        assert worker.terminate() == 0

    assert status == 200
    (event,) = asked_events(kafka, names, "BTCUSDT")
    assert event.event_id == body["event_id"]
    assert event.sequence == body["sequence"]
    assert event.kind is Kind.SNAPSHOT
    assert event.after is not None

    # The snapshot repeats the newest levels.
    earlier = events_of(kafka, names, "BTCUSDT")[: event.sequence - 1]
    moments = [other.computed_at or 0 for other in earlier]
    assert event.computed_at == max(moments)
    assert asked_events(kafka, names, "ETHUSDT") == []
    assert_no_violations(kafka, names)


def test_a_worker_that_does_not_own_a_symbol_names_the_owner(
    kafka: LocalKafka, names: Names, variables: Variables
) -> None:
    with start_worker(variables) as first, start_worker(variables) as second:
        owner, standby = owner_and_standby(first, second)
        owner_name = owner.ask("/api/status")["worker"]["name"]
        standby_name = standby.ask("/api/status")["worker"]["name"]
        wait_for_events(kafka, names, owner, "ETHUSDT")

        # Only the owner can publish in sequence, so the standby refuses.
        status, body = snapshot(standby, "ETHUSDT")
        assert status == 409
        assert body["owner"] == owner_name
        assert_answers(standby, "NONE", 404)
        assert_answers(owner, "ETHUSDT", 200)

        def names_both() -> bool:
            # The first answers may be those of the rebalance.
            members = group_members(standby) or []
            shards = {member["name"]: member["shards"] for member in members}
            return shards == {owner_name: ["all-0"], standby_name: []}

        wait_until(names_both, "owner and standby are named", standby)

        def standby_is_owner() -> bool:
            status, _ = snapshot(standby, "ETHUSDT")
            return status == 200

        owner.terminate()
        wait_until(standby_is_owner, "the standby owns it", standby)
        standby.terminate()

    # A refused request must not publish later: one of the owner, one of the standby.
    assert len(asked_events(kafka, names, "ETHUSDT")) == 2
    assert_no_violations(kafka, names)


def assert_answers(worker: Program, symbol: str, expected: int) -> None:
    """Check the status with which a worker answers the request for a snapshot."""
    status, _ = snapshot(worker, symbol)
    assert status == expected


def test_status_and_schedule_fit_their_description_and_the_simulator(
    kafka: LocalKafka, names: Names, simulator: Program, variables: Variables
) -> None:
    def period_is_known() -> bool:
        return has_learned_the_period(worker)

    def key_is_refused() -> bool:
        return bool(worker.ask("/api/schedule")["key_refused_until"])

    with start_worker(variables) as worker:
        wait_until(period_is_known, "the period", worker)
        schedule = checked("/api/schedule", "get", 200, worker.ask("/api/schedule"))
        wait_for_group(worker)
        status = checked("/api/status", "get", 200, worker.ask("/api/status"))
        # Read after the status, so that the worker cannot have spent more than this.
        requests = simulator.ask("/_control/stats")["requests_total"]

        # The simulator accepts another key from now on.
        simulator.ask("/_control/set", {"keys": ["bq_live_" + "x" * 32]})
        wait_until(key_is_refused, "the key is refused", worker)
        (batch,) = worker.ask("/api/schedule")["batches"]
        worker.terminate()

    symbols = schedule["batches"][0]["symbols"]
    assert [row["symbol"] for row in symbols] == list(SYMBOLS)
    assert "key" in batch["why"]

    assert status["worker"]["ready"]
    shown = [(row["symbol"], row["status"]) for row in status["symbols"]]
    assert shown == [(symbol, "LIVE") for symbol in SYMBOLS]
    # Both moments are in microseconds.
    age = status["at"] - status["symbols"][0]["observed_at"]
    assert abs(age) < MAX_CLOCK_DIFFERENCE_MICROS
    assert 0 < status["budget"]["spent_last_minute"] <= requests


def test_the_event_stream_has_the_events_of_the_topic(
    kafka: LocalKafka, names: Names, variables: Variables
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
    # No event came twice.
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
    kafka: LocalKafka, names: Names, variables: Variables
) -> None:
    with start_worker(variables) as worker:
        # By now a worker at DEBUG would have logged a change.
        wait_for_events(kafka, names, worker, "BTCUSDT", count=3)
        assert DEBUG_MESSAGE not in worker.log()

        changed = set_log_level(worker, "DEBUG")
        assert changed == (200, {"level": "DEBUG", "before": "INFO"})
        wait_for_log(worker, DEBUG_MESSAGE)

        # ERROR hides the message of the stop, but not the change of the level.
        status, _ = set_log_level(worker, "ERROR")
        assert status == 200
        worker.terminate()
        assert '"message": "log level changed"' in worker.log()
        assert '"message": "stopped"' not in worker.log()


def test_no_page_and_no_log_shows_the_token_or_the_key(
    kafka: LocalKafka, names: Names, variables: Variables
) -> None:
    wrong = {"Authorization": f"Bearer {TOKEN}x"}
    with start_worker(variables, arguments=["--log-level", "DEBUG"]) as worker:
        wait_for_events(kafka, names, worker, "BTCUSDT")
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
    kafka: LocalKafka, names: Names, variables: Variables, tmp_path: Path
) -> None:
    # The page shows more than a stranger on the network should see.
    port = free_port()
    settings = {**variables, "GEX_HTTP__LISTEN": f"0.0.0.0:{port}"}
    del settings["GEX_HTTP__TOKEN"]
    with start_worker(settings, wait_ready=False) as worker:
        assert worker.wait() == 2
        assert "set http.token_file" in worker.log()

    # A file keeps the token out of the environment, which other processes can read.
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    settings["GEX_HTTP__TOKEN_FILE"] = str(file)
    with start_worker(settings) as worker:
        assert ("0.0.0.0", port) in listening(worker.pid)
        status, _ = call(worker, "GET", "/api/status", Authorization="")
        assert status == 401
        status, _ = call(worker, "GET", "/api/status")
        assert status == 200
        # Prometheus needs no token.
        assert worker.text("/metrics")
        worker.terminate()
