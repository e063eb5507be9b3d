"""`python -m tests.bench.failover`: how long symbols are dark when a worker or the broker ends.

Two workers, one shard or one for each of several feeds, a real broker and the simulator.
Dark is the time from the signal until the other worker has its first complete answer;
published is the time until its first event is committed, and open until it has all
shards. A lone worker is started again at once. Session time-outs below six seconds need
a broker that allows them (`group.min.session.timeout.ms`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from connector.core.model import MICROS
from connector.devkit.local_kafka import LocalKafka
from tests.bench.measure import percentile
from tests.chaos.fleet import KEYS, Fleet
from tests.conftest import Names
from tests.support import checker
from tests.support.processes import start_simulator, variables_for, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from tests.chaos.fleet import Life
    from tests.support.processes import Program

    T = TypeVar("T")

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "HYPEUSDT")
# The product's default.
SESSION_TIMEOUT_SECONDS = 6

# Rounds by session time-out: fewer for long ones, since each round waits that long.
KILLS_BY_SESSION_SECONDS = {3: 20, 6: 20, 10: 10, 30: 4}
STOPS = 20
RESTARTS = 10
BROKER_DEATHS = 10
QUICK_ROUNDS = 3

# Longer than the session time-outs of that measurement: the group gives the shard up.
BROKER_AWAY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Takeover:
    """Seconds from a worker's end to the next one's first answer, first event, and all shards."""

    dark_seconds: float
    published_seconds: float
    open_seconds: float


@dataclass(frozen=True, slots=True)
class Recovery:
    """Seconds that the broker took to start, and then to the first events."""

    start_seconds: float
    events_seconds: float


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer of the upstream: to which key, and when in Unix seconds."""

    key: str
    at: float


class Bench:
    """One worker, or two of one group, with a shard for each feed."""

    def __init__(
        self,
        kafka: LocalKafka,
        simulator: Program,
        fleet: Fleet,
        names: Names,
        feeds: int,
    ) -> None:
        self._kafka = kafka
        self._simulator = simulator
        self._fleet = fleet
        self._names = names
        self._feeds = feeds
        self._cursor = 0

    def settle(self) -> None:
        """Wait until the workers are ready, and every shard is open."""
        self._fleet.tend()
        wait_until(self._is_settled, "the workers are ready, and every shard is open")

    def take_over(self, end: Callable[[Life], None]) -> Takeover:
        """End the worker with more shards, and wait until the other one has them all."""
        self.settle()
        owner, standby = self._owner_and_standby()
        # If there is only one shard, the other worker asks only after it has taken over.
        self._new_answers()
        sequence = self._sequence()
        began_at = time.time()
        end(owner)
        takeover = self._wait_for(standby, began_at, sequence)

        def has_ended() -> bool:
            return not owner.program.running

        # A clean stop may take longer than the takeover.
        wait_until(has_ended, "the owner has ended")
        return takeover

    def restart(self) -> Takeover:
        """Kill the only worker, and start it again at once."""
        self.settle()
        sequence = self._sequence()
        began_at = time.time()
        (owner,) = self._fleet.running()
        owner.program.kill()
        self._new_answers()
        self._fleet.tend()
        (next_life,) = self._fleet.running()
        return self._wait_for(next_life, began_at, sequence)

    def lose_broker(self) -> Recovery:
        """Kill the broker, start it again after a while, and wait for events."""
        self.settle()
        sequence = self._sequence()
        self._kafka.kill()
        time.sleep(BROKER_AWAY_SECONDS)

        began_at = time.time()
        self._kafka.start()
        started_at = time.time()
        # The first events can be those that waited: wait for more than one of each symbol.
        self._wait_for_events_after(sequence + len(SYMBOLS), "events flow")
        published_at = time.time()
        return Recovery(
            start_seconds=started_at - began_at,
            events_seconds=published_at - started_at,
        )

    def _wait_for(self, owner: Life, began_at: float, sequence: int) -> Takeover:
        """Wait until a worker has answers, events and every shard."""

        def answers() -> list[Answered]:
            return self._new_answers_to(KEYS[owner.slot])

        def has_every_shard() -> bool:
            return self._shards(owner) == self._feeds

        first, *_ = wait_until(answers, "the next owner asks")
        self._wait_for_events_after(sequence, "the next owner publishes")
        published_at = time.time()
        wait_until(has_every_shard, "the next owner has every shard")
        return Takeover(
            dark_seconds=first.at - began_at,
            published_seconds=published_at - began_at,
            open_seconds=time.time() - began_at,
        )

    def _is_settled(self) -> bool:
        return self._fleet.ready() and self._fleet.shards_owned() == self._feeds

    def _owner_and_standby(self) -> tuple[Life, Life]:
        one, other = self._fleet.running()
        if self._shards(one) > self._shards(other):
            return one, other
        return other, one

    def _shards(self, life: Life) -> int:
        return life.program.metric("gex_shards_owned")

    def _wait_for_events_after(self, sequence: int, description: str) -> None:
        def has_grown() -> bool:
            return self._sequence() > sequence

        wait_until(has_grown, description)

    def _new_answers_to(self, key: str) -> list[Answered]:
        return [answer for answer in self._new_answers() if answer.key == key]

    def _new_answers(self) -> list[Answered]:
        """Return the upstream's complete answers since the last call."""
        page = self._simulator.ask(f"/_control/truth?since={self._cursor}")
        self._cursor = page["cursor"]
        found = []
        for answer in page["answers"]:
            if answer["status"] != 200:
                continue
            at = answer["answered_at"] / MICROS
            found.append(Answered(answer["key"], at))
        return found

    def _sequence(self) -> int:
        """Return the number of events of all symbols."""
        states = checker.states(self._kafka, self._names.topic_prefix)
        return sum(state.sequence for state in states.values())


