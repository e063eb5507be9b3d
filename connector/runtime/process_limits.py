"""Checks that the limits of this process permit all that a worker needs."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING, Final

from connector.errors import ConfigError
from connector.runtime.threads import compare_threads, require_threads

if TYPE_CHECKING:
    from connector.config.model import Config

# For the start-up, the status page, the reader's callbacks, and the watches over outages,
# credentials, orphaned feeds, topics, open transactions, the group and our clock, none of which
# must wait for a hanging shard.
EXTRA_THREADS: Final = 10

# librdkafka has a thread for each broker of a client, and three more.
_THREADS_OF_A_CLIENT: Final = 3
# Each shard has one more.
_CLIENTS: Final = {
    "group": 1,
    "reader": 2,
    "quarantine": 1,
    "probe": 1,
    "watch over topics": 1,
    "comparison with the brokers' clock": 2,
    "trial of new credentials": 1,
    "removal of orphaned symbols": 1,
    "levels of other workers": 1,
    "members of the group, in a child process": 1,
}
# Those that run the group and read the levels of others, and the child process.
_SINGLE_THREADS: Final = 3

# Measured with one broker: 58 files with one shard, 114 with eight. More brokers take more.
_FILES_OF_A_SHARD: Final = 8
# With some for the readers of metrics and status.
_OTHER_FILES: Final = 60


def require_process_limits(config: Config) -> None:
    """Raise ConfigError if a limit permits too few threads or open files for all shards.

    Without a thread, librdkafka ends the process by an assertion that names no remedy, and so
    does the next worker that takes over its shards. Without a file, a worker can neither
    connect to anything nor be asked why.
    """
    shards = config.kafka.shards * len(config.feeds)
    _require_open_files(shards * _FILES_OF_A_SHARD + _OTHER_FILES)
    require_threads(_needed_threads(config, shards))


def compare_process_limits(config: Config) -> None:
    """Do the same, but start no threads: a worker may run beside us, under the same limit."""
    shards = config.kafka.shards * len(config.feeds)
    _require_open_files(shards * _FILES_OF_A_SHARD + _OTHER_FILES)
    compare_threads(_needed_threads(config, shards))


def _needed_threads(config: Config, shards: int) -> int:
    """Return the threads of a worker with all shards. There may be further brokers."""
    brokers = len(config.kafka.bootstrap_servers.split(","))
    clients = shards + sum(_CLIENTS.values())
    blocking_calls = shards + EXTRA_THREADS
    # asyncio's own, for `/metrics` and names of hosts.
    default_executor = min(32, (os.cpu_count() or 1) + 4)
    return (
        clients * (brokers + _THREADS_OF_A_CLIENT)
        + blocking_calls
        + default_executor
        + _SINGLE_THREADS
    )


def _require_open_files(count: int) -> None:
    # The command has raised the soft limit to the hard one.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard >= count:
        return
    fault = (
        f"a limit permits only {hard} open files, but a worker with all shards may need "
        f"{count}; raise the limit (`nofile` of a container, `LimitNOFILE` of systemd, "
        "`ulimit -n`), or configure fewer feeds or a smaller kafka.shards"
    )
    raise ConfigError([fault])
