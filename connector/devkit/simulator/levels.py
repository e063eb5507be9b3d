"""What a symbol's entry looks like: strikes on a grid around the spot price.

Pure: chance is a hash of whatever names it. Prices are in quote units, moments microseconds since the Unix epoch.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any, Final

import msgspec

from connector.devkit.simulator.settings import DEFAULT_SYMBOLS, EXCHANGES

MICROS: Final = 1_000_000
BASES: Final = dict(
    zip(
        DEFAULT_SYMBOLS,
        (100_000.0, 4_000.0, 200.0, 40.0, 2.5, 800.0, 0.25, 30.0),
        strict=True,
    )
)
NO_EXPIRY_TODAY: Final = 0.03  # of the values of a slow number: no odte levels
WALLS: Final = (
    "call_resistance",
    "call_wall_2",
    "call_wall_3",
    "put_support",
    "put_wall_2",
    "put_wall_3",
)
ODTE: Final = ("hvl", "call_resistance", "put_support")
_UNIX_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Refresh(msgspec.Struct, eq=False, gc=False):
    """One computation of one symbol, due at `nominal_at`.

    Levels are made from `basis_spot`, `hvl` and `regime`, eight slow numbers in 0..1; they stay where they do not
    change. `sequence` counts the refreshes and answers of a simulator in one row.
    """

    symbol: str
    nominal_at: int
    computed_at: int
    visible_at: int
    spot: float
    basis_spot: float
    hvl: float
    regime: tuple[float, ...]
    skipped: bool = False
    sequence: int = 0


class Shown(msgspec.Struct, frozen=True, gc=False):
    """An entry as it was sent: the text of its `computed_at`, and the SHA-256 of its bytes.

    The bytes are canonical JSON (keys sorted, no blanks, every number a float) but where a fault spoilt them.
    """

    computed_at: str | None
    sha256: str


class Content:
    """The bytes of an entry, and what the truth log says of them."""

    __slots__ = ("raw", "shown")

    def __init__(self, raw: bytes, shown: Shown) -> None:
        self.raw = raw
        self.shown = shown


def entry_of(
    refresh: Refresh, include: frozenset[str], exchanges: frozenset[str]
) -> dict[str, Any]:
    """An entry; `include` names its optional sections. All four venues are the same as no filter."""
    grid, r = grid_of(refresh.symbol), refresh.regime
    outward, tilt = 0, 0.0
    if exchanges and len(exchanges) < len(EXCHANGES):
        chance = chance_of("exchanges", refresh.symbol, *sorted(exchanges))
        outward, tilt = chance.randint(1, 3), grid.step * (0.1 + chance.random())
    below = math.floor(refresh.basis_spot / grid.step)
    calls = list(
        accumulate(
            (below + 1 + outward + int(3 * r[0]), 1 + int(2 * r[2]), 1 + int(2 * r[3]))
        )
    )
    puts = list(
        accumulate(
            (below - outward - int(3 * r[1]), -1 - int(2 * r[4]), -1 - int(2 * r[5]))
        )
    )
    hvl = grid.price(0, refresh.hvl - tilt)
    today = (
        grid.price(0.2, hvl),
        grid.price(calls[0] - 0.5),
        grid.price(puts[0] + 0.5),
    )
    expiring = r[7] > NO_EXPIRY_TODAY
    found: dict[str, Any] = {
        "all_expiry": {
            "hvl": hvl,
            **dict(zip(WALLS, map(grid.price, calls + puts), strict=True)),
        },
        "odte": dict(zip(ODTE, today if expiring else (None, None, None), strict=True)),
        "spot_price": refresh.spot,
        "computed_at": iso(refresh.computed_at),
    }
    if "max_pain" in include:
        found["max_pain"] = {
            "strike": grid.price(below + int(4 * r[6]) - 1),
            "value": round(1e8 * (1 + r[6]), 2),
        }
    if "expected_move" in include:
        sigma = refresh.basis_spot * (0.02 + 0.005 * r[6])
        moves = {
            "upper_1sd": sigma,
            "lower_1sd": -sigma,
            "upper_2sd": 2 * sigma,
            "lower_2sd": -2 * sigma,
        }
        found["expected_move"] = {
            name: grid.price(0, refresh.basis_spot + move)
            for name, move in moves.items()
        }
    if "ranked" in include:
        strikes = [strike for pair in zip(calls, puts, strict=True) for strike in pair]
        strikes += [calls[2] + 1, puts[2] - 1, calls[2] + 2, puts[2] - 2]
        rows = [
            {
                "strike": grid.price(strike),
                "gex": round(1e8 / place * (1 if strike > below else -1), 2),
            }
            for place, strike in enumerate(strikes, 1)
        ]
        found["ranked"] = {
            "all_expiry_top_10": rows,
            "odte_top_10": rows[:5] if expiring else [],
        }
    if "zones" in include:
        found["zones"] = [
            {"lower": grid.price(-1, hvl), "strike": hvl, "upper": grid.price(1, hvl)}
        ]
    return found


def sealed(raw: bytes, computed_at: str | None) -> Content:
    """The bytes of an entry with their hash."""
    return Content(raw, Shown(computed_at, hashlib.sha256(raw).hexdigest()))


def content_of(entry: Any) -> Content:
    """Anything as canonical JSON."""
    computed_at = entry.get("computed_at") if isinstance(entry, dict) else None
    return sealed(msgspec.json.encode(entry, order="sorted"), computed_at)


class Grid(msgspec.Struct, frozen=True):
    """Where the prices of a symbol lie: around `base`, strikes every `step`, with so many decimals."""

    base: float
    step: float
    digits: int

    def price(self, steps: float, off: float = 0.0) -> float:
        """So many steps above a price."""
        return round(steps * self.step + off, self.digits)


@functools.lru_cache(maxsize=1_000)
def grid_of(symbol: str) -> Grid:
    """Known bases, and for any other symbol one between 0.1 and 10 000."""
    base = BASES.get(symbol) or round(
        10 ** (5 * chance_of("base", symbol).random() - 1), 2
    )
    magnitude = 10.0 ** math.floor(math.log10(base / 100))
    steps = (magnitude, 2 * magnitude, 5 * magnitude, 10 * magnitude)
    step = next(step for step in steps if step * 1.999 > base / 100)
    return Grid(base, step, max(2, 6 - math.floor(math.log10(base))))


def iso(at: int) -> str:
    """ISO 8601 with microseconds and Z."""
    return (_UNIX_EPOCH + timedelta(microseconds=at)).isoformat(
        timespec="microseconds"
    )[:-6] + "Z"


def micros(seconds: float) -> int:
    """Seconds as whole microseconds."""
    return round(seconds * MICROS)


def chance_of(*names: object) -> random.Random:
    """Chance that depends on nothing but what names it."""
    return random.Random(":".join(map(str, names)))  # noqa: S311 - repeatable on purpose