def main() -> None:
    options = _options()
    feeds = options.feeds

    def limited(rounds: int) -> int:
        return QUICK_ROUNDS if options.quick else rounds

    print_header()
    for session_seconds, kills in KILLS_BY_SESSION_SECONDS.items():
        if feeds > 1 and session_seconds != SESSION_TIMEOUT_SECONDS:
            continue
        measure = partial(take_overs, kill, limited(kills))
        takeovers = with_bench(session_seconds, measure, feeds=feeds)
        print_row(f"kill -9, session time-out {session_seconds} s", takeovers, feeds)

    measure = partial(take_overs, stop, limited(STOPS))
    takeovers = with_bench(SESSION_TIMEOUT_SECONDS, measure, feeds=feeds)
    print_row("clean stop", takeovers, feeds)

    measure = partial(restarts, limited(RESTARTS))
    takeovers = with_bench(SESSION_TIMEOUT_SECONDS, measure, feeds=feeds, workers=1)
    print_row("kill -9 of a lone worker, restart", takeovers, feeds)

    if feeds > 1:
        return
    for session_seconds in (6, 3):
        lose_broker = partial(broker_deaths, limited(BROKER_DEATHS))
        recoveries = with_bench(session_seconds, lose_broker)
        print_recoveries(session_seconds, recoveries)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.failover", description=__doc__
    )
    parser.add_argument("--quick", action="store_true", help="three rounds of each")
    parser.add_argument(
        "--feeds",
        type=int,
        default=1,
        metavar="N",
        help="shards, each of a feed of its own; with several, only take-overs",
    )
    return parser.parse_args()


def kill(life: Life) -> None:
    life.program.kill()


def stop(life: Life) -> None:
    life.program.terminate()


def take_overs(
    end: Callable[[Life], None], rounds: int, bench: Bench
) -> list[Takeover]:
    return [bench.take_over(end) for _ in range(rounds)]


def restarts(rounds: int, bench: Bench) -> list[Takeover]:
    return [bench.restart() for _ in range(rounds)]


def broker_deaths(rounds: int, bench: Bench) -> list[Recovery]:
    return [bench.lose_broker() for _ in range(rounds)]


def with_bench(
    session_seconds: int,
    measure: Callable[[Bench], T],
    *,
    feeds: int = 1,
    workers: int = 2,
) -> T:
    """Return the result of `measure` with a broker, a simulator and workers of its own."""
    names = Names(f"failover{session_seconds}")
    # The default would refuse session time-outs below six seconds.
    broker_settings = {"group.min.session.timeout.ms": "1000"}
    refreshes = ("--period", "1", "--jitter", "0.1", "--limit", "0")
    with (
        tempfile.TemporaryDirectory(prefix="gex-failover-") as folder,
        LocalKafka(Path(folder) / "kafka", extra=broker_settings) as kafka,
        start_simulator(*refreshes, "--symbols", ",".join(SYMBOLS)) as simulator,
    ):
        # The truth log tells by the key which worker asked.
        simulator.ask("/_control/set", {"keys": KEYS})
        config = Path(folder) / "feeds.toml"
        config.write_text("".join(_feed(number) for number in range(feeds)))
        variables = variables_for(kafka, names, simulator) | {
            "GEX_KAFKA__CLIENT__SESSION_TIMEOUT_MS": str(1000 * session_seconds),
            "GEX_SCHEDULE__TARGET_DELAY_SECONDS": "0.1",
        }
        del variables["GEX_SYMBOLS"]
        arguments = ["--config", str(config)]
        with Fleet(
            variables, Path(folder), workers, module="connector", arguments=arguments
        ) as fleet:
            return measure(Bench(kafka, simulator, fleet, names, feeds))


def _feed(number: int) -> str:
    """Return the table of a feed. The first one is called as a feed of variables is."""
    name = f"feed{number}" if number else "all"
    symbols = ", ".join(f'"{symbol}"' for symbol in SYMBOLS)
    return f'[[feeds]]\nname = "{name}"\nsymbols = [{symbols}]\n'


def print_header() -> None:
    print(
        f"{'':44}{'rounds':>8}{'open p50':>10}{'worst':>8}"
        f"{'dark p50':>10}{'p95':>8}{'worst':>8}{'published p50':>16}{'p95':>8}"
    )


def print_row(title: str, takeovers: Sequence[Takeover], feeds: int) -> None:
    opened = [takeover.open_seconds for takeover in takeovers]
    row = f"{title:44}{len(takeovers):8}{median(opened):10.2f}{max(opened):8.2f}"
    # With several shards, the other worker has half of them, and asks all the time.
    if feeds == 1:
        dark = [takeover.dark_seconds for takeover in takeovers]
        published = [takeover.published_seconds for takeover in takeovers]
        row += f"{median(dark):10.2f}{percentile(dark, 95):8.2f}{max(dark):8.2f}"
        row += f"{median(published):16.2f}{percentile(published, 95):8.2f}"
    print(row, flush=True)


def print_recoveries(session_seconds: int, recoveries: Sequence[Recovery]) -> None:
    events = [recovery.events_seconds for recovery in recoveries]
    starts = [recovery.start_seconds for recovery in recoveries]
    print(
        f"broker killed, back after {BROKER_AWAY_SECONDS} s, "
        f"session time-out {session_seconds} s; ready → events: "
        f"{len(recoveries)} rounds, p50 {median(events):.1f} s, "
        f"worst {max(events):.1f} s "
        f"(the broker itself took {median(starts):.1f} s)"
    )


if __name__ == "__main__":
    main()
