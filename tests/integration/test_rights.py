"""On a broker that asks who comes and what for: with the README's rights a worker publishes, with one fewer it ends."""

from __future__ import annotations

import base64
import http.client
import sys
from typing import TYPE_CHECKING

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import pytest

from connector.config.model import Kafka
from connector.devkit.simulator.settings import DEFAULT_KEY
from connector.kafka import admin
from connector.kafka.clients import Clients
from connector.kafka.names import Topics
from tests.support import checker
from tests.support.guarded import KEY_PASSWORD, PASSWORD, USER, GuardedKafka
from tests.support.processes import (
    start,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.conftest import Names
    from tests.support.processes import Program
    from tests.support.registry import LocalRegistry

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
WAYS = {
    "SCRAM over TLS": GuardedKafka.by_password,
    "a certificate": GuardedKafka.by_certificate,
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    kafka = GuardedKafka(tmp_path_factory.mktemp("guarded"))
    with kafka.broker:
        kafka.admit()
        yield kafka


@pytest.fixture(scope="module")
def simulator() -> Iterator[Program]:
    with start_simulator("--limit", "0") as program:
        yield program


@pytest.fixture
def variables(
    guarded: GuardedKafka, names: Names, simulator: Program
) -> dict[str, str]:
    given = variables_for(guarded.broker, names, simulator, ["BTCUSDT"])
    return {**given, **guarded.by_password(), "GEX_KAFKA__START_TIMEOUT_SECONDS": "6"}


def grant(
    guarded: GuardedKafka,
    names: Names,
    rights: Mapping[str, tuple[admin_api.ResourceType, admin_api.AclOperation]],
) -> None:
    """To our user, on what has this test's names; topics and transactional ids by their prefix."""
    given = []
    for resource, operation in rights.values():
        exact = resource is GROUP
        pattern = (
            admin_api.ResourcePatternType.LITERAL
            if exact
            else admin_api.ResourcePatternType.PREFIXED
        )
        name = names.group_id if exact else f"{names.topic_prefix}."
        allow = admin_api.AclPermissionType.ALLOW
        given.append(
            admin_api.AclBinding(
                resource, name, pattern, f"User:{USER}", "*", operation, allow
            )
        )
    admin = guarded.admin()
    for future in admin.create_acls(given).values():
        future.result(30)


@pytest.mark.parametrize("way", WAYS)
def test_the_rights_of_the_readme_are_enough(
    guarded: GuardedKafka, names: Names, variables: dict[str, str], way: str
) -> None:
    given = {
        name: value
        for name, value in variables.items()
        if not name.startswith("GEX_KAFKA__CLIENT__")
    }
    grant(guarded, names, NEEDED)
    reader = ck.Consumer(
        {
            "bootstrap.servers": guarded.broker.bootstrap_servers,
            "group.id": names.unique,
        }
    )
    with start_worker({**given, **WAYS[way](guarded)}) as worker:
        place = ck.TopicPartition(f"{names.topic_prefix}.all.current", 0)
        wait_until(
            lambda: max(reader.get_watermark_offsets(place, timeout=10)),
            "a state",
            worker,
        )
        assert worker.terminate() == 0
        assert PASSWORD not in worker.log()
    reader.close()


@pytest.mark.parametrize("missing", NEEDED)
def test_one_right_fewer_ends_the_start_and_names_the_remedy(
    guarded: GuardedKafka, names: Names, variables: dict[str, str], missing: str
) -> None:
    if missing != "topic CREATE":
        there = Kafka(
            bootstrap_servers=guarded.broker.bootstrap_servers,
            topic_prefix=names.topic_prefix,
        )
        wanted = admin.topic_specs(Topics(names.topic_prefix), ["all"], there)
        admin.prepare_topics(Clients(there), wanted, -1)
    grant(
        guarded,
        names,
        {name: right for name, right in NEEDED.items() if name != missing},
    )
    with start_worker(variables, wait_ready=False) as worker:
        assert worker.wait() == 3, worker.log()
        assert "README, Rights" in worker.log()
        assert "Traceback" not in worker.log()


def test_a_certificate_without_rights_opens_nothing(
    guarded: GuardedKafka, variables: dict[str, str]
) -> None:
    with start_worker(
        {**variables, **guarded.by_certificate()}, wait_ready=False
    ) as worker:
        assert worker.wait() == 3, worker.log()
        assert "README, Rights" in worker.log()


CLIENT = "GEX_KAFKA__CLIENT__"
UNTRUSTED = ("certificate verify failed", "ssl.*")
WRONG: dict[str, tuple[Callable[[GuardedKafka], dict[str, str]], tuple[str, ...]]] = {
    "a wrong password": (
        lambda _: {f"{CLIENT}SASL_PASSWORD": "hunter22"},
        ("Authentication failed", "sasl.password"),
    ),
    "an unknown user": (
        lambda _: {f"{CLIENT}SASL_USERNAME": "hunter22"},
        ("Authentication failed", "sasl.username"),
    ),
    "another mechanism": (
        lambda _: {f"{CLIENT}SASL_MECHANISM": "PLAIN"},
        ("SCRAM-SHA-512", "sasl.mechanism"),
    ),
    "a server that others vouch for": (
        lambda kafka: {f"{CLIENT}SSL_CA_LOCATION": kafka.stranger.authority},
        UNTRUSTED,
    ),
    "a server nobody vouches for": (
        lambda _: {f"{CLIENT}SSL_CA_LOCATION": ""},
        UNTRUSTED,
    ),
    "a server of another name": (
        lambda kafka: {
            "GEX_KAFKA__BOOTSTRAP_SERVERS": kafka.scram.replace(
                "127.0.0.1", "localhost"
            )
        },
        UNTRUSTED,
    ),
    "no TLS where there is TLS": (
        lambda _: {f"{CLIENT}SECURITY_PROTOCOL": "SASL_PLAINTEXT"},
        ("security.protocol",),
    ),
    "TLS where there is none": (
        lambda kafka: {"GEX_KAFKA__BOOTSTRAP_SERVERS": kafka.broker.bootstrap_servers},
        ("PLAINTEXT broker listener?", "security.protocol"),
    ),
    "no certificate of ours": (
        lambda kafka: {
            **kafka.by_certificate(),
            f"{CLIENT}SSL_CERTIFICATE_LOCATION": "",
            f"{CLIENT}SSL_KEY_LOCATION": "",
        },
        ("certificate required", "ssl.*"),
    ),
    "a certificate of ours that others vouch for": (
        lambda kafka: {
            **kafka.by_certificate(),
            f"{CLIENT}SSL_CERTIFICATE_LOCATION": kafka.stranger.certificate,
            f"{CLIENT}SSL_KEY_LOCATION": kafka.stranger.key,
        },
        ("certificate required", "ssl.*"),
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_who_is_not_let_in_or_not_trusted_ends_the_start_with_the_reason(
    guarded: GuardedKafka, variables: dict[str, str], wrong: str
) -> None:
    change, reasons = WRONG[wrong]
    given = {**variables, **change(guarded), "GEX_KAFKA__START_TIMEOUT_SECONDS": "8"}
    with start_worker(given, wait_ready=False) as worker:
        assert worker.wait() == 3, worker.log()
        log = worker.log()
    last = log.splitlines()[-1]
    assert [
        reason for reason in ("not started", *reasons) if reason not in last
    ] == [], last
    assert "Traceback" not in log
    assert not [
        secret for secret in ("hunter22", PASSWORD, KEY_PASSWORD) if secret in log
    ]


def test_watching_with_a_wrong_password_says_so(
    guarded: GuardedKafka, variables: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "connector", "watch"]
    with start(command, {**variables, f"{CLIENT}SASL_PASSWORD": "hunter22"}) as watch:
        assert watch.wait() == 3
        assert "Authentication failed" in watch.log()
        assert "sasl.password" in watch.log()
        assert "hunter22" not in watch.log()


def test_a_key_that_cannot_be_opened_is_a_fault_of_the_configuration(
    guarded: GuardedKafka, variables: dict[str, str]
) -> None:
    wrong = {
        **variables,
        **guarded.by_certificate(),
        "GEX_KAFKA__CLIENT__SSL_KEY_PASSWORD": "hunter22",
    }
    with start_worker(wrong, wait_ready=False) as worker:
        assert worker.wait() == 2, worker.log()
        assert "ssl.key" in worker.log()
        assert "hunter22" not in worker.log()


REGISTRY_PASSWORD = "registry-pass-90bb1f"
SECRETS = (DEFAULT_KEY, PASSWORD, KEY_PASSWORD, REGISTRY_PASSWORD)
PAGES = (
    "/metrics",
    "/health/live",
    "/health/ready",
    "/",
    "/status",
    "/api/status",
    "/no-such-page",
)


def test_no_secret_is_shown_anywhere(
    guarded: GuardedKafka,
    registry: LocalRegistry,
    names: Names,
    variables: dict[str, str],
) -> None:
    """Neither while all is well nor while the API sends rubbish and refuses the key."""
    grant(guarded, names, NEEDED)
    user_info = f"gex:{REGISTRY_PASSWORD}"
    given = {
        **variables,
        **{
            name: value
            for name, value in guarded.by_certificate().items()
            if name.startswith(f"{CLIENT}SSL_")
        },
        f"{CLIENT}DEBUG": "conf,security,broker",
        "GEX_SCHEMA_REGISTRY__URL": registry.url,
        "GEX_SCHEMA_REGISTRY__CLIENT__BASIC_AUTH_USER_INFO": user_info,
    }
    with start_simulator("--limit", "0", "--period", "1") as simulator:
        given["GEX_UPSTREAM__BASE_URL"] = f"{simulator.url}/v2"
        with start_worker(given, arguments=["--log-level", "DEBUG"]) as worker:
            simulator.ask("/_control/faults", {"fault": "nan", "count": 1})
            wait_until(
                lambda: "entry quarantined" in worker.log(),
                "an entry in quarantine",
                worker,
            )
            shown = [page(worker, path) for path in PAGES]
            simulator.ask("/_control/set", {"keys": ["bq_live_" + "x" * 32]})
            wait_until(
                lambda: "key_refused" in worker.log(), "the key is refused", worker
            )
            shown += [page(worker, path) for path in PAGES]
            assert worker.terminate() == 0
            shown.append(worker.log())
    kept = [
        record.value + record.key + b"".join(record.headers.values())
        for name in ("all.changes", "all.current", "quarantine")
        for record in checker.records(guarded.broker, f"{names.topic_prefix}.{name}")
    ]
    assert len(kept) >= 3
    texts = [*shown, *(value.decode(errors="replace") for value in kept)]
    hidden = (*SECRETS, base64.b64encode(user_info.encode()).decode())
    assert [secret for secret in hidden for text in texts if secret in text] == []


def page(worker: Program, path: str) -> str:
    """Its status, headers and text, whatever the status."""
    request = http.client.HTTPConnection(worker.url.removeprefix("http://"), timeout=10)
    request.request("GET", path)
    response = request.getresponse()
    text = f"{response.status} {response.headers} {response.read().decode()}"
    request.close()
    return text
