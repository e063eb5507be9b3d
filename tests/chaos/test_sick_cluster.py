"""`check` names the brokers and partitions without which no worker can publish."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import pytest

from tests.chaos.cluster import BROKERS, Cluster
from tests.chaos.proxy import Proxy
from tests.support.processes import start_simulator, variables_for, wait_until
from tests.support.tools import run_tool
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Names

# Three brokers are started.
pytestmark = pytest.mark.long

DEAD = BROKERS


def failures(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith("FAIL")]


def test_check_names_unreachable_brokers_and_partitions_that_take_no_records(
    tmp_path: Path, names: Names
) -> None:
    prefix = names.topic_prefix
    with Cluster(tmp_path) as cluster, start_simulator("--limit", "0") as simulator:
        variables = variables_for(cluster.brokers[0], names, simulator, ["BTCUSDT"])
        variables["GEX_KAFKA__BOOTSTRAP_SERVERS"] = cluster.for_workers
        all_in_sync = {"min.insync.replicas": str(BROKERS)}
        on_one_broker = {"cleanup.policy": "compact"}
        create_topics(
            cluster,
            admin_api.NewTopic(f"{prefix}.quarantine", 1, BROKERS),
            admin_api.NewTopic(f"{prefix}.all.changes", 6, BROKERS, config=all_in_sync),
            admin_api.NewTopic(
                f"{prefix}.all.current",
                1,
                replica_assignment=[[DEAD]],
                config=on_one_broker,
            ),
        )
        admin = admin_api.AdminClient({"bootstrap.servers": cluster.bootstrap_servers})

        def partitions(topic: str) -> list[admin_api.PartitionMetadata]:
            found = admin.list_topics(timeout=30).topics[f"{prefix}.{topic}"]
            return list(found.partitions.values())

        def is_well() -> bool:
            # A broker that a busy machine holds up for seconds is out of sync for a while.
            code, _ = run_tool("check", variables=variables)
            return code == 0

        wait_until(is_well, "check finds no fault")

        # A firewall that was opened for one broker only.
        proxy = cluster.network.proxies[DEAD - 1]
        cluster.network.tell(partial(Proxy.refuse, refused=True), [proxy])
        code, printed = run_tool("check", variables=variables)
        assert code == 3, printed
        unreachable = f"a broker of the cluster does not answer: 127.0.0.1:{proxy.port}"
        assert any(unreachable in line for line in failures(printed)), printed
        cluster.network.tell(partial(Proxy.refuse, refused=False), [proxy])

        cluster.brokers[DEAD - 1].kill()

        def has_noticed() -> bool:
            try:
                is_without_leader = partitions("all.current")[0].leader < 0
                in_sync = [partition.isrs for partition in partitions("all.changes")]
            except ck.KafkaException:
                # It was the one that was asked.
                return False
            return is_without_leader and all(DEAD not in isrs for isrs in in_sync)

        wait_until(has_noticed, "the cluster misses the broker")
        code, printed = run_tool("check", variables=variables)
        assert code == 3, printed
        found = "\n".join(failures(printed))
        assert f"{prefix}.all.current: partitions 0 have no leader" in found
        assert "have fewer replicas in sync than min.insync.replicas=3" in found
