"""The log of a worker while Kafka is away."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from connector.devkit.local_kafka import LocalKafka
from tests.support.log_messages import KAFKA_REACHABLE, KAFKA_UNREACHABLE, SHARD_OPEN
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Names
    from tests.support.processes import Program


def lines_of(worker: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in worker.lines()]


def test_the_first_line_of_an_outage_says_that_kafka_is_unreachable(
    tmp_path: Path, names: Names
) -> None:
    with (
        LocalKafka(tmp_path / "kafka") as broker,
        start_simulator("--period", "1", "--limit", "0") as simulator,
        start_worker(variables_for(broker, names, simulator)) as worker,
    ):
        wait_for_log(worker, SHARD_OPEN)
        before = len(lines_of(worker))

        broker.kill()
        # The shard tries for a while before it gives up.
        wait_for_log(worker, "shard closed by an error")
        lines = lines_of(worker)[before:]
        broker.start()
        wait_for_log(worker, KAFKA_REACHABLE)
        wait_until(worker.ready, "ready", worker)

    warnings = []
    for line in lines:
        # A broker that has just started may refuse the first attempt to open a shard. The
        # client tells late.
        is_late = "Coordinator load in progress" in line["message"]
        if line["level"] != "INFO" and not is_late:
            warnings.append(line)
    first, *others = warnings
    assert first["message"] == KAFKA_UNREACHABLE
    # The reason, with the broker's address.
    assert broker.bootstrap_servers in first["error"]
    # One line for all clients and their attempts to connect.
    assert [line for line in others if line["message"] == KAFKA_UNREACHABLE] == []
    assert [line for line in others if "FAIL" in line["message"]] == []


def test_debug_says_why_each_request_was_made(kafka: LocalKafka, names: Names) -> None:
    with start_simulator("--period", "0.5", "--limit", "0") as simulator:
        variables = variables_for(kafka, names, simulator, ["BTCUSDT"])
        with start_worker(variables, arguments=["--log-level", "DEBUG"]) as worker:
            wait_for_log(worker, '"refresh_delay_seconds"')
            simulator.ask("/_control/faults", {"fault": "503"})
            wait_for_log(worker, '"purpose": "retry"')
            assert worker.terminate() == 0
            lines = lines_of(worker)

    requests = [line for line in lines if line["message"] == "request finished"]
    first = requests[0]
    assert (first["purpose"], first["outcome"]) == ("first", "ok")
    assert first["symbols"] == "BTCUSDT"
    assert first["seconds"] > 0
    failed = requests[-1]
    assert (failed["purpose"], failed["outcome"]) == ("retry", "unavailable")
