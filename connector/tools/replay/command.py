"""`gex-connector replay`: publish past events again, to topics of their own."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from connector.config.load import load_kafka
from connector.config.secrets import printable
from connector.core.model import MICROS
from connector.errors import ConnectorError, TimeRefused, UsageError
from connector.kafka.avro import Codec
from connector.kafka.framing import framing_of, prepare_framing
from connector.tools.period import (
    Period,
    add_period_arguments,
    iso,
    period_of,
)
from connector.tools.reading import open_reader
from connector.tools.replay.pace import MAX, Pace, Player, parse_speed
from connector.tools.replay.plan import plan_of
from connector.tools.replay.publisher import ReplayPublisher
from connector.tools.replay.source import FileSource, KafkaSource
from connector.tools.replay.target import (
    prepare_target,
    require_empty,
    topics_of_replay,
)
from connector.tools.selection import selected_symbols

if TYPE_CHECKING:
    import argparse

    from connector.config.model import Kafka
    from connector.kafka.names import Topics
    from connector.tools.reading import ReaderContext
    from connector.tools.replay.plan import Plan
    from connector.tools.replay.source import Source

# There was nothing to replay.
EXIT_NOTHING: Final = 1

_REPORT_SECONDS: Final = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of the command."""
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        help="events as `history --json` prints them, also compressed by gzip; without "
        "it, those of a period are read from Kafka",
    )
    parser.add_argument(
        "--to",
        required=True,
        metavar="PREFIX",
        help="start of the names of the topics to write to; not kafka.topic_prefix",
    )
    add_period_arguments(parser, default_since=None)
    parser.add_argument("--feed", help="replay this feed only")
    parser.add_argument(
        "--symbol",
        action="append",
        default=[],
        help="replay this symbol only; repeatable",
    )
    parser.add_argument(
        "--speed",
        default="1",
        metavar="N",
        help=f"60: an hour takes a minute; {MAX}: without pauses (default: %(default)s)",
    )
    parser.add_argument(
        "--shift",
        action="store_true",
        help="move all moments into the present, so that levels are not years old",
    )
    parser.add_argument(
        "--delay",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="wait after creating the topics, so that consumers can be started",
    )


class _Clock:
    """The time of the system at the start, continued by a clock that is never set."""

    def __init__(self) -> None:
        self._offset = time.time_ns() - time.monotonic_ns()

    def now(self) -> int:
        return (time.monotonic_ns() + self._offset) // 1000

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def run(options: argparse.Namespace) -> int:
    """Replay the events. Raises UsageError, ConfigError and KafkaError."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    speed = _speed_of(options)
    kafka, registry = load_kafka(options.config, os.environ)
    topics = topics_of_replay(options.to, kafka.topic_prefix)
    reader = open_reader(options.config, os.environ)
    require_empty(reader.clients, topics)

    source = _source_of(options, kafka, reader)
    plan = plan_of(source.events())
    if plan is None:
        _say("no events to replay: see --since, --until, --feed and --symbol")
        return EXIT_NOTHING

    sizes = source.sizes(plan.symbols)
    prepare_target(reader.clients, topics, kafka, sizes)
    framing = framing_of(registry)
    prepare_framing(framing, topics, plan.symbols)
    publisher = ReplayPublisher(reader.clients, topics, Codec(framing), sizes)
    replay = _Replay(plan, topics, publisher, speed, options)
    try:
        replay.open()
        replay.play(source)
    except TimeRefused as error:
        raise UsageError(
            f"{error}; the brokers refuse records of the past: use --shift"
        ) from None
    finally:
        publisher.close()
    return 0


def _speed_of(options: argparse.Namespace) -> float:
    speed = parse_speed(options.speed)
    if options.shift and math.isinf(speed):
        raise UsageError(
            f"replay: --shift needs a speed: with {MAX}, all events would have the same "
            "moment"
        )
    if not 0 <= options.delay < math.inf:
        raise UsageError(f"replay: --delay {options.delay}, expected 0 or more")
    return speed


def _source_of(
    options: argparse.Namespace, kafka: Kafka, reader: ReaderContext
) -> Source:
    symbols = selected_symbols(options.symbol)
    if options.file is None and options.since is None:
        raise UsageError("replay: expected FILE, or --since for events in Kafka")
    if options.file is None:
        period = period_of(options, "replay")
        log = reader.log(options.feed)
        return KafkaSource(log, reader, symbols=symbols, period=period)

    part: Period | None = None
    if options.since is not None or options.until is not None:
        # Of a file, all is replayed by default.
        options.since = options.since or "1970-01-01"
        part = period_of(options, "replay")
    return FileSource(
        options.file, kafka, feed=options.feed, symbols=symbols, period=part
    )


class _Replay:
    """A replay that has been planned. Its topics exist."""

    def __init__(
        self,
        plan: Plan,
        topics: Topics,
        publisher: ReplayPublisher,
        speed: float,
        options: argparse.Namespace,
    ) -> None:
        self._plan = plan
        self._topics = topics
        self._publisher = publisher
        self._speed = speed
        self._moves = options.shift
        self._delay = round(options.delay * MICROS)
        self._clock = _Clock()
        self._reported_at = 0

    def open(self) -> None:
        """Publish the states before the first events, and say what will follow."""
        plan = self._plan
        states = plan.states
        if self._moves:
            pace = Pace(plan.first_at, self._clock.now(), self._speed)
            states = tuple(pace.moved_state(state) for state in states)
        self._publisher.open(plan, states)

        symbols = sum(len(names) for names in plan.symbols.values())
        seconds = (plan.last_at - plan.first_at) / MICROS / self._speed
        takes = "without pauses"
        if self._speed < math.inf:
            takes = f"at speed {self._speed:g}: about {seconds:,.0f} s"
        names = ", ".join(self._topics.changes(feed) for feed in plan.symbols)
        _say(
            f"replaying {plan.events:,} events of {symbols} symbols, "
            f"{iso(plan.first_at)} to {iso(plan.last_at)}, to {names}, {takes}"
        )

    def play(self, source: Source) -> None:
        """Publish the events, and say how that went."""
        began_at = self._clock.now()
        self._reported_at = began_at
        pace = Pace(self._plan.first_at, began_at + self._delay, self._speed)
        player = Player(
            self._publisher,
            pace,
            self._clock,
            moves=self._moves,
            on_progress=self._report,
        )
        try:
            player.play(source.events())
        except (KeyboardInterrupt, ConnectorError):
            _say(f"stopped after {player.published:,} of {self._plan.events:,} events")
            raise
        seconds = (self._clock.now() - began_at) / MICROS
        done = f"published {player.published:,} events in {seconds:,.1f} s"
        if self._speed < math.inf:
            done += f", at most {player.late_seconds:.2f} s late"
        _say(done)

    def _report(self, player: Player) -> None:
        now = self._clock.now()
        if now - self._reported_at < _REPORT_SECONDS * MICROS:
            return
        self._reported_at = now
        _say(
            f"{iso(player.played_to)}: {player.published:,} of {self._plan.events:,} events"
        )


def _say(text: str) -> None:
    sys.stderr.write(f"{printable(text)}\n")
    sys.stderr.flush()
