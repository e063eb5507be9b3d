"""A small HTTP proxy on loopback, the only way to hosts that no resolver knows."""

from __future__ import annotations

import base64
import http.client
import select
import socket
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from connector.devkit.loopback_ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

Address = tuple[str, int]

_SECONDS = 30
_CHUNK_BYTES = 65_536


class EgressProxy:
    """Forwards http requests and opens tunnels, to the addresses in `hosts` only.

    `context` is a server's: a tunnel then ends here, as in a network that inspects TLS,
    and its content goes on without TLS. `user_info` is `user:password`, if clients need it.
    """

    def __init__(
        self,
        hosts: dict[str, str],
        *,
        context: ssl.SSLContext | None = None,
        user_info: str | None = None,
    ) -> None:
        self.addresses: dict[str, Address] = {}
        for host, url in hosts.items():
            parts = urlsplit(url)
            assert parts.hostname is not None
            assert parts.port is not None
            self.addresses[host] = (parts.hostname, parts.port)
        self.context = context
        self.user_info = user_info
        self.requests: list[str] = []
        """Method and target of every request, also of refused ones."""
        self._server = _Server(self)

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[EgressProxy]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def admits(self, authorization: str | None) -> bool:
        if self.user_info is None:
            return True
        encoded = base64.b64encode(self.user_info.encode()).decode()
        return authorization == f"Basic {encoded}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, proxy: EgressProxy) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.proxy = proxy


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_CONNECT(self) -> None:
        host, _, _ = self.path.rpartition(":")
        address = self._admit(host)
        if address is None:
            return
        self.send_response(200)
        self.end_headers()
        client = self.connection
        proxy = self.server.proxy
        if proxy.context is not None:
            client = proxy.context.wrap_socket(client, server_side=True)
        # Closed here: `http.server` only knows the connection that TLS has wrapped.
        with client, socket.create_connection(address, _SECONDS) as server:
            _pump(client, server)
        self.close_connection = True

    def _forward(self) -> None:
        parts = urlsplit(self.path)
        address = self._admit(parts.hostname or "")
        if address is None:
            return
        length = int(self.headers.get("Content-Length") or 0)
        connection = http.client.HTTPConnection(*address, timeout=_SECONDS)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        headers = dict(self.headers)
        del headers["Host"]
        body = self.rfile.read(length)
        connection.request(self.command, target, body or None, headers)
        response = connection.getresponse()
        content = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in {"connection", "transfer-encoding"}:
                self.send_header(name, value)
        if response.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_POST = _forward  # noqa: N815 -- the names of http.server

    def _admit(self, host: str) -> Address | None:
        """Return the address of a host, or refuse the request."""
        proxy = self.server.proxy
        proxy.requests.append(f"{self.command} {self.path}")
        if not proxy.admits(self.headers.get("Proxy-Authorization")):
            self._refuse(407)
            return None
        address = proxy.addresses.get(host)
        if address is None:
            self._refuse(502)
        return address

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: the test knows the requests."""


def _pump(client: socket.socket, server: socket.socket) -> None:
    """Copy both ways until one side ends."""
    other: dict[socket.socket, socket.socket] = {client: server, server: client}
    while True:
        # What TLS has decrypted is in its buffer, where `select` does not look.
        if isinstance(client, ssl.SSLSocket) and client.pending():
            readable: list[socket.socket] = [client]
        else:
            readable, _, _ = select.select(list(other), [], [])
        for source in readable:
            data = source.recv(_CHUNK_BYTES)
            if not data:
                return
            other[source].sendall(data)
