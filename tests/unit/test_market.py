"""The simulated market: when symbols are computed, and what they show."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from connector.devkit.simulator.faults import Faults
from connector.devkit.simulator.levels import MICROS, Refresh, iso, micros
from connector.devkit.simulator.market import Market
from connector.devkit.simulator.settings import DEFAULT_SYMBOLS, INCLUDES, Settings

EPOCH = 1_800_000_000
STEADY: dict[str, Any] = {"jitter_seconds": 0.0, "phase": "together"}
PLAIN: frozenset[str] = frozenset()


def at(seconds: float) -> int:
    return micros(EPOCH + seconds)


def market_of(faults: Faults | None = None, **settings: Any) -> Market:
    frozen = (faults or Faults(1)).is_frozen
    return Market(Settings(**{**STEADY, **settings}), at(0), frozen, itertools.count(1))


def shown(market: Market, symbol: str, seconds: float) -> Refresh:
    refresh = market.show(symbol, at(seconds))
    assert refresh is not None
    return refresh


def entry_of(
    market: Market,
    refresh: Refresh,
    include: frozenset[str] = PLAIN,
    exchanges: frozenset[str] = PLAIN,
) -> dict[str, Any]:
    entry: dict[str, Any] = msgspec.json.decode(
        market.content(refresh, include, exchanges).raw
    )
    return entry


def computed(market: Market, symbol: str, until_seconds: float) -> list[float]:
    """Seconds after the epoch of every refresh up to a moment."""
    market.advance(at(until_seconds))
    return [
        refresh.computed_at / MICROS - EPOCH
        for refresh in market.refreshes(0)
        if refresh.symbol == symbol
    ]


def test_symbols_together_are_computed_on_one_grid() -> None:
    market = market_of()
    for symbol in DEFAULT_SYMBOLS:
        assert computed(market, symbol, 100) == [0, 30, 60, 90]


def test_symbols_of_their_own_phase_are_not_in_step() -> None:
    market = market_of(phase="own")
    phases = {
        symbol: computed(market, symbol, 300)[-1] % 30 for symbol in DEFAULT_SYMBOLS
    }
    assert len(set(phases.values())) == len(DEFAULT_SYMBOLS)
    assert all(
        gap == pytest.approx(30) for gap in _gaps(computed(market, "BTCUSDT", 300))
    )


def test_jitter_scatters_around_the_grid_and_drift_adds_up() -> None:
    on_grid = computed(market_of(jitter_seconds=1.0), "BTCUSDT", 30_000)
    assert max(abs(seconds - 30 * round(seconds / 30)) for seconds in on_grid) < 6
    assert len(set(_gaps(on_grid))) > 900
    drifting = computed(market_of(jitter_seconds=1.0, drift=True), "BTCUSDT", 30_000)
    assert max(abs(seconds - 30 * n) for n, seconds in enumerate(drifting)) > 6


def test_computed_at_only_ever_grows_however_late_a_refresh_is() -> None:
    market = market_of(jitter_seconds=20.0, late_probability=0.5, late_seconds=70.0)
    assert min(_gaps(computed(market, "BTCUSDT", 30_000))) > 0


def test_a_skipped_refresh_leaves_a_hole_and_the_grid_stays() -> None:
    seconds = computed(market_of(skip_probability=0.3), "BTCUSDT", 30_000)
    assert 600 < len(seconds) < 800
    assert all(moment % 30 == 0 for moment in seconds)


def test_nothing_comes_after_the_first_where_every_refresh_is_skipped() -> None:
    assert computed(market_of(skip_probability=1.0), "BTCUSDT", 3_000) == [0]


def test_a_late_refresh_is_computed_late() -> None:
    seconds = computed(
        market_of(late_probability=1.0, late_seconds=7.0), "BTCUSDT", 100
    )
    assert seconds[-3:] == [37, 67, 97]


def test_a_refresh_is_seen_only_after_the_visible_lag() -> None:
    market = market_of(visible_lag_seconds=2.0)
    assert iso(shown(market, "BTCUSDT", 31.9).computed_at) == iso(at(0))
    assert iso(shown(market, "BTCUSDT", 32.0).computed_at) == iso(at(30))


def test_the_same_seed_shows_the_same_however_often_one_looks() -> None:
    one, other = (
        market_of(phase="own", jitter_seconds=0.3),
        market_of(phase="own", jitter_seconds=0.3),
    )
    one.advance(at(777))
    for symbol in DEFAULT_SYMBOLS:
        seen = [
            entry_of(market, shown(market, symbol, 3_000)) for market in (one, other)
        ]
        assert seen[0] == seen[1]


def test_another_seed_shows_another_market() -> None:
    entries = [
        entry_of(market, shown(market, "BTCUSDT", 3_000))
        for market in (market_of(), market_of(seed=2))
    ]
    assert entries[0]["all_expiry"]["hvl"] != entries[1]["all_expiry"]["hvl"]


def test_every_refresh_changes_a_level_and_the_spot_price_stays_near_its_base() -> None:
    market = market_of()
    before: dict[str, float] = {}
    for seconds in range(0, 30 * 500, 30):
        entry = entry_of(market, shown(market, "BTCUSDT", seconds))
        assert entry["all_expiry"] != before
        assert 80_000 < entry["spot_price"] < 125_000
        before = entry["all_expiry"]


def test_with_change_probability_zero_only_the_spot_price_moves() -> None:
    market = market_of(change_probability=0.0)
    entries = [
        entry_of(market, shown(market, "ETHUSDT", 30 * n), frozenset(INCLUDES))
        for n in range(1, 50)
    ]
    assert len({entry.pop("spot_price") for entry in entries}) > 40
    assert len({entry.pop("computed_at") for entry in entries}) == 49
    assert all(entry == entries[0] for entry in entries)


@pytest.mark.parametrize("symbol", [*DEFAULT_SYMBOLS, "NEWUSDT", "OTHERUSDT"])
def test_walls_stand_on_a_grid_around_the_spot_price(symbol: str) -> None:
    market = market_of(symbols=(symbol,))
    for n in range(100):
        entry = entry_of(market, shown(market, symbol, 30 * n))
        walls, spot = entry["all_expiry"], entry["spot_price"]
        assert walls["put_wall_3"] < walls["put_wall_2"] < walls["put_support"] <= spot
        assert (
            spot
            < walls["call_resistance"]
            < walls["call_wall_2"]
            < walls["call_wall_3"]
        )


def test_optional_sections_come_only_when_included() -> None:
    market = market_of()
    refresh = shown(market, "BTCUSDT", 0)
    plain = {"all_expiry", "odte", "spot_price", "computed_at"}
    assert entry_of(market, refresh).keys() == plain
    for name in INCLUDES:
        assert entry_of(market, refresh, frozenset({name})).keys() == plain | {name}
    ranked = entry_of(market, refresh, frozenset({"ranked"}))["ranked"]
    assert len(ranked["all_expiry_top_10"]) == 10
    assert all({"strike", "gex"} <= row.keys() for row in ranked["all_expiry_top_10"])


def test_a_venue_filter_alters_the_levels_and_all_venues_are_none() -> None:
    market = market_of()
    refresh = shown(market, "BTCUSDT", 0)
    plain, okx, bybit, both, every = (
        entry_of(market, refresh, exchanges=frozenset(names))["all_expiry"]
        for names in (
            [],
            ["okx"],
            ["bybit"],
            ["okx", "bybit"],
            ["deribit", "bybit", "okx", "binance"],
        )
    )
    assert len({one["hvl"] for one in (plain, okx, bybit, both)}) == 4
    assert every == plain


def test_a_cold_symbol_shows_nothing() -> None:
    assert market_of(cold=("BTCUSDT",)).show("BTCUSDT", at(60)) is None


def test_a_freeze_stops_the_refreshes_of_its_symbols_until_it_ends() -> None:
    faults = Faults(1)
    market = market_of(faults)
    faults.add([{"fault": "freeze", "symbols": ["BTCUSDT"], "for_seconds": 90}], at(10))
    assert shown(market, "BTCUSDT", 95).computed_at == at(0)
    assert shown(market, "ETHUSDT", 95).computed_at == at(90)
    assert shown(market, "BTCUSDT", 125).computed_at == at(120)
    assert computed(market, "BTCUSDT", 130) == [0, 120]


def test_a_clearance_ends_every_freeze() -> None:
    faults = Faults(1)
    market = market_of(faults)
    faults.add([{"fault": "freeze"}], at(10))
    faults.clear(at(70))
    assert shown(market, "BTCUSDT", 95).computed_at == at(90)
    assert computed(market, "BTCUSDT", 95) == [0, 90]


def test_a_new_period_begins_at_once_and_the_walk_goes_on() -> None:
    market = market_of()
    before = shown(market, "BTCUSDT", 45).spot
    market.change(Settings(**{**STEADY, "period_seconds": 1.0}), at(45))
    assert computed(market, "BTCUSDT", 48) == [0, 30, 45, 46, 47, 48]
    assert shown(market, "BTCUSDT", 48).spot == pytest.approx(before, rel=0.02)


def test_with_every_request_each_look_shows_a_new_refresh() -> None:
    market = market_of(every_request=True)
    seen = [shown(market, "BTCUSDT", 5) for _ in range(100)]
    assert len({refresh.computed_at for refresh in seen}) == 100
    assert (
        len({entry_of(market, refresh)["all_expiry"]["hvl"] for refresh in seen}) > 90
    )


def _gaps(moments: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(moments)]
