"""The client's look-up of schemas, against a registry that answers as a test wants."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from connector.client import Registry, RegistryError, SchemaError, SettingsError
from connector.client.values import ValueDecoder, located
from connector.kafka.avro import EVENT, Codec, schema
from tests.support.written_feed import an_event

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA = json.dumps({"type": "string"})


class Answering(HTTPServer):
    """Answers with each of `answers` in turn, and then with the last one again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int | None, str]] = []
        self.asked: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        asked = (self.path, self.headers.get("Authorization"))
        self.server.asked.append(asked)
        status, body = self.server.answers[0]
        if len(self.server.answers) > 1:
            del self.server.answers[0]
        if status is None:
            # No status line.
            self.wfile.write(b"\r\n")
            return
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as above
        pass


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering() as answering:
        thread = threading.Thread(target=answering.serve_forever)
        thread.start()
        yield answering
        answering.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.client.registry._PAUSES_SECONDS", (0.0, 0.0))


def answer(text: str) -> str:
    return json.dumps({"schema": text})


def test_a_schema_is_looked_up_by_its_id(server: Answering) -> None:
    server.answers = [(200, answer(SCHEMA))]
    assert Registry(f"{server.url}/apis/").schema(7) == SCHEMA
    assert server.asked == [("/apis/schemas/ids/7", None)]


def test_it_authenticates_with_a_password_or_a_token(server: Answering) -> None:
    server.answers = [(200, answer(SCHEMA))]
    Registry(server.url, user="desk", password="secret").schema(7)
    Registry(server.url, token="token").schema(7)
    basic = base64.b64encode(b"desk:secret").decode()
    headers = [header for _, header in server.asked]
    assert headers == [f"Basic {basic}", "Bearer token"]


def test_secrets_are_not_shown() -> None:
    shown = repr(Registry("http://registry", user="desk", password="s1", token="s2"))
    assert "s1" not in shown
    assert "s2" not in shown


def test_it_asks_again_after_an_error_of_the_server(server: Answering) -> None:
    server.answers = [(503, ""), (200, answer(SCHEMA))]
    assert Registry(server.url).schema(7) == SCHEMA


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (404, "", "has no schema 7; is it the registry that the connector uses"),
        (401, "", "with HTTP status 401; check user and password, or token"),
        (400, "", "with HTTP status 400; check its URL"),
        (503, "", "HTTP status 503; check that it runs"),
        (200, "<html>", "is not one of Confluent's API; check the URL"),
        (200, "[]", "is not one of Confluent's API; check the URL"),
    ],
)
def test_an_unusable_answer_is_an_error(
    server: Answering, status: int, body: str, text: str
) -> None:
    server.answers = [(status, body)]
    with pytest.raises(RegistryError, match=text):
        Registry(server.url).schema(7)


def test_no_answer_is_an_error_with_the_url(server: Answering) -> None:
    server.server_close()
    with pytest.raises(RegistryError, match=f"{server.url}: no answer"):
        Registry(server.url).schema(7)


def test_an_answer_that_is_no_http_is_an_error(server: Answering) -> None:
    server.answers = [(None, "")]
    with pytest.raises(RegistryError, match=f"{server.url}: no answer"):
        Registry(server.url).schema(7)


def test_a_redirect_does_not_take_the_password_along(server: Answering) -> None:
    server.answers = [(302, ""), (200, answer(SCHEMA))]
    Registry(server.url, token="token").schema(7)
    assert server.asked[1] == ("/elsewhere", None)


def test_a_file_of_certificates_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "absent.pem"
    with pytest.raises(SettingsError, match="expected a file of certificates"):
        Registry("https://registry", ca_file=str(path))


def test_a_url_is_needed() -> None:
    with pytest.raises(SettingsError, match="'registry:8081' is no URL"):
        Registry("registry:8081")


@pytest.mark.parametrize("scheme", ["https://", ""])
def test_a_password_in_the_url_is_refused_and_not_shown(scheme: str) -> None:
    with pytest.raises(SettingsError, match="pass Registry") as caught:
        Registry(f"{scheme}desk:s1@registry:8081")
    assert "s1" not in str(caught.value)


class Registered:
    """The framing of a registry that has one schema, with the id 7."""

    def prepare(self, topic: str, name: str) -> None: ...

    def prefix(self, topic: str, name: str) -> bytes:
        return b"\x00\x00\x00\x00\x07"

    def written_with(self, value: bytes) -> tuple[object, int]:
        raise NotImplementedError


def test_a_newer_compatible_schema_is_read_and_a_newer_major_is_an_error(
    server: Answering,
) -> None:
    value = Codec(Registered()).encode_event("topic", an_event(1))
    server.answers = [(200, answer(json.dumps(schema(EVENT))))]
    decoder = ValueDecoder(Registry(server.url))
    assert decoder.event(value).sequence == 1
    # Looked up once.
    decoder.event(value)
    assert len(server.asked) == 1

    major = schema(EVENT)
    for field in major["fields"]:
        if field["name"] == "sequence":
            field["type"] = "string"
    server.answers = [(200, answer(json.dumps(major)))]
    expected = r"changes-0, offset 5: schema 7 .* newer major version.*; update"
    with (
        pytest.raises(SchemaError, match=expected),
        located("changes-0, offset 5"),
    ):
        ValueDecoder(Registry(server.url)).event(value)


def test_a_schema_of_another_kind_is_an_error(server: Answering) -> None:
    server.answers = [(200, answer('{"type": "object"}'))]
    with pytest.raises(SchemaError, match=r"schema 7 .* is no Avro schema"):
        ValueDecoder(Registry(server.url)).event(b"\x00\x00\x00\x00\x07")


def test_a_damaged_value_is_an_error() -> None:
    decoder = ValueDecoder(None)
    prefix = decoder._known.prefix("", EVENT)
    with pytest.raises(SchemaError, match="the value of 12 bytes is damaged"):
        decoder.event(prefix + b"\xff\xff")
