"""How long symbols are dark when a worker dies or leaves, or the broker dies: `python -m tests.bench.failover`.

Two workers and one shard, a real broker and the simulator. Dark: from the signal until an answer to the other worker
is complete; published: until its first event is committed. Session time-outs below six seconds need a broker that
allows them (`group.min.session.timeout.ms`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from connector.devkit.local_kafka import LocalKafka
from tests.bench.measure import percentile
from tests.chaos.fleet import KEYS, Fleet
from tests.conftest import Names
from tests.support import checker
from tests.support.processes import start_simulator, variables_for, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chaos.fleet import Life
    from tests.support.processes import Program

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "HYPEUSDT")
MICROS = 1_000_000
ROUNDS = {3: 20, 6: 20, 10: 10, 30: 4}
"""Session time-out in seconds: how many kills."""

STOPS = 20
BROKER_DEATHS = 10


class Bench:
    """Two workers of one group; one of them owns the shard."""

    def __init__(
        self, kafka: LocalKafka, simulator: Program, fleet: Fleet, names: Names
    ) -> None:
        self._kafka, self._simulator, self._fleet, self._names = (
            kafka,
            simulator,
            fleet,
            names,
        )
        self._cursor = 0

    def settle(self) -> tuple[Life, Life]:
        """The owner and the standby, once both are ready and the owner has asked since."""
        self._fleet.tend()
        wait_until(self._fleet.ready, "both are ready")
        self._answers()
        keys = wait_until(lambda: {key for key, _ in self._answers()}, "somebody asks")
        running = self._fleet.running()
        owner = next(life for life in running if KEYS[life.slot] in keys)
        return owner, next(life for life in running if life is not owner)

    def dark_and_published(self, end: Callable[[Life], None]) -> tuple[float, float]:
        """Seconds from the owner's end to the other's first answer, and to its first event."""
        owner, other = self.settle()
        before = self._sequence()
        began = time.time()
        end(owner)
        seen = wait_until(
            lambda: [at for key, at in self._answers() if key == KEYS[other.slot]],
            "the other asks",
        )
        wait_until(lambda: self._sequence() > before, "the other publishes")
        published = time.time()
        wait_until(lambda: not owner.program.running, "the first has ended")
        return seen[0] - began, published - began

    def broker_back(self) -> tuple[float, float]:
        """Seconds from the broker's return to the first event, after it was dead for ten."""
        self.settle()
        before = self._sequence()
        self._kafka.kill()
        time.sleep(10)
        began = time.time()
        self._kafka.start()
        back = time.time()
        wait_until(lambda: self._sequence() > before + len(SYMBOLS), "events flow")
        return time.time() - back, back - began

    def _answers(self) -> list[tuple[str, float]]:
        page = self._simulator.ask(f"/_control/truth?since={self._cursor}")
        self._cursor = page["cursor"]
        return [
            (one["key"], one["answered_at"] / MICROS)
            for one in page["answers"]
            if one["status"] == 200
        ]

    def _sequence(self) -> int:
        return sum(
            state.sequence
            for state in checker.states(self._kafka, self._names.topic_prefix).values()
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.failover", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="three rounds of each")
    quick = parser.parse_args().quick
    print(
        f"{'':44}{'rounds':>8}{'dark p50':>10}{'p95':>8}{'worst':>8}{'published p50':>16}{'p95':>8}"
    )
    for seconds, rounds in ROUNDS.items():
        took = _with(seconds, partial(_ended_by, _kill, 3 if quick else rounds))
        _row(f"kill -9, session time-out {seconds} s", took)
    _row("clean stop", _with(6, partial(_ended_by, _stop, 3 if quick else STOPS)))
    deaths = 3 if quick else BROKER_DEATHS
    for seconds in (6, 3):
        took = _with(
            seconds, lambda bench: [bench.broker_back() for _ in range(deaths)]
        )
        back = [first for first, _ in took]
        print(
            f"broker killed, back after 10 s, session time-out {seconds} s; ready → events: {len(back)} rounds, "
            f"p50 {median(back):.1f} s, worst {max(back):.1f} s "
            f"(the broker itself took {median(start for _, start in took):.1f} s)"
        )


def _ended_by(
    end: Callable[[Life], None], rounds: int, bench: Bench
) -> list[tuple[float, float]]:
    return [bench.dark_and_published(end) for _ in range(rounds)]


def _with(
    session_seconds: int, measure: Callable[[Bench], list[tuple[float, float]]]
) -> list[tuple[float, float]]:
    names = Names(f"failover{session_seconds}")
    with (
        tempfile.TemporaryDirectory(prefix="gex-failover-") as folder,
        LocalKafka(
            Path(folder) / "kafka", extra={"group.min.session.timeout.ms": "1000"}
        ) as kafka,
        start_simulator(
            "--period",
            "1",
            "--jitter",
            "0.1",
            "--limit",
            "0",
            "--symbols",
            ",".join(SYMBOLS),
        ) as simulator,
    ):
        simulator.ask("/_control/set", {"keys": KEYS})
        variables = variables_for(kafka, names, simulator, SYMBOLS) | {
            "GEX_KAFKA__CLIENT__SESSION_TIMEOUT_MS": str(1000 * session_seconds),
            "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.1",
        }
        with Fleet(variables, Path(folder), 2, module="connector") as fleet:
            return measure(Bench(kafka, simulator, fleet, names))


def _kill(life: Life) -> None:
    life.program.kill()


def _stop(life: Life) -> None:
    life.program.terminate()


def _row(what: str, took: list[tuple[float, float]]) -> None:
    dark, published = [first for first, _ in took], [second for _, second in took]
    print(
        f"{what:44}{len(took):8}{median(dark):10.2f}{percentile(dark, 95):8.2f}{max(dark):8.2f}"
        f"{median(published):16.2f}{percentile(published, 95):8.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
