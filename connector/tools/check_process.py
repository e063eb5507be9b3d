"""Check of `gex-connector check` that a worker may have the threads and files it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.errors import EXIT_CONFIG, ConfigError
from connector.runtime.process_limits import compare_process_limits

if TYPE_CHECKING:
    from connector.config.model import Config
    from connector.tools.report import Report


def check_process(config: Config, report: Report) -> None:
    """Compare the limits of this process with the needs of a worker with all shards."""
    try:
        compare_process_limits(config)
    except ConfigError as error:
        for fault in error.faults:
            report.fail("process", fault, EXIT_CONFIG)
    else:
        report.ok("process", "threads and open files suffice for all shards")
