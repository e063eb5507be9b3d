"""The past day that `simulate --replay` shows: the API as it must have been."""

from __future__ import annotations

import gzip
from itertools import count, pairwise
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from connector.core.entry import decode_entry
from connector.core.model import Event, Kind, Status
from connector.devkit.simulator.levels import View, canonical_content
from connector.devkit.simulator.past import entry_of_levels, read_past
from connector.devkit.simulator.replay_market import Replay, ReplayMarket
from connector.devkit.simulator.settings import INCLUDES, Settings
from connector.tools.text import json_line
from tests.support.simulated_day import DAY_BEGINS_AT, SECOND, simulated_day

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

HOUR: Final = 3_600
STARTS_AT: Final = 2_000_000_000 * SECOND
ALL: Final = frozenset(INCLUDES)


@pytest.fixture(scope="module")
def hour() -> list[Event]:
    return list(simulated_day(seconds=HOUR))


def written(path: Path, events: Iterable[Event]) -> Path:
    lines = "".join(f"{json_line(event)}\n" for event in events)
    path.write_bytes(gzip.compress(lines.encode()))
    return path


def test_each_entry_is_the_one_that_the_connector_saw(
    hour: list[Event], tmp_path: Path
) -> None:
    past = read_past(written(tmp_path / "hour.jsonl.gz", hour))

    for event in hour:
        if event.after is None:
            continue
        shown = [
            step
            for step in past.steps[event.symbol]
            if step.computed_at == event.computed_at and step.levels is not None
        ]
        entry = entry_of_levels(shown[0].levels or b"", ALL, None)
        decoded = decode_entry(canonical_content(entry).raw, event.observed_at)
        assert decoded.levels == event.after


def test_steps_are_in_order_and_absent_levels_have_their_moments(
    hour: list[Event], tmp_path: Path
) -> None:
    past = read_past(written(tmp_path / "hour.jsonl.gz", hour))

    for symbol, steps in past.steps.items():
        moments = [step.at for step in steps]
        assert moments == sorted(moments)
        assert steps[0].at == past.begins_at
        assert steps[0].levels is not None
        absent = [step.at for step in steps if step.levels is None]
        missing = [
            event.observed_at
            for event in hour
            if event.symbol == symbol and event.kind is Kind.MISSING
        ]
        assert absent == missing


def test_a_symbol_that_stayed_live_was_refreshed_in_between(
    hour: list[Event], tmp_path: Path
) -> None:
    # Of every symbol the first event and the last: the levels seem to have stood still.
    bitcoin = [event for event in hour if event.symbol == "BTCUSDT"]
    past = read_past(written(tmp_path / "two.jsonl.gz", [bitcoin[0], bitcoin[-1]]))

    computed = [step.computed_at or 0 for step in past.steps["BTCUSDT"]]
    gaps = [after - before for before, after in pairwise(computed)]
    assert max(gaps) <= 45 * SECOND
    levels = {step.levels for step in past.steps["BTCUSDT"]}
    assert len(levels) == 2


def test_stale_levels_were_not_refreshed(hour: list[Event], tmp_path: Path) -> None:
    bitcoin = [event for event in hour if event.symbol == "BTCUSDT"]
    first, last = bitcoin[0], bitcoin[-1]
    stale = json_line(first).replace('"sequence":1,', '"sequence":2,')
    stale = stale.replace(
        '"kind":"SNAPSHOT","status":"LIVE"', '"kind":"STALE","status":"STALE"'
    )
    stale = stale.replace(
        f'"observed_at":{first.observed_at}',
        f'"observed_at":{first.observed_at + 90 * SECOND}',
    )
    path = tmp_path / "stale.jsonl"
    path.write_text(f"{json_line(first)}\n{stale}\n{json_line(last)}\n")

    past = read_past(path)

    computed = [step.computed_at for step in past.steps["BTCUSDT"]]
    assert computed[1:] == [first.computed_at, last.computed_at]


@pytest.mark.parametrize("speed", [1.0, 60.0])
def test_the_market_shows_the_day_in_the_present(
    hour: list[Event], tmp_path: Path, speed: float
) -> None:
    past = read_past(written(tmp_path / "hour.jsonl.gz", hour))
    settings = Settings(symbols=tuple(past.steps))
    market = ReplayMarket(Replay(past, speed), settings, STARTS_AT, count(1))

    latest: dict[str, Event] = {}
    for event in hour:
        latest[event.symbol] = event
        now = STARTS_AT + round((event.observed_at - past.begins_at) / speed)
        refresh = market.show(event.symbol, now)
        if event.status is Status.MISSING:
            assert refresh is None
            continue
        assert refresh is not None
        assert event.computed_at is not None
        age = (event.observed_at - event.computed_at) / speed
        assert now - refresh.computed_at == pytest.approx(age, abs=2)


def test_a_quiet_symbol_keeps_its_levels(
    hour: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = "connector.devkit.simulator.replay_market._REFRESHES_KEPT"
    monkeypatch.setattr(kept, 1)
    past = read_past(written(tmp_path / "hour.jsonl.gz", hour))
    settings = Settings(symbols=tuple(past.steps))
    market = ReplayMarket(Replay(past), settings, STARTS_AT, count(1))
    for symbol in past.steps:
        refresh = market.show(symbol, STARTS_AT + HOUR * SECOND // 2)
        if refresh is not None:
            assert market.content(refresh, View(ALL)).raw


ODD_ENTRIES: Final = {
    "no optional section": {"all_expiry": {"hvl": 1.5}, "spot_price": 2},
    "undocumented fields": {
        "all_expiry": {"hvl": 1.5, "vanna": 3},
        "max_pain": {"strike": 1.0, "note": "n"},
        "new": {"a": [1]},
        "spot_price": 2.0,
    },
    "odd rows": {
        "ranked": {
            "all_expiry_top_10": [
                {"rank": 1, "strike": 2.0, "gex": -3.0, "abs_gex": 3.0},
                {"strike": 2.0, "gex": "many", "expiry": "2026-01-30"},
                17.0,
                "text",
            ],
            "odte_top_10": [],
        },
        "gamma_flip_zones": [{"strike": 1.0, "upper": 2}, 3, None],
    },
    "another type of model": {"positioning": {"name": "flow"}, "spot_price": 1.0},
    "a model": {
        "positioning": "std",
        "positioning_fallback_reason": "flow_tape_empty",
        "spot_price": 1.0,
    },
}


@pytest.mark.parametrize("entry", ODD_ENTRIES.values(), ids=ODD_ENTRIES)
def test_odd_entries_come_back_as_they_were(entry: dict[str, Any]) -> None:
    levels = decode_entry(msgspec.json.encode(entry), DAY_BEGINS_AT).levels

    shown = entry_of_levels(msgspec.json.encode(levels), ALL, None)

    again = decode_entry(canonical_content(shown).raw, DAY_BEGINS_AT)
    assert again.levels == levels


FAULTS: Final = {
    "empty": ("", "has no events"),
    "another line": ("symbol,spot\n", "line 1: .*as `gex-connector history --json`"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "file"
    path.write_text(text)

    with pytest.raises(ValueError, match=message):
        read_past(path)


def test_a_symbol_in_two_feeds_is_refused(hour: list[Event], tmp_path: Path) -> None:
    other = json_line(hour[0]).replace('"feed":"all"', '"feed":"majors"')
    path = tmp_path / "feeds.jsonl"
    path.write_text(f"{json_line(hour[0])}\n{other}\n")

    with pytest.raises(ValueError, match="in the feeds all and majors, expected one"):
        read_past(path)
