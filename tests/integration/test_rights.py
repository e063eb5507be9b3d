"""The README's rights on a broker that asks for them: with all of them a worker publishes, with one fewer it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import pytest

from connector.config import Kafka
from connector.hidden import ClientSettings
from connector.kafka import topics
from connector.kafka.settings import Clients, Topics
from connector.simulator.kafka import LocalKafka
from tests.support.processes import start_simulator, start_worker, variables_for, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.conftest import Names

GEX = "User:gex"
TOPIC, GROUP = admin_api.ResourceType.TOPIC, admin_api.ResourceType.GROUP
TRANSACTIONAL_ID = admin_api.ResourceType.TRANSACTIONAL_ID
READ, WRITE, CREATE, DESCRIBE_CONFIGS = (
    admin_api.AclOperation.READ,
    admin_api.AclOperation.WRITE,
    admin_api.AclOperation.CREATE,
    admin_api.AclOperation.DESCRIBE_CONFIGS,
)
NEEDED = {
    "topic READ": (TOPIC, READ),
    "topic WRITE": (TOPIC, WRITE),
    "topic CREATE": (TOPIC, CREATE),
    "topic DESCRIBE_CONFIGS": (TOPIC, DESCRIBE_CONFIGS),
    "transactional id WRITE": (TRANSACTIONAL_ID, WRITE),
    "group READ": (GROUP, READ),
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    module = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    extra = {
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": (
            f'{module} username="broker" password="b" user_broker="b" user_gex="secret";'
        ),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:broker;User:ANONYMOUS",
    }
    with LocalKafka(tmp_path_factory.mktemp("guarded"), extra=extra) as broker:
        yield broker


def signed_in(broker: LocalKafka, user: str, password: str) -> dict[str, str | int | float | bool]:
    return {
        "bootstrap.servers": broker.bootstrap_servers,
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": user,
        "sasl.password": password,
    }


def grant(
    broker: LocalKafka, names: Names, rights: Mapping[str, tuple[admin_api.ResourceType, admin_api.AclOperation]]
) -> None:
    """To `gex`, on what has this test's names; topics and transactional ids by their prefix."""
    given = []
    for resource, operation in rights.values():
        exact = resource is GROUP
        pattern = admin_api.ResourcePatternType.LITERAL if exact else admin_api.ResourcePatternType.PREFIXED
        name = names.group_id if exact else f"{names.topic_prefix}."
        allow = admin_api.AclPermissionType.ALLOW
        given.append(admin_api.AclBinding(resource, name, pattern, GEX, "*", operation, allow))
    client = admin_api.AdminClient(signed_in(broker, "broker", "b"))
    for future in client.create_acls(given).values():
        future.result(30)


@pytest.fixture
def variables(guarded: LocalKafka, names: Names, tmp_path: Path) -> Iterator[dict[str, str]]:
    with start_simulator("--limit", "0") as simulator:
        yield variables_for(guarded, names, simulator, ["BTCUSDT"]) | {
            "GEX_KAFKA__CLIENT__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "GEX_KAFKA__CLIENT__SASL_MECHANISM": "PLAIN",
            "GEX_KAFKA__CLIENT__SASL_USERNAME": "gex",
            "GEX_KAFKA__CLIENT__SASL_PASSWORD": "secret",
            "GEX_KAFKA__START_TIMEOUT_SECONDS": "6",
        }


def test_the_rights_of_the_readme_are_enough(guarded: LocalKafka, names: Names, variables: dict[str, str]) -> None:
    grant(guarded, names, NEEDED)
    reader = ck.Consumer({**signed_in(guarded, "broker", "b"), "group.id": names.unique})
    with start_worker(variables) as worker:
        place = ck.TopicPartition(f"{names.topic_prefix}.all.current", 0)
        wait_until(lambda: max(reader.get_watermark_offsets(place, timeout=10)), "a state", worker)
        assert worker.terminate() == 0
        assert "secret" not in worker.log()
    reader.close()


@pytest.mark.parametrize("missing", NEEDED)
def test_one_right_fewer_ends_the_start_and_names_the_remedy(
    guarded: LocalKafka, names: Names, variables: dict[str, str], missing: str
) -> None:
    if missing != "topic CREATE":
        there = Kafka(
            bootstrap_servers=guarded.bootstrap_servers,
            topic_prefix=names.topic_prefix,
            client=ClientSettings(signed_in(guarded, "broker", "b")),
        )
        wanted = topics.specs(Topics(names.topic_prefix), ["all"], there)
        topics.prepare(Clients(there), wanted, -1)
    grant(guarded, names, {name: right for name, right in NEEDED.items() if name != missing})
    with start_worker(variables, wait_ready=False) as worker:
        assert worker.wait() == 3, worker.log()
        assert "README, Rights" in worker.log()
        assert "Traceback" not in worker.log()


def test_a_wrong_password_ends_the_start_and_is_not_shown(variables: dict[str, str]) -> None:
    with start_worker({**variables, "GEX_KAFKA__CLIENT__SASL_PASSWORD": "hunter22"}, wait_ready=False) as worker:
        assert worker.wait() == 3, worker.log()
        assert "Authentication failed" in worker.log()
        assert "hunter22" not in worker.log()
