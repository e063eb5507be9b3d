"""The budget of a key holds in real time with many workers."""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import TYPE_CHECKING

from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from tests.support import checker
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)
from tests.support.server_budget import (
    LIMIT,
    MICROS,
    MINUTE,
    answers_of,
    without_our_cap,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

# Ten batches, so that every worker has some.
MORE_SYMBOLS = [f"SYM{number:02d}USDT" for number in range(72)]
MANY_SYMBOLS = (*EIGHT_SYMBOLS, *MORE_SYMBOLS)


def most_in_a_minute(received_at: Sequence[int]) -> int:
    """Return the most requests in any minute; moments are microseconds, ascending."""
    most = 0
    for index, moment in enumerate(received_at):
        end = bisect_left(received_at, moment + MINUTE * MICROS)
        most = max(most, end - index)
    return most


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
