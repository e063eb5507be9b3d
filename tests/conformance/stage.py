"""A stage for one case: the programs under test, started at once on the same topics."""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from tests.conformance import judge
from tests.conformance.feed import Feed
from tests.conformance.program import Program, Run, running
from tests.conformance.story import FEED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from connector.kafka.avro import Framing
    from tests.support.checker import Brokers

# Right programs print nothing within this time, and wrong ones may.
_REPEAT_SECONDS: Final = 1.0
# Between two looks at standard error.
_LOOK_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class World:
    """What every case runs on.

    `registry` is the base of a schema registry's API. Each wait for a program ends after
    `patience_seconds`.
    """

    kafka: Brokers
    registry: str | None = None
    patience_seconds: float = 120.0


def has_note(run: Run, text: str) -> bool:
    """Return whether a line on a program's standard error begins so."""
    return any(line.startswith(text) for line in run.errors().splitlines())


class Stage:
    """The programs under test in one case, and the faults that were found in each."""

    def __init__(self, world: World, programs: Sequence[Program]) -> None:
        self.world = world
        self.programs = programs
        self.unique = uuid.uuid4().hex[:12]
        self.prefix = f"levels.{self.unique}"
        self.faults: dict[str, list[str]] = defaultdict(list)
        # The last words of each program, for a report.
        self.shown: dict[str, str] = {}
        self._runs: list[Run] = []
        self._known: dict[str, int] = {}
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def feed(
        self, framing: Framing | None = None, partitions: int = 1, shards: int = 1
    ) -> Feed:
        """Make the topics."""
        bootstrap = self.world.kafka.bootstrap_servers
        return Feed(bootstrap, self.prefix, framing, partitions, shards)

    def start(
        self, *options: str, feed: str = FEED, known: dict[str, int] | None = None
    ) -> None:
        """Start every program. `known` has the sequences that it must restore at least."""
        self._known = known or {}
        follow = ["--bootstrap", self.world.kafka.bootstrap_servers]
        follow += ["--prefix", self.prefix, "--feed", feed]
        for program in self.programs:
            run = running(program, [*follow, *options], self.world.patience_seconds)
            self._runs.append(self._ends.enter_context(run))

    def wait_restored(self) -> None:
        """Wait until every program has restored the states."""
        for run in self._runs:
            run.wait_for(judge.is_restored)

    def wait_lines(self, count: int) -> None:
        """Wait until every program has printed so many lines."""

        def has_printed(lines: Sequence[str]) -> bool:
            return len(lines) >= count

        for run in self._runs:
            run.wait_for(has_printed)

    def give_time(self, seconds: float, count: int) -> None:
        """Give wrong programs time to print `count` lines. Right ones wait meanwhile."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if all(len(run.lines()) >= count for run in self._runs):
                return
            time.sleep(0.05)

    def freeze(self) -> None:
        """Stop every program until `thaw`."""
        for run in self._runs:
            run.freeze()

    def thaw(self) -> None:
        """Let every program continue."""
        for run in self._runs:
            run.thaw()

    def wait_note(
        self, text: str, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until every program has a line on standard error that begins so.

        Calls `meanwhile` before each look.
        """
        deadline = time.monotonic() + self.world.patience_seconds
        waiting = list(self._runs)
        while waiting and time.monotonic() < deadline:
            meanwhile()
            time.sleep(_LOOK_SECONDS)
            waiting = [run for run in waiting if not has_note(run, text)]
        for run in waiting:
            self._add(run, [f"no line {text!r} on its standard error"])

    def expect_no_note(self, text: str) -> None:
        """Expect that no program has a line on standard error that begins so."""
        for run in self._runs:
            if has_note(run, text):
                self._add(run, [f"a line {text!r} on its standard error"])

    def expect(self, truth: judge.Truth) -> None:
        """Wait until every program has printed the truth, and judge it."""
        last = truth.last()

        def is_complete(lines: Sequence[str]) -> bool:
            return judge.is_complete(lines, last)

        for run in self._runs:
            run.wait_for(is_complete)
        # A wrong program may print an event again.
        time.sleep(_REPEAT_SECONDS)
        for run in self._runs:
            self._judge(run, truth)

    def expect_end(self, truth: judge.Truth) -> None:
        """Wait until every program has ended with status 0, and judge its lines."""
        for run in self._runs:
            status = run.wait()
            if status != 0:
                self._add(run, [f"its exit status is {status}, expected 0"])
            self._judge(run, truth)

    def expect_error(self, *words: str) -> None:
        """Wait until every program has ended with an error that has these words."""
        for run in self._runs:
            status = run.wait()
            self._add(run, judge.error_faults(status, run.errors(), words))
            self.shown[run.program.name] = run.errors().strip()

    def expect_no_topics(self, feed: Feed, but: Sequence[str] = ()) -> None:
        """Expect that the feed's prefix has only these topics, after the programs' ends."""
        # A broker creates a topic a moment after it was asked for it.
        time.sleep(_REPEAT_SECONDS)
        created = sorted(set(feed.existing_topics()) - set(but))
        if created:
            fault = f"a program made the broker create {', '.join(created)}"
            for run in self._runs:
                self._add(run, [fault])

    def _judge(self, run: Run, truth: judge.Truth) -> None:
        self.shown[run.program.name] = "".join(run.lines()[-1:])
        found = judge.faults(run.lines(), truth)
        if found and run.errors():
            found.append(f"standard error ends: {run.errors()[-500:].strip()}")
        self._add(run, found)

    def _add(self, run: Run, found: list[str]) -> None:
        self.faults[run.program.name] += found
