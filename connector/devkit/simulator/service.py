"""The service without HTTP: it draws faults, answers requests and logs the truth.

Every shape and rule follows the vendor's public documentation of `GET /multi/gex/levels`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from connector.devkit.simulator.access import Access
from connector.devkit.simulator.asked import Asked, parse_query, refusal_of
from connector.devkit.simulator.bundle import Bundle
from connector.devkit.simulator.catalogue import apply_fault
from connector.devkit.simulator.endpoints import KEYLESS, EndpointData, HealthLimit
from connector.devkit.simulator.faults import Faults
from connector.devkit.simulator.front_cache import FrontCache
from connector.devkit.simulator.levels import MICROS, iso, micros
from connector.devkit.simulator.market import Market
from connector.devkit.simulator.replay_market import ReplayMarket
from connector.devkit.simulator.reply import Reply
from connector.devkit.simulator.truth import Answer, AnswerLog, Computed, Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from connector.devkit.simulator.faults import Fault
    from connector.devkit.simulator.market import AnyMarket
    from connector.devkit.simulator.quota import Budget
    from connector.devkit.simulator.replay_market import Replay
    from connector.devkit.simulator.settings import Settings

_UNAUTHORIZED: Final = 401
_NOBODY: Final = Asked([], [], [])


# Longer than other classes: the faults, budgets, caches and logs of the service meet in
# its answers. Each of these parts is a class of its own.
class Service:
    """State of the simulated service. `clock` returns Unix time in seconds.

    With a `replay`, it shows a past day instead of an invented market.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float],
        replay: Replay | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._faults = Faults(settings.seed)
        self._sequence = itertools.count(1)
        self._market: AnyMarket
        if replay is None:
            self._market = Market(
                settings, self.now(), self._faults.is_frozen, self._sequence
            )
        else:
            self._market = ReplayMarket(replay, settings, self.now(), self._sequence)
        self._access = Access(settings, self.now())
        self._cache = FrontCache()
        self._log = AnswerLog()
        self._turns = itertools.count()
        self._statuses: Counter[str] = Counter()
        self._endpoints: Counter[str] = Counter()
        self._health_limit = HealthLimit()

    def now(self) -> int:
        """Return microseconds since the Unix epoch."""
        return micros(self._clock())

    def answer(self, key: str, query: Mapping[str, str]) -> Reply:
        """Answer a request for levels. Report the outcome to `answered` afterwards."""
        asked = parse_query(query)
        now = self.now()
        answer = Answer(
            received_at=now,
            key=key if self._access.is_known(key) else "unknown",
            request_id=uuid4().hex,
            symbols=asked.symbols,
            include=asked.include,
            exchanges=asked.exchanges,
            positioning=asked.positioning,
        )
        self._endpoints["levels"] += 1
        reply = self._new_reply(answer.request_id)
        # Only these are counted, so that nodes that answer in turn really alternate.
        reply.turn = next(self._turns)
        reply.answer = answer

        # A cache in front spares the service.
        request = repr(asked)
        cached = self._faults.draw(now, asked.symbols, in_front=True)
        if cached and self._replay(key, request, reply, cached):
            return reply

        # Spend first: the reply shows what is left of the budgets.
        refusal = self._access.admit(key, now)
        is_admitted = refusal is None
        self._access.write_figures(key, reply, now)
        if refusal is None:
            refusal = refusal_of(asked, self.settings)
        if refusal is not None:
            reply.refuse(**refusal)
        else:
            struck = self._faults.draw(now, asked.symbols)
            Bundle(self.settings, self._market, asked, struck).fill(reply, now)
            self._log.remember_contents(reply)
            self._apply(struck, reply)
        self._finish(key, reply, is_admitted=is_admitted)

        if cached:
            # A cache repeats the date of the origin, which a client may take for a clock.
            reply.headers["Date"] = formatdate(now / MICROS, usegmt=True)
            self._cache.store(request, reply)
        return reply

    def sibling(self, name: str, key: str, address: str = "") -> Reply:
        """Answer a request to another endpoint; `address` is the client's."""
        now = self.now()
        reply = self._new_reply(uuid4().hex)
        endpoint = EndpointData(self.settings, self._market, now)
        if not endpoint.exists(name):
            reply.refuse("404")
            return reply

        self._endpoints[name] += 1
        is_admitted = False
        if self.settings.is_old:
            self._access.write_figures(key, reply, now)
        elif name not in KEYLESS:
            refusal = self._access.admit(key, now, is_sibling=True)
            self._access.write_figures(key, reply, now)
            if refusal is not None:
                reply.refuse(**refusal)
                self._finish(key, reply, is_admitted=False)
                return reply
            is_admitted = "siblings" in self.settings.month_counts
        elif name == "health" and not self._health_limit.admit(address, now):
            reply.refuse("429", details={"retry_after_seconds": 60})
            return reply

        data = endpoint.of(name)
        is_plain = name == "openapi.json" or self.settings.data_at_top
        reply.document = data if is_plain else {"data": data}
        for fault in self._faults.draw(now, [], name):
            apply_fault(reply, fault)
        self._finish(key, reply, is_admitted=is_admitted)
        return reply

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
        """Disarm all faults, end every freeze, and empty the cache in front."""
        self._faults.clear(self.now())
        self._cache.clear()

    def change(self, **changes: Any) -> None:
        """Change settings while the service runs. Raises ValueError."""
        if "seed" in changes:
            raise ValueError("seed cannot be changed while the service runs")
        self.settings = self.settings.changed(changes)
        self._market.change(self.settings, self.now())
        self._access.change(self.settings, self.now())

    def spend(
        self, requests: int = 1, key: str | None = None, budget: Budget = "both"
    ) -> None:
        """Use up budgets as another program of the key's user would.

        The default key is the first of the settings.
        """
        self._access.spend(requests, key, self.now(), budget)

    def truth(self, since: int = 0, *, contents: bool = False) -> Truth:
        """Return the page of the truth log after a cursor."""
        self._market.advance(self.now())
        answers = self._log.since(since)

        refreshes = []
        plain = Bundle(self.settings, self._market, _NOBODY, ())
        for refresh in self._market.refreshes(since):
            view = plain.plain_view(refresh.symbol)
            content = self._market.content(refresh, view)
            computed = Computed(
                sequence=refresh.sequence,
                symbol=refresh.symbol,
                computed_at=iso(refresh.computed_at, self.settings.stamp_format),
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
        """Return counts since the start, the budgets, and the faults in force."""
        self._market.advance(self.now())
        return {
            "requests_total": self._statuses.total(),
            "requests_by_status": dict(sorted(self._statuses.items())),
            "requests_by_endpoint": dict(sorted(self._endpoints.items())),
            "quota": self._access.quota.statistics(self.now()),
            "refreshes_total": self._market.refreshes_total,
            "faults_active": self._faults.active(self.now()),
        }

    def _new_reply(self, request_id: str) -> Reply:
        """Return a reply without data."""
        settings = self.settings
        meta = {
            "version": settings.version or settings.contract,
            "timestamp": iso(self.now(), "micros" if settings.is_old else "millis"),
            "request_id": request_id,
        }
        headers = {"X-Request-ID": request_id}
        return Reply(meta, headers, has_details=settings.is_old)

    def _replay(
        self, key: str, request: str, reply: Reply, cached: list[Fault]
    ) -> bool:
        """Answer from the cache in front. Return False if it has no answer."""
        with_headers = cached[0].parameters["headers"] == "stored"
        if not with_headers:
            self._access.write_figures(key, reply, self.now())
        is_hit = self._cache.replay(request, reply, with_headers=with_headers)
        if is_hit:
            self._apply(cached, reply)
        return is_hit

    def _apply(self, struck: list[Fault], reply: Reply) -> None:
        """Apply faults to a reply for levels, and log the contents it shows."""
        answer = reply.answer
        if answer is None:
            return
        for fault in struck:
            answer.faults.append(fault.fault)
            apply_fault(reply, fault)
        if answer.faults:
            self._log.remember_contents(reply)

        answer.shown = {}
        for symbol, content in reply.results.items():
            answer.shown[symbol] = content.shown if content else None

    def _finish(self, key: str, reply: Reply, *, is_admitted: bool) -> None:
        """Correct the budgets and their figures when the status is known."""
        if is_admitted:
            self._access.settle(key, reply, self.now())
        if reply.status == _UNAUTHORIZED:
            self._access.hide_figures(reply)
