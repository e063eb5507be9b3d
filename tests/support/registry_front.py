"""A proxy before a real schema registry that can answer in its place."""

from __future__ import annotations

import http.client
import sys
import threading
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from connector.devkit.loopback_ports import LOOPBACK

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tests.support.registry import LocalRegistry

_FORWARD_SECONDS = 30
_JSON = "application/vnd.schemaregistry.v1+json"


class Answer(NamedTuple):
    """A reply in the registry's place."""

    status: int
    body: bytes
    content_type: str = "text/html"


HTML = b"<!doctype html><html><body><h1>It works!</h1></body></html>"

# Answers of something that is not a registry, or of one that is out of order.
STRANGE = {
    "a page": Answer(200, HTML),
    "a page that says not found": Answer(404, HTML),
    "a page that says forbidden": Answer(403, HTML),
    "a page that says conflict": Answer(409, HTML),
    "another service's not found": Answer(404, b'{"error_code":404}', _JSON),
    "a redirect to a login": Answer(302, b""),
    "an empty object": Answer(200, b"{}", _JSON),
    "a list": Answer(200, b'["1"]', _JSON),
    "null": Answer(200, b"null", _JSON),
    "an empty body": Answer(200, b"", _JSON),
    "no content": Answer(204, b"", _JSON),
    "a text": Answer(200, b'"ok"', _JSON),
    "wrong types": Answer(
        200,
        b'{"id":"1","schema":7,"compatibilityLevel":null,"is_compatible":"no"}',
        _JSON,
    ),
    "no UTF-8": Answer(200, b'{"id":"\xff"}', _JSON),
    "an error": Answer(500, b'{"error_code":50001,"message":"store"}', _JSON),
    "bad gateway": Answer(502, HTML),
}


class _Server(ThreadingHTTPServer):
    """A server whose clients may be killed at any moment."""

    def handle_error(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any
    ) -> None:
        """Print a traceback, unless the client or the registry has gone away."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class RegistryFront:
    """Forwards requests to a registry, unless it is told to answer by itself.

    `answer` replaces every answer, and `answers` only those whose method and path begin
    with the key, such as `GET /config`. `silent` lets every request wait without an answer.
    """

    def __init__(self, registry: LocalRegistry) -> None:
        self.answer: Answer | None = None
        self.answers: dict[str, Answer] = {}
        self.requests: list[str] = []
        self.silent = False
        self._stopped = threading.Event()
        self._target = urlsplit(registry.url)
        self._server = _Server((LOOPBACK, 0), _handler_of(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """Return the base of the Confluent API."""
        return f"http://{LOOPBACK}:{self._server.server_port}{self._target.path}"

    @contextmanager
    def running(self) -> Iterator[RegistryFront]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def reply(self, method: str, path: str, body: bytes) -> Answer | None:
        """Return the answer to a request. None: close the connection without one."""
        inner = path.removeprefix(self._target.path)
        self.requests.append(f"{method} {inner}")
        if self.silent:
            self._stopped.wait()
            return None
        for start, answer in self.answers.items():
            if f"{method} {inner}".startswith(start):
                return answer
        if self.answer is not None:
            return self.answer
        return self._forward(method, path, body)

    def _forward(self, method: str, path: str, body: bytes) -> Answer:
        assert self._target.hostname is not None
        connection = http.client.HTTPConnection(
            self._target.hostname, self._target.port, timeout=_FORWARD_SECONDS
        )
        headers = {"Content-Type": _JSON, "Accept": _JSON}
        # The registry may be away, too.
        with closing(connection):
            connection.request(method, path, body or None, headers)
            response = connection.getresponse()
            return Answer(response.status, response.read(), _JSON)


def _handler_of(front: RegistryFront) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            answer = front.reply(self.command, self.path, self.rfile.read(length))
            if answer is None:
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            if answer.status == http.client.FOUND:
                self.send_header("Location", "https://login.example/")
            if answer.status != http.client.NO_CONTENT:
                self.send_header("Content-Length", str(len(answer.body)))
            # The client may have been killed meanwhile.
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(answer.body)

        do_GET = do_POST = do_PUT = _handle  # noqa: N815 -- the names of http.server

        def log_message(self, *_: object) -> None:
            """Log nothing: the test knows the requests."""

    return Handler
