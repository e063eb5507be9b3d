"""Checks that this process may start the threads that it will need."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

from connector.errors import ConfigError

_CGROUPS = Path("/sys/fs/cgroup")


def require_threads(count: int) -> None:
    """Raise ConfigError if this process may not start `count` more threads.

    Containers, services and users have limits. They are found by trying, since there are
    several kinds, and others may use up a part.
    """
    release = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=release.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise _too_few(f"{len(started)} more threads", count) from None
    finally:
        release.set()
        for thread in started:
            thread.join()


def compare_threads(count: int) -> None:
    """Raise ConfigError if a known limit is below `count` threads, whoever uses them."""
    limits = [_limit_of_container(), _limit_of_user()]
    permitted = min((limit for limit in limits if limit is not None), default=None)
    if permitted is not None and permitted < count:
        raise _too_few(f"{permitted} threads", count)


def _limit_of_container() -> int | None:
    """Return the limit of our cgroup (version 2), as a container or service has one."""
    try:
        text = (_CGROUPS / _own_cgroup() / "pids.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _own_cgroup() -> str:
    # A line with "0::/" and the path, the last if there are cgroups of version 1, too.
    return Path("/proc/self/cgroup").read_text().strip().rpartition("0::/")[2]


def _limit_of_user() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    # The system does not apply it to root.
    return None if soft == resource.RLIM_INFINITY or os.geteuid() == 0 else soft


def _too_few(permitted: str, needed: int) -> ConfigError:
    fault = (
        f"a limit permits only {permitted}, but a worker with all shards may need "
        f"{needed}; raise the limit of processes (`pids` of a container, `TasksMax` of "
        "systemd, `ulimit -u`), or configure fewer feeds or a smaller kafka.shards"
    )
    return ConfigError([fault])
