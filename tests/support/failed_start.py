"""A program that must not come up, and must name the reason."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from connector.devkit.loopback_ports import LOOPBACK, free_port
from connector.errors import EXIT_KAFKA
from tests.support.processes import start

if TYPE_CHECKING:
    from collections.abc import Mapping

_LONG_START = {"GEX_KAFKA__START_TIMEOUT_SECONDS": "60"}


def log_of_failed_start(
    variables: Mapping[str, str], *reasons: str, command: str = "run"
) -> str:
    """Start a program that Kafka must refuse, and return its log.

    Its last error must have the reasons. The variables limit the start to a few seconds. On
    a slow machine they can be over before Kafka has answered, so the second try has a minute.
    """
    listen = {"GEX_HTTP__LISTEN": f"{LOOPBACK}:{free_port()}"}
    log = ""
    for limit in ({}, _LONG_START):
        settings = {**variables, **listen, **limit}
        with start([sys.executable, "-m", "connector", command], settings) as program:
            assert program.wait() == EXIT_KAFKA, program.log()
            log = program.log()
        failure = _last_failure(log)
        missing = [reason for reason in reasons if reason not in failure]
        if not missing:
            return log
    raise AssertionError(f"the last error does not say {missing}:\n{log}")


def _last_failure(log: str) -> str:
    """Return the last line that is more than information."""
    lines = [line for line in log.splitlines() if '"level": "INFO"' not in line]
    return lines[-1]
