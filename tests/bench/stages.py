"""CPU of every stage that needs no network, µs per event."""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Final

from connector.core.decode import decode_response
from connector.core.entry import decode_entry
from connector.core.model import MICROS
from connector.core.transition import fold
from connector.kafka.avro import Codec, SingleObject
from connector.telemetry.metrics import Metrics
from tests.bench.measure import cpu_micros
from tests.bench.sample import SYMBOLS, Checked, responses, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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

    feed_rules, metrics = rules(name), Metrics([_FEED])
    return {
        "decode: envelope": each(lambda one: decode_response(one.body, SYMBOLS)),
        "decode: entry": each(
            lambda one: [decode_entry(raw, one.now) for raw in one.raw.values()]
        ),
        "observe": each(lambda one: fold(one.states_before, one.seen, feed_rules)),
        **_encoding(made, rounds),
        "metrics": each(lambda one: _report(metrics, one)),
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


def _report(metrics: Metrics, one: Checked) -> None:
    """What poller and shard report of a response whose symbols are all new."""
    for symbol in SYMBOLS:
        metrics.symbol(_FEED, symbol).requested += 1
    metrics.request_finished("ok", 0.01)
    metrics.clock_correction(0)
    metrics.rate_limit(60, 30, one.now)
    for state in one.states:
        stats = metrics.symbol(_FEED, state.symbol)
        stats.served += 1
        stats.observed_at = stats.computed_at = one.now
        metrics.detection(0.1)
        stats.status, stats.levels = state.status, state.levels
    metrics.transaction("committed")
    _published(metrics, one.events, one.now)


def _published(metrics: Metrics, events: Iterable[object], now: int) -> None:
    for _ in events:
        metrics.event(_FEED, "CHANGED")
        metrics.published(now / MICROS - now // MICROS)
        metrics.end_to_end(0.2)
