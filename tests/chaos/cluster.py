"""Three real brokers (KRaft), each a controller too, whose workers' listener lies behind a proxy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

import confluent_kafka.admin

from connector.devkit.java import LOOPBACK, free_port
from connector.devkit.local_kafka import LocalKafka
from tests.chaos.proxy import Network

if TYPE_CHECKING:
    from pathlib import Path

BROKERS = 3
_START_SECONDS = 120.0


class Cluster:
    """`bootstrap_servers` is for those that look on; `for_workers` leads through the bad network."""

    def __init__(self, folder: Path) -> None:
        ports = [(free_port(), free_port(), free_port()) for _ in range(BROKERS)]
        self.network = Network([worker for _, worker, _ in ports])
        voters = ",".join(
            f"{number}@{LOOPBACK}:{control}"
            for number, (_, _, control) in enumerate(ports, 1)
        )
        self.brokers = []
        for number, (direct, worker, control) in enumerate(ports, 1):
            proxied = self.network.proxies[number - 1].port
            extra = {
                "node.id": str(number),
                "controller.quorum.voters": voters,
                "listener.security.protocol.map": "CLIENT:PLAINTEXT,WORKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "listeners": (
                    f"CLIENT://{LOOPBACK}:{direct},WORKER://{LOOPBACK}:{worker},CONTROLLER://{LOOPBACK}:{control}"
                ),
                "advertised.listeners": f"CLIENT://{LOOPBACK}:{direct},WORKER://{LOOPBACK}:{proxied}",
                "offsets.topic.num.partitions": "3",
                "offsets.topic.replication.factor": "3",
                "transaction.state.log.num.partitions": "3",
                "transaction.state.log.replication.factor": "3",
                "transaction.state.log.min.isr": "2",
                "min.insync.replicas": "2",
                "controller.quorum.election.timeout.ms": "500",
                "controller.quorum.fetch.timeout.ms": "1500",
                "replica.lag.time.max.ms": "5000",
                "log.cleaner.enable": "false",  # the judge reads everything that was ever written
            }
            self.brokers.append(
                LocalKafka(folder / f"broker-{number}", port=direct, extra=extra)
            )
        self.bootstrap_servers = ",".join(
            broker.bootstrap_servers for broker in self.brokers
        )
        self.for_workers = ",".join(
            f"{LOOPBACK}:{proxy.port}" for proxy in self.network.proxies
        )
        self._threads = ThreadPoolExecutor(BROKERS, thread_name_prefix="broker")

    def start(self) -> None:
        """Start all that do not run, side by side: one alone has no quorum."""
        for started in [
            self._threads.submit(broker.start, _START_SECONDS)
            for broker in self.brokers
        ]:
            started.result()

    def coordinator(self) -> LocalKafka:
        """The broker that leads the first partition of the transactions' log; any where nobody answers."""
        admin = confluent_kafka.admin.AdminClient(
            {"bootstrap.servers": self.bootstrap_servers, "log_level": 0}
        )
        try:
            topic = admin.list_topics("__transaction_state", timeout=5).topics[
                "__transaction_state"
            ]
        except (confluent_kafka.KafkaException, KeyError):
            return self.brokers[0]
        leader = topic.partitions[0].leader if topic.partitions else 1
        return self.brokers[max(leader, 1) - 1]

    def __enter__(self) -> Self:
        self.network.__enter__()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for broker in self.brokers:
            broker.kill() if broker.running else None
        self._threads.shutdown()
        self.network.__exit__()
