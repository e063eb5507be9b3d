"""The budget of a key holds in real time, with another program and with many workers."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import pytest

from connector.devkit.simulator.settings import DEFAULT_KEY, EIGHT_SYMBOLS
from tests.support import checker
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program

MINUTE = 60
MICROS = 1_000_000

# Requests a minute that the simulator permits for a key.
LIMIT = 60

# Ten batches, so that every worker has some.
MORE_SYMBOLS = [f"SYM{number:02d}USDT" for number in range(72)]
MANY_SYMBOLS = (*EIGHT_SYMBOLS, *MORE_SYMBOLS)


def without_our_cap(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a worker whose only limit is the server's."""
    kept = dict(variables)
    kept.pop("GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE", None)
    return kept


def answers_of(simulator: Program) -> list[dict[str, Any]]:
    """Return all answers of the simulator, with their moments and statuses."""
    answers: list[dict[str, Any]] = simulator.ask("/_control/truth")["answers"]
    return answers


def most_in_a_minute(received_at: Sequence[int]) -> int:
    """Return the most requests in any minute; moments are microseconds, ascending."""
    most = 0
    for index, moment in enumerate(received_at):
        end = bisect_left(received_at, moment + MINUTE * MICROS)
        most = max(most, end - index)
    return most


class OtherProgram:
    """A thread that sends forty requests a minute with our key."""

    def __init__(self, url: str) -> None:
        self.refused_at: list[float] = []
        self._url = url
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        # Every 1.5 s: forty a minute, in no rhythm with the upstream's refreshes.
        while not self._stopped.wait(1.5):
            headers = {"X-API-Key": DEFAULT_KEY}
            request = urllib.request.Request(self._url, headers=headers)
            try:
                urllib.request.urlopen(request, timeout=10).close()
            except urllib.error.HTTPError:
                self.refused_at.append(time.time())


@pytest.mark.timeout(600)
def test_two_programs_share_a_key_and_neither_gets_a_429_after_the_first_minute(
    kafka: LocalKafka, names: Names, record_property: Callable[[str, object], None]
) -> None:
    with start_simulator("--limit", str(LIMIT)) as simulator:
        url = f"{simulator.url}/v2/multi/gex/levels?symbols=BTCUSDT"
        other = OtherProgram(url)
        other.start()
        try:
            variables = without_our_cap(variables_for(kafka, names, simulator))
            with start_worker(variables):
                # The worker learns of the other program by its requests.
                settled_at = time.time() + MINUTE
                threading.Event().wait(6 * MINUTE)
        finally:
            other.stop()
        answers = answers_of(simulator)

    late_refusals = [moment for moment in other.refused_at if moment > settled_at]
    assert late_refusals == []
    late = []
    for answer in answers:
        if answer["received_at"] / MICROS > settled_at:
            late.append(answer)
    assert {answer["status"] for answer in late} == {200}

    # The other program requests a single symbol.
    ours = [answer for answer in late if len(answer["symbols"]) > 1]
    record_property("started at second", round(settled_at % MINUTE))
    record_property("our requests a minute", len(ours) / 5)
    # Five minutes have passed since. A worker that sends nothing is refused nothing.
    assert len(ours) > 5 * 6, "the rest of the budget is used"


@pytest.mark.timeout(600)
def test_three_workers_keep_one_budget_while_one_is_killed_and_one_joins(
    kafka: LocalKafka, names: Names, record_property: Callable[[str, object], None]
) -> None:
    arguments = ["--limit", str(LIMIT), "--symbols", ",".join(MANY_SYMBOLS)]
    with start_simulator(*arguments) as simulator:
        variables = without_our_cap(
            variables_for(kafka, names, simulator, MANY_SYMBOLS)
        )
        # Enough shards for four workers.
        variables["GEX_KAFKA__SHARDS"] = "6"
        with (
            start_worker(variables) as first,
            start_worker(variables) as second,
            start_worker(variables) as third,
        ):
            pause = threading.Event().wait
            pause(1.5 * MINUTE)
            # Its share must neither be lost nor be spent twice.
            second.kill()
            pause(1.25 * MINUTE)
            with start_worker(variables) as fourth:
                pause(1.25 * MINUTE)
                running = (first, third, fourth)

                def all_are_ready() -> bool:
                    ready = [worker.ready() for worker in running]
                    return all(ready)

                wait_until(all_are_ready, "all are ready", first)
                exit_codes = [worker.terminate() for worker in running]
                assert exit_codes == [0, 0, 0]
        answers = answers_of(simulator)

    received_at = [answer["received_at"] for answer in answers]
    most = most_in_a_minute(received_at)
    seconds = (received_at[-1] - received_at[0]) / MICROS
    record_property("most requests in a sliding minute", most)
    record_property("requests a minute", round(MINUTE * len(answers) / seconds, 1))
    assert most <= LIMIT
    assert {answer["status"] for answer in answers} == {200}
    assert len(answers) > 3 * 40, "the budget is used"

    # Every symbol keeps an owner through the changes.
    requested: set[str] = set()
    for answer in answers:
        requested.update(answer["symbols"])
    assert requested == set(MANY_SYMBOLS)
    events = checker.events(kafka, names.topic_prefix)
    current = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events, current) == []
