"""The endpoints besides the levels. `EndpointData` builds the answer of each.

The vendor's pages do not give the exact shapes of `/symbols` and `/meta`.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from connector.devkit.simulator.asked import MAX_SYMBOLS
from connector.devkit.simulator.levels import MICROS, iso
from connector.devkit.simulator.plans import PLANS
from connector.devkit.simulator.reply import ERRORS
from connector.devkit.simulator.settings import EXCHANGES

if TYPE_CHECKING:
    from connector.devkit.simulator.market import AnyMarket
    from connector.devkit.simulator.settings import Settings

_HEALTH_REQUESTS_PER_MINUTE: Final = 60

KEYLESS: Final = frozenset({"health", "openapi.json"})
_OLD_NAMES: Final = frozenset({"symbols", "status", "meta", "health"})
_NAMES: Final = _OLD_NAMES | {"changelog", "openapi.json"}

# The greatest age of each health status, youngest first.
_STATUS_BY_AGE_SECONDS: Final = {
    60.0: "healthy",
    300.0: "degraded",
    math.inf: "unhealthy",
}
_OLD_STATUS_BY_AGE_SECONDS: Final = {
    60.0: "healthy",
    90.0: "degraded",
    math.inf: "unhealthy",
}
_CATEGORIES: Final = ("gex", "options", "chain", "liquidation")
_WORST_FIRST: Final = ("unhealthy", "degraded", "healthy")
_HEALTH: Final = {"healthy": "ok", "degraded": "degraded", "unhealthy": "unhealthy"}

_SUMMARIES: Final = {
    "2.0": "Bundled levels",
    "2.2": "Flow positioning by default",
    "2.8": "Levels as of a moment in the past",
    "2.10": "Four more venues",
}


class EndpointData:
    """The data of the other endpoints at a moment."""

    def __init__(self, settings: Settings, market: AnyMarket, now: int) -> None:
        self._settings = settings
        self._market = market
        self._now = now

    def exists(self, name: str) -> bool:
        """Return True if the contract has an endpoint of this name."""
        return name in (_OLD_NAMES if self._settings.is_old else _NAMES)

    def of(self, name: str) -> dict[str, Any]:
        """Return the data of an endpoint that exists."""
        if self._settings.is_old:
            return self._of_old_contract(name)
        builders = {
            "symbols": self._symbols,
            "status": self._status,
            "meta": self._meta,
            "changelog": self._changelog,
            "health": self._health,
            "openapi.json": self._openapi,
        }
        return builders[name]()

    @property
    def version(self) -> str:
        """The contract version that is reported."""
        return self._settings.version or self._settings.contract

    def _symbols(self) -> dict[str, Any]:
        rows = {}
        for symbol in self._settings.symbols:
            refresh = self._market.show(symbol, self._now)
            rows[symbol] = {
                "live_categories": list(_CATEGORIES) if refresh else [],
                "freshness_seconds": self._age_seconds(symbol),
                "spot_price": refresh.spot if refresh else None,
                "expiries": [],
            }
        return {"symbols": rows, "total": len(rows)}

    def _status(self) -> dict[str, Any]:
        rows = {}
        for symbol in self._settings.symbols:
            health = self._symbol_health(symbol, _STATUS_BY_AGE_SECONDS)
            rows[symbol] = {category: dict(health) for category in _CATEGORIES}

        venues = {}
        for venue in EXCHANGES:
            state = "off" if venue in self._settings.venues_off else "on"
            venues[venue] = {"chain": state, "tape": state}
        return {
            "overall_status": self._worst_status(),
            "symbols": rows,
            "thresholds": {"degraded_seconds": 60, "unhealthy_seconds": 300},
            "venues": venues,
        }

    def _meta(self) -> dict[str, Any]:
        limits = {}
        for name, plan in PLANS.items():
            limits[name] = {
                "requests_per_minute": plan.per_minute,
                "requests_per_month": plan.per_month or None,
            }
        # The simulator's own plan is none of the vendor's.
        own_plan = self._settings.plan
        del limits["demo"]
        return {
            "supported_symbols": self._settings.symbols,
            "max_symbols": MAX_SYMBOLS,
            "rate_limits": limits,
            "errors": _error_catalogue(),
            "history_depth": {"days": 30},
            "your_plan": "enterprise" if own_plan == "demo" else own_plan,
        }

    def _changelog(self) -> dict[str, Any]:
        summaries = dict(_SUMMARIES)
        summaries.setdefault(self.version, "Changes since")
        releases = []
        for number, (version, summary) in enumerate(summaries.items()):
            is_current = version == self.version
            release = {
                "version": version,
                "released_at": f"2026-{4 + number:02}-01T00:00:00Z",
                "breaking": is_current and self._settings.is_breaking,
                "summary": summary,
                "changes": [summary],
            }
            releases.append(release)
        releases.reverse()
        return {"current_version": self.version, "releases": releases}

    def _health(self) -> dict[str, Any]:
        status: str = self._settings.health
        if status == "auto":
            status = _HEALTH[self._worst_status()]
        return {"status": status}

    def _openapi(self) -> dict[str, Any]:
        return {
            "openapi": "3.1.0",
            "info": {"title": "BackQuant API (simulated)", "version": self.version},
            "paths": {"/multi/gex/levels": {}},
        }

    def _of_old_contract(self, name: str) -> dict[str, Any]:
        symbols = self._settings.symbols
        match name:
            case "symbols":
                return {"categories": {"crypto": symbols}, "total": len(symbols)}
            case "status":
                rows = {}
                for symbol in symbols:
                    rows[symbol] = self._symbol_health(
                        symbol, _OLD_STATUS_BY_AGE_SECONDS
                    )
                return {"symbols": rows}
            case "meta":
                return {
                    "errors": _error_catalogue(),
                    "supported_symbols": symbols,
                    "max_symbols": MAX_SYMBOLS,
                }
            case _:
                return {"status": "ok"}

    def _worst_status(self) -> str:
        statuses = set()
        for symbol in self._settings.symbols:
            health = self._symbol_health(symbol, _STATUS_BY_AGE_SECONDS)
            statuses.add(health["status"])
        for status in _WORST_FIRST:
            if status in statuses:
                return status
        return "unhealthy"

    def _symbol_health(
        self, symbol: str, status_by_age_seconds: dict[float, str]
    ) -> dict[str, Any]:
        age_seconds = self._age_seconds(symbol)
        if age_seconds is None:
            return {"status": "unavailable", "freshness_seconds": None}
        for max_age_seconds, status in status_by_age_seconds.items():
            if age_seconds <= max_age_seconds:
                return {"status": status, "freshness_seconds": age_seconds}
        raise AssertionError("the last age is infinite")

    def _age_seconds(self, symbol: str) -> float | None:
        refresh = self._market.show(symbol, self._now)
        if refresh is None:
            return None
        return (self._now - refresh.computed_at) / MICROS


class HealthLimit:
    """Limits the requests to `/health` by address, since they need no key."""

    def __init__(self) -> None:
        self._minute = 0
        self._requests: Counter[str] = Counter()

    def admit(self, address: str, now: int) -> bool:
        """Count a request at a moment. Return False if its address has asked enough."""
        minute = now // (60 * MICROS)
        if minute != self._minute:
            self._minute = minute
            self._requests.clear()
        self._requests[address] += 1
        return self._requests[address] <= _HEALTH_REQUESTS_PER_MINUTE


def optional_meta(
    entry: dict[str, Any], symbol: str, computed_at: int, now: int
) -> dict[str, Any]:
    """Return the optional fields of `meta` that describe one entry."""
    return {
        "symbol": symbol,
        "spot_price": entry["spot_price"],
        "computed_at": iso(computed_at, "millis"),
        "freshness_seconds": (now - computed_at) / MICROS,
    }


def _error_catalogue() -> list[dict[str, Any]]:
    errors = []
    for status, (code, message) in ERRORS.items():
        errors.append({"http": int(status), "code": code, "message": message})
    return errors
