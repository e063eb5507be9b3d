"""Measure the CPU of every stage that needs no network, in µs per event."""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Final

from connector.core.decode import RateLimit, decode_response
from connector.core.entry import decode_entry
from connector.core.model import MICROS, Status
from connector.core.transition import observe_all
from connector.kafka.avro import Codec, SingleObject
from connector.runtime.ports import Commit, ResponseReport, Sighting
from connector.schedule.batches import Batch
from connector.schedule.checks import Purpose
from connector.telemetry.metrics import Metrics
from connector.telemetry.observer import MetricsObserver
from tests.bench.measure import cpu_micros
from tests.bench.sample import SYMBOLS, Checked, responses, rules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Different levels cost different amounts: take the median of many responses.
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
    # The first response makes snapshots, which are shorter than changes.
    _, response = responses(name, 2)
    codec = Codec(SingleObject())
    event = codec.encode_event("changes", response.events[0])
    state = codec.encode_state("current", response.states[0])
    return {
        "response": len(response.body),
        "event": len(event),
        "state": len(state),
    }


def _encoding(made: Sequence[Checked], rounds: int) -> dict[str, float]:
    """Measure the encoding of levels, events and states.

    Events are encoded twice. The second time their levels are in the codec's cache,
    as they are when the state is encoded.
    """
    first = []
    again = []
    states = []
    for _ in range(rounds):
        codec = Codec(SingleObject())
        for response in made:
            first.append(_encode_events(codec, response))
            again.append(_encode_events(codec, response))
            states.append(_encode_states(codec, response))

    event_micros = _undisturbed(again, len(made))
    return {
        "encode: levels": _undisturbed(first, len(made)) - event_micros,
        "encode: event": event_micros,
        "encode: state": _undisturbed(states, len(made)),
    }


def _undisturbed(micros: Sequence[float], responses: int) -> float:
    """Return the median of the fastest values, as many as there are responses."""
    # Roughly the fastest round of each response: disturbances only add time.
    fastest = sorted(micros)[:responses]
    return median(fastest)


def _encode_events(codec: Codec, response: Checked) -> float:
    """Encode the events of a response. Return the CPU time of one, in µs."""
    started_ns = time.thread_time_ns()
    for event in response.events:
        codec.encode_event("gex.levels.bench.changes", event)
    spent_ns = time.thread_time_ns() - started_ns
    return spent_ns / 1000 / len(SYMBOLS)


def _encode_states(codec: Codec, response: Checked) -> float:
    """Encode the states of a response. Return the CPU time of one, in µs."""
    started_ns = time.thread_time_ns()
    for state in response.states:
        codec.encode_state("gex.levels.bench.current", state)
    spent_ns = time.thread_time_ns() - started_ns
    return spent_ns / 1000 / len(SYMBOLS)


def _report(observer: MetricsObserver, response: Checked) -> None:
    """Report a response whose symbols are all new, as poller and shard do."""
    now = response.now

    # The request
    observer.request_sent(Batch(_FEED, SYMBOLS), Purpose.EXPECTED)
    observer.request_finished("ok", 0.01)
    quota = RateLimit(60, 30, now / MICROS)
    observer.response_decoded(ResponseReport(quota, (), 0.0))

    # Each symbol
    for state in response.states:
        observer.symbol_answered(_FEED, state.symbol, Status.LIVE)
        observer.sighted(Sighting(_FEED, state.symbol, now, now, 0.1))
        observer.state_replaced(state)

    # The transaction
    events = tuple(response.events)
    observer.committed(Commit(events, now, now))
