"""`replay` without Kafka: its plan, its pace, its files and the prefixes that it refuses."""

from __future__ import annotations

import gzip
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast

import pytest
from msgspec.structs import replace

from connector.core.model import Event, Kind, Status
from connector.errors import UsageError
from connector.kafka.avro import Codec, SingleObject
from connector.kafka.events import END, Record
from connector.kafka.names import Topics
from connector.tools.period import Period
from connector.tools.replay.event_file import read_event_file
from connector.tools.replay.pace import Pace, Player, parse_speed
from connector.tools.replay.plan import plan_of
from connector.tools.replay.source import KafkaSource
from connector.tools.replay.target import topics_of_replay
from connector.tools.text import json_line
from tests.support.simulated_day import DAY_BEGINS_AT, SECOND, simulated_day

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HOUR: Final = 3_600
STARTS_AT: Final = 2_000_000_000 * SECOND


@pytest.fixture(scope="module")
def hour() -> list[Event]:
    return list(simulated_day(seconds=HOUR))


class FakeClock:
    def __init__(self) -> None:
        self.at = STARTS_AT

    def now(self) -> int:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += math.ceil(seconds * SECOND)


class FakePublisher:
    """Keeps what it is told to publish, with the moment; each call takes `seconds`."""

    def __init__(self, clock: FakeClock, seconds: float = 0.0) -> None:
        self.calls: list[tuple[int, list[Event]]] = []
        self._clock = clock
        self._seconds = seconds

    def publish(self, events: Iterable[Event]) -> None:
        self.calls.append((self._clock.now(), list(events)))
        self._clock.sleep(self._seconds)

    def serve_callbacks(self) -> None: ...

    @property
    def events(self) -> list[Event]:
        return [event for _, events in self.calls for event in events]


def play(
    events: list[Event], speed: float, *, moves: bool = False, seconds: float = 0.0
) -> tuple[FakePublisher, Player]:
    clock = FakeClock()
    publisher = FakePublisher(clock, seconds)
    pace = Pace(events[0].observed_at, STARTS_AT, speed)
    player = Player(publisher, pace, clock, moves=moves)
    player.play(iter(events))
    return publisher, player


# Pace


@pytest.mark.parametrize("speed", [1.0, 60.0])
def test_events_are_published_at_their_moments(hour: list[Event], speed: float) -> None:
    publisher, player = play(hour, speed)

    assert publisher.events == hour
    for at, events in publisher.calls:
        for event in events:
            due_seconds = (event.observed_at - hour[0].observed_at) / SECOND / speed
            assert (at - STARTS_AT) / SECOND == pytest.approx(due_seconds, abs=0.001)
    assert player.late_seconds < 0.001


def test_events_of_one_response_stay_in_one_transaction(hour: list[Event]) -> None:
    publisher, _ = play(hour, 60.0)

    moments = [events[0].observed_at for _, events in publisher.calls]
    assert len(moments) == len(set(moments))
    assert any(len(events) > 1 for _, events in publisher.calls)


def test_a_replay_that_is_late_catches_up_and_says_so(hour: list[Event]) -> None:
    publisher, player = play(hour, 600.0, seconds=0.5)

    assert publisher.events == hour
    assert len(publisher.calls) < 20
    assert player.late_seconds > 0.1


def test_without_pauses_events_come_in_large_transactions() -> None:
    events = list(simulated_day(seconds=3 * HOUR))

    publisher, player = play(events, math.inf)

    assert publisher.events == events
    assert player.published == len(events)
    assert [at for at, _ in publisher.calls] == [STARTS_AT] * len(publisher.calls)
    assert len(publisher.calls) == pytest.approx(len(events) / 500, abs=1)


def test_moved_events_have_the_moments_of_the_replay(hour: list[Event]) -> None:
    publisher, _ = play(hour, 60.0, moves=True)

    for at, events in publisher.calls:
        for event in events:
            assert event.observed_at == pytest.approx(at, abs=1_000)
    for moved, event in zip(publisher.events, hour, strict=True):
        same = replace(
            moved,
            computed_at=event.computed_at,
            previous_computed_at=event.previous_computed_at,
            observed_at=event.observed_at,
        )
        assert same == event
        if event.computed_at is not None:
            assert moved.computed_at is not None
            age = (event.observed_at - event.computed_at) / 60
            assert moved.observed_at - moved.computed_at == pytest.approx(age, abs=1)


@pytest.mark.parametrize(("text", "speed"), [("60", 60), ("60x", 60), ("0.5", 0.5)])
def test_a_speed_is_a_number(text: str, speed: float) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "fast", ""])
def test_another_speed_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number above 0 or max"):
        parse_speed(text)


# Plan


def test_a_whole_history_begins_without_states(hour: list[Event]) -> None:
    plan = plan_of(hour)

    assert plan is not None
    assert plan.events == len(hour)
    assert plan.first_at == hour[0].observed_at
    assert plan.last_at == hour[-1].observed_at
    assert plan.symbols == {"all": {event.symbol for event in hour}}
    assert plan.states == ()


