"""The simulated market: when symbols are computed, and the entries that are shown."""

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
NO_NAMES: frozenset[str] = frozenset()
PLAIN_FIELDS = {"all_expiry", "odte", "spot_price", "computed_at"}


def at(seconds: float) -> int:
    return micros(EPOCH + seconds)


def create_market(faults: Faults | None = None, **settings: Any) -> Market:
    if faults is None:
        faults = Faults(1)
    chosen = Settings(**{**STEADY, **settings})
    return Market(chosen, at(0), faults.is_frozen, itertools.count(1))


def show(market: Market, symbol: str, seconds: float) -> Refresh:
    refresh = market.show(symbol, at(seconds))
    assert refresh is not None
    return refresh


def entry_of(
    market: Market,
    refresh: Refresh,
    include: frozenset[str] = NO_NAMES,
    exchanges: frozenset[str] = NO_NAMES,
) -> dict[str, Any]:
    content = market.content(refresh, include, exchanges)
    entry: dict[str, Any] = msgspec.json.decode(content.raw)
    return entry


def computed(market: Market, symbol: str, until_seconds: float) -> list[float]:
    """Return the seconds since the epoch of every refresh up to a moment."""
    market.advance(at(until_seconds))
    seconds = []
    for refresh in market.refreshes(0):
        if refresh.symbol == symbol:
            seconds.append(refresh.computed_at / MICROS - EPOCH)
    return seconds


def gaps(seconds: list[float]) -> list[float]:
    return [after - before for before, after in itertools.pairwise(seconds)]


def test_symbols_together_are_computed_on_one_grid() -> None:
    market = create_market()
    for symbol in DEFAULT_SYMBOLS:
        assert computed(market, symbol, 100) == [0, 30, 60, 90]


def test_symbols_with_a_phase_of_their_own_are_not_in_step() -> None:
    market = create_market(phase="own")
    phases = {computed(market, symbol, 300)[-1] % 30 for symbol in DEFAULT_SYMBOLS}
    assert len(phases) == len(DEFAULT_SYMBOLS)
    for gap in gaps(computed(market, "BTCUSDT", 300)):
        assert gap == pytest.approx(30)


def test_jitter_scatters_around_the_grid() -> None:
    seconds = computed(create_market(jitter_seconds=1.0), "BTCUSDT", 30_000)
    assert max(abs(moment - 30 * round(moment / 30)) for moment in seconds) < 6
    assert len(set(gaps(seconds))) > 900


def test_jitter_adds_up_with_drift() -> None:
    market = create_market(jitter_seconds=1.0, drift=True)
    seconds = computed(market, "BTCUSDT", 30_000)
    assert max(abs(moment - 30 * n) for n, moment in enumerate(seconds)) > 6


def test_computed_at_grows_however_late_a_refresh_is() -> None:
    market = create_market(jitter_seconds=20.0, late_probability=0.5, late_seconds=70.0)
    assert min(gaps(computed(market, "BTCUSDT", 30_000))) > 0


def test_a_skipped_refresh_leaves_a_hole_and_the_grid_stays() -> None:
    seconds = computed(create_market(skip_probability=0.3), "BTCUSDT", 30_000)
    assert 600 < len(seconds) < 800
    assert all(moment % 30 == 0 for moment in seconds)


def test_nothing_follows_the_first_refresh_if_every_refresh_is_skipped() -> None:
    assert computed(create_market(skip_probability=1.0), "BTCUSDT", 3_000) == [0]


def test_a_late_refresh_is_computed_late() -> None:
    market = create_market(late_probability=1.0, late_seconds=7.0)
    assert computed(market, "BTCUSDT", 100)[-3:] == [37, 67, 97]


def test_a_refresh_is_seen_only_after_the_visible_lag() -> None:
    market = create_market(visible_lag_seconds=2.0)
    assert iso(show(market, "BTCUSDT", 31.9).computed_at) == iso(at(0))
    assert iso(show(market, "BTCUSDT", 32.0).computed_at) == iso(at(30))


