"""A worker on a broker with authentication and ACLs.

With the rights of docs/reference/rights.md it publishes. With one right fewer it does not start.
"""

from __future__ import annotations

import base64
import http.client
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import confluent_kafka.admin as admin_api
import pytest

from connector.config.model import Kafka
from connector.config.secrets import ClientSettings
from connector.devkit.simulator.settings import DEFAULT_KEY
from connector.errors import AccessDenied
from connector.kafka import admin
from connector.kafka.clients import Clients
from connector.kafka.names import Topics
from connector.kafka.reader import Reader
from tests.support import checker
from tests.support.failed_start import log_of_failed_start
from tests.support.guarded import (
    CLIENT,
    KEY_PASSWORD,
    NEEDED,
    PASSWORD,
    USER,
    GuardedKafka,
    add_rights,
    grant,
)
from tests.support.processes import (
    PATIENCE_SECONDS,
    start,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)
from tests.support.written_feed import SYMBOL, WrittenFeed, an_event

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Names
    from tests.support.processes import Program
    from tests.support.registry import LocalRegistry

AUTHENTICATIONS = {
    "SCRAM over TLS": GuardedKafka.by_password,
    "a certificate": GuardedKafka.by_certificate,
}

# For starts that fail. A start that succeeds may take longer on a slow machine.
SHORT_START = {"GEX_KAFKA__START_TIMEOUT_SECONDS": "6"}

# An invalid secret, which no log may show.
WRONG_SECRET = "hunter22"


@pytest.fixture
def variables(
    guarded: GuardedKafka, names: Names, simulator: Program
) -> dict[str, str]:
    """Return the variables of a worker that authenticates with the password."""
    return {
        **variables_for(guarded.broker, names, simulator, ["BTCUSDT"]),
        **guarded.by_password(),
    }


def create_topics(guarded: GuardedKafka, names: Names) -> None:
    """Create the worker's topics as an administrator would."""
    kafka = Kafka(
        bootstrap_servers=guarded.broker.bootstrap_servers,
        topic_prefix=names.topic_prefix,
    )
    specs = admin.topic_specs(Topics(names.topic_prefix), ["all"], kafka)
    admin.prepare_topics(Clients(kafka), specs, -1)


@pytest.mark.parametrize("authentication", AUTHENTICATIONS)
def test_the_rights_of_the_readme_are_enough(
    guarded: GuardedKafka,
    names: Names,
    variables: dict[str, str],
    authentication: str,
) -> None:
    grant(guarded, names, NEEDED)
    settings = {
        name: value for name, value in variables.items() if not name.startswith(CLIENT)
    }
    settings |= AUTHENTICATIONS[authentication](guarded)

    def has_state() -> bool:
        return bool(checker.states(guarded.broker, names.topic_prefix))

    with start_worker(settings) as worker:
        wait_until(has_state, "a state", worker)
        assert worker.terminate() == 0
        assert PASSWORD not in worker.log()


@pytest.mark.parametrize("missing", NEEDED)
def test_one_right_fewer_ends_the_start_and_names_the_remedy(
    guarded: GuardedKafka, names: Names, variables: dict[str, str], missing: str
) -> None:
    if missing != "topic CREATE":
        create_topics(guarded, names)
    others = {name: right for name, right in NEEDED.items() if name != missing}
    grant(guarded, names, others)
    log = log_of_failed_start({**variables, **SHORT_START}, "docs/reference/rights.md")
    assert "Traceback" not in log


def test_a_certificate_without_rights_opens_nothing(
    guarded: GuardedKafka, variables: dict[str, str]
) -> None:
    settings = {**variables, **guarded.by_certificate(), **SHORT_START}
    log_of_failed_start(settings, "docs/reference/rights.md")


def test_a_topic_that_may_not_be_described_is_not_taken_for_an_absent_one(
    guarded: GuardedKafka, names: Names
) -> None:
    # A shard whose events seem to be gone would start its sequences again.
    create_topics(guarded, names)
    settings = {}
    for name, value in guarded.by_certificate().items():
        if name.startswith(CLIENT):
            settings[name.removeprefix(CLIENT).lower().replace("_", ".")] = value
    kafka = Kafka(bootstrap_servers=guarded.mutual, client=ClientSettings(settings))
    reader = Reader(Clients(kafka))
    with pytest.raises(AccessDenied, match=r"docs/reference/rights\.md"):
        reader.partition_count(Topics(names.topic_prefix).changes("all"))
    reader.close()


