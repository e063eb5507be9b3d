"""The example consumer, run as its users run it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from connector.core.model import Event, Levels, State, Status
from connector.devkit.simulator.settings import EIGHT_SYMBOLS
from connector.kafka.event_stream import Events
from tests.support.processes import (
    Program,
    start,
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)
from tests.support.written_feed import WrittenFeed, an_event, levels_of

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names

ROOT = Path(__file__).parents[2]
CONSUMER = ROOT / "examples" / "consumer.py"
FEED = "all"
# Three lines for each symbol: its state, and some events after it.
ENOUGH_LINES = 24
SHOWN_LEVELS = ("hvl", "call_resistance", "put_support")


def states(feed: WrittenFeed) -> dict[str, State]:
    """Return the last state of each symbol."""
    end = feed.reader.high_watermark(feed.current, 0)
    contents = feed.reader.contents(feed.current, 0, end)
    found = {}
    for key, record in contents.latest.items():
        found[key.decode()] = feed.codec.decode_state(record.value or b"")
    return found


def published(feed: WrittenFeed) -> list[Event]:
    """Return every event that was published: as many as the states have counted."""
    count = sum(state.sequence for state in states(feed).values())
    reader = Events(feed.clients, feed.topics, feed.codec, from_beginning=True)
    events: list[Event] = []

    def has_all() -> bool:
        return len(events) >= count

    for received in reader.until(has_all):
        if received is not None:
            events.append(received.event)
    reader.close()
    return events


def follow(kafka: LocalKafka, names: Names, *options: str) -> list[str]:
    """Return the command that follows the test's feed."""
    command = [sys.executable, str(CONSUMER)]
    command += ["--bootstrap", kafka.bootstrap_servers]
    command += ["--prefix", names.topic_prefix]
    command += ["--feed", FEED]
    return [*command, *options]


def lines(consumer: Program) -> list[str]:
    return consumer.lines()


def wait_for_lines(consumer: Program, count: int) -> None:
    """Wait until the consumer has printed at least `count` lines in total."""

    def has_printed() -> bool:
        return len(lines(consumer)) >= count

    wait_until(has_printed, f"{count} lines of the consumer", consumer)


def printed_line(record: Event | State, kind: str, levels: Levels | None) -> str:
    """Return the line that the consumer prints for an event or a state."""
    text = "no levels"
    if record.status.has_levels:
        assert levels is not None
        values = []
        for name in SHOWN_LEVELS:
            values.append(f"{name}={getattr(levels.all_expiry, name)}")
        text = " ".join(values)
    if record.status is Status.STALE:
        text += " (old: careful)"
    return f"{record.symbol} #{record.sequence} {kind} {record.status} {text}"


def expected(events: list[Event], restored: dict[str, int]) -> dict[str, list[str]]:
    """Return the lines, by symbol, of a consumer that restored these sequences."""
    texts: dict[str, list[str]] = {}
    for event in events:
        last = restored.get(event.symbol, 0)
        # The restored state stands for every event up to its own.
        if event.sequence < last:
            continue
        kind: str = event.kind
        if event.sequence == last:
            kind = "state"
        line = printed_line(event, kind, event.after)
        texts.setdefault(event.symbol, []).append(line)
    return texts


def by_symbol(texts: list[str]) -> dict[str, list[str]]:
    """Return the lines of each symbol, in their order.

    Between symbols there is no order: their events are in several partitions.
    """
    found: dict[str, list[str]] = {}
    for text in texts:
        symbol = text.split()[0]
        found.setdefault(symbol, []).append(text)
    return found


def restored_by(texts: list[str]) -> dict[str, int]:
    """Return the sequence of each state that the consumer has restored."""
    found = {}
    for text in texts:
        symbol, number, kind, *_ = text.split()
        if kind == "state":
            found[symbol] = int(number.removeprefix("#"))
    return found


@pytest.mark.parametrize("framed", [False, True], ids=["single-object", "registry"])
def test_a_consumer_sees_every_event_although_the_worker_is_killed(
    kafka: LocalKafka, names: Names, framed: bool, request: pytest.FixtureRequest
) -> None:
    # The registry's fixture takes seconds: ask for it only if it is needed.
    registry: str | None = None
    options: list[str] = []
    if framed:
        registry = str(request.getfixturevalue("registry").url)
        options = ["--registry", registry]
    command = follow(kafka, names, *options)

    simulated = ["--period", "0.5", "--jitter", "0.1", "--limit", "0"]
    with (
        start_simulator(*simulated) as simulator,
        WrittenFeed(kafka, names, registry) as feed,
    ):
        variables = variables_for(kafka, names, simulator)
        if registry:
            variables["GEX_SCHEMA_REGISTRY__URL"] = registry

        def every_symbol_has_a_state() -> bool:
            return len(states(feed)) == len(EIGHT_SYMBOLS)

        with start_worker(variables) as worker:
            wait_until(every_symbol_has_a_state, "all symbols have a state", worker)
            with start(command) as consumer:
                wait_for_lines(consumer, ENOUGH_LINES)
                # Between two workers there may be no gap and no duplicate.
                worker.kill()
                before = len(lines(consumer))
                with start_worker(variables) as another:
                    wait_for_lines(consumer, before + ENOUGH_LINES)
                    assert another.terminate() == 0

                # The consumer may still be behind, but nothing is published any more.
                events = published(feed)
                expected_lines = expected(events, restored_by(lines(consumer)))
                wait_for_lines(consumer, sum(map(len, expected_lines.values())))
                assert by_symbol(lines(consumer)) == expected_lines
    assert len({event.source.worker for event in events}) == 2

    # A consumer that starts now restores the last state of each symbol, and nothing else.
    last_sequences = {event.symbol: event.sequence for event in events}
    with start([*command, "--seconds", "0"]) as late:
        assert late.wait() == 0
        assert by_symbol(lines(late)) == expected(events, last_sequences)


