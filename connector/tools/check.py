"""`gex-connector check`: try everything a worker will need, and say how to fix it.

The command sends a handful of requests to the upstream. It writes, creates, joins and
fences nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

from connector.config.load import load
from connector.config.proxy import describe_route
from connector.errors import EXIT_CONFIG, ConfigError
from connector.tools.check_kafka import check_kafka, check_registry
from connector.tools.check_listen import check_listen
from connector.tools.check_process import check_process
from connector.tools.check_states import check_states
from connector.tools.check_upstream import check_upstream, requests_per_pass
from connector.tools.report import Report

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

    from connector.config.model import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object with all findings at the end",
    )
    parser.epilog = (
        "exit status: 0 nothing failed, 2 invalid configuration, "
        "3 Kafka or the registry failed, 4 a topic holds a record that ends a worker, "
        "1 any other failure"
    )


def run(options: argparse.Namespace) -> int:
    """Check the setup of the configuration file and the environment."""
    # The report has everything the clients would log.
    logging.disable()
    return check(options.config, os.environ, as_json=options.json)


def check(
    path: Path | None, environ: Mapping[str, str], *, as_json: bool = False
) -> int:
    """Print a finding for everything tried, and return the exit status."""
    report = Report(as_json=as_json)
    try:
        config = load(path, environ)
    except ConfigError as error:
        for fault in error.faults:
            report.fail("configuration", fault, EXIT_CONFIG)
        report.warn("other checks", "not tried: the configuration has errors")
        report.end(requests_sent=0)
        return report.exit_code

    report.secrets = config.secrets()
    symbols = sum(len(feed.symbols) for feed in config.feeds)
    report.ok(
        "configuration",
        f"{len(config.feeds)} feed(s), {symbols} symbol(s); "
        f"{requests_per_pass(config)} request(s) cover all symbols once",
    )

    check_process(config, report)
    asyncio.run(check_listen(config.http, report))
    report.ok("proxy", _routes(config))
    requests = asyncio.run(check_upstream(config, report))
    readable_feeds = check_kafka(config, report)
    is_registry_usable = check_registry(config, report)
    # Without a broker, `check_kafka` has said so.
    if readable_feeds is not None and is_registry_usable:
        check_states(config, readable_feeds, report)
    elif readable_feeds is not None:
        report.warn("states", "not tried, nor were the feeds: no registry")

    report.end(requests)
    return report.exit_code


def _routes(config: Config) -> str:
    """Return the ways of all HTTP requests. Kafka's protocol goes through no proxy."""
    routes = [f"API {describe_route(config.upstream.proxy)}"]
    if config.schema_registry.url is not None:
        routes.append(f"registry {describe_route(config.schema_registry.proxy)}")
    return ", ".join(routes)