def unknown_server_name(kafka: GuardedKafka) -> dict[str, str]:
    address = kafka.scram.replace("127.0.0.1", "localhost")
    return {"GEX_KAFKA__BOOTSTRAP_SERVERS": address}


def plaintext_listener(kafka: GuardedKafka) -> dict[str, str]:
    return {"GEX_KAFKA__BOOTSTRAP_SERVERS": kafka.broker.bootstrap_servers}


def no_certificate(kafka: GuardedKafka) -> dict[str, str]:
    return {
        **kafka.by_certificate(),
        f"{CLIENT}SSL_CERTIFICATE_LOCATION": "",
        f"{CLIENT}SSL_KEY_LOCATION": "",
    }


def untrusted_certificate(kafka: GuardedKafka) -> dict[str, str]:
    return {
        **kafka.by_certificate(),
        f"{CLIENT}SSL_CERTIFICATE_LOCATION": kafka.stranger.certificate,
        f"{CLIENT}SSL_KEY_LOCATION": kafka.stranger.key,
    }


def expired_certificate(kafka: GuardedKafka) -> dict[str, str]:
    folder = Path(kafka.files.certificate).parent.with_name("expired")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    expired = kafka.issue(folder, until=yesterday)
    return {
        **kafka.by_certificate(),
        f"{CLIENT}SSL_CERTIFICATE_LOCATION": expired.certificate,
        f"{CLIENT}SSL_KEY_LOCATION": expired.key,
    }


def untrusted_server(kafka: GuardedKafka) -> dict[str, str]:
    return {f"{CLIENT}SSL_CA_LOCATION": kafka.stranger.authority}


def constant(name: str, value: str) -> Callable[[GuardedKafka], dict[str, str]]:
    return lambda _: {f"{CLIENT}{name}": value}