def test_a_gap_ends_the_consumer(kafka: LocalKafka, names: Names) -> None:
    with WrittenFeed(kafka, names) as feed:
        feed.publish(an_event(1))
        with start(follow(kafka, names, "--patience", "1")) as consumer:
            # Its first line is the restored state.
            wait_for_lines(consumer, 1)
            feed.publish(an_event(3))
            assert consumer.wait() == 1
            [line] = lines(consumer)[1:]
            assert line.startswith("error: event 2 of BTCUSDT has not come within 1 s")
            assert "although 3 has" in line


def test_json_lines_keep_the_contract_of_consumers(
    kafka: LocalKafka, names: Names
) -> None:
    with WrittenFeed(kafka, names) as feed:
        feed.publish(an_event(1))
        command = follow(kafka, names, "--json", "--max-events", "2")
        with start(command) as consumer:
            wait_for_lines(consumer, 2)
            other_model = msgspec.structs.replace(levels_of(2), positioning="std")
            feed.publish(an_event(2, levels=other_model))
            feed.publish(an_event(3, status=Status.MISSING, reason="gone"))
            assert consumer.wait() == 0
            state, restored, event, absence = map(json.loads, lines(consumer))
    assert restored == {"type": "restored", "symbols": 1}
    assert state.pop("computed_at") < event.pop("computed_at")
    assert absence.pop("computed_at") is None
    values = {"call_resistance": 110.0, "put_support": 90.0}
    common = {"symbol": "BTCUSDT", "model_changed": False, "reason": None}
    live = {**common, "status": "LIVE", "act": "use", **values}
    assert state == {
        **live,
        "type": "state",
        "sequence": 1,
        "kind": None,
        "model": "flow",
        "hvl": 1.0,
    }
    assert event == {
        **live,
        "type": "event",
        "sequence": 2,
        "kind": "CHANGED",
        "model": "std",
        "model_changed": True,
        "hvl": 2.0,
    }
    assert absence == {
        **common,
        "type": "event",
        "sequence": 3,
        "kind": "MISSING",
        "reason": "gone",
        "status": "MISSING",
        "act": "none",
        "model": None,
        "hvl": None,
        "call_resistance": None,
        "put_support": None,
    }


def test_the_error_for_an_absent_topic_names_it(
    kafka: LocalKafka, names: Names
) -> None:
    with start(follow(kafka, names)) as consumer:
        assert consumer.wait() == 1
        [line] = lines(consumer)
        assert line.startswith(f"error: no topic {names.topic_prefix}.all.current at ")
        assert "--feed" in line


def programs_in(page: str) -> list[str]:
    """Return the complete programs of a page that use the client."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for block in blocks if block.startswith("from connector.client")]


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/client.md"])
def test_the_programs_in_the_documentation_run(
    kafka: LocalKafka, names: Names, page: str
) -> None:
    [program] = programs_in(page)
    program = program.replace("127.0.0.1:9092", kafka.bootstrap_servers)
    prefix = f'feed="all", prefix="{names.topic_prefix}"'
    program = program.replace('feed="all"', prefix)
    follows = "events" in program
    expected = ["BTCUSDT 2 2.0", "BTCUSDT 3 MISSING do not act"] if follows else []
    with WrittenFeed(kafka, names) as feed:
        feed.publish(an_event(1))
        with start([sys.executable, "-u", "-c", program]) as running:
            wait_for_lines(running, 1)
            feed.publish(an_event(2))
            feed.publish(an_event(3, status=Status.MISSING))
            wait_for_lines(running, 1 + len(expected))
            first, *rest = lines(running)
    assert "1.0" in first
    assert "LIVE" in first
    assert rest == expected


def test_the_strategy_prints_its_signals(kafka: LocalKafka, names: Names) -> None:
    with WrittenFeed(kafka, names) as feed:
        # Spot is 100, and the flip is the sequence.
        feed.publish(an_event(1))
        command = [sys.executable, str(ROOT / "examples" / "strategy.py")]
        command += ["--bootstrap", kafka.bootstrap_servers]
        command += ["--prefix", names.topic_prefix]
        with start(command) as strategy:
            wait_for_lines(strategy, 2)
            higher = msgspec.structs.replace(levels_of(200), spot_price=100.0)
            feed.publish(an_event(2, levels=higher))
            feed.publish(an_event(3, status=Status.STALE, reason="old"))
            wait_for_lines(strategy, 4)
            assert lines(strategy) == [
                f"following {names.topic_prefix}.all.changes; Ctrl-C ends",
                "BTCUSDT above the flip at 100 (flip 1, model flow)",
                "BTCUSDT below the flip at 100 (flip 200, model flow)",
                "BTCUSDT flat (the status is STALE)",
            ]
