"""A worker answers for the symbols of others: it reads their states from Kafka."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck
import pytest

from connector.kafka.current_states import CurrentStates
from connector.kafka.events import Log
from connector.kafka.reader import Reader
from connector.tools.reading import open_reader
from tests.contract.test_api import LEVELS, checked
from tests.support import checker
from tests.support.ownership import owner_and_standby
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program

SYMBOLS = ("BTCUSDT", "ETHUSDT", "NOSUCH")
# The states are looked at in between, also by a slow machine.
IDLE_SECONDS = 2


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--period", "1", "--limit", "6000") as program:
        yield program


def levels(worker: Program) -> dict[str, Any]:
    """Return the rows by symbol, once the worker knows all of them."""

    def complete() -> Any:
        body = checked(LEVELS, "get", 200, worker.ask(LEVELS))
        has_all = all(row["status"] for row in body["symbols"])
        is_complete = body["complete"] and body["error"] is None
        return body if is_complete and has_all else None

    body = wait_until(complete, "all levels", worker)
    return {row["symbol"]: row for row in body["symbols"]}


def test_a_standby_has_the_levels_of_every_symbol_and_follows_them(
    kafka: LocalKafka, names: Names, simulator: Program
) -> None:
    variables = variables_for(kafka, names, simulator, SYMBOLS)
    with start_worker(variables) as first, start_worker(variables) as second:
        owner, standby = owner_and_standby(first, second)
        assert {row["owned"] for row in levels(owner).values()} == {True}

        rows = levels(standby)
        assert {row["owned"] for row in rows.values()} == {False}
        assert rows["NOSUCH"]["status"] == "INVALID"
        assert rows["NOSUCH"]["levels"] is None
        before = rows["BTCUSDT"]
        assert before["status"] == "LIVE"

        def has_followed() -> bool:
            return bool(
                levels(standby)["BTCUSDT"]["sequence"] >= before["sequence"] + 2
            )

        wait_until(has_followed, "the next events", standby)
        # Nothing is written any more, so that both can be compared.
        owner.kill()
        standby.terminate()

    events = checker.events(kafka, names.topic_prefix)
    [published] = [
        event
        for event in events
        if (event.symbol, event.sequence) == ("BTCUSDT", before["sequence"])
    ]
    assert published.after is not None
    flip = before["levels"]["all_expiry"]["hvl"]
    assert flip == published.after.all_expiry.hvl

    write_stray(kafka, f"{names.topic_prefix}.all.current", b"BTCUSDT")
    asyncio.run(expect_reading_ends_and_begins_again(variables))
    asyncio.run(expect_an_error_without_a_topic(variables))


def write_stray(kafka: LocalKafka, topic: str, key: bytes) -> None:
    """Write a record as another program might, under the key of a symbol."""
    producer = ck.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(topic, b"no state", key, partition=0)
    assert producer.flush(PATIENCE_SECONDS) == 0


def states_of(
    variables: Mapping[str, str], feed: str, idle_seconds: float
) -> CurrentStates:
    context = open_reader(None, variables)
    clients, topics = context.clients, context.topics
    open_log = partial(Log, clients, topics, needs_feed=False)
    return CurrentStates(
        open_log,
        Reader(clients),
        topics,
        [feed],
        codec=context.codec,
        idle_seconds=idle_seconds,
    )


async def expect_reading_ends_and_begins_again(variables: Mapping[str, str]) -> None:
    """Check that nothing is read and kept while nobody asks, and that strays hide nothing."""
    states = states_of(variables, "all", idle_seconds=IDLE_SECONDS)
    for _ in range(2):
        await states.request(PATIENCE_SECONDS)
        state = states.state_of("all", "BTCUSDT")
        assert state is not None
        assert states.error is None

        async with asyncio.timeout(PATIENCE_SECONDS):
            while states.is_complete:  # noqa: ASYNC110 -- nothing signals the end
                await asyncio.sleep(0.05)
        assert states.state_of("all", "BTCUSDT") is None
    states.close()


async def expect_an_error_without_a_topic(variables: Mapping[str, str]) -> None:
    states = states_of(variables, "other", idle_seconds=PATIENCE_SECONDS)
    await states.request(PATIENCE_SECONDS)
    assert not states.is_complete
    assert states.error is not None
    assert ".other.current" in states.error
    states.close()
