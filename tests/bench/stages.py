"""Measure the CPU of every stage that needs no network, in µs per event."""

from __future__ import annotations

import time
from functools import partial
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

from connector.core.decode import RateLimit, decode_response
from connector.core.entry import decode_entry
from connector.core.model import MICROS, Status
from connector.core.transition import observe_all
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
    """Return the µs per event of each stage, for the sections that `name` includes."""
    # The first response makes snapshots, which cost less than changes.
    made = responses(name, RESPONSES)[1:]
    feed_rules = rules(name)
    observer = MetricsObserver(Metrics([_FEED]))

    def each(work: Callable[[Checked], object]) -> float:
        micros = []
        for response in made:
            call = partial(work, response)
            micros.append(cpu_micros(call, rounds))
        return median(micros) / len(SYMBOLS)

    def decode_envelope(response: Checked) -> None:
        decode_response(response.body, SYMBOLS)

    def decode_entries(response: Checked) -> None:
        for raw in response.raw.values():
            decode_entry(raw, response.now)

    def observe(response: Checked) -> None:
        observe_all(response.states_before, response.seen, feed_rules)

    def report(response: Checked) -> None:
        _report(observer, response)

    return {
        "decode: envelope": each(decode_envelope),
        "decode: entry": each(decode_entries),
        "observe": each(observe),
        **_encoding(made, rounds),
        "metrics": each(report),
    }


def sizes(name: str) -> dict[str, int]:
    """Return the bytes of a response for eight symbols, and of one symbol's records."""
    response = responses(name, 2)[1]
    codec = Codec(SingleObject())
    return {
        "response": len(response.body),
        "event": len(codec.encode_event("changes", response.events[0])),
        "state": len(codec.encode_state("current", response.states[0])),
    }


def _encoding(made: Sequence[Checked], rounds: int) -> dict[str, float]:
    """Measure the encoding of levels, events and states.

    Events are encoded twice. The second time their levels are in the codec's cache,
    as they are when the state is encoded.
    """
    spent: dict[str, list[float]] = {"first": [], "event": [], "state": []}
    for _ in range(rounds):
        codec = Codec(SingleObject())
        for response in made:
            moments = [time.thread_time_ns()]
            for work in (_events, _events, _states):
                work(codec, response)
                moments.append(time.thread_time_ns())
            for values, (start, end) in zip(
                spent.values(), pairwise(moments), strict=True
            ):
                values.append((end - start) / 1000 / len(SYMBOLS))
    cost = {}
    for stage, values in spent.items():
        # The fastest round of each response, roughly: disturbances only add time.
        cost[stage] = median(sorted(values)[: len(made)])
    return {
        "encode: levels": cost["first"] - cost["event"],
        "encode: event": cost["event"],
        "encode: state": cost["state"],
    }


def _events(codec: Codec, response: Checked) -> None:
    for event in response.events:
        codec.encode_event("gex.levels.bench.changes", event)


def _states(codec: Codec, response: Checked) -> None:
    for state in response.states:
        codec.encode_state("gex.levels.bench.current", state)


def _report(observer: MetricsObserver, response: Checked) -> None:
    """Report a response whose symbols are all new, as poller and shard do."""
    observer.request_sent(Batch(_FEED, SYMBOLS), Purpose.EXPECTED)
    observer.request_finished("ok", 0.01)
    quota = RateLimit(60, 30, response.now / MICROS)
    observer.response_decoded(ResponseReport(quota, (), 0.0))
    for state in response.states:
        observer.symbol_answered(_FEED, state.symbol, Status.LIVE)
        observer.sighted(Sighting(_FEED, state.symbol, response.now, response.now, 0.1))
        observer.state_replaced(state)
    observer.committed(Commit(tuple(response.events), (), response.now, response.now))
