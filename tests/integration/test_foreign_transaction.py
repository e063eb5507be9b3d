"""A foreign program's open transaction in a topic of a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import confluent_kafka as ck

from connector.kafka.names import partition_of
from tests.support import checker
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

PARTITIONS = 6
# Longer than the test, or the broker would end the transaction by itself.
FOREIGN_TIMEOUT_MS = 600_000
HELD_BACK = "gex_held_back_partitions"
# The real program waits for half a minute before it calls a transaction foreign.
HASTY_WORKER = "tests.support.hasty_worker"


def test_a_foreign_open_transaction_is_named_until_it_ends(
    kafka: LocalKafka, names: Names
) -> None:
    changes = f"{names.topic_prefix}.all.changes"
    partition = partition_of("BTCUSDT", PARTITIONS)

    def count_events() -> int:
        return len(checker.events(kafka, names.topic_prefix))

    with (
        start_simulator("--period", "1", "--limit", "0") as simulator,
        start_worker(
            variables_for(kafka, names, simulator, ["BTCUSDT"]), module=HASTY_WORKER
        ) as worker,
    ):
        wait_until(count_events, "an event", worker)
        foreign = ck.Producer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "transactional.id": names.transactional_id,
                "transaction.timeout.ms": FOREIGN_TIMEOUT_MS,
            }
        )
        foreign.init_transactions(PATIENCE_SECONDS)
        foreign.begin_transaction()
        foreign.produce(changes, b"x", b"foreign", partition=partition)
        foreign.flush()

        wait_for_log(worker, "consumers cannot read new records")
        wait_until(lambda: worker.metric(HELD_BACK) == 1, "the metric", worker)
        log = worker.log()
        assert f"abort --topic {changes} --partition {partition}" in log
        # The worker itself goes on: nothing else would show it.
        wait_until(worker.ready, "ready", worker)
        visible = count_events()

        foreign.abort_transaction(PATIENCE_SECONDS)
        wait_for_log(worker, "consumers can read new records again")
        wait_until(lambda: worker.metric(HELD_BACK) == 0, "the metric", worker)
        wait_until(lambda: count_events() > visible, "hidden events", worker)
        assert worker.terminate() == 0
