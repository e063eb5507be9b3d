"""A NAT between a worker and its broker that silently forgets idle connections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confluent_kafka.admin import NewTopic

from connector.config.model import Kafka
from connector.devkit.local_kafka import LocalKafka
from connector.devkit.loopback_ports import LOOPBACK, free_port
from connector.kafka.clients import Clients
from connector.kafka.reader import Reader
from tests.chaos.proxy import Network, Proxy
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from pathlib import Path

TOPIC = "current"


def broker_behind(nat: Proxy, port: int, folder: Path) -> LocalKafka:
    """Return a broker that tells the clients of the NAT to connect through it."""
    clients, controllers = free_port(), free_port()
    listeners = {
        "listener.security.protocol.map": (
            "CLIENT:PLAINTEXT,WORKER:PLAINTEXT,CONTROLLER:PLAINTEXT"
        ),
        "listeners": (
            f"CLIENT://{LOOPBACK}:{clients},WORKER://{LOOPBACK}:{port},"
            f"CONTROLLER://{LOOPBACK}:{controllers}"
        ),
        "advertised.listeners": (
            f"CLIENT://{LOOPBACK}:{clients},WORKER://{LOOPBACK}:{nat.port}"
        ),
        "controller.quorum.voters": f"1@{LOOPBACK}:{controllers}",
    }
    return LocalKafka(folder, port=clients, extra=listeners)


def test_a_restore_goes_on_although_its_idle_connections_are_forgotten(
    tmp_path: Path,
) -> None:
    port = free_port()
    with Network([port]) as network:
        (nat,) = network.proxies
        with broker_behind(nat, port, tmp_path / "kafka") as kafka:
            create_topics(kafka, NewTopic(TOPIC, 1, 1))

            through_nat = Kafka(bootstrap_servers=f"{LOOPBACK}:{nat.port}")
            reader = Reader(Clients(through_nat))
            try:
                reader.warm_up(TOPIC)
                network.tell(Proxy.forget)
                # Neither raises, as both did when a request timed out.
                assert reader.high_watermark(TOPIC, 0) == 0
                assert reader.contents(TOPIC, 0, 0).records == 0
            finally:
                reader.close()
