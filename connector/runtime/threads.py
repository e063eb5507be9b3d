"""Checks that this process may start the threads that it will need."""

from __future__ import annotations

import threading

from connector.errors import ConfigError


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
        fault = (
            f"a limit permits only {len(started)} more threads, but a worker with all "
            f"shards may need {count}; raise the limit of processes (`pids` of a "
            "container, `TasksMax` of systemd, `ulimit -u`), or configure fewer feeds "
            "or a smaller kafka.shards"
        )
        raise ConfigError([fault]) from None
    finally:
        release.set()
        for thread in started:
            thread.join()
