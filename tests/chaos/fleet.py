"""The workers of a run: started again when they end, and remembered with their logs.

Each slot has an API key of its own, so that the upstream's truth log tells which worker saw
an answer.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

from connector.devkit.loopback_ports import LOOPBACK, free_port
from tests.support.processes import Program, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SLOTS = 5
KEYS = tuple("bq_live_" + f"chaos{slot}".ljust(32, "0") for slot in range(SLOTS))
# A stop ends with 0, and a kill by its signal.
ENDED_AS_ASKED = (0, -signal.SIGKILL)


@dataclass(slots=True)
class Life:
    """A process of a slot.

    Moments are Unix seconds of the machine, whatever the worker's own clock is set to.
    `frozen` holds when the process or its event loop was frozen, and when it was woken.
    `clock_ahead` holds when its clock was set further ahead than brokers accept, and when
    it was set right again. `is_stuck` is True while its event loop is frozen, but not the process.
    """

    slot: int
    program: Program
    log: IO[bytes]
    started_at: float
    stopping_at: float | None = None
    ended_at: float | None = None
    status: int | None = None
    frozen: list[tuple[float, float]] = field(default_factory=list)
    clock_ahead: list[tuple[float, float]] = field(default_factory=list)
    is_stuck: bool = False

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of its log, without output that is no JSON."""
        for line in self.program.lines():
            if line.startswith("{"):
                yield json.loads(line)


class Fleet:
    """Workers in slots 0 to `wanted` - 1, each `python -m module run`, with `arguments`."""

    def __init__(
        self,
        variables: Mapping[str, str],
        folder: Path,
        wanted: int,
        module: str = "tests.chaos.armed",
        arguments: Sequence[str] = (),
    ) -> None:
        self.wanted = wanted
        self.lives: list[Life] = []
        self._command = [sys.executable, "-m", module, "run", *arguments]
        self._variables = dict(variables)
        self._folder = folder
        self._now: list[Life | None] = [None] * SLOTS
        self._files = ExitStack()

    def tend(self) -> None:
        """Note which workers have ended, start those that are missing, stop those in excess."""
        for slot, life in enumerate(self._now):
            if life is not None and not life.program.running:
                life.ended_at = time.time()
                life.status = life.program.wait()
                self._now[slot] = None
            # A worker that ends, for whatever reason, is replaced as a supervisor would.
            if self._now[slot] is None and slot < self.wanted:
                self._start(slot)
            elif life is not None and slot >= self.wanted:
                self.stop(life)

    def running(self) -> list[Life]:
        """Return the processes that run and were not asked to stop."""
        found = []
        for life in self._now:
            if life is None or life.stopping_at is not None:
                continue
            if life.program.running:
                found.append(life)
        return found

    def stop(self, life: Life) -> None:
        """Send SIGTERM, once."""
        if life.stopping_at is None:
            life.stopping_at = time.time()
            life.program.signal(signal.SIGTERM)

    def order(self, life: Life, name: str, text: str) -> None:
        """Leave an order for `tests.chaos.armed`."""
        orders = self._orders(life.slot)
        partial = orders / "partial"
        partial.write_text(text)
        # Rename, so that the worker reads all of it or nothing.
        partial.rename(orders / name)

    def is_ordered(self, life: Life) -> bool:
        """Return whether an order for a point is not carried out yet."""
        return (self._orders(life.slot) / "point").exists()

    def withdraw(self, life: Life, name: str = "point") -> None:
        """Take back an order, by default the one for a point if it is not carried out.

        Orders for a process that has ended are gone already.
        """
        if life.ended_at is None:
            (self._orders(life.slot) / name).unlink(missing_ok=True)

    def ready(self) -> bool:
        """Return whether as many workers as are wanted run and are ready."""
        running = self.running()
        if len(running) != self.wanted:
            return False
        # A page of a worker that was just killed does not answer: it is not ready.
        return all(life.program.ready() for life in running)

    def shards_owned(self) -> int:
        """Return the sum of the shards that the running workers' metrics show."""
        owned = [life.program.metric("gex_shards_owned") for life in self.running()]
        return sum(owned)

    def end(self) -> None:
        """Stop all workers, and wait for them."""
        self.wanted = 0
        self.tend()
        wait_until(self._has_ended, "all workers stop")
        self.tend()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Frozen workers, too: SIGKILL ends them without waking them.
        for life in self._now:
            if life is not None:
                life.program.kill()
        self._files.close()

    def _has_ended(self) -> bool:
        return not any(life and life.program.running for life in self._now)

    def _start(self, slot: int) -> None:
        orders = self._orders(slot)
        orders.mkdir(parents=True, exist_ok=True)
        # Orders were for the process before.
        for order in orders.iterdir():
            order.unlink()
        listen = f"{LOOPBACK}:{free_port()}"
        variables = {
            **self._variables,
            "GEX_HTTP__LISTEN": listen,
            "GEX_UPSTREAM__API_KEY": KEYS[slot],
            "CHAOS_ORDERS": str(orders),
        }
        # A file for each process: the judge tells them apart.
        path = self._folder / f"worker-{len(self.lives)}-slot-{slot}.log"
        log = self._files.enter_context(path.open("w+b"))
        program = Program(self._command, variables, log, f"http://{listen}")
        life = Life(slot, program, log, time.time())
        self.lives.append(life)
        self._now[slot] = life

    def _orders(self, slot: int) -> Path:
        return self._folder / f"orders-{slot}"


def is_frozen(life: Life) -> bool:
    """Return whether a signal has stopped the process (Linux)."""
    try:
        stat = Path(f"/proc/{life.program.pid}/stat").read_text()
    except FileNotFoundError:
        return False
    # The command's name, in parentheses, can hold spaces; the state follows it.
    _, _, fields = stat.rpartition(")")
    return fields.split()[0] == "T"
