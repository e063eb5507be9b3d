"""A symbol's entry: strikes on a grid around the spot price.

Pure: chance is a hash of the names passed in. Prices are in quote units, moments in
microseconds since the Unix epoch.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from connector.devkit.simulator.settings import (
    EIGHT_SYMBOLS,
    EXCHANGES,
    Settings,
    StampFormat,
)

MICROS: Final = 1_000_000

_BASE_PRICES: Final = dict(
    zip(
        EIGHT_SYMBOLS,
        (100_000.0, 4_000.0, 200.0, 40.0, 2.5, 800.0, 0.25, 30.0),
        strict=True,
    )
)

# Part of the range of `Regime.expiry` in which no option expires today.
_NO_EXPIRY_TODAY: Final = 0.03

# Gamma exposure of the largest strike; the n-th largest has 1/n of it.
_LARGEST_GEX: Final = 1e8

_OUTER_WALLS: Final = ("call_wall_2", "call_wall_3", "put_wall_2", "put_wall_3")

# The day of options ends at 08:00 UTC.
_DAY_MICROS: Final = 86_400 * MICROS
_DAY_ENDS_AT: Final = 8 * 3_600 * MICROS

_TIMESPECS: Final = {
    "millis": "milliseconds",
    "micros": "microseconds",
    "seconds": "seconds",
}
_UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Regime(NamedTuple):
    """Slow numbers in 0..1 that place the levels around the price."""

    call_distance: float
    put_distance: float
    second_call_gap: float
    third_call_gap: float
    second_put_gap: float
    third_put_gap: float
    pain: float
    expiry: float


class Refresh(msgspec.Struct, eq=False, gc=False):
    """A computation of one symbol, due at `nominal_at`.

    The levels follow from `basis_spot`, `hvl` and `regime`, which stay the same if the
    levels do not change. `sequence` numbers the refreshes and answers of a simulator.
    """

    symbol: str
    nominal_at: int
    computed_at: int
    visible_at: int
    spot: float
    basis_spot: float
    hvl: float
    regime: Regime
    skipped: bool = False
    sequence: int = 0


class Shown(msgspec.Struct, frozen=True, gc=False):
    """An entry as it was sent: the text of its `computed_at`, and a hash of its bytes.

    The bytes are canonical JSON (keys sorted, no blanks, every number a float), unless a
    fault has spoilt them.
    """

    computed_at: str | None
    sha256: str


class Content:
    """The bytes of an entry and their description for the truth log."""

    __slots__ = ("raw", "shown")

    def __init__(self, raw: bytes, shown: Shown) -> None:
        self.raw = raw
        self.shown = shown


class Grid(msgspec.Struct, frozen=True):
    """The strikes of a symbol: every `step` around `base`, rounded to `digits`."""

    base: float
    step: float
    digits: int

    def price(self, steps: float, above: float = 0.0) -> float:
        """Return the price that lies `steps` strikes above another."""
        return round(steps * self.step + above, self.digits)


class View(NamedTuple):
    """The part of a refresh that a request is shown, and under which model.

    `model` is `flow`, `std`, or empty: contract 2.0 had no models. With
    `has_flow_numbers`, `std` shows the numbers of `flow`. `nudge` moves the gamma flip, by
    its smallest digits.
    """

    include: frozenset[str] = frozenset()
    exchanges: frozenset[str] = frozenset()
    model: str = ""
    fallback_reason: str = ""
    has_flow_numbers: bool = False
    nudge: int = 0


def entry_of(refresh: Refresh, view: View, settings: Settings) -> dict[str, Any]:
    """Build the entry of a refresh, with the optional sections of the view."""
    grid = grid_of(refresh.symbol)
    regime = refresh.regime
    is_flow = view.model == "flow" or view.has_flow_numbers
    outward, tilt = _venue_shift(refresh.symbol, view.exchanges)
    if view.model and not is_flow:
        model_outward, model_tilt = _shift_of("model", refresh.symbol)
        outward += model_outward
        tilt += model_tilt

    # Strikes are counted in steps. `below` is the last one under the price.
    below = math.floor(refresh.basis_spot / grid.step)
    calls = _call_strikes(regime, below + 1 + outward)
    puts = _put_strikes(regime, below - outward)
    nudge = view.nudge * 10.0**-grid.digits
    hvl = grid.price(0, refresh.hvl - tilt + nudge)
    has_expiry_today = regime.expiry > _NO_EXPIRY_TODAY

    entry: dict[str, Any] = {
        "all_expiry": {
            "hvl": hvl,
            "call_resistance": grid.price(calls[0]),
            "call_wall_2": grid.price(calls[1]),
            "call_wall_3": grid.price(calls[2]),
            "put_support": grid.price(puts[0]),
            "put_wall_2": grid.price(puts[1]),
            "put_wall_3": grid.price(puts[2]),
        },
        "odte": {"hvl": None, "call_resistance": None, "put_support": None},
        "spot_price": refresh.spot,
        "computed_at": iso(refresh.computed_at, settings.stamp_format),
    }
    if is_flow and settings.flow_walls == "null":
        entry["all_expiry"] |= dict.fromkeys(_OUTER_WALLS)
    if has_expiry_today:
        entry["odte"] = {
            "hvl": grid.price(_odte_tilt(refresh, view), hvl),
            "call_resistance": grid.price(calls[0] - 0.5),
            "put_support": grid.price(puts[0] + 0.5),
        }
    entry |= _model_fields(view, settings)

    if "max_pain" in view.include:
        entry["max_pain"] = {
            "strike": grid.price(below + int(4 * regime.pain) - 1),
            "value": round(1e8 * (1 + regime.pain), 2),
        }
    if "expected_move" in view.include:
        entry["expected_move"] = _expected_move(grid, refresh)
    if "ranked" in view.include:
        rows = _ranked_rows(grid, below, calls, puts)
        if view.model:
            rows = _with_ranks(rows)
        entry["ranked"] = {
            "all_expiry_top_10": rows,
            "odte_top_10": rows[:5] if has_expiry_today else [],
        }
    if "zones" in view.include:
        zone = {
            "lower": grid.price(-1, hvl),
            "strike": hvl,
            "upper": grid.price(1, hvl),
        }
        entry[settings.zones_name] = [zone]
    return _with_integers(entry) if settings.whole_numbers else entry


def _model_fields(view: View, settings: Settings) -> dict[str, str]:
    is_named = settings.positioning_placement in {"both", "entry"}
    if not view.model or not is_named:
        return {}
    fields = {"positioning": view.model}
    if view.fallback_reason:
        fields["positioning_fallback_reason"] = view.fallback_reason
    return fields


def _odte_tilt(refresh: Refresh, view: View) -> float:
    """Return how far (in steps) today's flip is from the flip of all expiries.

    Under the models, it jumps at 08:00 UTC.
    """
    if not view.model:
        return 0.2
    day = (refresh.computed_at - _DAY_ENDS_AT) // _DAY_MICROS
    return 0.1 + 0.3 * chance_of("odte", refresh.symbol, day).random()


def _venue_shift(symbol: str, exchanges: frozenset[str]) -> tuple[int, float]:
    """Return how far a venue filter moves the walls (steps) and the flip (price).

    No venues and all venues mean the same: no filter.
    """
    if not exchanges or len(exchanges) == len(EXCHANGES):
        return 0, 0.0
    return _shift_of("exchanges", symbol, *sorted(exchanges))


def _shift_of(kind: str, symbol: str, *names: str) -> tuple[int, float]:
    chance = chance_of(kind, symbol, *names)
    outward = chance.randint(1, 3)
    tilt = grid_of(symbol).step * (0.1 + chance.random())
    return outward, tilt


def _with_ranks(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    ranked = []
    for rank, row in enumerate(rows, 1):
        abs_gex = abs(row["gex"])
        ranked.append({"rank": rank, **row, "abs_gex": abs_gex})
    return ranked


def _with_integers(value: Any) -> Any:
    """Return the value with every whole float in it as an integer."""
    if isinstance(value, dict):
        return {name: _with_integers(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_integers(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _call_strikes(regime: Regime, nearest: int) -> list[int]:
    first = nearest + int(3 * regime.call_distance)
    second = first + 1 + int(2 * regime.second_call_gap)
    third = second + 1 + int(2 * regime.third_call_gap)
    return [first, second, third]


def _put_strikes(regime: Regime, nearest: int) -> list[int]:
    first = nearest - int(3 * regime.put_distance)
    second = first - 1 - int(2 * regime.second_put_gap)
    third = second - 1 - int(2 * regime.third_put_gap)
    return [first, second, third]


def _expected_move(grid: Grid, refresh: Refresh) -> dict[str, float]:
    spot = refresh.basis_spot
    sigma = spot * (0.02 + 0.005 * refresh.regime.pain)
    return {
        "upper_1sd": grid.price(0, spot + sigma),
        "lower_1sd": grid.price(0, spot - sigma),
        "upper_2sd": grid.price(0, spot + 2 * sigma),
        "lower_2sd": grid.price(0, spot - 2 * sigma),
    }


def _ranked_rows(
    grid: Grid, below: int, calls: list[int], puts: list[int]
) -> list[dict[str, float]]:
    """Return ten strikes by gamma exposure, which is negative below the price."""
    strikes = []
    for call, put in zip(calls, puts, strict=True):
        strikes += [call, put]
    for steps in (1, 2):
        strikes += [calls[-1] + steps, puts[-1] - steps]

    rows = []
    for rank, strike in enumerate(strikes, 1):
        sign = 1 if strike > below else -1
        gex = round(_LARGEST_GEX / rank * sign, 2)
        rows.append({"strike": grid.price(strike), "gex": gex})
    return rows


def hashed_content(raw: bytes, computed_at: str | None) -> Content:
    """Return the bytes of an entry with their hash."""
    sha256 = hashlib.sha256(raw).hexdigest()
    return Content(raw, Shown(computed_at, sha256))


def canonical_content(entry: Any) -> Content:
    """Encode an entry, or anything that a fault made of it, as canonical JSON."""
    computed_at = entry.get("computed_at") if isinstance(entry, dict) else None
    return hashed_content(msgspec.json.encode(entry, order="sorted"), computed_at)


@functools.lru_cache(maxsize=1_000)
def grid_of(symbol: str) -> Grid:
    """Return the grid of a symbol: strikes about a hundredth of its base price apart.

    A symbol without a known base price gets one between 0.1 and 10,000.
    """
    base = _BASE_PRICES.get(symbol)
    if base is None:
        exponent = 5 * chance_of("base", symbol).random() - 1
        base = round(10**exponent, 2)

    # Take the first round step that is not much smaller than a hundredth of the base.
    magnitude = 10.0 ** math.floor(math.log10(base / 100))
    steps = (magnitude, 2 * magnitude, 5 * magnitude, 10 * magnitude)
    step = next(step for step in steps if step * 1.999 > base / 100)
    digits = max(2, 6 - math.floor(math.log10(base)))
    return Grid(base, step, digits)


def iso(at: int, stamp_format: StampFormat = "micros") -> str:
    """Return a moment as ISO 8601, cut to the digits of the format."""
    moment = _UNIX_EPOCH + timedelta(microseconds=at)
    if stamp_format == "offset":
        return moment.isoformat(timespec="milliseconds")
    if stamp_format == "zero_millis":
        return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"
    timespec = _TIMESPECS[stamp_format]
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def micros(seconds: float) -> int:
    """Convert seconds to whole microseconds."""
    return round(seconds * MICROS)


def chance_of(*names: object) -> random.Random:
    """Return a generator that depends on nothing but the names."""
    return random.Random(":".join(map(str, names)))  # noqa: S311 -- repeatable on purpose
