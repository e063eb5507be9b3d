"""The service without HTTP: who may ask, what is answered, and the quota.

Source of every shape and rule: the vendor's public documentation of `GET /multi/gex/levels`.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec

from connector.simulator.faults import ERRORS, FAULTS, INSTEAD, Fault, Faults, parse_fault
from connector.simulator.market import MICROS, Freeze, Market, iso, micros
from connector.simulator.settings import EXCHANGES, INCLUDES, Settings
from connector.simulator.spoil import Draft, spoil
from connector.simulator.truth import Answer, Shown, Truth, TruthLog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_SYMBOLS: Final = 8
MINUTE: Final = 60 * MICROS
API_VERSION: Final = "2.0"


class Quota:
    """Requests in the current minute, per key: of the clock (`fixed`) or the last sixty seconds (`sliding`)."""

    def __init__(self) -> None:
        self._spent: dict[str, deque[int]] = {}

    def spend(self, settings: Settings, key: str, now: int) -> bool:
        """Count a request; False, and not counted, where none is left."""
        spent = self._recent(settings, key, now)
        left = not settings.limit_per_minute or len(spent) < settings.limit_per_minute
        if settings.limit_per_minute and left:
            spent.append(now)
        return left

    def figures(self, settings: Settings, key: str, now: int) -> dict[str, int]:
        """Limit, remaining, reset (Unix seconds, rounded up); empty for a plan without limit."""
        if not settings.limit_per_minute:
            return {}
        spent = self._recent(settings, key, now)
        start = spent[0] if settings.window == "sliding" and spent else now
        reset_at = (now // MINUTE + 1) * MINUTE if settings.window == "fixed" else start + MINUTE
        remaining = max(0, settings.limit_per_minute - len(spent))
        return {"limit": settings.limit_per_minute, "remaining": remaining, "reset": math.ceil(reset_at / MICROS)}

    def _recent(self, settings: Settings, key: str, now: int) -> deque[int]:
        if key not in settings.keys:
            return deque()
        spent = self._spent.setdefault(key, deque())
        start = now // MINUTE * MINUTE if settings.window == "fixed" else now - MINUTE + 1
        while spent and spent[0] < start:
            spent.popleft()
        return spent


class Spend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Requests of another program with the same key; None is the first of the settings' keys."""

    requests: int = 1
    key: str | None = None


@dataclass(slots=True)
class Reply:
    """An answer to be written. `instead` replaces it on the wire; `answer` goes to the log once it is written."""

    status: int
    body: bytes
    headers: dict[str, str]
    answer: Answer
    delay_seconds: float = 0.0
    instead: Fault | None = None


@dataclass(slots=True)
class Refusal:
    """An error of the documented catalogue."""

    status: str
    details: dict[str, Any] = field(default_factory=dict)


