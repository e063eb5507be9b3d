"""The command-line tools as processes, and topics for them to read."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.conftest import Names
from tests.support import checker
from tests.support.processes import start_worker, variables_for, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from connector.devkit.local_kafka import LocalKafka
    from tests.support.processes import Program

SYMBOLS = ("BTCUSDT", "ETHUSDT")

# For each symbol a SNAPSHOT and several CHANGED, so that there are events to tamper with.
_MIN_EVENTS = 13
_TIMEOUT_SECONDS = 180


def run_tool(*arguments: str, variables: Mapping[str, str]) -> tuple[int, str]:
    """Run a command. Return its exit status and everything it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "connector", *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stdout, done.stdout
    assert variables.get("GEX_UPSTREAM__API_KEY", "no key") not in done.stdout
    return done.returncode, done.stdout


def publish_events(kafka: LocalKafka, simulator: Program) -> dict[str, str]:
    """Let a worker publish events under new names. Return its variables."""
    names = Names("tools-" + os.urandom(4).hex())
    variables = variables_for(kafka, names, simulator, SYMBOLS)

    def has_published() -> bool:
        return len(checker.events(kafka, names.topic_prefix)) >= _MIN_EVENTS

    with start_worker(variables) as worker:
        wait_until(has_published, "events", worker)
        assert worker.terminate() == 0
    return variables
