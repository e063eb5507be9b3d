"""`make demo`: a local Kafka, the simulator, a connector, and its events on the screen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any, Final
from urllib.request import urlopen

from connector.config.model import Kafka
from connector.core.model import MICROS
from connector.devkit.java import free_port
from connector.devkit.local_kafka import LocalKafka
from connector.devkit.simulator.settings import DEFAULT_KEY, DEFAULT_SYMBOLS
from connector.errors import KafkaUnavailable
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.clients import Clients
from connector.kafka.events import Events, ReceivedEvent
from connector.kafka.names import Topics
from connector.tools.watch import line

if TYPE_CHECKING:
    from collections.abc import Iterator

_READY_SECONDS: Final = 60
_STOP_SECONDS: Final = 30
_GET_SECONDS: Final = 5
_REQUESTS_PER_MINUTE: Final = 120
_PERIOD_SECONDS: Final = 3.0


def demo(seconds: float | None) -> int:
    """Run until Ctrl-C, or for so long after it was ready. 1 where nothing was published, else 0."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="gex-demo-") as folder:
        print("starting Kafka ...")
        with LocalKafka(Path(folder) / "kafka") as kafka:
            return _with_kafka(kafka.bootstrap_servers, Path(folder), seconds)


def _with_kafka(bootstrap: str, folder: Path, seconds: float | None) -> int:
    upstream, http = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    environ = {
        "GEX_UPSTREAM__BASE_URL": f"{upstream}/v2",
        "GEX_UPSTREAM__API_KEY": DEFAULT_KEY,
        "GEX_UPSTREAM__MAX_REQUESTS_PER_MINUTE": str(_REQUESTS_PER_MINUTE),
        "GEX_SYMBOLS": ",".join(DEFAULT_SYMBOLS),
        "GEX_INCLUDE": "max_pain,expected_move,ranked,zones",
        "GEX_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
        "GEX_HTTP__LISTEN": http.removeprefix("http://"),
    }
    simulate = [
        "simulate",
        "--listen",
        upstream.removeprefix("http://"),
        "--limit",
        str(_REQUESTS_PER_MINUTE),
    ]
    simulate += [
        "--period",
        str(_PERIOD_SECONDS),
        "--jitter",
        str(_PERIOD_SECONDS / 10),
    ]
    log = folder / "connector.log"
    with (
        _process(simulate, {}, folder / "simulator.log"),
        _process(["run"], environ, log) as worker,
    ):
        _wait_ready(f"{http}/health/ready", worker, log)
        kafka = Kafka(bootstrap_servers=bootstrap)
        clients, topics = Clients(kafka), Topics(kafka.topic_prefix)
        events = Events(clients, topics, Codec(SingleObject()), from_beginning=True)
        print(
            f"\nKafka      {bootstrap}   topics {', '.join(events.topics)}, …\nupstream   {upstream}/v2"
        )
        print(
            f"metrics    {http}/metrics\nhealth     {http}/health/ready\nlog        {log}\n"
        )
        ready_at = time.time()
        received = _collect(
            events, None if seconds is None else time.monotonic() + seconds
        )
        events.close()
        return _summary(received, _get(f"{upstream}/_control/stats"), ready_at)


def _collect(events: Events, until: float | None) -> list[ReceivedEvent]:
    received = []
    try:
        for one in events.until(
            lambda: until is not None and time.monotonic() >= until
        ):
            if one is not None:
                received.append(one)
                print(line(one), flush=True)
    except KeyboardInterrupt:
        pass
    return received


def _summary(
    received: list[ReceivedEvent], upstream: dict[str, Any], ready_at: float
) -> int:
    kinds = Counter(one.event.kind.value for one in received)
    refreshes = {
        (one.event.symbol, one.event.computed_at)
        for one in received
        if one.event.computed_at
    }
    delays = sorted(
        (one.received_at - one.event.computed_at) / MICROS
        for one in received
        if one.event.computed_at is not None
        and one.event.computed_at / MICROS > ready_at
    )
    print(f"\nrequests           {upstream['requests_total']}")
    print(f"refreshes seen     {len(refreshes)}")
    print(
        f"events             {len(received)}   {'  '.join(f'{kind} {n}' for kind, n in sorted(kinds.items()))}"
    )
    if len(delays) > 1:
        p95 = quantiles(delays, n=20)[-1]
        print(
            f"refresh → consumer median {median(delays):.2f} s, p95 {p95:.2f} s ({len(delays)} refreshes)"
        )
    return 0 if received else 1


@contextmanager
def _process(
    arguments: list[str], environ: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A command of ours as a child that ends with this block; its output goes to a file."""
    ours = {
        name: value for name, value in os.environ.items() if not name.startswith("GEX_")
    } | environ
    command = [sys.executable, "-m", "connector", *arguments]
    with log.open("wb") as out:
        child = subprocess.Popen(  # noqa: S603 -- our own command
            command,
            env=ours,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait_ready(url: str, worker: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            _get(url)
        except OSError:  # HTTPError and URLError are
            if worker.poll() is not None or time.monotonic() > deadline:
                raise KafkaUnavailable(
                    f"the connector did not become ready:\n{log.read_text()[-2000:]}"
                ) from None
            time.sleep(0.05)
        else:
            return


def _get(url: str) -> dict[str, Any]:
    with urlopen(url, timeout=_GET_SECONDS) as response:  # noqa: S310 -- an address on this machine
        answer: dict[str, Any] = json.load(response)
        return answer