class Service:
    """State of the simulated service. `clock` gives Unix time in seconds."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self._clock = clock
        self.started_at = self.now()
        sequence = itertools.count(1)
        self.market = Market(settings, self.started_at, sequence)
        self.faults = Faults(settings.seed)
        self.log = TruthLog(sequence)
        self._quota = Quota()

    def now(self) -> int:
        """Microseconds since the Unix epoch."""
        return micros(self._clock())

    def answer(self, key: str, query: Mapping[str, str]) -> Reply:
        """Answer a request for levels."""
        now = self.now()
        known = key if key in {*self.settings.keys, *self.settings.forbidden_keys} else "unknown"
        answer = Answer(
            received_at=now,
            key=known,
            symbols=_listed(query, "symbols"),
            include=_listed(query, "include"),
            exchanges=_listed(query, "exchanges"),
            request_id=uuid4().hex,
        )
        refusal = self._refused(key, now)
        if refusal:
            return self._error(answer, refusal)
        struck = self.faults.draw(now, answer.symbols)
        answer.faults = [fault.name for fault in struck]
        told = next((fault for fault in struck if fault.name in ERRORS), None)
        refusal = Refusal(told.name, dict(told.parameters)) if told else _invalid(answer)
        reply = self._error(answer, refusal) if refusal else self._data(answer, struck)
        reply.delay_seconds = sum(fault.parameters["seconds"] for fault in struck if fault.name == "slow")
        if told is None:
            reply.instead = next((fault for fault in struck if fault.name in INSTEAD), None)
        return reply

    def envelope(self, key: str, part: dict[str, Any], request_id: str, step: int = 0) -> tuple[bytes, dict[str, str]]:
        """A whole response, as JSON, and its headers; `step` is how far the server's clock is off, microseconds."""
        now = self.now()
        figures = self._quota.figures(self.settings, key, now)
        if figures:
            figures["reset"] += step // MICROS
        meta = part.get("meta", {}) | {"version": API_VERSION, "timestamp": iso(now + step), "request_id": request_id}
        meta |= {"rate_limit": figures} if figures else {}
        headers = {f"X-RateLimit-{name.capitalize()}": str(value) for name, value in figures.items()}
        return msgspec.json.encode(part | {"meta": meta}), {"X-Request-ID": request_id, **headers}

    def error(self, key: str, refusal: Refusal, request_id: str) -> tuple[bytes, dict[str, str]]:
        """An error's response and headers."""
        code, message = ERRORS[refusal.status]
        error = {"code": code, "message": message, "details": refusal.details}
        body, headers = self.envelope(key, {"success": False, "error": error}, request_id)
        if "retry_after_seconds" in refusal.details:
            headers["Retry-After"] = str(math.ceil(refusal.details["retry_after_seconds"]))
        return body, headers

    def add_faults(self, tables: list[dict[str, Any]], start_at: int) -> None:
        """Arm faults, all or none; ValueError says what is wrong."""
        for fault in [parse_fault(table, start_at) for table in tables]:
            self.faults.add(fault)
            if fault.name == "freeze":
                self.market.freeze(Freeze(fault.symbols, fault.from_at, fault.until_at), self.now())

    def clear_faults(self) -> None:
        """Disarm all, end every freeze."""
        self.faults.clear()
        self.market.thaw(self.now())

    def change(self, changes: dict[str, Any]) -> None:
        """Change settings; `add_symbols` and `remove_symbols` as well. ValueError says what is wrong."""
        extra = {name: changes.get(name, []) for name in ("add_symbols", "remove_symbols")}
        if not all(isinstance(one, list | tuple) for one in extra.values()):
            raise ValueError("add_symbols and remove_symbols are lists")
        if fixed := changes.keys() & {"seed", "epoch_seconds"}:
            raise ValueError(f"{', '.join(sorted(fixed))} can be given at the start only")
        rest = {name: value for name, value in changes.items() if name not in extra}
        settings = self.settings.changed(rest)
        symbols = [*settings.symbols, *(one for one in extra["add_symbols"] if one not in settings.symbols)]
        kept = [one for one in symbols if one not in extra["remove_symbols"]]
        self.settings = settings.changed({"symbols": kept})
        self.market.change(self.settings, self.now())

    def spend(self, spend: Spend) -> None:
        """Use up quota as another program with the same key would."""
        key = spend.key or self.settings.keys[0]
        for _ in range(min(spend.requests, self.settings.limit_per_minute)):
            self._quota.spend(self.settings, key, self.now())

    def truth(self, since: int = 0, *, contents: bool = False) -> Truth:
        """The log after a cursor."""
        self.market.advance(self.now())
        return self.log.since(since, self.market, contents=contents)

    def stats(self) -> dict[str, Any]:
        """Counts since the start; refreshes since the market's epoch."""
        self.market.advance(self.now())
        return {
            "requests_total": sum(self.log.by_status.values()),
            "requests_by_status": {str(status): total for status, total in sorted(self.log.by_status.items())},
            "refreshes_total": self.market.refreshes_total,
            "faults_active": [fault.name for fault in self.faults.active(self.now())],
            "faults_known": list(FAULTS),
        }

    def _refused(self, key: str, now: int) -> Refusal | None:
        if key in self.settings.forbidden_keys:
            return Refusal("403")
        if key not in self.settings.keys:
            return Refusal("401")
        if self._quota.spend(self.settings, key, now):
            return None
        reset = self._quota.figures(self.settings, key, now)["reset"]
        return Refusal("429", {"retry_after_seconds": max(1, reset - now // MICROS)})

    def _error(self, answer: Answer, refusal: Refusal) -> Reply:
        body, headers = self.error(answer.key, refusal, answer.request_id)
        return Reply(int(refusal.status), body, headers, answer)

    def _data(self, answer: Answer, struck: list[Fault]) -> Reply:
        include, exchanges = frozenset(answer.include), frozenset(answer.exchanges)
        draft = Draft(requested=list(answer.symbols))
        for symbol in answer.symbols:
            draft.entries[symbol] = None
            if symbol not in self.settings.symbols:
                draft.invalid.append(symbol)
                continue
            refresh = self.market.show(symbol, answer.received_at)
            if refresh is None:
                draft.missing.append(symbol)
                continue
            content, new = self.market.content(symbol, refresh, include, exchanges)
            draft.entries[symbol] = content
            if new:
                self.log.remember(content)
        if struck:
            spoil(draft, struck)
            for spoilt in filter(None, draft.entries.values()):
                self.log.remember(spoilt)
        answer.shown = {
            name: Shown(one.computed_at, one.sha256) if one else None
            for name, one in ({} if draft.placeholders else draft.entries).items()
        }
        meta = {"source": answer.exchanges or EXCHANGES, "exchanges_filtered": answer.exchanges or None}
        part = {"success": draft.success} | draft.data() | {"meta": meta}
        body, headers = self.envelope(answer.key, part, answer.request_id, draft.step)
        return Reply(200, body, headers, answer)


def _listed(query: Mapping[str, str], name: str) -> list[str]:
    return list(dict.fromkeys(filter(None, (one.strip() for one in query.get(name, "").split(",")))))


def _invalid(answer: Answer) -> Refusal | None:
    if not answer.symbols:
        return Refusal("400", {"errors": [{"field": "symbols", "message": "at least one symbol is required"}]})
    if len(answer.symbols) > MAX_SYMBOLS:
        return Refusal("400", {"errors": [{"field": "symbols", "message": f"at most {MAX_SYMBOLS} symbols"}]})
    lists = (("include", answer.include, INCLUDES), ("exchanges", answer.exchanges, EXCHANGES))
    errors = [
        {"field": name, "message": f"unknown value {value!r}; known are {', '.join(known)}"}
        for name, given, known in lists
        for value in given
        if value not in known
    ]
    return Refusal("422", {"errors": errors}) if errors else None
