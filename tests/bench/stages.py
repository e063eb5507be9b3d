"""CPU of every stage that needs no network, µs per event."""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Final

from connector.core.decode import RateLimit, decode_response
from connector.core.entry import decode_entry
from connector.core.model import MICROS, Status
from connector.core.transition import fold
from connector.kafka.avro import Codec, SingleObject
from connector.runtime.ports import Commit, ResponseReport, Sighting
from connector.schedule.batches import Batch
from connector.schedule.scheduler import Purpose
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from tests.bench.measure import cpu_micros
from tests.bench.sample import SYMBOLS, Checked, responses, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESPONSES: Final = 60
_FEED: Final = "bench"


def stages(name: str, rounds: int) -> dict[str, float]:
    """µs per event of each stage, for the sections that `name` includes."""
    made = responses(name, RESPONSES)[1:]  # without the first snapshots

    def each(work: Callable[[Checked], object]) -> float:
        micros = []
        for one in made:
            call = partial(work, one)
            micros.append(cpu_micros(call, rounds))
        return median(micros) / len(SYMBOLS)

    feed_rules, observer = rules(name), MetricsObserver(Metrics([_FEED]))
    return {
        "decode: envelope": each(lambda one: decode_response(one.body, SYMBOLS)),
        "decode: entry": each(
            lambda one: [decode_entry(raw, one.now) for raw in one.raw.values()]
        ),
        "observe": each(lambda one: fold(one.states_before, one.seen, feed_rules)),
        **_encoding(made, rounds),
        "metrics": each(lambda one: _report(observer, one)),
    }


def sizes(name: str) -> dict[str, int]:
    """Bytes of a response for eight symbols, and of one symbol's records."""
    one, codec = responses(name, 2)[1], Codec(SingleObject())
    return {
        "response": len(one.body),
        "event": len(codec.event("changes", one.events[0])),
        "state": len(codec.state("current", one.states[0])),
    }


def _encoding(made: Sequence[Checked], rounds: int) -> dict[str, float]:
    """An event is encoded twice: the second time its levels are there already, as they are for the state."""
    spent: dict[str, list[float]] = {"first": [], "event": [], "state": []}
    for _ in range(rounds):
        codec = Codec(SingleObject())
        for one in made:
            at = [time.thread_time_ns()]
            for work in (_events, _events, _states):
                work(codec, one)
                at.append(time.thread_time_ns())
            for what, start, end in zip(spent, at, at[1:], strict=False):
                spent[what].append((end - start) / 1000 / len(SYMBOLS))
    cost = {what: median(sorted(values)[: len(made)]) for what, values in spent.items()}
    return {
        "encode: levels": cost["first"] - cost["event"],
        "encode: event": cost["event"],
        "encode: state": cost["state"],
    }


def _events(codec: Codec, one: Checked) -> None:
    for event in one.events:
        codec.event("gex.levels.bench.changes", event)


def _states(codec: Codec, one: Checked) -> None:
    for state in one.states:
        codec.state("gex.levels.bench.current", state)


def _report(observer: MetricsObserver, one: Checked) -> None:
    """Report a response whose symbols are all new, as poller and shard do."""
    observer.request_sent(Batch(_FEED, SYMBOLS), Purpose.EXPECTED)
    observer.request_finished("ok", 0.01)
    quota = RateLimit(60, 30, one.now / MICROS)
    observer.response_decoded(ResponseReport(quota, (), 0.0))
    for state in one.states:
        observer.symbol_answered(_FEED, state.symbol, Status.LIVE)
        observer.sighted(Sighting(_FEED, state.symbol, one.now, one.now, 0.1))
        observer.state_replaced(state)
    observer.committed(Commit(tuple(one.events), (), one.now, one.now))