UNTRUSTED = ("certificate verify failed", "ssl.ca.location")
# The settings that are wrong, and the reasons that the worker's last line names.
WRONG: dict[str, tuple[Callable[[GuardedKafka], dict[str, str]], tuple[str, ...]]] = {
    "a wrong password": (
        constant("SASL_PASSWORD", WRONG_SECRET),
        ("Authentication failed", "sasl.password"),
    ),
    "an unknown user": (
        constant("SASL_USERNAME", WRONG_SECRET),
        ("Authentication failed", "sasl.username"),
    ),
    "another mechanism": (
        constant("SASL_MECHANISM", "PLAIN"),
        ("SCRAM-SHA-512", "sasl.mechanism"),
    ),
    "a server of another authority": (untrusted_server, UNTRUSTED),
    "a server of an unknown authority": (constant("SSL_CA_LOCATION", ""), UNTRUSTED),
    "a server with another name": (unknown_server_name, UNTRUSTED),
    "no TLS for a listener with TLS": (
        constant("SECURITY_PROTOCOL", "SASL_PLAINTEXT"),
        ("security.protocol",),
    ),
    "TLS for a listener without TLS": (
        plaintext_listener,
        ("PLAINTEXT broker listener?", "security.protocol"),
    ),
    "no client certificate": (
        no_certificate,
        ("certificate required", "ssl.certificate.location"),
    ),
    "a client certificate of another authority": (
        untrusted_certificate,
        ("certificate required", "ssl.certificate.location"),
    ),
    "a client certificate that has expired": (
        expired_certificate,
        ("SSL alert", "ssl.certificate.location", "expires"),
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_failed_authentication_ends_the_start_with_the_reason(
    guarded: GuardedKafka, variables: dict[str, str], wrong: str
) -> None:
    change, reasons = WRONG[wrong]
    settings = {
        **variables,
        **change(guarded),
        "GEX_KAFKA__START_TIMEOUT_SECONDS": "8",
    }
    log = log_of_failed_start(settings, "not started", *reasons)
    assert "Traceback" not in log
    for secret in (WRONG_SECRET, PASSWORD, KEY_PASSWORD):
        assert secret not in log


def test_watching_with_a_wrong_password_says_so(
    guarded: GuardedKafka, variables: dict[str, str]
) -> None:
    wrong = {**variables, f"{CLIENT}SASL_PASSWORD": WRONG_SECRET, **SHORT_START}
    log = log_of_failed_start(
        wrong, "Authentication failed", "sasl.password", command="watch"
    )
    assert WRONG_SECRET not in log


def grant_events_only(guarded: GuardedKafka, names: Names, topics: Topics) -> None:
    """Let our user read the events of feed `all`, and see that there are states."""
    grant(guarded, names, {"group READ": NEEDED["group READ"]})
    rights = {
        topics.changes("all"): admin_api.AclOperation.READ,
        topics.current("all"): admin_api.AclOperation.DESCRIBE,
    }
    bindings = [
        admin_api.AclBinding(
            admin_api.ResourceType.TOPIC,
            topic,
            admin_api.ResourcePatternType.LITERAL,
            f"User:{USER}",
            "*",
            operation,
            admin_api.AclPermissionType.ALLOW,
        )
        for topic, operation in rights.items()
    ]
    add_rights(guarded, bindings)


def test_watching_goes_on_without_the_right_to_read_the_states(
    guarded: GuardedKafka, names: Names, variables: dict[str, str]
) -> None:
    command = [sys.executable, "-m", "connector", "watch", "--from-beginning"]
    with WrittenFeed(guarded.broker, names) as feed:
        grant_events_only(guarded, names, feed.topics)
        with start(command, variables) as watch:
            wait_for_log(watch, "cannot tell if a connector is running")
            # Published only now: the events that come later are shown, too.
            feed.publish(an_event(1))
            wait_for_log(watch, SYMBOL)
            log = watch.log()
    assert log.count("cannot tell") == 1
    assert "docs/reference/rights.md" in log
    assert "Is a connector running?" not in log


def test_a_key_that_cannot_be_decrypted_is_a_fault_of_the_configuration(
    guarded: GuardedKafka, variables: dict[str, str]
) -> None:
    settings = {
        **variables,
        **guarded.by_certificate(),
        f"{CLIENT}SSL_KEY_PASSWORD": WRONG_SECRET,
    }
    with start_worker(settings, wait_ready=False) as worker:
        assert worker.wait() == 2, worker.log()
        assert "ssl.key" in worker.log()
        assert WRONG_SECRET not in worker.log()


REGISTRY_PASSWORD = "registry-pass-90bb1f"
SECRETS = (DEFAULT_KEY, PASSWORD, KEY_PASSWORD, REGISTRY_PASSWORD)
PAGES = (
    "/metrics",
    "/health/live",
    "/health/ready",
    "/",
    "/status",
    "/api/status",
    "/api/levels",
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
    settings = {
        **variables,
        f"{CLIENT}DEBUG": "conf,security,broker",
        "GEX_SCHEMA_REGISTRY__URL": registry.url,
        "GEX_SCHEMA_REGISTRY__CLIENT__BASIC_AUTH_USER_INFO": user_info,
    }
    for name, value in guarded.by_certificate().items():
        if name.startswith(f"{CLIENT}SSL_"):
            settings[name] = value

    with start_simulator("--limit", "0", "--period", "1") as simulator:
        settings["GEX_UPSTREAM__BASE_URL"] = f"{simulator.url}/v2"
        with start_worker(settings, arguments=["--log-level", "DEBUG"]) as worker:
            simulator.ask("/_control/faults", {"fault": "nan", "count": 1})
            wait_until(
                lambda: "entry quarantined" in worker.log(),
                "an entry in quarantine",
                worker,
            )
            texts = [page(worker, path) for path in PAGES]
            simulator.ask("/_control/set", {"keys": ["bq_live_" + "x" * 32]})
            wait_until(
                lambda: "key_refused" in worker.log(), "the key is refused", worker
            )
            texts += [page(worker, path) for path in PAGES]
            assert worker.terminate() == 0
            texts.append(worker.log())

    kept = []
    for name in ("all.changes", "all.current", "quarantine"):
        for record in checker.records(guarded.broker, f"{names.topic_prefix}.{name}"):
            kept.append(record.value + record.key + b"".join(record.headers.values()))
    assert len(kept) >= 3
    texts += [record.decode(errors="replace") for record in kept]

    encoded_user_info = base64.b64encode(user_info.encode()).decode()
    for secret in (*SECRETS, encoded_user_info):
        for text in texts:
            assert secret not in text


def page(worker: Program, path: str) -> str:
    """Return the status, the headers and the text of a page."""
    address = worker.url.removeprefix("http://")
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_SECONDS)
    with closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return f"{response.status} {response.headers} {response.read().decode()}"
