"""Workers whose clock is wrong, by minutes and by hours."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import confluent_kafka.admin as admin_api
import pytest

from connector.config.model import Kafka
from connector.core.model import MICROS, Event, Kind, Status
from connector.kafka.broker_clock import BrokerClock
from connector.kafka.clients import Clients
from connector.kafka.names import Topics
from tests.support import checker
from tests.support.processes import (
    start,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)
from tests.support.skewed_worker import SKEW_FILE
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program, Variables

SYMBOLS = ("BTCUSDT", "ETHUSDT")
REFRESHES = ("--period", "2", "--jitter", "0.1", "--limit", "0")


# The upstream's clock is set instead of ours: it is the difference that counts. It is less
# than what is corrected, and more than what a symbol's levels may be ahead or old.
@pytest.mark.parametrize("seconds", [170, -170])
def test_a_wrong_clock_neither_delays_a_take_over_nor_invents_a_fault(
    kafka: LocalKafka, names: Names, seconds: int
) -> None:
    def sequences() -> dict[str, int]:
        found = dict.fromkeys(SYMBOLS, 0)
        for event in checker.events(kafka, names.topic_prefix):
            found[event.symbol] = event.sequence
        return found

    def wait_for_later_events() -> None:
        """Wait until each symbol has two more events."""
        before = sequences()

        def have_come() -> bool:
            now = sequences()
            return all(now[symbol] >= before[symbol] + 2 for symbol in SYMBOLS)

        wait_until(have_come, "later events of each symbol")

    with start_simulator(*REFRESHES) as simulator:
        simulator.ask("/_control/faults", {"fault": "clock_step", "seconds": seconds})
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        with start_worker(variables):
            wait_for_later_events()
        with start_worker(variables) as successor:
            wait_for_later_events()
            quarantined = successor.log().count("entry quarantined")

    statuses = {event.status for event in checker.events(kafka, names.topic_prefix)}
    assert statuses == {Status.LIVE}
    assert quarantined == 0


HOURS = 3600
NAMED = "this machine's clock is wrong"
# Far more than a test takes, and far less than any clock here is off.
NEAR_SECONDS = 250


def start_skewed(
    variables: Variables, skew_file: Path
) -> AbstractContextManager[Program]:
    return start_worker(
        {**variables, SKEW_FILE: str(skew_file)},
        wait_ready=False,
        module="tests.support.skewed_worker",
    )


def set_clock(skew_file: Path, seconds: int) -> None:
    """Set the clock of a skewed worker, running or not."""
    new = skew_file.with_suffix(".new")
    new.write_text(str(seconds))
    # In one step: the worker reads the file all the time.
    new.replace(skew_file)


def assert_times_are_right(events: list[Event]) -> None:
    for event in events:
        seconds_ago = time.time() - event.observed_at / MICROS
        assert abs(seconds_ago) < NEAR_SECONDS


# Two hours ahead, the brokers would refuse the records. Ten minutes behind, they would take
# them, but every entry would be of the future.
@pytest.mark.parametrize("seconds", [2 * HOURS, -600])
def test_a_worker_with_a_wrong_clock_leaves_its_shard_to_one_with_a_right_clock(
    kafka: LocalKafka, names: Names, tmp_path: Path, seconds: int
) -> None:
    set_clock(tmp_path / "skew", seconds)
    with start_simulator(*REFRESHES) as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        with start_skewed(variables, tmp_path / "skew") as wrong:
            wait_until(lambda: NAMED in wrong.log(), "the clock is named", wrong)
            with start_worker(variables) as right:
                wait_until(
                    lambda: (
                        {
                            event.symbol
                            for event in checker.events(kafka, names.topic_prefix)
                        }
                        == set(SYMBOLS)
                    ),
                    "an event of each symbol",
                    right,
                )
            reasons = wrong.text_of_error("/health/ready")
            status = wrong.ask("/api/status")
            quarantined = wrong.metric("gex_quarantined_total")
            dropped = wrong.metric("gex_observations_dropped_total")
            assert "gex_clock_wrong 1.0" in wrong.text("/metrics")

    side = "ahead of" if seconds > 0 else "behind"
    assert f"{side} the brokers'" in reasons
    assert f"{side} the API's" in reasons
    assert "timedatectl" in reasons
    [trouble] = status["troubles"]
    assert f"{side} the brokers'" in trouble["summary"]
    assert (quarantined, dropped) == (0, 0)
    events = checker.events(kafka, names.topic_prefix)
    assert {event.status for event in events} == {Status.LIVE}
    assert_times_are_right(events)


def test_refused_observations_are_published_once_the_clock_is_right(
    kafka: LocalKafka, names: Names, tmp_path: Path
) -> None:
    set_clock(tmp_path / "skew", 2 * HOURS)
    with start_simulator("--period", "3600", "--limit", "0") as simulator:
        # Only the brokers contradict our clock.
        simulator.ask("/_control/faults", {"fault": "clock_step", "seconds": 2 * HOURS})
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        with start_skewed(variables, tmp_path / "skew") as worker:
            wait_until(lambda: NAMED in worker.log(), "it is named", worker)
            # Nothing is asked for from here on: what comes was observed before.
            wait_until(lambda: "shard handed over" in worker.log(), "it leaves", worker)
            simulator.ask("/_control/faults", {"fault": "503"})
            set_clock(tmp_path / "skew", 0)
            wait_until(
                lambda: len(checker.events(kafka, names.topic_prefix)) >= len(SYMBOLS),
                "the observations are published",
                worker,
            )
            dropped = worker.metric("gex_observations_dropped_total")
            assert "gex_clock_wrong 0.0" in worker.text("/metrics")

    first = checker.events(kafka, names.topic_prefix)[: len(SYMBOLS)]
    assert {event.symbol for event in first} == set(SYMBOLS)
    assert {event.kind for event in first} == {Kind.SNAPSHOT}
    assert_times_are_right(first)
    assert dropped == 0


# Without such a limit, brokers take our record, whose time is the oldest.
@pytest.mark.parametrize("limits", [{}, {"message.timestamp.before.max.ms": "1000"}])
def test_the_brokers_clock_is_known_without_a_quarantine(
    kafka: LocalKafka, names: Names, limits: dict[str, str]
) -> None:
    topics = Topics(names.topic_prefix)
    topic = admin_api.NewTopic(topics.changes("all"), 1, 1, config=limits)
    create_topics(kafka, topic)
    clients = Clients(Kafka(bootstrap_servers=kafka.bootstrap_servers))

    difference = BrokerClock(clients, topics, "all").difference_seconds()

    assert abs(difference) < NEAR_SECONDS


def test_check_names_a_clock_that_is_behind_the_records(
    kafka: LocalKafka, names: Names, tmp_path: Path
) -> None:
    with start_simulator(*REFRESHES) as simulator:
        variables = variables_for(kafka, names, simulator, SYMBOLS)
        with start_worker(variables):
            wait_until(
                lambda: checker.events(kafka, names.topic_prefix), "an event is there"
            )
        # Only the records contradict the clock.
        simulator.ask(
            "/_control/faults", {"fault": "clock_step", "seconds": -2 * HOURS}
        )
        set_clock(tmp_path / "skew", -2 * HOURS)
        command = [sys.executable, "-m", "tests.support.skewed_worker", "check"]
        settings = {**variables, SKEW_FILE: str(tmp_path / "skew")}
        with start(command, settings) as check:
            exit_status = check.wait()
            findings = check.log()

    assert exit_status == 1
    failures = [line for line in findings.splitlines() if line.startswith("FAIL")]
    [failure] = failures
    assert failure.split()[1] == "clock"
    assert "s later than this machine's clock" in failure
