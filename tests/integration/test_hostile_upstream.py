"""An upstream that sends anything at all, and the worker that survives it."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import threading
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
METRIC_PREFIXES = ("gex_", "process_", "python_")
MAX_MEMORY_BYTES = 256 * MEGABYTE
MAX_LOG_LINE_CHARACTERS = 8_000
MAX_RECORD_BYTES = 2**16
# Texts that a careless program copies into a log, a header or a metric.
REQUEST_IDS = (
    "a\r\nX-Forged: 1\n{}",
    "\0",
    "x" * (MEGABYTE // 8),
    "\u2028\u202e\x1b[2J",
    '"} 1\nforged_metric 2',
    "ä€\U0001f600",
)


class Body(NamedTuple):
    """A body instead of a response. It may promise more bytes than it has."""

    content: bytes
    encoding: str = "identity"
    promised_bytes: int | None = None


# Nesting that overflows a recursive parser.
_DEEP_OBJECT = b'{"a":' * 100_000 + b"1" + b"}" * 100_001
# Symbols that nobody asked for must not become metrics or records.
_MANY_SYMBOLS = b",".join([b'"%d":{}' % number for number in range(80_000)])
_HUGE_QUOTA = b'{"limit":1e400,"remaining":%b}' % (b"9" * 5_000)

BODIES = (
    Body(b"[" * 100_000 + b"]" * 100_000),
    Body(b'{"data":{"results":' + _DEEP_OBJECT),
    # A small response that would fill the memory once it is unpacked.
    Body(gzip.compress(bytes(64 * MEGABYTE)), "gzip"),
    Body(b" " * 20 * MEGABYTE),
    # A worker must not reserve memory for a length that it was only promised.
    Body(b"{}", promised_bytes=2**40),
    Body(b'"\\' * (MEGABYTE // 2)),
    Body(b'{"data":{"results":{%b}}}' % _MANY_SYMBOLS),
    Body(b'{"data":{"results":{}},"meta":{"rate_limit":%b}}' % _HUGE_QUOTA),
)


class Upstream:
    """Answers with a bad entry of one symbol and a good one of the other.

    Between these answers it sends each of `BODIES` once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers = self._all_answers()
        self.rounds = 0

    def next(self) -> Body:
        with self._lock:
            return next(self._answers)

    def _all_answers(self) -> Iterator[Body]:
        bodies = iter(BODIES)
        numbers = itertools.count()
        while True:
            for entry in BAD_ENTRIES.values():
                yield self._response(next(numbers), entry)
                yield from itertools.islice(bodies, 1)
            self.rounds += 1

    def _response(self, number: int, bad: bytes) -> Body:
        at = datetime.now(UTC).isoformat()
        good = {"computed_at": at, "all_expiry": {"hvl": number}}
        meta = {
            "request_id": REQUEST_IDS[number % len(REQUEST_IDS)],
            "timestamp": at,
            "exchanges_filtered": REQUEST_IDS,
        }
        # The bad entry is not always JSON, so the answer is put together by hand.
        good_text = json.dumps(good).encode()
        meta_text = json.dumps(meta).encode()
        results = b'{"BADUSDT":%b,"GOODUSDT":%b}' % (bad, good_text)
        return Body(b'{"data":{"results":%b},"meta":%b}' % (results, meta_text))


@contextlib.contextmanager
def serving(upstream: Upstream) -> Iterator[str]:
    """Serve an upstream on loopback. Yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = upstream.next()
            length = body.promised_bytes or len(body.content)
            self.send_response(200)
            self.send_header("Content-Encoding", body.encoding)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            # The worker stops reading a body that is too large.
            with contextlib.suppress(OSError):
                self.wfile.write(body.content)
            self.close_connection = body.promised_bytes is not None

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, value = line.split(":", 1)
        if name == "VmHWM":
            kibibytes, _ = value.split()
            return int(kibibytes) * 1024
    raise AssertionError("no VmHWM in /proc")


def test_a_worker_survives_whatever_the_upstream_sends(
    kafka: LocalKafka, names: Names
) -> None:
    upstream = Upstream()

    def all_were_sent() -> bool:
        return upstream.rounds > 0

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
            wait_until(all_were_sent, "every answer was sent", worker)
            metrics = worker.text("/metrics")
            assert worker.ask("/health/live")["ok"]
            wait_until(worker.ready, "ready", worker)
            memory_bytes = peak_bytes(worker.pid)
            assert worker.terminate() == 0
            log = worker.log()

    # Memory, log and metrics stay bounded, and nothing is forged in them.
    assert memory_bytes < MAX_MEMORY_BYTES
    assert "Traceback" not in log
    for line in log.splitlines():
        # A forged line break would leave a line that is no JSON.
        message = json.loads(line)
        assert len(json.dumps(message)) < MAX_LOG_LINE_CHARACTERS
    for family in text_string_to_metric_families(metrics):
        assert family.name.startswith(METRIC_PREFIXES)

    # The good symbol is published as if nothing had happened.
    events = checker.events(kafka, names.topic_prefix)
    states = checker.states(kafka, names.topic_prefix)
    assert checker.violations(events, states) == []
    assert states["GOODUSDT"].status is Status.LIVE
    good = [event for event in events if event.symbol == "GOODUSDT"]
    assert len(good) > len(BAD_ENTRIES) // 2

    # The bad one goes to quarantine, in records of bounded size.
    quarantined = checker.records(kafka, f"{names.topic_prefix}.quarantine")
    reasons = set()
    for record in quarantined:
        assert record.key == b"BADUSDT"
        assert len(record.headers["where"]) < 1_000
        for value in (record.value, *record.headers.values()):
            assert len(value) <= MAX_RECORD_BYTES
        reason, _, _ = record.headers["why"].partition(b":")
        reasons.add(reason)
    assert len(reasons) > 4