def test_a_part_begins_with_the_states_before_it(hour: list[Event]) -> None:
    middle = DAY_BEGINS_AT + HOUR // 4 * SECOND
    earlier = [event for event in hour if event.observed_at < middle]
    later = [event for event in hour if event.observed_at >= middle]

    plan = plan_of(later)

    assert plan is not None
    last_events = {event.symbol: event for event in earlier}
    assert len(plan.states) == len(last_events)
    for state in plan.states:
        last = last_events[state.symbol]
        assert state.sequence == last.sequence
        assert state.status is last.status
        assert state.computed_at == last.computed_at
        assert state.levels == last.after
        assert state.observed_at == later[0].observed_at


def test_the_kind_of_the_first_event_tells_the_status_before(hour: list[Event]) -> None:
    restored = [event for event in hour if event.kind is Kind.RESTORED]
    missing = [event for event in hour if event.kind is Kind.MISSING]

    before_restored = plan_of(restored[:1])
    before_missing = plan_of(missing[:1])

    assert before_restored is not None
    assert before_restored.states[0].status is Status.MISSING
    assert before_missing is not None
    assert before_missing.states[0].status is Status.LIVE


def test_no_events_have_no_plan() -> None:
    assert plan_of([]) is None


@pytest.mark.parametrize("fault", ["gap", "twice"])
def test_events_that_do_not_follow_each_other_are_refused(
    hour: list[Event], fault: str
) -> None:
    bitcoin = [event for event in hour if event.symbol == "BTCUSDT"][:5]
    broken = bitcoin[:2] + bitcoin[3:] if fault == "gap" else bitcoin[:2] + bitcoin[1:]

    with pytest.raises(UsageError, match=r"all/BTCUSDT #. follows #2"):
        plan_of(broken)


# Files


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_file_of_json_lines_has_the_events(
    hour: list[Event], tmp_path: Path, *, is_compressed: bool
) -> None:
    lines = "".join(f"{json_line(event)}\n" for event in hour).encode()
    path = tmp_path / "hour.jsonl"
    path.write_bytes(gzip.compress(lines) if is_compressed else lines)

    assert list(read_event_file(path)) == hour


FAULTS: Final = {
    "no JSON": (
        b"symbol,sequence\n",
        "line 1: .*expected an event as `history --json`",
    ),
    "another object": (b'{"symbol": "BTCUSDT"}\n', "line 1: .*missing required field"),
    "no UTF-8": (b"\xff\xfe\n", "line 1: "),
    "Parquet": (b"PAR1....", "is a Parquet file.*write the file with `history --json`"),
    "half of gzip": (gzip.compress(b"{}" * 999)[:20], "cannot read|line 1"),
}


@pytest.mark.parametrize(("content", "message"), FAULTS.values(), ids=FAULTS)
def test_another_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(UsageError, match=message):
        list(read_event_file(path))


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*none: No such file"):
        list(read_event_file(tmp_path / "none"))


# Prefixes


@pytest.mark.parametrize(
    "prefix", ["gex.levels", "gex.levels.replay", "gex", "", "a b", "gex.levels.all"]
)
def test_a_prefix_is_refused_that_would_touch_the_connectors_topics(
    prefix: str,
) -> None:
    with pytest.raises(UsageError, match=r"replay: --to .*expected"):
        topics_of_replay(prefix, "gex.levels")


@pytest.mark.parametrize(
    "prefix", ["replay", "gex.levels2", "gex.level", "scratch.gex"]
)
def test_another_prefix_is_accepted(prefix: str) -> None:
    assert topics_of_replay(prefix, "gex.levels").prefix == prefix


class GrowingLog:
    """A log with one partition, which has another event at each look for its end."""

    feeds = ("all",)

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self._end = 1

    def partitions_of(self, topic: str) -> list[tuple[str, int]]:
        return [(topic, 0)]

    def offsets(self, partitions: Iterable[Any], moment: int) -> dict[Any, int]:
        if moment != END:
            return dict.fromkeys(partitions, 0)
        self._end += 1
        return dict.fromkeys(partitions, self._end)

    def read(self, starts: dict[Any, int], ends: dict[Any, int]) -> Iterable[Record]:
        codec = Codec(SingleObject())
        for (topic, partition), start in starts.items():
            for offset in range(start, ends[topic, partition]):
                value = codec.encode_event("", self._events[offset])
                yield Record(topic, partition, offset, b"", value)


def test_events_that_come_between_the_two_readings_are_left_out(
    hour: list[Event],
) -> None:
    reader: Any = SimpleNamespace(topics=Topics("p"), codec=Codec(SingleObject()))
    source = KafkaSource(
        cast("Any", GrowingLog(hour)),
        reader,
        symbols=(),
        period=Period(0, STARTS_AT),
    )
    planned = list(source.events())
    assert planned == hour[:2]
    assert list(source.events()) == planned


def test_a_damaged_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.json.gz"
    # A whole header, and then a block of a type that does not exist.
    path.write_bytes(gzip.compress(b"")[:10] + b"\xff" * 20)
    with pytest.raises(UsageError, match=r"cannot read .*events\.json\.gz"):
        list(read_event_file(path))
