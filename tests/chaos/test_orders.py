"""Workers of a chaos run carry out their orders: the faults are real."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.chaos.fleet import KEYS, Fleet
from tests.support.processes import (
    start_simulator,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.chaos.fleet import Life
    from tests.conftest import Names

pytestmark = pytest.mark.long

STANDARD_ERROR = 2


@contextmanager
def fleet_of_one(
    kafka: LocalKafka, names: Names, folder: Path
) -> Iterator[tuple[Fleet, Life]]:
    """Start a fleet with one worker, and wait until it is ready."""
    with start_simulator("--period", "1", "--limit", "0") as simulator:
        simulator.ask("/_control/set", {"keys": KEYS})
        variables = variables_for(kafka, names, simulator)
        with Fleet(variables, folder, 1) as fleet:
            fleet.tend()
            (life,) = fleet.lives
            wait_until(fleet.ready, "the worker is ready", life.program)
            yield fleet, life
            fleet.end()
            assert life.status == 0


def standard_error(life: Life) -> str:
    """Return what standard error of a process is."""
    link = Path(f"/proc/{life.program.pid}/fd/{STANDARD_ERROR}")
    return str(link.readlink())


def test_an_event_loop_is_stuck_until_the_order_is_withdrawn(
    kafka: LocalKafka, names: Names, tmp_path: Path
) -> None:
    with fleet_of_one(kafka, names, tmp_path) as (fleet, life):
        fleet.order(life, "stuck", "")
        wait_for_log(life.program, "the event loop is stuck")
        fleet.withdraw(life, "stuck")

        wait_for_log(life.program, "the event loop goes on")
        wait_until(fleet.ready, "the worker is ready again", life.program)


def test_a_log_without_a_reader_is_evidence_all_the_same(
    kafka: LocalKafka, names: Names, tmp_path: Path
) -> None:
    with fleet_of_one(kafka, names, tmp_path) as (fleet, life):
        file = standard_error(life)
        fleet.order(life, "unread", "")
        wait_until(lambda: standard_error(life).startswith("pipe:"), "a pipe")

        # A loop that is stuck is logged.
        lines_before = len(list(life.lines()))
        fleet.order(life, "stuck", "")
        wait_until(lambda: len(list(life.lines())) > lines_before, "a line in the log")

        fleet.withdraw(life, "stuck")
        fleet.withdraw(life, "unread")
        wait_until(lambda: standard_error(life) == file, "the log has a reader")
