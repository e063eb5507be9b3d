"""A broker refuses removals, as after a limit of the topics was lowered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import confluent_kafka.admin as admin_api

from connector.core.model import Kind
from tests.support import checker
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

REMOVED_SYMBOLS = ("BTCUSDT", "ETHUSDT")
# Enough for a symbol that the API does not know, but for no levels.
LIMIT_BYTES = "500"
REFUSED = "the broker refuses a record; going on without it"


def limit_records(kafka: LocalKafka, names: Names) -> None:
    """Let the topics of feed `all` take small records only."""
    admin = admin_api.AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    limit = admin_api.ConfigEntry(
        "max.message.bytes",
        LIMIT_BYTES,
        incremental_operation=admin_api.AlterConfigOpType.SET,
    )
    resources = []
    for topic in ("changes", "current"):
        resource = admin_api.ConfigResource(
            admin_api.ResourceType.TOPIC,
            f"{names.topic_prefix}.all.{topic}",
            incremental_configs=[limit],
        )
        resources.append(resource)
    for altered in admin.incremental_alter_configs(resources).values():
        altered.result(PATIENCE_SECONDS)


def test_refused_removals_are_named_and_keep_no_other_symbol(
    kafka: LocalKafka, names: Names
) -> None:
    def symbols_of(kind: Kind) -> set[str]:
        events = checker.events(kafka, names.topic_prefix)
        return {event.symbol for event in events if event.kind is kind}

    with start_simulator("--limit", "0") as simulator:
        variables = variables_for(kafka, names, simulator, REMOVED_SYMBOLS)
        with start_worker(variables) as worker:
            wait_until(
                lambda: symbols_of(Kind.SNAPSHOT) == set(REMOVED_SYMBOLS),
                "levels of each symbol",
                worker,
            )
            assert worker.terminate() == 0

        limit_records(kafka, names)
        variables = {**variables, "GEX_SYMBOLS": "UNKNOWNUSDT"}
        with start_worker(variables) as worker:
            wait_until(
                lambda: worker.log().count(REFUSED) == len(REMOVED_SYMBOLS),
                "both are given up",
                worker,
            )
            wait_until(
                lambda: symbols_of(Kind.INVALID) == {"UNKNOWNUSDT"},
                "an event of the other symbol",
                worker,
            )
            wait_until(
                lambda: worker.metric("gex_shards_owned") == 1,
                "the shard is open",
                worker,
            )
            dropped = worker.metric("gex_observations_dropped_total")
            lines = [line for line in worker.log().splitlines() if REFUSED in line]

    named = {json.loads(line)["symbol"] for line in lines}
    assert named == set(REMOVED_SYMBOLS)
    assert dropped == len(REMOVED_SYMBOLS)
    assert symbols_of(Kind.REMOVED) == set()
