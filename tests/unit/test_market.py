"""The simulated market: when symbols are computed, and the entries that are shown."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from connector.devkit.simulator.faults import Faults
from connector.devkit.simulator.levels import MICROS, Refresh, View, iso, micros
from connector.devkit.simulator.market import Market
from connector.devkit.simulator.settings import (
    DEFAULT_SYMBOLS,
    EXCHANGES,
    INCLUDES,
    Settings,
)

EPOCH = 1_800_000_000
NO_NAMES: frozenset[str] = frozenset()
PLAIN_FIELDS = {"all_expiry", "odte", "spot_price", "computed_at"}

# Refreshes over 30,000 seconds are 1,000, enough to see a distribution.
LONG_SECONDS = 30_000


def at(seconds: float) -> int:
    """Return the microseconds of a moment, in seconds after the market opened."""
    return micros(EPOCH + seconds)


def steady(**changes: Any) -> Settings:
    """Return settings without jitter and in step, except for these changes."""
    chosen: dict[str, Any] = {
        "jitter_seconds": 0.0,
        "phase": "together",
        "zones_field": "zones",
    }
    chosen.update(changes)
    return Settings(**chosen)


def create_market(faults: Faults | None = None, **changes: Any) -> Market:
    """Return a market with steady settings, except for these changes."""
    if faults is None:
        faults = Faults(1)
    return Market(steady(**changes), at(0), faults.is_frozen, itertools.count(1))


def show(market: Market, symbol: str, seconds: float) -> Refresh:
    """Return the refresh that a request would be shown at this moment."""
    refresh = market.show(symbol, at(seconds))
    assert refresh is not None
    return refresh


def entry_of(
    market: Market,
    refresh: Refresh,
    include: frozenset[str] = NO_NAMES,
    exchanges: frozenset[str] = NO_NAMES,
) -> dict[str, Any]:
    """Return the entry of a refresh, as a client decodes it."""
    content = market.content(refresh, View(include, exchanges))
    entry: dict[str, Any] = msgspec.json.decode(content.raw)
    return entry


def latest_entry(market: Market, symbol: str) -> dict[str, Any]:
    """Return the entry that a client gets 3,000 seconds after the market opened."""
    refresh = show(market, symbol, 3_000)
    return entry_of(market, refresh)


def computed(market: Market, symbol: str, until_seconds: float) -> list[float]:
    """Return the moment of every refresh, in seconds after the market opened."""
    market.advance(at(until_seconds))
    seconds = []
    for refresh in market.refreshes(0):
        if refresh.symbol == symbol:
            seconds.append(refresh.computed_at / MICROS - EPOCH)
    return seconds


def gaps(seconds: list[float]) -> list[float]:
    """Return the seconds between successive moments."""
    found = []
    for before, after in itertools.pairwise(seconds):
        found.append(after - before)
    return found


def test_symbols_together_are_computed_on_one_grid() -> None:
    market = create_market()
    for symbol in DEFAULT_SYMBOLS:
        assert computed(market, symbol, 100) == [0, 30, 60, 90]


def test_symbols_with_a_phase_of_their_own_are_not_in_step() -> None:
    market = create_market(phase="own")
    phases = set()
    for symbol in DEFAULT_SYMBOLS:
        latest = computed(market, symbol, 300)[-1]
        phases.add(latest % 30)
    assert len(phases) == len(DEFAULT_SYMBOLS)
    seconds = computed(market, "BTCUSDT", 300)
    assert gaps(seconds) == pytest.approx([30] * (len(seconds) - 1))


def test_jitter_scatters_around_the_grid() -> None:
    seconds = computed(create_market(jitter_seconds=1.0), "BTCUSDT", LONG_SECONDS)
    # Six standard deviations: out of reach for a thousand refreshes.
    for moment in seconds:
        nearest_on_grid = 30 * round(moment / 30)
        assert abs(moment - nearest_on_grid) < 6
    assert len(set(gaps(seconds))) > 900


def test_jitter_adds_up_with_drift() -> None:
    market = create_market(jitter_seconds=1.0, drift=True)
    seconds = computed(market, "BTCUSDT", LONG_SECONDS)
    distances = []
    for count, moment in enumerate(seconds):
        distances.append(abs(moment - 30 * count))
    assert max(distances) > 6


def test_computed_at_grows_however_late_a_refresh_is() -> None:
    market = create_market(jitter_seconds=20.0, late_probability=0.5, late_seconds=70.0)
    seconds = computed(market, "BTCUSDT", LONG_SECONDS)
    assert min(gaps(seconds)) > 0


def test_a_skipped_refresh_leaves_a_hole_and_the_grid_stays() -> None:
    market = create_market(skip_probability=0.3)
    seconds = computed(market, "BTCUSDT", LONG_SECONDS)
    assert 600 < len(seconds) < 800
    for moment in seconds:
        assert moment % 30 == 0


def test_nothing_follows_the_first_refresh_if_every_refresh_is_skipped() -> None:
    assert computed(create_market(skip_probability=1.0), "BTCUSDT", 3_000) == [0]


def test_a_late_refresh_is_computed_late() -> None:
    market = create_market(late_probability=1.0, late_seconds=7.0)
    assert computed(market, "BTCUSDT", 100)[-3:] == [37, 67, 97]


def test_a_refresh_is_seen_only_after_the_visible_lag() -> None:
    market = create_market(visible_lag_seconds=2.0)
    before_the_lag = show(market, "BTCUSDT", 31.9)
    after_the_lag = show(market, "BTCUSDT", 32.0)
    assert iso(before_the_lag.computed_at) == iso(at(0))
    assert iso(after_the_lag.computed_at) == iso(at(30))


def test_the_same_seed_shows_the_same_however_often_one_looks() -> None:
    market = create_market(phase="own", jitter_seconds=0.3)
    other = create_market(phase="own", jitter_seconds=0.3)
    # Only one market is looked at in between.
    market.advance(at(777))
    for symbol in DEFAULT_SYMBOLS:
        entry = latest_entry(market, symbol)
        assert entry == latest_entry(other, symbol)


def test_another_seed_shows_another_market() -> None:
    market = create_market()
    other = create_market(seed=2)
    levels = latest_entry(market, "BTCUSDT")["all_expiry"]
    other_levels = latest_entry(other, "BTCUSDT")["all_expiry"]
    assert levels["hvl"] != other_levels["hvl"]


def test_every_refresh_changes_a_level_and_the_spot_price_stays_near_its_base() -> None:
    market = create_market()
    before: dict[str, float] = {}
    for number in range(500):
        refresh = show(market, "BTCUSDT", 30 * number)
        entry = entry_of(market, refresh)
        assert entry["all_expiry"] != before
        assert 80_000 < entry["spot_price"] < 125_000
        before = entry["all_expiry"]


def test_with_change_probability_zero_only_the_spot_price_moves() -> None:
    market = create_market(change_probability=0.0)
    everything = frozenset(INCLUDES)
    entries = []
    for number in range(1, 50):
        refresh = show(market, "ETHUSDT", 30 * number)
        entries.append(entry_of(market, refresh, everything))

    prices = set()
    dates = set()
    for entry in entries:
        prices.add(entry.pop("spot_price"))
        dates.add(entry.pop("computed_at"))
    assert len(prices) > 40
    assert len(dates) == 49
    # Only the other fields are left.
    for entry in entries:
        assert entry == entries[0]


@pytest.mark.parametrize("symbol", [*DEFAULT_SYMBOLS, "NEWUSDT", "OTHERUSDT"])
def test_walls_are_in_order_around_the_spot_price(symbol: str) -> None:
    market = create_market(symbols=(symbol,))
    for number in range(100):
        refresh = show(market, symbol, 30 * number)
        entry = entry_of(market, refresh)
        levels = entry["all_expiry"]
        below = [levels["put_wall_3"], levels["put_wall_2"], levels["put_support"]]
        above = [
            levels["call_resistance"],
            levels["call_wall_2"],
            levels["call_wall_3"],
        ]
        assert below == sorted(set(below))
        assert above == sorted(set(above))
        assert below[-1] <= entry["spot_price"] < above[0]


def test_optional_sections_come_only_if_included() -> None:
    market = create_market()
    refresh = show(market, "BTCUSDT", 0)
    assert entry_of(market, refresh).keys() == PLAIN_FIELDS
    for name in INCLUDES:
        entry = entry_of(market, refresh, frozenset({name}))
        assert entry.keys() == PLAIN_FIELDS | {name}


def test_ten_strikes_are_ranked() -> None:
    market = create_market()
    refresh = show(market, "BTCUSDT", 0)
    ranked = entry_of(market, refresh, frozenset({"ranked"}))["ranked"]
    rows = ranked["all_expiry_top_10"]
    assert len(rows) == 10
    for row in rows:
        assert {"strike", "gex"} <= row.keys()


def test_a_venue_filter_changes_the_levels_and_all_venues_are_no_filter() -> None:
    market = create_market()
    refresh = show(market, "BTCUSDT", 0)

    def levels(*exchanges: str) -> dict[str, float]:
        entry = entry_of(market, refresh, exchanges=frozenset(exchanges))
        found: dict[str, float] = entry["all_expiry"]
        return found

    flips = {
        levels()["hvl"],
        levels("okx")["hvl"],
        levels("bybit")["hvl"],
        levels("okx", "bybit")["hvl"],
    }
    assert len(flips) == 4
    assert levels(*EXCHANGES) == levels()


def test_a_cold_symbol_shows_nothing() -> None:
    market = create_market(cold=("BTCUSDT",))
    assert market.show("BTCUSDT", at(60)) is None


def test_a_freeze_stops_the_refreshes_of_its_symbols_until_it_ends() -> None:
    faults = Faults(1)
    market = create_market(faults)
    freeze = {"fault": "freeze", "symbols": ["BTCUSDT"], "for_seconds": 90}
    faults.add([freeze], at(10))
    assert show(market, "BTCUSDT", 95).computed_at == at(0)
    assert show(market, "ETHUSDT", 95).computed_at == at(90)
    assert show(market, "BTCUSDT", 125).computed_at == at(120)
    assert computed(market, "BTCUSDT", 130) == [0, 120]


def test_clearing_the_faults_ends_every_freeze() -> None:
    faults = Faults(1)
    market = create_market(faults)
    faults.add([{"fault": "freeze"}], at(10))
    faults.clear(at(70))
    assert show(market, "BTCUSDT", 95).computed_at == at(90)
    assert computed(market, "BTCUSDT", 95) == [0, 90]


def test_a_new_period_begins_at_once_and_the_price_walk_continues() -> None:
    market = create_market()
    before = show(market, "BTCUSDT", 45).spot
    market.change(steady(period_seconds=1.0), at(45))
    assert computed(market, "BTCUSDT", 48) == [0, 30, 45, 46, 47, 48]
    after = show(market, "BTCUSDT", 48).spot
    assert after == pytest.approx(before, rel=0.02)


def test_with_every_request_each_request_shows_a_new_refresh() -> None:
    market = create_market(every_request=True)
    dates = set()
    flips = set()
    for _ in range(100):
        refresh = show(market, "BTCUSDT", 5)
        entry = entry_of(market, refresh)
        dates.add(refresh.computed_at)
        flips.add(entry["all_expiry"]["hvl"])
    assert len(dates) == 100
    # Levels are rounded to a step, so a few refreshes may agree by chance.
    assert len(flips) > 90