def test_the_same_seed_shows_the_same_however_often_one_looks() -> None:
    settings: dict[str, Any] = {"phase": "own", "jitter_seconds": 0.3}
    market = create_market(**settings)
    other = create_market(**settings)
    market.advance(at(777))
    for symbol in DEFAULT_SYMBOLS:
        entry = entry_of(market, show(market, symbol, 3_000))
        assert entry == entry_of(other, show(other, symbol, 3_000))


def test_another_seed_shows_another_market() -> None:
    market = create_market()
    other = create_market(seed=2)
    entry = entry_of(market, show(market, "BTCUSDT", 3_000))
    other_entry = entry_of(other, show(other, "BTCUSDT", 3_000))
    assert entry["all_expiry"]["hvl"] != other_entry["all_expiry"]["hvl"]


def test_every_refresh_changes_a_level_and_the_spot_price_stays_near_its_base() -> None:
    market = create_market()
    before: dict[str, float] = {}
    for seconds in range(0, 30 * 500, 30):
        entry = entry_of(market, show(market, "BTCUSDT", seconds))
        assert entry["all_expiry"] != before
        assert 80_000 < entry["spot_price"] < 125_000
        before = entry["all_expiry"]


def test_with_change_probability_zero_only_the_spot_price_moves() -> None:
    market = create_market(change_probability=0.0)
    everything = frozenset(INCLUDES)
    entries = []
    for n in range(1, 50):
        refresh = show(market, "ETHUSDT", 30 * n)
        entries.append(entry_of(market, refresh, everything))

    assert len({entry.pop("spot_price") for entry in entries}) > 40
    assert len({entry.pop("computed_at") for entry in entries}) == 49
    assert all(entry == entries[0] for entry in entries)


@pytest.mark.parametrize("symbol", [*DEFAULT_SYMBOLS, "NEWUSDT", "OTHERUSDT"])
def test_walls_are_in_order_around_the_spot_price(symbol: str) -> None:
    market = create_market(symbols=(symbol,))
    for n in range(100):
        entry = entry_of(market, show(market, symbol, 30 * n))
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
    rows = entry_of(market, refresh, frozenset({"ranked"}))["ranked"]
    assert len(rows["all_expiry_top_10"]) == 10
    for row in rows["all_expiry_top_10"]:
        assert {"strike", "gex"} <= row.keys()


def test_a_venue_filter_changes_the_levels_and_all_venues_are_no_filter() -> None:
    market = create_market()
    refresh = show(market, "BTCUSDT", 0)

    def levels(*exchanges: str) -> dict[str, float]:
        entry = entry_of(market, refresh, exchanges=frozenset(exchanges))
        found: dict[str, float] = entry["all_expiry"]
        return found

    filtered = [levels(), levels("okx"), levels("bybit"), levels("okx", "bybit")]
    assert len({found["hvl"] for found in filtered}) == 4
    assert levels("deribit", "bybit", "okx", "binance") == levels()


def test_a_cold_symbol_shows_nothing() -> None:
    assert create_market(cold=("BTCUSDT",)).show("BTCUSDT", at(60)) is None


def test_a_freeze_stops_the_refreshes_of_its_symbols_until_it_ends() -> None:
    faults = Faults(1)
    market = create_market(faults)
    faults.add([{"fault": "freeze", "symbols": ["BTCUSDT"], "for_seconds": 90}], at(10))
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
    market.change(Settings(**{**STEADY, "period_seconds": 1.0}), at(45))
    assert computed(market, "BTCUSDT", 48) == [0, 30, 45, 46, 47, 48]
    assert show(market, "BTCUSDT", 48).spot == pytest.approx(before, rel=0.02)


def test_with_every_request_each_request_shows_a_new_refresh() -> None:
    market = create_market(every_request=True)
    refreshes = [show(market, "BTCUSDT", 5) for _ in range(100)]
    flips = {entry_of(market, one)["all_expiry"]["hvl"] for one in refreshes}
    assert len({refresh.computed_at for refresh in refreshes}) == 100
    assert len(flips) > 90
