"""Checks that this process may start the threads that it will need."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path
from typing import Final, NamedTuple

from connector.errors import ConfigError

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")

# Python's text.
_NO_THREAD: Final = "can't start new thread"
_REMEDY: Final = (
    "raise the limit of processes (`pids` of a container, `TasksMax` of systemd, "
    "`ulimit -u`), or configure fewer feeds or a smaller kafka.shards"
)


class _Limit(NamedTuple):
    """A number of threads, and where it is set."""

    threads: int
    name: str


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
    limit = _smallest_limit()
    if limit is not None and limit.threads < count:
        raise _too_few(f"{limit.threads} threads ({limit.name})", count)


def thread_fault(error: BaseException) -> str | None:
    """Return limit and remedy if an error says that no thread can be started.

    A group of errors counts if each of them says so.
    """
    if isinstance(error, BaseExceptionGroup):
        faults = [thread_fault(one) for one in error.exceptions]
        return faults[0] if all(faults) else None
    if not isinstance(error, RuntimeError) or _NO_THREAD not in str(error):
        return None
    limit = _smallest_limit()
    if limit is None:
        permitted = "a limit of threads is reached"
    else:
        permitted = f"a limit of threads is reached ({limit.name} is {limit.threads})"
    return f"{_NO_THREAD}: {permitted}; {_REMEDY}"


def _smallest_limit() -> _Limit | None:
    limits = [*_limits_of_cgroups(), *_limits_of_user()]
    return min(limits, key=lambda limit: limit.threads, default=None)


def _limits_of_user() -> list[_Limit]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    # The system does not apply it to root.
    if soft == resource.RLIM_INFINITY or os.geteuid() == 0:
        return []
    return [_Limit(soft, "`ulimit -u`")]


def _limits_of_cgroups() -> list[_Limit]:
    """Return the limits of our cgroups and those above, as containers and services have.

    Both versions are read: https://docs.kernel.org/admin-guide/cgroup-v2.html (PID) and
    https://docs.kernel.org/admin-guide/cgroup-v1/pids.html.
    """
    try:
        lines = _OWN_CGROUPS.read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder = _CGROUPS
        elif "pids" in controllers.split(","):
            folder = _CGROUPS / "pids"
        else:
            continue
        # A container may see the path of its host, but its own cgroup at the root.
        for part in ("", *path.strip("/").split("/")):
            folder /= part
            limits += _limit_in(folder / "pids.max")
    return limits


def _limit_in(file: Path) -> list[_Limit]:
    try:
        text = file.read_text().strip()
    except OSError:
        return []
    # Without a limit it says "max".
    return [_Limit(int(text), str(file))] if text.isdecimal() else []


def _too_few(permitted: str, needed: int) -> ConfigError:
    fault = (
        f"a limit permits only {permitted}, but a worker with all shards may need "
        f"{needed}; {_REMEDY}"
    )
    return ConfigError([fault])
