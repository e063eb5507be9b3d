"""What was measured, as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tests.bench.requests import AS_USED, BARE
from tests.bench.sample import INCLUDED, SYMBOLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

REFERENCE: Final = (
    "What a user would take instead, measured elsewhere on another run and so not comparable in absolute terms:\n"
    "Redpanda Connect 4.106: 61 µs CPU per message flat out, request → broker 11.3 ms (mean), 45 MB resident.\n"
    "It publishes whatever it reads, at least once; comparing, sequences and transactions are what is paid for here."
)
_WIDTH: Final = 58
_STAGES: Final = (
    "decode: envelope",
    "decode: entry",
    "observe",
    "encode: levels",
    "encode: event",
    "encode: state",
)

Results = dict[str, Any]
"""By part, then by what is included (`none`, `all`), then by figure; numbers only at the leaves."""


def stage_costs(results: Results, name: str) -> dict[str, float]:
    """µs per event by stage, in the order in which they happen. One transaction a response."""
    alone = results["stages"][name]
    request = (
        results["requests"][name][AS_USED] / len(SYMBOLS) - alone["decode: envelope"]
    )
    costs = {"request": request} | {stage: alone[stage] for stage in _STAGES}
    return costs | {
        "produce": results["produce"][name]["produce"],
        "metrics": alone["metrics"],
    }


def table(results: Results) -> str:
    """All of it."""
    return "\n".join(
        [
            *_headed(
                "CPU per event, µs: each stage alone, eight symbols a request and a transaction",
                _costs(results),
            ),
            *_headed(
                "CPU of one request for eight symbols, client side, as a multiple of bare aiohttp",
                _requests(results),
            ),
            *_headed("The worker as a process", _worker(results)),
            "",
            REFERENCE,
        ]
    )


def _headed(title: str, rows: Iterable[tuple[str, Mapping[str, str]]]) -> Iterator[str]:
    yield f"\n{title}"
    yield f"  {'':{_WIDTH}}{'no include':>14}{'all includes':>14}"
    for label, cells in rows:
        yield f"  {label:{_WIDTH}}" + "".join(
            f"{cells.get(name, ''):>14}" for name in INCLUDED
        )


def _costs(results: Results) -> Iterator[tuple[str, Mapping[str, str]]]:
    costs = {name: stage_costs(results, name) for name in INCLUDED}
    for stage in costs["all"]:
        yield stage, {name: f"{costs[name][stage]:.1f}" for name in costs}
    yield "sum", {name: f"{sum(costs[name].values()):.0f}" for name in costs}


def _requests(results: Results) -> Iterator[tuple[str, Mapping[str, str]]]:
    for client in results["requests"]["all"]:
        yield (
            client,
            {
                name: f"{micros[BARE]:.0f} µs"
                if client == BARE
                else f"{micros[client] / micros[BARE]:.1f} x"
                for name, micros in results["requests"].items()
            },
        )


def _worker(results: Results) -> Iterator[tuple[str, Mapping[str, str]]]:
    def row(
        label: str, part: str, figure: str, form: str
    ) -> tuple[str, Mapping[str, str]]:
        return label, {
            name: form.format(figures[figure])
            for name, figures in results[part].items()
        }

    yield row("response complete → acknowledged, p50", "latency", "p50", "{:.1f} ms")
    yield row("response complete → acknowledged, p99", "latency", "p99", "{:.1f} ms")
    yield row(
        "one transaction, begin → committed, p50, back to back",
        "produce",
        "begin to committed, ms",
        "{:.1f} ms",
    )
    yield row(
        "8 symbols, 25 checks a second, each new: CPU per event",
        "steady",
        "cpu_micros_per_event",
        "{:.0f} µs",
    )
    for symbols in ("8", "80"):
        part = f"flat out, {symbols} symbols"
        yield row(f"{part}: CPU per event", part, "cpu_micros_per_event", "{:.0f} µs")
        yield row(f"{part}: events a second", part, "events_per_second", "{:.0f}")
        yield row(f"{part}: cores used", part, "cores", "{:.2f}")
        yield row(
            f"{part}: answers overtaken before their commit",
            part,
            "collapsed_percent",
            "{:.1f} %",
        )
    bare = {name: micros[BARE] for name, micros in results["requests"].items()}
    quiet = {
        name: figures["cpu_micros_per_request"]
        for name, figures in results["quiet"].items()
    }
    yield (
        "a check that brings nothing new: CPU",
        {name: f"{quiet[name]:.0f} µs" for name in quiet},
    )
    yield (
        "… as a multiple of the bare request",
        {name: f"{quiet[name] / bare[name]:.1f} x" for name in quiet},
    )
    yield row(
        "one check a second, nothing new: CPU of one core",
        "idle",
        "cpu_percent",
        "{:.2f} %",
    )
    yield row("resident, one check a second", "idle", "resident_mib", "{:.0f} MiB")
    yield row(
        "resident, at the end of the time flat out, 8 symbols",
        "flat out, 8 symbols",
        "resident_mib",
        "{:.0f} MiB",
    )
    yield row(
        "resident, at the end of the time flat out, 80 symbols",
        "flat out, 80 symbols",
        "resident_mib",
        "{:.0f} MiB",
    )
    yield row(
        "process started → first event in a consumer's hands, best",
        "start",
        "seconds",
        "{:.1f} s",
    )
