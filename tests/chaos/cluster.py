"""Three real brokers (KRaft), each a controller too, behind a bad network for workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import confluent_kafka.admin

from connector.devkit.local_kafka import LocalKafka
from connector.devkit.loopback_ports import LOOPBACK, free_port
from tests.chaos.proxy import Network

if TYPE_CHECKING:
    from pathlib import Path

BROKERS = 3
_TRANSACTIONS_TOPIC = "__transaction_state"

_SETTINGS = {
    "listener.security.protocol.map": (
        "CLIENT:PLAINTEXT,WORKER:PLAINTEXT,CONTROLLER:PLAINTEXT"
    ),
    # Every broker has a copy, and two of them must be in sync: one broker may die.
    "offsets.topic.num.partitions": "3",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.num.partitions": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "min.insync.replicas": "2",
    # Elections of a second instead of many.
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1500",
    "replica.lag.time.max.ms": "5000",
    # The judge reads everything that was ever written.
    "log.cleaner.enable": "false",
}


@dataclass(frozen=True, slots=True)
class _Ports:
    """The listeners of a broker: for observers, for workers (proxied), for controllers."""

    observers: int
    workers: int
    controllers: int


class Cluster:
    """Three brokers.

    Attributes:
        bootstrap_servers: the address for observers, which no fault of the network touches.
        for_workers: the address that leads through the bad network.
    """

    def __init__(self, folder: Path) -> None:
        ports = []
        for _ in range(BROKERS):
            ports.append(_Ports(free_port(), free_port(), free_port()))
        self.network = Network([port.workers for port in ports])
        voters = []
        for number, port in enumerate(ports, 1):
            voters.append(f"{number}@{LOOPBACK}:{port.controllers}")
        self.brokers = []
        for number, port in enumerate(ports, 1):
            proxied = self.network.proxies[number - 1].port
            extra = {
                **_SETTINGS,
                "node.id": str(number),
                "controller.quorum.voters": ",".join(voters),
                "listeners": (
                    f"CLIENT://{LOOPBACK}:{port.observers},"
                    f"WORKER://{LOOPBACK}:{port.workers},"
                    f"CONTROLLER://{LOOPBACK}:{port.controllers}"
                ),
                "advertised.listeners": (
                    f"CLIENT://{LOOPBACK}:{port.observers},"
                    f"WORKER://{LOOPBACK}:{proxied}"
                ),
            }
            data = folder / f"broker-{number}"
            self.brokers.append(LocalKafka(data, port=port.observers, extra=extra))

        addresses = [broker.bootstrap_servers for broker in self.brokers]
        self.bootstrap_servers = ",".join(addresses)
        proxied_addresses = [
            f"{LOOPBACK}:{proxy.port}" for proxy in self.network.proxies
        ]
        self.for_workers = ",".join(proxied_addresses)
        self._threads = ThreadPoolExecutor(BROKERS, thread_name_prefix="broker")

    def start(self) -> None:
        """Start all brokers at once: one alone has no quorum, and would not become ready."""
        starts = []
        for broker in self.brokers:
            starts.append(self._threads.submit(broker.start))
        for start in starts:
            start.result()

    def coordinator(self) -> LocalKafka:
        """Return the broker that leads the first partition of the transactions' log.

        Return any broker if nobody answers.
        """
        admin = confluent_kafka.admin.AdminClient(
            {"bootstrap.servers": self.bootstrap_servers, "log_level": 0}
        )
        try:
            topics = admin.list_topics(_TRANSACTIONS_TOPIC, timeout=5).topics
            topic = topics[_TRANSACTIONS_TOPIC]
        except (confluent_kafka.KafkaException, KeyError):
            return self.brokers[0]
        # An unknown topic has no partitions, and a partition without leader has -1.
        leader = 1
        if topic.partitions:
            leader = max(topic.partitions[0].leader, 1)
        # Node ids begin with 1.
        return self.brokers[leader - 1]

    def __enter__(self) -> Self:
        self.network.__enter__()
        # A start that fails must leave no brokers and sockets to the next test.
        with ExitStack() as on_error:
            on_error.push(self.__exit__)
            self.start()
            on_error.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        # Brokers that are still starting run only then.
        self._threads.shutdown()
        for broker in self.brokers:
            if broker.running:
                broker.kill()
        self.network.__exit__()
