"""The service without HTTP: authorisation, quota and answers.

Every shape and rule follows the vendor's public documentation of `GET /multi/gex/levels`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from connector.devkit.simulator.faults import Faults
from connector.devkit.simulator.levels import MICROS, iso, micros
from connector.devkit.simulator.market import Market
from connector.devkit.simulator.quota import Quota, seconds_left
from connector.devkit.simulator.reply import ERRORS, Reply, apply_fault
from connector.devkit.simulator.settings import EXCHANGES, INCLUDES, Settings
from connector.devkit.simulator.truth import Answer, AnswerLog, Computed, Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_SYMBOLS: Final = 8

# The greatest age of each health status, youngest first.
_HEALTH_BY_AGE_SECONDS: Final = {
    60.0: "healthy",
    90.0: "degraded",
    math.inf: "unhealthy",
}
_NO_NAMES: Final[frozenset[str]] = frozenset()


class Service:
    """State of the simulated service. `clock` returns Unix time in seconds."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self._clock = clock
        self._faults = Faults(settings.seed)
        self._sequence = itertools.count(1)
        self._market = Market(
            settings, self.now(), self._faults.is_frozen, self._sequence
        )
        self._log = AnswerLog()
        self._statuses: Counter[str] = Counter()
        self._quota = Quota()

    def now(self) -> int:
        """Return microseconds since the Unix epoch."""
        return micros(self._clock())

    def answer(self, key: str, query: Mapping[str, str]) -> Reply:
        """Answer a request for levels. Report the outcome to `answered` afterwards."""
        known_keys = {*self.settings.keys, *self.settings.forbidden_keys}
        answer = Answer(
            received_at=self.now(),
            key=key if key in known_keys else "unknown",
            request_id=uuid4().hex,
            symbols=_names(query, "symbols"),
            include=_names(query, "include"),
            exchanges=_names(query, "exchanges"),
        )
        # Count the request first: the reply shows what is left of the quota.
        refusal = self._refusal(key, answer)
        reply = self.reply(key, answer.request_id)
        reply.answer = answer
        if refusal is not None:
            status, details = refusal
            reply.refuse(status, **details)
            return reply

        self._fill(reply, answer)
        self._log.remember_contents(reply)
        for fault in self._faults.draw(answer.received_at, answer.symbols):
            answer.faults.append(fault.fault)
            apply_fault(reply, fault)
        if answer.faults:
            self._log.remember_contents(reply)

        answer.shown = {}
        for symbol, content in reply.results.items():
            answer.shown[symbol] = content.shown if content else None
        return reply

    def reply(self, key: str, request_id: str) -> Reply:
        """Return a reply without data for the holder of a key."""
        now = self.now()
        meta: dict[str, Any] = {
            "version": "2.0",
            "timestamp": iso(now),
            "request_id": request_id,
        }
        headers = {"X-Request-ID": request_id}

        limit = self.settings.limit_per_minute
        if limit:
            meta["rate_limit"] = self._quota.fields(key, limit, now)
            for name, value in meta["rate_limit"].items():
                headers[f"X-RateLimit-{name.capitalize()}"] = str(value)
        return Reply(meta, headers)

    def sibling(self, name: str) -> dict[str, Any] | None:
        """Return the data of another endpoint, or None if there is none of this name."""
        symbols = self.settings.symbols
        match name:
            case "symbols":
                return {"categories": {"crypto": symbols}, "total": len(symbols)}
            case "status":
                return {"symbols": {symbol: self._health(symbol) for symbol in symbols}}
            case "meta":
                return {
                    "errors": _error_catalogue(),
                    "supported_symbols": symbols,
                    "max_symbols": MAX_SYMBOLS,
                }
            case "health":
                return {"status": "ok"}
            case _:
                return None

    def answered(self, reply: Reply, status: int) -> None:
        """Log an answer whose outcome is known: the status sent, or 0 if it broke."""
        answer = reply.answer
        if answer is None:
            return
        answer.status = status
        answer.answered_at = self.now()
        answer.sequence = next(self._sequence)
        self._log.add(answer)
        self._statuses[str(status)] += 1

    def add_script(self, tables: list[dict[str, Any]]) -> None:
        """Arm faults, all or none, `at_seconds` from now. Raises ValueError."""
        self._faults.add(tables, self.now())

    def clear_faults(self) -> None:
        """Disarm all faults and end every freeze."""
        self._faults.clear(self.now())

    def change(self, **changes: Any) -> None:
        """Change settings while the service runs. Raises ValueError."""
        if "seed" in changes:
            raise ValueError("seed cannot be changed while the service runs")
        self.settings = self.settings.changed(changes)
        self._market.change(self.settings, self.now())

    def spend(self, requests: int = 1, key: str | None = None) -> None:
        """Use up quota as another program with the same key would.

        The default key is the first of the settings.
        """
        spender = key or self.settings.keys[0]
        self._quota.spend(spender, requests, self.now())

    def truth(self, since: int = 0, *, contents: bool = False) -> Truth:
        """Return the page of the truth log after a cursor."""
        self._market.advance(self.now())
        answers = self._log.since(since)

        refreshes = []
        for refresh in self._market.refreshes(since):
            content = self._market.content(refresh, _NO_NAMES, _NO_NAMES)
            computed = Computed(
                sequence=refresh.sequence,
                symbol=refresh.symbol,
                computed_at=iso(refresh.computed_at),
                visible_at=refresh.visible_at,
                sha256=content.shown.sha256,
            )
            refreshes.append(computed)

        cursor = since
        if answers:
            cursor = max(cursor, answers[-1].sequence)
        if refreshes:
            cursor = max(cursor, refreshes[-1].sequence)
        return Truth(
            cursor, refreshes, answers, self._log.contents() if contents else {}
        )

    def stats(self) -> dict[str, Any]:
        """Return counts since the start, and the faults in force."""
        self._market.advance(self.now())
        return {
            "requests_total": self._statuses.total(),
            "requests_by_status": dict(sorted(self._statuses.items())),
            "refreshes_total": self._market.refreshes_total,
            "faults_active": self._faults.active(self.now()),
        }

    def _refusal(self, key: str, answer: Answer) -> tuple[str, dict[str, Any]] | None:
        """Return status and details of the error that a request deserves, if any.

        A request with a valid key uses up quota, even if it is invalid.
        """
        if key in self.settings.forbidden_keys and key not in self.settings.keys:
            return "403", {}
        if key not in self.settings.keys:
            return "401", {}

        limit = self.settings.limit_per_minute
        if not self._quota.try_spend(key, limit, answer.received_at):
            return "429", {"retry_after_seconds": seconds_left(answer.received_at)}

        if not 1 <= len(answer.symbols) <= MAX_SYMBOLS:
            message = f"1 to {MAX_SYMBOLS} symbols are required"
            return "400", {"errors": [{"field": "symbols", "message": message}]}

        errors = _unknown_values("include", answer.include, INCLUDES)
        errors += _unknown_values("exchanges", answer.exchanges, EXCHANGES)
        return ("422", {"errors": errors}) if errors else None

    def _fill(self, reply: Reply, answer: Answer) -> None:
        """Put the entries of the requested symbols into a reply."""
        include = frozenset(answer.include)
        exchanges = frozenset(answer.exchanges)
        served: list[str] = []
        missing: list[str] = []
        invalid: list[str] = []
        for symbol in answer.symbols:
            reply.results[symbol] = None
            if symbol not in self.settings.symbols:
                invalid.append(symbol)
                continue
            refresh = self._market.show(symbol, answer.received_at)
            if refresh is None:
                missing.append(symbol)
                continue
            content = self._market.content(refresh, include, exchanges)
            reply.results[symbol] = content
            served.append(symbol)

        data = {
            "results": reply.results,
            "requested": answer.symbols.copy(),
            "served": served,
            "missing": missing,
            "invalid": invalid,
        }
        reply.document = {"data": data}
        reply.meta["source"] = answer.exchanges or EXCHANGES
        reply.meta["exchanges_filtered"] = answer.exchanges or None

    def _health(self, symbol: str) -> dict[str, Any]:
        now = self.now()
        refresh = self._market.show(symbol, now)
        if refresh is None:
            return {"status": "unavailable", "freshness_seconds": None}

        age_seconds = (now - refresh.computed_at) / MICROS
        statuses = (
            status
            for max_age_seconds, status in _HEALTH_BY_AGE_SECONDS.items()
            if age_seconds <= max_age_seconds
        )
        return {"status": next(statuses), "freshness_seconds": age_seconds}


def _error_catalogue() -> list[dict[str, Any]]:
    errors = []
    for status, (code, message) in ERRORS.items():
        errors.append({"http": int(status), "code": code, "message": message})
    return errors


def _unknown_values(
    field: str, values: list[str], known: tuple[str, ...]
) -> list[dict[str, str]]:
    errors = []
    for value in values:
        if value not in known:
            message = f"unknown value {value!r}; known are {', '.join(known)}"
            errors.append({"field": field, "message": message})
    return errors


def _names(query: Mapping[str, str], parameter: str) -> list[str]:
    """Return the values of a comma-separated parameter, each once, in order."""
    values = [part.strip() for part in query.get(parameter, "").split(",")]
    return list(dict.fromkeys(value for value in values if value))
