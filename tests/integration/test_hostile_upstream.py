"""A worker whose upstream sends whatever it likes: it goes on, and what it shows and keeps stays in its form."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import threading
import urllib.request
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from connector.core.model import Status
from tests.support import checker
from tests.support.processes import start_worker, wait_until
from tests.unit.test_decode import BAD_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

SYMBOLS = ("BADUSDT", "GOODUSDT")
MEGABYTE = 2**20
METRICS = ("gex_", "process_", "python_")
MEMORY_BYTES = 256 * MEGABYTE
REQUEST_IDS = (
    "a\r\nX-Forged: 1\n{}",
    "\0",
    "x" * (MEGABYTE // 8),
    "\u2028\u202e\x1b[2J",
    '"} 1\nforged_metric 2',
    "ä€\U0001f600",
)


class Body(NamedTuple):
    """What is sent in place of a response; it may promise more than it has."""

    content: bytes
    encoding: str = "identity"
    promised: int | None = None


BODIES = (
    Body(b"[" * 100_000 + b"]" * 100_000),
    Body(b'{"data":{"results":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001),
    Body(gzip.compress(bytes(64 * MEGABYTE)), "gzip"),
    Body(b" " * 20 * MEGABYTE),
    Body(b"{}", promised=2**40),
    Body(b'"\\' * (MEGABYTE // 2)),
    Body(
        b'{"data":{"results":{%b}}}'
        % b",".join(b'"%d":{}' % number for number in range(80_000))
    ),
    Body(
        b'{"data":{"results":{}},"meta":{"rate_limit":{"limit":1e400,"remaining":%b}}}'
        % (b"9" * 5_000)
    ),
)


class Upstream:
    """Answers with responses that are good but for one symbol's entry, and between them once with each of `BODIES`."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._answers = self._all()
        self.rounds = 0

    def next(self) -> Body:
        with self._turn:
            return next(self._answers)

    def _all(self) -> Iterator[Body]:
        bodies, turns = iter(BODIES), itertools.count()
        while True:
            for entry in BAD_ENTRIES.values():
                yield self._response(next(turns), entry)
                yield from itertools.islice(bodies, 1)
            self.rounds += 1

    def _response(self, turn: int, bad: bytes) -> Body:
        at = datetime.now(UTC).isoformat()
        good = {"computed_at": at, "all_expiry": {"hvl": turn}}
        meta = {
            "request_id": REQUEST_IDS[turn % len(REQUEST_IDS)],
            "timestamp": at,
            "exchanges_filtered": REQUEST_IDS,
        }
        content = b'{"data":{"results":{"BADUSDT":%b,"GOODUSDT":%b}},"meta":%b}' % (
            bad,
            json.dumps(good).encode(),
            json.dumps(meta).encode(),
        )
        return Body(content)


@contextlib.contextmanager
def serving(upstream: Upstream) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = upstream.next()
            self.send_response(200)
            self.send_header("Content-Encoding", body.encoding)
            self.send_header("Content-Length", str(body.promised or len(body.content)))
            self.end_headers()
            with contextlib.suppress(OSError):  # it does not read on
                self.wfile.write(body.content)
            self.close_connection = body.promised is not None

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_whatever_the_upstream_sends_a_worker_goes_on_and_what_it_says_stays_in_its_form(
    kafka: LocalKafka, names: Names
) -> None:
    upstream = Upstream()
    with serving(upstream) as url:
        variables = {
            "GEX_UPSTREAM__BASE_URL": url,
            "GEX_UPSTREAM__API_KEY": "k" * 20,
            "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE": "6000",
            "GEX_UPSTREAM__TIMEOUT_SECONDS": "2",
            "GEX_SYMBOLS": ",".join(SYMBOLS),
            "GEX_SCHEDULE__MAX_INTERVAL_SECONDS": "0.25",
            "GEX_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "GEX_KAFKA__TOPIC_PREFIX": names.topic_prefix,
            "GEX_KAFKA__GROUP_ID": names.group_id,
        }
        with start_worker(variables, arguments=["--log-level", "DEBUG"]) as worker:
            wait_until(lambda: upstream.rounds, "everything was sent", worker)
            with urllib.request.urlopen(
                f"{worker.url}/metrics", timeout=10
            ) as response:
                metrics = response.read().decode()
            assert worker.ask("/health/live")["ok"]
            assert worker.ready()
            memory = peak_bytes(worker.pid)
            assert worker.terminate() == 0
            log = worker.log()
    assert memory < MEMORY_BYTES
    lines = [json.loads(line) for line in log.splitlines()]
    assert "Traceback" not in log
    assert max(len(json.dumps(line)) for line in lines) < 8_000
    assert not [
        family
        for family in text_string_to_metric_families(metrics)
        if not family.name.startswith(METRICS)
    ]
    events, states = (
        checker.events(kafka, names.topic_prefix),
        checker.states(kafka, names.topic_prefix),
    )
    assert checker.violations(events, states) == []
    assert states["GOODUSDT"].status is Status.LIVE
    assert (
        len([event for event in events if event.symbol == "GOODUSDT"])
        > len(BAD_ENTRIES) // 2
    )
    refused = checker.records(kafka, f"{names.topic_prefix}.quarantine")
    assert len({record.headers["why"].partition(b":")[0] for record in refused}) > 4
    assert {record.key for record in refused} == {b"BADUSDT"}
    assert (
        max(
            len(value)
            for record in refused
            for value in (record.value, *record.headers.values())
        )
        <= 2**16
    )
    assert max(len(record.headers["where"]) for record in refused) < 1_000


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(status["VmHWM"].split()[0]) * 1024
