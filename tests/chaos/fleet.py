"""The workers of a run: started again when they end, and remembered with what they said.

Each slot asks the upstream with a key of its own, so that its truth log says who was shown what.
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

from connector.devkit.java import LOOPBACK, free_port
from tests.support.processes import Program, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SLOTS = 5
KEYS = tuple("bq_live_" + f"chaos{slot}".ljust(32, "0") for slot in range(SLOTS))
ENDED_AS_ASKED = (0, -signal.SIGKILL)


@dataclass(slots=True)
class Life:
    """One process of a slot. Moments are Unix seconds of the machine, whatever clock the worker believes in."""

    slot: int
    program: Program
    log: IO[bytes]
    started_at: float
    stopping_at: float | None = None
    ended_at: float | None = None
    status: int | None = None
    frozen: list[tuple[float, float]] = field(default_factory=list)

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it logged, line by line."""
        for line in self.program.log().splitlines():
            if line.startswith("{"):
                yield json.loads(line)


class Fleet:
    """Slots from 0; `wanted` of them have a worker, `python -m module run`."""

    def __init__(
        self,
        variables: Mapping[str, str],
        folder: Path,
        wanted: int,
        module: str = "tests.chaos.armed",
    ) -> None:
        self._module = module
        self.wanted = wanted
        self.lives: list[Life] = []
        self._variables = dict(variables)
        self._folder = folder
        self._now: list[Life | None] = [None] * SLOTS
        self._files = ExitStack()

    def tend(self) -> None:
        """Start what is wanted and does not run, stop what runs and is not wanted, note what has ended."""
        for slot, life in enumerate(self._now):
            if life is not None and not life.program.running:
                life.ended_at, life.status = time.time(), life.program.wait()
                self._now[slot] = None
            if self._now[slot] is None and slot < self.wanted:
                self._start(slot)
            elif life is not None and slot >= self.wanted:
                self.stop(life)

    def running(self) -> list[Life]:
        """Those that are not about to stop."""
        return [
            life
            for life in self._now
            if life is not None and life.stopping_at is None and life.program.running
        ]

    def stop(self, life: Life) -> None:
        """SIGTERM, once."""
        if life.stopping_at is None:
            life.stopping_at = time.time()
            life.program.signal(signal.SIGTERM)

    def order(self, life: Life, name: str, text: str) -> None:
        """Leave an order for `tests.chaos.armed`."""
        partial = self._orders(life.slot) / "partial"
        partial.write_text(text)
        partial.rename(self._orders(life.slot) / name)

    def is_ordered(self, life: Life) -> bool:
        """Whether something is still to be carried out."""
        return (self._orders(life.slot) / "point").exists()

    def withdraw(self, life: Life) -> None:
        """Take back what was not carried out."""
        (self._orders(life.slot) / "point").unlink(missing_ok=True)

    def ready(self) -> bool:
        """Whether as many as are wanted run and say so."""
        running = self.running()
        return len(running) == self.wanted and all(
            life.program.ready() for life in running
        )

    def shards_owned(self) -> int:
        """By all that run, as their metrics say."""
        return sum(life.program.metric("gex_shards_owned") for life in self.running())

    def end(self) -> None:
        """Stop all and wait."""
        self.wanted = 0
        self.tend()
        wait_until(
            lambda: not any(life and life.program.running for life in self._now),
            "all workers stop",
        )
        self.tend()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for life in self._now:
            if life is not None:
                life.program.kill()
        self._files.close()

    def _start(self, slot: int) -> None:
        listen = f"{LOOPBACK}:{free_port()}"
        orders = self._orders(slot)
        orders.mkdir(parents=True, exist_ok=True)
        for order in orders.iterdir():
            order.unlink()
        variables = {
            **self._variables,
            "GEX_HTTP__LISTEN": listen,
            "GEX_UPSTREAM__API_KEY": KEYS[slot],
            "CHAOS_ORDERS": str(orders),
        }
        log = self._files.enter_context(
            (self._folder / f"worker-{len(self.lives)}-slot-{slot}.log").open("w+b")
        )
        command = [sys.executable, "-m", self._module, "run"]
        life = Life(
            slot, Program(command, variables, log, f"http://{listen}"), log, time.time()
        )
        self.lives.append(life)
        self._now[slot] = life

    def _orders(self, slot: int) -> Path:
        return self._folder / f"orders-{slot}"


def is_frozen(life: Life) -> bool:
    """Whether the process is stopped by a signal (Linux)."""
    try:
        stat = Path(f"/proc/{life.program.pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] == "T"
