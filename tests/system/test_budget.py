"""The budget of a key holds in real time: beside another program, and over several workers that come and go."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import pytest

from connector.devkit.simulator.settings import DEFAULT_KEY, DEFAULT_SYMBOLS
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
MANY = (*DEFAULT_SYMBOLS, *(f"SYM{number:02d}USDT" for number in range(72)))


def without_a_limit_of_ours(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in variables.items()
        if name != "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE"
    }


def answers(simulator: Program) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = simulator.ask("/_control/truth")["answers"]
    return found


def most_in_a_minute(received_at: Sequence[int]) -> int:
    """Moments in microseconds, ascending: how many at most in any minute."""
    return max(
        bisect_left(received_at, moment + MINUTE * MICROS) - index
        for index, moment in enumerate(received_at)
    )


@pytest.mark.timeout(600)
def test_two_programs_share_a_key_and_neither_sees_a_429_after_the_first_minute(
    kafka: LocalKafka, names: Names, record_property: Callable[[str, object], None]
) -> None:
    with start_simulator("--limit", "60") as simulator:
        url = f"{simulator.url}/v2/multi/gex/levels?symbols=BTCUSDT"
        ended, refused = threading.Event(), list[float]()

        def other_program() -> None:
            """Forty requests a minute."""
            while not ended.wait(1.5):
                request = urllib.request.Request(
                    url, headers={"X-API-Key": DEFAULT_KEY}
                )
                try:
                    urllib.request.urlopen(request, timeout=10).close()
                except urllib.error.HTTPError:
                    refused.append(time.time())

        other = threading.Thread(target=other_program)
        other.start()
        try:
            with start_worker(
                without_a_limit_of_ours(variables_for(kafka, names, simulator))
            ):
                settled = time.time() + MINUTE
                ended.wait(6 * MINUTE)
        finally:
            ended.set()
            other.join()
        found = answers(simulator)
    assert [moment for moment in refused if moment > settled] == []
    late = [answer for answer in found if answer["received_at"] / MICROS > settled]
    assert {answer["status"] for answer in late} == {200}
    ours = [answer for answer in late if len(answer["symbols"]) > 1]
    record_property("started at second", round(settled % MINUTE))
    record_property("our requests a minute", len(ours) / 5)
    assert len(ours) > 5 * 6, "what the other leaves is used"


@pytest.mark.timeout(600)
def test_three_workers_keep_one_budget_while_one_is_killed_and_one_joins(
    kafka: LocalKafka, names: Names, record_property: Callable[[str, object], None]
) -> None:
    with start_simulator("--limit", "60", "--symbols", ",".join(MANY)) as simulator:
        variables = without_a_limit_of_ours(
            variables_for(kafka, names, simulator, MANY)
        ) | {"GEX_KAFKA__SHARDS": "6"}
        with (
            start_worker(variables) as one,
            start_worker(variables) as two,
            start_worker(variables) as three,
        ):
            pause = threading.Event().wait
            pause(1.5 * MINUTE)
            two.kill()
            pause(1.25 * MINUTE)
            with start_worker(variables) as four:
                pause(1.25 * MINUTE)
                wait_until(
                    lambda: one.ready() and three.ready() and four.ready(),
                    "all are ready",
                    one,
                )
                assert [program.terminate() for program in (one, three, four)] == [
                    0,
                    0,
                    0,
                ]
        found = answers(simulator)
    most = most_in_a_minute([answer["received_at"] for answer in found])
    record_property("most requests in a sliding minute", most)
    record_property(
        "requests a minute",
        round(
            60
            * MICROS
            * len(found)
            / (found[-1]["received_at"] - found[0]["received_at"]),
            1,
        ),
    )
    assert most <= 60
    assert {answer["status"] for answer in found} == {200}
    assert len(found) > 3 * 40, "the budget is used"
    assert {symbol for answer in found for symbol in answer["symbols"]} == set(MANY)
    events, current = (
        checker.events(kafka, names.topic_prefix),
        checker.states(kafka, names.topic_prefix),
    )
    assert checker.violations(events, current) == []
