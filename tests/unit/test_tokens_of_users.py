"""Tokens from a function of the user's."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import confluent_kafka as ck
import pytest

from connector.config.model import Kafka
from connector.config.secrets import ClientSettings
from connector.errors import ConfigError, KafkaUnavailable
from connector.kafka.clients import Clients
from connector.kafka.errors import new_client
from connector.kafka.limits import require_valid_settings
from connector.kafka.tokens import Tokens

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "tokens_of_a_test:token"
GOOD = ("a-token", 1_800_000_000.0)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that installs the user's, which returns or raises something."""

    def install_answer(answer: object) -> None:
        def token(config: str) -> object:
            if isinstance(answer, Exception):
                raise answer
            return answer

        module = ModuleType("tokens_of_a_test")
        module.__dict__["token"] = token
        monkeypatch.setitem(sys.modules, "tokens_of_a_test", module)

    return install_answer


@pytest.mark.parametrize("answer", [GOOD, (*GOOD, "principal", {"key": "value"})])
def test_a_token_is_passed_on(install: Callable[[Any], None], answer: object) -> None:
    install(answer)
    assert Tokens(PATH)("config") == answer


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (RuntimeError("no role"), "RuntimeError: no role"),
        ("a-token", "TypeError: expected a tuple"),
        (("a-token",), "TypeError: expected a tuple"),
        ((b"a-token", 1.0), "TypeError: expected a tuple"),
        (("a-token", "soon"), "TypeError: expected a tuple"),
        # As Amazon's signer returns it.
        (("a-token", 1_800_000_000_000), "ValueError: the expiry seems to be in milli"),
    ],
)
def test_a_failure_is_logged_once_with_its_reason(
    install: Callable[[Any], None],
    caplog: pytest.LogCaptureFixture,
    answer: object,
    error: str,
) -> None:
    install(answer)
    tokens = Tokens(PATH)
    # Every client asks.
    for _ in range(3):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            tokens("config")

    (line,) = caplog.records
    assert line.getMessage() == "kafka.oauth_cb failed"
    assert vars(line)["error"].startswith(error)
    assert "a-token" not in str(vars(line))


@pytest.mark.parametrize("path", ["absent_module:token", "json:absent"])
def test_a_function_that_cannot_be_imported_is_named(path: str) -> None:
    with pytest.raises(ConfigError, match=f"kafka.oauth_cb: '{path}'"):
        Clients(Kafka(oauth_cb=path))


def test_settings_are_checked_without_a_token(install: Callable[[Any], None]) -> None:
    # Each client would wait for its first token.
    install(RuntimeError("asked for a token"))
    client = ClientSettings(
        {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER"}
    )
    clients = Clients(Kafka(oauth_cb=PATH, client=client))
    assert "oauth_cb" in clients.admin()
    require_valid_settings(clients)


def test_a_client_without_a_token_can_be_created_later() -> None:
    def kind(_: object) -> None:
        code = ck.KafkaError.SASL_AUTHENTICATION_FAILED
        raise ck.KafkaException(ck.KafkaError(code, "OAuth token not set"))

    with pytest.raises(KafkaUnavailable, match="waiting for a token"):
        new_client(kind, {})
