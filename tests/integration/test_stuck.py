"""Workers that nobody reads, and workers whose event loop is stuck."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from connector.devkit.loopback_ports import free_port
from tests.support import checker
from tests.support.log_messages import SHARD_OPEN, STANDS_BY
from tests.support.processes import (
    Program,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Variables

STUCK_WORKER = "tests.support.stuck_worker"


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Variables:
    # A stuck worker leaves the group by itself, long before its session ends.
    session = {"GEX_KAFKA__CLIENT__SESSION_TIMEOUT_MS": "45000"}
    return variables_for(kafka, names, simulator) | session


@contextmanager
def worker_that_nobody_reads(variables: Variables) -> Iterator[Program]:
    """Start a worker whose standard error is a pipe that is full already."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x")
    os.set_blocking(write_end, True)

    listen = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "connector", "run", "--log-level", "DEBUG"]
    with os.fdopen(write_end, "wb") as pipe:
        settings = {**variables, "GEX_HTTP__LISTEN": listen}
        worker = Program(command, settings, pipe, f"http://{listen}")
    try:
        yield worker
    finally:
        worker.kill()
        os.close(read_end)


def test_a_worker_whose_log_nobody_reads_works_and_stops(
    variables: Variables, kafka: LocalKafka, names: Names
) -> None:
    with worker_that_nobody_reads(variables) as worker:
        wait_until(worker.ready, "ready")
        wait_until(lambda: checker.events(kafka, names.topic_prefix), "events")
        assert worker.terminate() == 0


def test_a_worker_whose_event_loop_is_stuck_gives_up_its_shards(
    variables: Variables, kafka: LocalKafka, names: Names
) -> None:
    with (
        start_worker(variables, module=STUCK_WORKER) as owner,
        start_worker(variables) as standby,
    ):
        wait_for_log(standby, STANDS_BY)

        owner.signal(signal.SIGUSR1)

        wait_for_log(standby, SHARD_OPEN)
        owner.signal(signal.SIGUSR2)
        wait_for_log(owner, "the event loop is stuck; leaving the group")
        wait_for_log(owner, "the event loop goes on")

        # It joins again as the standby, and can be stopped.
        wait_for_log(owner, STANDS_BY)
        wait_until(owner.ready, "ready again", owner)
        assert owner.terminate() == 0
        assert standby.terminate() == 0
    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events, states) == []
