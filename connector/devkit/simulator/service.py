"""The service without HTTP: who may ask, what is answered, and the quota.

Source of every shape and rule: the vendor's public documentation of `GET /multi/gex/levels`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import msgspec

from connector.devkit.simulator.faults import Faults
from connector.devkit.simulator.levels import MICROS, Shown, iso, micros
from connector.devkit.simulator.market import Market
from connector.devkit.simulator.reply import ERRORS, Reply, spoil
from connector.devkit.simulator.settings import EXCHANGES, INCLUDES, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_SYMBOLS: Final = 8
MINUTE: Final = 60 * MICROS
HEALTH_BY_AGE_SECONDS: Final = {
    60.0: "healthy",
    90.0: "degraded",
    math.inf: "unhealthy",
}
KEPT_ANSWERS: Final = 100_000
KEPT_CONTENTS: Final = 20_000
PLAIN: Final[tuple[frozenset[str], frozenset[str]]] = (frozenset(), frozenset())


class Answer(msgspec.Struct, gc=False):
    """A request for levels. `received_at` and `answered_at` (handed to the socket) are microseconds, Unix time.

    `status` is 0 where the connection was closed before the end. `shown` says null for a null entry and is empty where
    no data were sent. A key that is not among the settings' is logged as "unknown".
    """

    received_at: int
    key: str
    request_id: str
    symbols: list[str]
    include: list[str]
    exchanges: list[str]
    faults: list[str] = []
    shown: dict[str, Shown | None] = {}
    status: int = 0
    answered_at: int = 0
    sequence: int = 0


class Computed(msgspec.Struct, frozen=True, gc=False):
    """A refresh that became visible; `sha256` is of the entry without optional sections and without filter."""

    sequence: int
    symbol: str
    computed_at: str
    visible_at: int
    sha256: str


class Truth(msgspec.Struct, frozen=True):
    """A page of the log: pass `cursor` as `since` for the next. `contents`: the entries last shown, by SHA-256."""

    cursor: int
    refreshes: list[Computed]
    answers: list[Answer]
    contents: dict[str, str]


class Service:
    """State of the simulated service. `clock` gives Unix time in seconds."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self._clock = clock
        self._faults = Faults(settings.seed)
        self._sequence = itertools.count(1)
        self._market = Market(settings, self.now(), self._faults.frozen, self._sequence)
        self._answers: deque[Answer] = deque(maxlen=KEPT_ANSWERS)
        self._contents: dict[str, bytes] = {}
        self._statuses: Counter[str] = Counter()
        self._spent: Counter[tuple[str, int]] = Counter()

    def now(self) -> int:
        """Microseconds since the Unix epoch."""
        return micros(self._clock())

    def answer(self, key: str, query: Mapping[str, str]) -> Reply:
        """Answer a request for levels; `answered` is to be told how it went."""
        known = (
            key
            if key in {*self.settings.keys, *self.settings.forbidden_keys}
            else "unknown"
        )
        symbols, include, exchanges = (
            _listed(query, name) for name in ("symbols", "include", "exchanges")
        )
        answer = Answer(self.now(), known, uuid4().hex, symbols, include, exchanges)
        refused = self._refused(key, answer)
        reply = self.reply(key, answer.request_id)
        reply.answer = answer
        if refused is not None:
            reply.refuse(refused[0], **refused[1])
            return reply
        self._fill(reply, answer)
        self._remember(reply)
        for fault in self._faults.draw(answer.received_at, answer.symbols):
            answer.faults.append(fault.fault)
            spoil(reply, fault)
        if answer.faults:
            self._remember(reply)
        answer.shown = {
            symbol: content.shown if content else None
            for symbol, content in reply.results.items()
        }
        return reply

    def reply(self, key: str, request_id: str) -> Reply:
        """A response without data yet, for whoever has this key."""
        now = self.now()
        meta: dict[str, Any] = {
            "version": "2.0",
            "timestamp": iso(now),
            "request_id": request_id,
        }
        headers = {"X-Request-ID": request_id}
        if limit := self.settings.limit_per_minute:
            remaining = max(0, limit - self._spent[key, now // MINUTE])
            meta["rate_limit"] = {
                "limit": limit,
                "remaining": remaining,
                "reset": (now // MINUTE + 1) * 60,
            }
            headers |= {
                f"X-RateLimit-{name.capitalize()}": str(it)
                for name, it in meta["rate_limit"].items()
            }
        return Reply(meta, headers)

    def sibling(self, name: str) -> dict[str, Any] | None:
        """The data of an endpoint that is not about levels; None where there is no such."""
        symbols = self.settings.symbols
        errors = [
            {"http": int(status), "code": code, "message": text}
            for status, (code, text) in ERRORS.items()
        ]
        siblings: dict[str, dict[str, Any]] = {
            "symbols": {"categories": {"crypto": symbols}, "total": len(symbols)},
            "status": {"symbols": {symbol: self._health(symbol) for symbol in symbols}},
            "meta": {
                "errors": errors,
                "supported_symbols": symbols,
                "max_symbols": MAX_SYMBOLS,
            },
            "health": {"status": "ok"},
        }
        return siblings.get(name)

    def answered(self, reply: Reply, status: int) -> None:
        """Log the answer of a reply, now that its outcome is known."""
        if answer := reply.answer:
            answer.status, answer.answered_at, answer.sequence = (
                status,
                self.now(),
                next(self._sequence),
            )
            self._answers.append(answer)
            self._statuses[str(status)] += 1

    def add_script(self, tables: list[dict[str, Any]]) -> None:
        """Arm faults, all or none, `at_seconds` from now; ValueError says what is wrong."""
        self._faults.add(tables, self.now())

    def clear_faults(self) -> None:
        """Disarm all, end every freeze."""
        self._faults.clear(self.now())

    def change(self, **changes: Any) -> None:
        """Change settings while it runs. ValueError says what is wrong."""
        if "seed" in changes:
            raise ValueError("seed can be given at the start only")
        self.settings = self.settings.changed(changes)
        self._market.change(self.settings, self.now())

    def spend(self, requests: int = 1, key: str | None = None) -> None:
        """Use up quota as another program with the same key (None: the first of the settings) would."""
        self._spent[key or self.settings.keys[0], self.now() // MINUTE] += requests

    def truth(self, since: int = 0, *, contents: bool = False) -> Truth:
        """The truth log after a cursor."""
        self._market.advance(self.now())
        answers = list(
            itertools.takewhile(
                lambda answer: answer.sequence > since, reversed(self._answers)
            )
        )[::-1]
        refreshes = []
        for one in self._market.refreshes(since):
            sha256 = self._market.content(one, *PLAIN).shown.sha256
            refreshes.append(
                Computed(
                    one.sequence,
                    one.symbol,
                    iso(one.computed_at),
                    one.visible_at,
                    sha256,
                )
            )
        cursor = max(
            [
                since,
                *(one.sequence for one in answers[-1:]),
                *(one.sequence for one in refreshes[-1:]),
            ]
        )
        texts = (
            {sha256: raw.decode() for sha256, raw in self._contents.items()}
            if contents
            else {}
        )
        return Truth(cursor, refreshes, answers, texts)

    def stats(self) -> dict[str, Any]:
        """Counts since the start."""
        self._market.advance(self.now())
        return {
            "requests_total": self._statuses.total(),
            "requests_by_status": dict(sorted(self._statuses.items())),
            "refreshes_total": self._market.refreshes_total,
            "faults_active": self._faults.active(self.now()),
        }

    def _spend(self, key: str, now: int) -> bool:
        """Count a request in its minute of the clock; False, and not counted, where none is left."""
        limit, minute = self.settings.limit_per_minute, now // MINUTE
        left = not limit or self._spent[key, minute] < limit
        self._spent[key, minute] += left
        return left

    def _refused(self, key: str, answer: Answer) -> tuple[str, dict[str, Any]] | None:
        """Status and details of the error that the request deserves; where the key is right it is counted."""
        if key not in self.settings.keys:
            return ("403" if key in self.settings.forbidden_keys else "401"), {}
        if not self._spend(key, answer.received_at):
            return "429", {
                "retry_after_seconds": 60 - answer.received_at // MICROS % 60
            }
        if not 1 <= len(answer.symbols) <= MAX_SYMBOLS:
            return "400", {
                "errors": [
                    {
                        "field": "symbols",
                        "message": f"1 to {MAX_SYMBOLS} symbols are required",
                    }
                ]
            }
        errors = [
            {
                "field": name,
                "message": f"unknown value {value!r}; known are {', '.join(known)}",
            }
            for name, given, known in (
                ("include", answer.include, INCLUDES),
                ("exchanges", answer.exchanges, EXCHANGES),
            )
            for value in given
            if value not in known
        ]
        return ("422", {"errors": errors}) if errors else None

    def _fill(self, reply: Reply, answer: Answer) -> None:
        include, exchanges = frozenset(answer.include), frozenset(answer.exchanges)
        lists: dict[str, list[str]] = {
            "requested": answer.symbols.copy(),
            "served": [],
            "missing": [],
            "invalid": [],
        }
        for symbol in answer.symbols:
            known = symbol in self.settings.symbols
            refresh = self._market.show(symbol, answer.received_at) if known else None
            reply.results[symbol] = (
                self._market.content(refresh, include, exchanges) if refresh else None
            )
            lists["served" if refresh else "missing" if known else "invalid"].append(
                symbol
            )
        reply.document = {"data": {"results": reply.results, **lists}}
        reply.meta |= {
            "source": answer.exchanges or EXCHANGES,
            "exchanges_filtered": answer.exchanges or None,
        }

    def _remember(self, reply: Reply) -> None:
        for content in filter(None, reply.results.values()):
            self._contents.setdefault(content.shown.sha256, content.raw)
        while len(self._contents) > KEPT_CONTENTS:
            del self._contents[next(iter(self._contents))]

    def _health(self, symbol: str) -> dict[str, Any]:
        refresh = self._market.show(symbol, self.now())
        if refresh is None:
            return {"status": "unavailable", "freshness_seconds": None}
        age_seconds = (self.now() - refresh.computed_at) / MICROS
        status = next(
            status
            for most, status in HEALTH_BY_AGE_SECONDS.items()
            if age_seconds <= most
        )
        return {"status": status, "freshness_seconds": age_seconds}


def _listed(query: Mapping[str, str], name: str) -> list[str]:
    return list(
        dict.fromkeys(
            filter(None, (one.strip() for one in query.get(name, "").split(",")))
        )
    )
