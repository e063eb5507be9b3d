"""Prometheus' own tool checks a worker's metrics."""

from __future__ import annotations

import subprocess
import urllib.request
from typing import TYPE_CHECKING

from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

NO_CHANGES = b'gex_events_total{feed="all",kind="CHANGED"} 0.0'


def test_promtool_finds_no_fault_in_a_workers_metrics(
    kafka: LocalKafka, names: Names
) -> None:
    with (
        start_simulator("--period", "1", "--limit", "0") as simulator,
        start_worker(variables_for(kafka, names, simulator)) as worker,
    ):

        def metrics() -> bytes:
            url = f"{worker.url}/metrics"
            with urllib.request.urlopen(url, timeout=10) as response:
                return bytes(response.read())

        def has_changed() -> bool:
            return NO_CHANGES not in metrics()

        # By then the metrics of requests and events have counted something.
        wait_until(has_changed, "a CHANGED event", worker)
        checked = subprocess.run(
            ["promtool", "check", "metrics"],
            input=metrics(),
            capture_output=True,
            check=False,
        )

    # promtool prints each problem that it finds.
    assert checked.stdout + checked.stderr == b""
    assert checked.returncode == 0
