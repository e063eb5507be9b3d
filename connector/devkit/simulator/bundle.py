"""The bundle of a request: the entries of its symbols, each under a model, and `meta`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from connector.devkit.simulator.endpoints import optional_meta
from connector.devkit.simulator.levels import View
from connector.devkit.simulator.settings import EXCHANGES, INCLUDES, OLD_EXCHANGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.devkit.simulator.asked import Asked
    from connector.devkit.simulator.faults import Fault
    from connector.devkit.simulator.market import AnyMarket
    from connector.devkit.simulator.reply import Reply
    from connector.devkit.simulator.settings import Settings

_NO_TAPE_REASON: Final = "no_aggressor_tape_for_symbol"

# Numbers computed at the request repeat after this many requests.
_NUDGES: Final = 7


class Bundle:
    """Fills a reply with the entries that a request is shown.

    `struck` are the faults of the request; some of them change the levels shown.
    """

    def __init__(
        self,
        settings: Settings,
        market: AnyMarket,
        asked: Asked,
        struck: Iterable[Fault],
    ) -> None:
        self._settings = settings
        self._market = market
        self._asked = asked
        self._fallbacks = []
        self._ignored_filter: Fault | None = None
        for fault in struck:
            if fault.fault == "flow_fallback":
                self._fallbacks.append(fault)
            elif fault.fault == "filter_ignored":
                self._ignored_filter = fault
        self._views: dict[str, View] = {}

    def fill(self, reply: Reply, now: int) -> None:
        """Put the entries and the description of the bundle into a reply."""
        served: list[str] = []
        missing: list[str] = []
        invalid: list[str] = []
        for symbol in self._asked.symbols:
            if symbol not in self._settings.symbols:
                invalid.append(symbol)
                if self._settings.null_for_invalid:
                    reply.results[symbol] = None
                continue
            reply.results[symbol] = None
            refresh = self._market.show(symbol, now)
            if refresh is None:
                missing.append(symbol)
                continue
            view = self._view(symbol, reply.turn)
            content = self._market.content(refresh, view)
            reply.results[symbol] = content
            served.append(symbol)
            if self._settings.full_meta and len(served) == 1:
                entry = json.loads(content.raw)
                reply.meta |= optional_meta(entry, symbol, refresh.computed_at, now)

        data = {
            "results": reply.results,
            "requested": self._asked.symbols.copy(),
            "served": served,
            "missing": missing,
            "invalid": invalid,
        }
        is_flat = self._settings.data_at_top
        reply.document = data if is_flat else {"data": data}
        self._describe(reply)

    def plain_view(self, symbol: str) -> View:
        """Return the view without optional sections and without a venue filter."""
        return self._view(symbol, 0)._replace(
            include=frozenset(), exchanges=frozenset()
        )

    def _view(self, symbol: str, turn: int) -> View:
        if symbol not in self._views:
            self._views[symbol] = self._new_view(symbol, turn)
        return self._views[symbol]

    def _new_view(self, symbol: str, turn: int) -> View:
        settings = self._settings
        view = View(
            include=frozenset(self._asked.include) & frozenset(INCLUDES),
            exchanges=frozenset(self._filter()),
        )
        if settings.is_old:
            return view
        if self._asked.positioning == "std":
            return view._replace(model="std")

        # Everything else asks for flow, which some symbols do not have.
        for fault in self._fallbacks:
            parameters = fault.parameters
            is_other_node = parameters["in_turn"] and turn % 2 == 1
            if fault.targets([symbol]) and not is_other_node:
                return view._replace(
                    model="std",
                    fallback_reason=parameters["reason"],
                    has_flow_numbers=parameters["equal_numbers"],
                )
        if symbol in settings.no_tape:
            return view._replace(model="std", fallback_reason=_NO_TAPE_REASON)

        # Other numbers under an equal `computed_at`: the pages do not rule them out.
        moves_at_request = settings.flow_computed == "request"
        nudge = turn % _NUDGES if moves_at_request else 0
        return view._replace(model="flow", nudge=nudge)

    def _filter(self) -> list[str]:
        """Return the venues that the levels are computed for. Empty: all."""
        if self._ignored_filter is not None:
            is_other = self._ignored_filter.parameters["variant"] == "other"
            return self._other_venue() if is_other else []
        asks_for_all = set(self._asked.exchanges) == set(OLD_EXCHANGES)
        if self._settings.is_old and asks_for_all:
            return []
        return self._asked.known_exchanges

    def _other_venue(self) -> list[str]:
        for venue in EXCHANGES:
            if venue not in self._asked.exchanges:
                return [venue]
        return []

    def _describe(self, reply: Reply) -> None:
        settings = self._settings
        asked = self._asked
        if settings.is_old:
            reply.meta["source"] = asked.exchanges or OLD_EXCHANGES
            reply.meta["exchanges_filtered"] = asked.exchanges or None
        else:
            venues = self._filter()
            live = [name for name in EXCHANGES if name not in settings.venues_off]
            reply.meta["source"] = venues or live
            reply.meta["exchanges_filtered"] = venues or None
            reply.meta["extra"] = self._extra()

        ignored = self._ignored_filter
        if ignored is not None and ignored.parameters["variant"] == "absent":
            del reply.meta["exchanges_filtered"]

    def _extra(self) -> dict[str, Any]:
        """Return `meta.extra`: the model as text or by symbol, and the aggregation."""
        venues = self._filter() or list(EXCHANGES)
        extra: dict[str, Any] = {
            "positioning_requested": self._asked.positioning or "flow",
            "aggregation": {"chain_venues": venues, "flow_venues": venues},
        }
        models = {}
        reasons = {}
        for symbol, view in self._views.items():
            models[symbol] = view.model
            if view.fallback_reason:
                reasons[symbol] = view.fallback_reason

        match self._settings.positioning_placement:
            case "extra_by_symbol":
                extra["positioning"] = models
                extra["positioning_fallback_reason"] = reasons
            case "both" | "extra_text":
                extra |= _as_text(models, reasons, extra["positioning_requested"])
            case _:
                del extra["positioning_requested"]
        return extra


def _as_text(
    models: dict[str, str], reasons: dict[str, str], requested: str
) -> dict[str, str]:
    """Describe the bundle by one model: that of all symbols, else the requested one."""
    distinct = set(models.values())
    is_mixed = len(distinct) != 1
    fields = {"positioning": requested if is_mixed else distinct.pop()}
    if reasons and not is_mixed:
        fields["positioning_fallback_reason"] = next(iter(reasons.values()))
    return fields
