"""`python -m tests.bench.failover`: how long symbols are dark when a worker or the broker ends.

Two workers, one shard or one for each of several feeds, a real broker and the simulator. All
rows are about all feeds: dark is the time from the signal until the last feed has its first
complete answer; published is the time until an event of each feed has reached a consumer,
and open until the next worker has all shards. A lone worker is started again at once. Session
time-outs below six seconds need a broker that allows them (`group.min.session.timeout.ms`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from connector.devkit.local_kafka import LocalKafka
from tests.bench.failover_scene import (
    BROKER_AWAY_SECONDS,
    BROKER_START_SECONDS,
    SYMBOLS_OF_A_FEED,
    Arrivals,
    Scene,
)
from tests.bench.measure import percentile
from tests.chaos.fleet import KEYS, Fleet
from tests.conftest import Names
from tests.support.processes import start_simulator, variables_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.failover_scene import Recovery, Takeover
    from tests.chaos.fleet import Life
    from tests.support.processes import Program

# For all rows, so that the topics are created once.
NAMES = Names("failover")

# The product's default.
SESSION_SECONDS = 6


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds of each row; of kills by the session time-out in seconds."""

    kills: dict[int, int]
    stops: int
    restarts: int
    broker_deaths: dict[int, int]


# Fewer for long time-outs, since each round waits that long.
FULL = Rounds(
    kills={3: 20, 6: 20, 10: 10, 30: 4},
    stops=20,
    restarts=10,
    broker_deaths={6: 10, 3: 10},
)
# About six minutes in all.
QUICK = Rounds(
    kills={3: 3, 6: 3, 10: 3, 30: 2},
    stops=3,
    restarts=3,
    broker_deaths={6: 2, 3: 2},
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The broker, the simulator, and the feeds: each topic of events with its symbols."""

    kafka: LocalKafka
    simulator: Program
    folder: Path
    topics: dict[str, list[str]]

    @contextmanager
    def scene(
        self, row: str, session_seconds: int = SESSION_SECONDS, workers: int = 2
    ) -> Iterator[Scene]:
        """Start workers of a group of their own, and stop them at the end of the block."""
        variables = variables_for(self.kafka, NAMES, self.simulator) | {
            "GEX_KAFKA__GROUP_ID": row,
            "GEX_KAFKA__CLIENT__SESSION_TIMEOUT_MS": str(1000 * session_seconds),
            "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.1",
        }
        # The feeds are in the file.
        del variables["GEX_SYMBOLS"]
        arguments = ["--config", str(self._config())]
        folder = self.folder / row
        folder.mkdir()
        with Fleet(
            variables, folder, workers, module="connector", arguments=arguments
        ) as fleet:
            yield Scene(self.kafka, self.simulator, fleet, self.topics)
            fleet.end()

    def _config(self) -> Path:
        tables = []
        for topic, symbols in self.topics.items():
            *_, feed, _ = topic.split(".")
            names = ", ".join(f'"{symbol}"' for symbol in symbols)
            tables.append(f'[[feeds]]\nname = "{feed}"\nsymbols = [{names}]\n')
        config = self.folder / "feeds.toml"
        config.write_text("".join(tables))
        return config


def main() -> None:
    options = _options()
    rounds = QUICK if options.quick else FULL
    with surroundings(options.feeds) as around:
        print_first_start(around)
        with Arrivals(around.kafka, list(around.topics)) as arrivals:
            print_header()
            measure_takeovers(around, arrivals, rounds)
            measure_broker_deaths(around, arrivals, rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.failover", description=__doc__
    )
    parser.add_argument(
        "--quick", action="store_true", help="two or three rounds of each: six minutes"
    )
    parser.add_argument(
        "--feeds",
        type=int,
        default=1,
        metavar="N",
        help="shards, each of a feed of its own (default: %(default)s)",
    )
    return parser.parse_args()


@contextmanager
def surroundings(feeds: int) -> Iterator[Surroundings]:
    """Start the broker and the simulator, which end with the block."""
    topics = {}
    for number in range(feeds):
        symbols = [f"S{number:02}X{n}USDT" for n in range(SYMBOLS_OF_A_FEED)]
        topics[f"{NAMES.topic_prefix}.feed{number}.changes"] = symbols
    every_symbol = ",".join(symbol for its in topics.values() for symbol in its)

    # The default would refuse session time-outs below six seconds.
    broker_settings = {"group.min.session.timeout.ms": "1000"}
    refreshes = ("--period", "1", "--jitter", "0.1", "--limit", "0", "--quiet")
    with tempfile.TemporaryDirectory(prefix="gex-failover-") as name:
        folder = Path(name)
        kafka = LocalKafka(folder / "kafka", extra=broker_settings)
        kafka.start(BROKER_START_SECONDS)
        # Already started: only its end is left to the block.
        with kafka, start_simulator(*refreshes, "--symbols", every_symbol) as simulator:
            # The truth log tells by the key which worker asked.
            simulator.ask("/_control/set", {"keys": KEYS})
            yield Surroundings(kafka, simulator, folder, topics)


def measure_takeovers(around: Surroundings, arrivals: Arrivals, rounds: Rounds) -> None:
    """Print a row for each way in which a worker ends."""
    for session_seconds, count in rounds.kills.items():
        title = f"kill -9, session time-out {session_seconds} s"
        with around.scene(f"kill-{session_seconds}", session_seconds) as scene:
            print_row(title, [scene.take_over(arrivals, kill) for _ in range(count)])

    with around.scene("stop") as scene:
        takeovers = [scene.take_over(arrivals, Fleet.stop) for _ in range(rounds.stops)]
    print_row("clean stop", takeovers)

    with around.scene("restart", workers=1) as scene:
        takeovers = [scene.restart(arrivals) for _ in range(rounds.restarts)]
    print_row("kill -9 of a lone worker, restart", takeovers)


def measure_broker_deaths(
    around: Surroundings, arrivals: Arrivals, rounds: Rounds
) -> None:
    """Print a line for each session time-out with which the broker is lost."""
    for session_seconds, count in rounds.broker_deaths.items():
        with around.scene(f"broker-{session_seconds}", session_seconds) as scene:
            recoveries = [scene.lose_broker(arrivals) for _ in range(count)]
        print_recoveries(session_seconds, recoveries)


def kill(_: Fleet, life: Life) -> None:
    life.program.kill()


def print_first_start(around: Surroundings) -> None:
    """Print how long the start takes that creates the topics."""
    with around.scene("first-start") as scene:
        began_at = time.monotonic()
        scene.settle()
        seconds = time.monotonic() - began_at
    print(
        f"first start of two workers, {len(around.topics)} feeds: topics created, "
        f"every shard open and both ready after {seconds:.1f} s"
    )


def print_header() -> None:
    print(
        f"{'':36}{'rounds':>8}{'open p50':>10}{'worst':>8}"
        f"{'dark p50':>10}{'p95':>8}{'worst':>8}{'published p50':>16}{'p95':>8}"
    )


def print_row(title: str, takeovers: Sequence[Takeover]) -> None:
    opened = [takeover.open_seconds for takeover in takeovers]
    dark = [takeover.dark_seconds for takeover in takeovers]
    published = [takeover.published_seconds for takeover in takeovers]
    row = f"{title:36}{len(takeovers):8}{median(opened):10.2f}{max(opened):8.2f}"
    row += f"{median(dark):10.2f}{percentile(dark, 95):8.2f}{max(dark):8.2f}"
    row += f"{median(published):16.2f}{percentile(published, 95):8.2f}"
    print(row, flush=True)


def print_recoveries(session_seconds: int, recoveries: Sequence[Recovery]) -> None:
    events = [recovery.events_seconds for recovery in recoveries]
    starts = [recovery.start_seconds for recovery in recoveries]
    print(
        f"broker killed, back after {BROKER_AWAY_SECONDS} s, "
        f"session time-out {session_seconds} s; ready → events of every feed: "
        f"{len(recoveries)} rounds, p50 {median(events):.1f} s, "
        f"worst {max(events):.1f} s "
        f"(the broker itself took {median(starts):.1f} s)",
        flush=True,
    )


if __name__ == "__main__":
    main()
