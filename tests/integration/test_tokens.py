"""Workers on a broker with OAUTHBEARER, whose tokens expire within seconds.

The broker ends every connection that does not show a new token in time. It accepts unsigned
tokens, which Kafka offers for tests.
"""

from __future__ import annotations

import http.server
import json
import shutil
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import NewTopic

from connector.config.model import Kafka
from connector.config.secrets import ClientSettings
from connector.devkit.local_kafka import LocalKafka
from connector.devkit.loopback_ports import LOOPBACK, free_port
from connector.kafka.assignment import Group
from connector.kafka.clients import Clients
from tests.support import unsigned_tokens
from tests.support.failed_start import log_of_failed_start
from tests.support.log_messages import SHARD_OPEN, STANDS_BY
from tests.support.processes import (
    PATIENCE_SECONDS,
    start,
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from connector.kafka.names import ShardId
    from tests.conftest import Names
    from tests.support.processes import Program

# The tokens of several clients expire several times.
pytestmark = pytest.mark.long

CLIENT = "GEX_KAFKA__CLIENT__"
CLIENT_SECRET = "oidc-secret-4d1c90"
# A worker has about nine clients.
SEVERAL_TOKENS_OF_EACH_CLIENT = 40
REAUTHENTICATION_MS = 9_000
_LOGIN = (
    "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
    'unsecuredLoginStringClaim_sub="broker";'
)


class TokenKafka:
    """A broker with a listener, `address`, that wants a token."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        addresses = {"CLIENT": f"{LOOPBACK}:{port}"}
        for name in ("OAUTH", "CONTROLLER"):
            addresses[name] = f"{LOOPBACK}:{free_port()}"
        self.address = addresses["OAUTH"]
        listeners = [f"{name}://{address}" for name, address in addresses.items()]
        oauth = "listener.name.oauth.oauthbearer"
        settings = {
            "listeners": ",".join(listeners),
            "listener.security.protocol.map": (
                "CLIENT:PLAINTEXT,OAUTH:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT"
            ),
            "controller.quorum.voters": f"1@{addresses['CONTROLLER']}",
            "sasl.enabled.mechanisms": "OAUTHBEARER",
            f"{oauth}.sasl.jaas.config": _LOGIN,
            f"{oauth}.connections.max.reauth.ms": str(REAUTHENTICATION_MS),
        }
        self.broker = LocalKafka(folder, port=port, extra=settings)


@pytest.fixture(scope="module")
def token_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenKafka]:
    kafka = TokenKafka(tmp_path_factory.mktemp("tokens") / "broker")
    with kafka.broker:
        yield kafka


@pytest.fixture(scope="module")
def simulator() -> Iterator[Program]:
    with start_simulator("--limit", "0", "--period", "1") as program:
        yield program


@pytest.fixture
def variables(
    token_kafka: TokenKafka, names: Names, simulator: Program
) -> dict[str, str]:
    """Return the variables of a worker without the source of its tokens."""
    return {
        **variables_for(token_kafka.broker, names, simulator, ["BTCUSDT"]),
        "GEX_KAFKA__BOOTSTRAP_SERVERS": token_kafka.address,
        f"{CLIENT}SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        f"{CLIENT}SASL_MECHANISM": "OAUTHBEARER",
    }


@pytest.fixture
def calls(variables: dict[str, str], tmp_path: Path) -> Path:
    """Return the file in which the function of these variables notes its calls."""
    shutil.copy(unsigned_tokens.__file__, tmp_path)
    file = tmp_path / "calls"
    variables |= {
        "PYTHONPATH": str(tmp_path),
        "GEX_KAFKA__OAUTH_CB": "unsigned_tokens:token",
        f"{CLIENT}SASL_OAUTHBEARER_CONFIG": str(file),
    }
    return file


def calls_of(worker: Program, calls: Path) -> int:
    return calls.read_text().split().count(str(worker.pid))


def assert_publishes(worker: Program) -> None:
    before = worker.metric("gex_transactions_total")
    wait_until(
        lambda: worker.ready() and worker.metric("gex_transactions_total") > before + 2,
        "it publishes",
        worker,
    )


def test_owner_and_standby_outlive_the_tokens_of_a_function(
    variables: dict[str, str], calls: Path
) -> None:
    with start_worker(variables) as owner, start_worker(variables) as standby:
        wait_for_log(standby, STANDS_BY)
        for worker in (owner, standby):

            def has_several_tokens(worker: Program = worker) -> bool:
                return calls_of(worker, calls) >= SEVERAL_TOKENS_OF_EACH_CLIENT

            wait_until(has_several_tokens, "every client has new tokens", worker)
        assert_publishes(owner)
        # The process that asks for the members has tokens, too.
        wait_until(
            lambda: len(standby.ask("/api/status")["group"]["members"] or []) == 2,
            "the members are known",
            standby,
        )
        assert owner.terminate() == 0
        wait_for_log(standby, SHARD_OPEN)
        assert_publishes(standby)

    command = [sys.executable, "-m", "connector", "check"]
    with start(command, variables) as check:
        assert check.wait() == 0, check.log()


def test_a_function_without_a_token_ends_the_start_with_its_reason(
    variables: dict[str, str], calls: Path
) -> None:
    variables["GEX_KAFKA__OAUTH_CB"] = "unsigned_tokens:failing"
    variables["GEX_KAFKA__START_TIMEOUT_SECONDS"] = "2"
    log = log_of_failed_start(variables, "kafka.oauth_cb")
    assert "RuntimeError: no credentials were found" in log
    assert "Traceback" not in log


class WithheldTokens:
    """A source of tokens that can fail, as a metadata service does."""

    def __init__(self) -> None:
        self.is_away = False

    def token(self, _: str) -> tuple[str, float]:
        if self.is_away:
            raise RuntimeError("the source of tokens is away")
        return unsigned_tokens.new_token()


class Shards:
    """A worker's shards, as far as its group's thread needs them."""

    def __init__(self) -> None:
        self.is_able = True
        self.errors: list[Exception] = []

    def assigned(self, shards: list[ShardId]) -> None:
        """Take over nothing."""

    revoked = lost = assigned

    def can_serve(self) -> bool:
        return self.is_able

    def failed(self, error: Exception) -> None:
        self.errors.append(error)


def test_a_worker_without_a_token_joins_again_once_there_is_one(
    token_kafka: TokenKafka, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    topic = f"{names.topic_prefix}.all.current"
    create_topics(token_kafka.broker, NewTopic(topic, 1, 1))
    client = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER"}
    kafka = Kafka(
        bootstrap_servers=token_kafka.address,
        group_id=names.group_id,
        client=ClientSettings(client),
    )
    source, shards = WithheldTokens(), Shards()
    settings = Clients(kafka).group() | {"oauth_cb": source.token}
    group = Group(settings, {topic: "all"}, shards, lambda: None)
    group.start()
    wait_until(lambda: group.joined, "it has joined")

    source.is_away = True
    shards.is_able = False
    wait_until(lambda: not group.joined, "it has left")
    shards.is_able = True
    wait_until(lambda: "cannot join the group again" in caplog.text, "it has failed")
    assert not group.joined

    source.is_away = False
    wait_until(lambda: group.joined, "it has joined again")
    assert group.stop(PATIENCE_SECONDS)
    assert shards.errors == []


def test_a_function_that_cannot_be_imported_is_a_fault_of_the_configuration(
    variables: dict[str, str], calls: Path
) -> None:
    variables["GEX_KAFKA__OAUTH_CB"] = "unsigned_tokens:absent"
    with start_worker(variables, wait_ready=False) as worker:
        assert worker.wait() == 2, worker.log()
        assert "kafka.oauth_cb: 'unsigned_tokens:absent'" in worker.log()
        assert "Traceback" not in worker.log()


class TokenEndpoint(http.server.BaseHTTPRequestHandler):
    """An authorization server that grants tokens to a client with any secret."""

    granted = 0

    def do_POST(self) -> None:
        token, _ = unsigned_tokens.new_token()
        answer = {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": unsigned_tokens.LIFE_SECONDS,
        }
        body = json.dumps(answer).encode()
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        type(self).granted += 1

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    TokenEndpoint.granted = 0
    with http.server.ThreadingHTTPServer((LOOPBACK, 0), TokenEndpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{LOOPBACK}:{server.server_port}/token"
        server.shutdown()
        thread.join()


def test_owner_and_standby_outlive_the_tokens_of_an_oidc_server(
    variables: dict[str, str], endpoint: str
) -> None:
    variables |= {
        f"{CLIENT}SASL_OAUTHBEARER_METHOD": "oidc",
        f"{CLIENT}SASL_OAUTHBEARER_CLIENT_ID": "gex",
        f"{CLIENT}SASL_OAUTHBEARER_CLIENT_SECRET": CLIENT_SECRET,
        f"{CLIENT}SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL": endpoint,
    }
    with start_worker(variables) as owner, start_worker(variables) as standby:
        wait_for_log(standby, STANDS_BY)
        enough = TokenEndpoint.granted + 2 * SEVERAL_TOKENS_OF_EACH_CLIENT
        wait_until(
            lambda: TokenEndpoint.granted >= enough, "every client has new tokens"
        )
        assert_publishes(owner)
        assert owner.terminate() == 0
        wait_for_log(standby, SHARD_OPEN)
        assert_publishes(standby)
        for worker in (owner, standby):
            assert CLIENT_SECRET not in worker.log()
