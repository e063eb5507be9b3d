"""What a symbol's entry looks like: strikes on a grid around the spot price, and the chance they are made from.

Pure: chance is a hash of whatever names it. Prices are in quote units.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Any, Final

import msgspec

from connector.simulator.settings import EXCHANGES

BASES: Final = {
    "BTCUSDT": 100_000.0,
    "ETHUSDT": 4_000.0,
    "SOLUSDT": 200.0,
    "HYPEUSDT": 40.0,
    "XRPUSDT": 2.5,
    "BNBUSDT": 800.0,
    "DOGEUSDT": 0.25,
    "AVAXUSDT": 30.0,
}
NO_EXPIRY_TODAY: Final = 0.03  # of the values of a slow number: no odte levels
ALL_EXCHANGES: Final = frozenset(EXCHANGES)


class Content(msgspec.Struct, frozen=True, gc=False):
    """An entry as it is sent: canonical JSON (keys sorted, no blanks), its SHA-256, and its `computed_at`."""

    raw: bytes
    sha256: str
    computed_at: str | None


class Basis(msgspec.Struct, frozen=True, gc=False):
    """What levels are made from: spot and gamma flip when they last changed, and eight slow numbers in 0..1."""

    number: int
    spot: float
    hvl: float
    regime: tuple[float, ...]


class Shape:
    """How the levels of a symbol look: its price range, its strike grid, its decimals."""

    def __init__(self, symbol: str) -> None:
        self._symbol = symbol
        self.base = BASES.get(symbol) or round(10 ** (5 * uniforms("base", symbol)[0] - 1), 2)
        magnitude = 10.0 ** math.floor(math.log10(self.base / 100))
        self.grid = next(step for step in (magnitude, 2 * magnitude, 5 * magnitude) if step * 1.999 > self.base / 100)
        self.digits = max(2, 6 - math.floor(math.log10(self.base)))

    def next_basis(self, basis: Basis, spot: float, wobble: float, turn: float) -> Basis:
        """Levels that follow `spot`: the gamma flip always moves, the walls now and then."""
        hvl = round(spot * (0.994 + 0.002 * wobble), self.digits)
        if hvl == basis.hvl:
            hvl = round(hvl + 10.0**-self.digits, self.digits)
        regime = list(basis.regime)
        place = int(turn * 32)
        if place < len(regime):
            regime[place] = turn * 32 % 1
        return Basis(basis.number + 1, spot, hvl, tuple(regime))

    def sections(self, basis: Basis, include: frozenset[str], exchanges: frozenset[str]) -> dict[str, Any]:
        """The sections of an entry; `include` names the optional ones. All four venues are the same as no filter."""
        r = basis.regime
        outward, tilt = 0, 0.0
        if exchanges and exchanges != ALL_EXCHANGES:
            u = uniforms("exchanges", self._symbol, *sorted(exchanges))
            outward, tilt = 1 + int(3 * u[0]), self.grid * (0.1 + u[1])
        below = math.floor(basis.spot / self.grid)
        calls, puts = [below + 1 + outward + int(3 * r[0])], [below - outward - int(3 * r[1])]
        for n in (2, 3):
            calls.append(calls[-1] + 1 + int(2 * r[n]))
            puts.append(puts[-1] - 1 - int(2 * r[n + 2]))
        hvl = round(basis.hvl - tilt, self.digits)
        call, put = [self._price(k) for k in calls], [self._price(k) for k in puts]
        expiring = r[7] > NO_EXPIRY_TODAY
        found: dict[str, Any] = {
            "all_expiry": {
                "hvl": hvl,
                "call_resistance": call[0],
                "call_wall_2": call[1],
                "call_wall_3": call[2],
                "put_support": put[0],
                "put_wall_2": put[1],
                "put_wall_3": put[2],
            },
            "odte": {
                "hvl": round(hvl + self.grid * 0.2, self.digits) if expiring else None,
                "call_resistance": self._price(calls[0] - 0.5) if expiring else None,
                "put_support": self._price(puts[0] + 0.5) if expiring else None,
            },
        }
        if "max_pain" in include:
            found["max_pain"] = {"strike": self._price(below + int(4 * r[6]) - 1), "value": round(1e8 * (1 + r[6]), 2)}
        if "expected_move" in include:
            found["expected_move"] = self._band(basis)
        if "ranked" in include:
            strikes = [strike for pair in zip(calls, puts, strict=True) for strike in pair]
            strikes += [calls[2] + 1, puts[2] - 1, calls[2] + 2, puts[2] - 2]
            found["ranked"] = {
                "all_expiry_top_10": self._rows(strikes, below, 1e8),
                "odte_top_10": self._rows(strikes[:5], below, 1e7) if expiring else [],
            }
        if "zones" in include:
            edges = {"lower": round(hvl - self.grid, self.digits), "upper": round(hvl + self.grid, self.digits)}
            found["zones"] = [{**edges, "strike": hvl, "direction": "negative_to_positive"}]
        return found

    def _price(self, steps: float) -> float:
        return round(steps * self.grid, self.digits)

    def _band(self, basis: Basis) -> dict[str, float]:
        sigma = basis.spot * (0.02 + 0.005 * basis.regime[6])
        sides = (("upper", 1), ("lower", -1))
        return {f"{side}_{n}sd": round(basis.spot + s * n * sigma, self.digits) for n in (1, 2) for side, s in sides}

    def _rows(self, strikes: list[int], below: int, scale: float) -> list[dict[str, Any]]:
        sizes = ((k, round(scale / place * (1 if k > below else -1), 2)) for place, k in enumerate(strikes, 1))
        return [{"strike": self._price(k), "gex": gex, "side": "call" if gex > 0 else "put"} for k, gex in sizes]


def content_of(entry: Any) -> Content:
    """Anything as canonical JSON."""
    raw = msgspec.json.encode(entry, order="sorted")
    computed_at = entry.get("computed_at") if isinstance(entry, dict) else None
    return Content(raw, hashlib.sha256(raw).hexdigest(), computed_at)


def uniforms(*what: object) -> tuple[float, ...]:
    """Eight numbers in 0..1, without 0, that depend on nothing but `what`."""
    digest = hashlib.blake2b(":".join(map(str, what)).encode(), digest_size=64).digest()
    return tuple([(n + 0.5) / 2**64 for n in struct.unpack("<8Q", digest)])


def gauss(u: float, v: float) -> float:
    """A standard normal number from two uniform ones (Box and Muller)."""
    return math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v)
