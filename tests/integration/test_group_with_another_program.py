"""Another program in the consumer group of the workers."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import confluent_kafka as ck
import pytest

from tests.support.failed_start import log_of_failed_start
from tests.support.ownership import shards_owned
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)
from tests.support.tools import run_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program

PROGRAM = "dashboard"
REMEDY = "give that program another group.id, or stop it"
NAMED = "another program has shards of the group"


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--limit", "0") as program:
        yield program


@contextmanager
def consuming(
    kafka: LocalKafka, names: Names, topic: str, strategy: str
) -> Iterator[threading.Event]:
    """Consume a topic as another program does, in the workers' group.

    Yields an event that is set as soon as it has partitions.
    """
    assigned, stopped = threading.Event(), threading.Event()
    consumer = ck.Consumer(
        {
            "bootstrap.servers": kafka.bootstrap_servers,
            "group.id": names.group_id,
            "client.id": PROGRAM,
            "partition.assignment.strategy": strategy,
            "session.timeout.ms": 6000,
        }
    )

    def on_assign(_: ck.Consumer, partitions: list[ck.TopicPartition]) -> None:
        if partitions:
            assigned.set()

    def consume() -> None:
        consumer.subscribe([f"{names.topic_prefix}.{topic}"], on_assign=on_assign)
        while not stopped.is_set():
            consumer.poll(0.1)
        consumer.close()

    thread = threading.Thread(target=consume)
    thread.start()
    try:
        yield assigned
    finally:
        stopped.set()
        thread.join()


def test_a_program_that_is_given_shards_is_named_with_its_remedy(
    kafka: LocalKafka, names: Names, simulator: Program
) -> None:
    variables = {**variables_for(kafka, names, simulator), "GEX_KAFKA__SHARDS": "2"}
    with start_worker(variables) as worker:
        wait_until(lambda: shards_owned(worker) == 2, "it owns both shards", worker)
        with consuming(kafka, names, "all.current", "cooperative-sticky") as assigned:
            wait_until(assigned.is_set, "the program has a shard", worker)

            wait_for_log(worker, NAMED)
            log = worker.log()
            assert PROGRAM in log
            assert REMEDY in log
            [trouble] = worker.ask("/api/status")["troubles"]
            assert PROGRAM in trouble["summary"]
            assert trouble["detail"] == REMEDY
            code, printed = run_tool("check", variables=variables)
            assert code == 3, printed
            [failed] = [line for line in printed.splitlines() if "FAIL" in line]
            assert PROGRAM in failed
            assert REMEDY in failed

        # During the rebalance, `check` could not tell who is in the group.
        wait_until(lambda: shards_owned(worker) == 2, "it has both again", worker)
        code, printed = run_tool("check", variables=variables)
        assert code == 0, printed
        assert "group          1 worker, and no other program" in printed


def test_a_group_with_another_strategy_is_named_with_its_remedy(
    kafka: LocalKafka, names: Names, simulator: Program
) -> None:
    variables = variables_for(kafka, names, simulator)
    with start_worker(variables) as worker:
        assert worker.terminate() == 0
    with consuming(kafka, names, "all.changes", "range") as assigned:
        wait_until(assigned.is_set, "the program is in the group")

        short = {"GEX_KAFKA__START_TIMEOUT_SECONDS": "10"}
        log_of_failed_start(
            {**variables, **short},
            "INCONSISTENT_GROUP_PROTOCOL",
            "another program is in the group",
        )
