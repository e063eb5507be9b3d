"""Print the figures as a table for a terminal."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tests.bench.requests import AS_USED, BARE
from tests.bench.sample import INCLUDED, SYMBOLS
from tests.bench.start import PHASES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

REFERENCE: Final = (
    "For orientation, measured in another run and so not comparable in absolute terms:\n"
    "Redpanda Connect 4.106: 61 µs CPU per message flat out, request → broker 11.3 ms (mean),\n"
    "45 MB resident. It publishes everything it reads, at least once. The connector's extra\n"
    "cost pays for comparing, sequences and transactions."
)
# Of the longest label.
_WIDTH: Final = 58

# In the order of processing.
_STAGES: Final = (
    "decode: envelope",
    "decode: entry",
    "observe",
    "encode: levels",
    "encode: event",
    "encode: state",
)

# Figures by part, then by included sections (`none`, `all`), then by name.
Results = dict[str, Any]


def stage_costs(results: Results, name: str) -> dict[str, float]:
    """Return the µs per event by stage, in the order of processing; one transaction a response."""
    alone = results["stages"][name]
    # The measured request decodes its envelope, which is a stage of its own.
    request = results["requests"][name][AS_USED] / len(SYMBOLS)
    costs = {"request": request - alone["decode: envelope"]}
    for stage in _STAGES:
        costs[stage] = alone[stage]
    costs["produce"] = results["produce"][name]["produce"]
    costs["metrics"] = alone["metrics"]
    return costs


def table(results: Results) -> str:
    """Return all figures."""
    lines = [
        *_headed(
            "CPU per event, µs: each stage alone, eight symbols a request",
            _costs(results),
        ),
        *_headed(
            "CPU of one request for eight symbols, client side, as a multiple of aiohttp",
            _requests(results),
        ),
        *_headed("The worker as a process", _worker(results)),
        "",
        REFERENCE,
    ]
    return "\n".join(lines)


def _headed(title: str, rows: Iterable[tuple[str, Mapping[str, str]]]) -> Iterator[str]:
    yield f"\n{title}"
    yield f"  {'':{_WIDTH}}{'no include':>14}{'all includes':>14}"
    for label, cells in rows:
        row = f"  {label:{_WIDTH}}"
        for name in INCLUDED:
            row += f"{cells.get(name, ''):>14}"
        yield row


def _costs(results: Results) -> Iterator[tuple[str, Mapping[str, str]]]:
    cells: dict[str, dict[str, str]] = defaultdict(dict)
    sums = {}
    for name in INCLUDED:
        costs = stage_costs(results, name)
        for stage, micros in costs.items():
            cells[stage][name] = f"{micros:.1f}"
        total = sum(costs.values())
        sums[name] = f"{total:.0f}"

    yield from cells.items()
    yield "sum", sums


def _requests(results: Results) -> Iterator[tuple[str, Mapping[str, str]]]:
    for client in results["requests"]["all"]:
        cells = {}
        for name, micros in results["requests"].items():
            if client == BARE:
                cells[name] = f"{micros[BARE]:.0f} µs"
            else:
                cells[name] = f"{micros[client] / micros[BARE]:.1f} x"
        yield client, cells


def _worker(results: Results) -> Iterator[tuple[str, Mapping[str, str]]]:
    row = partial(_row, results)
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
    yield row(
        "a check that brings nothing new: CPU",
        "quiet",
        "cpu_micros_per_request",
        "{:.0f} µs",
    )

    # Compare with the least that any client needs.
    multiples = {}
    for name, figures in results["quiet"].items():
        bare = results["requests"][name][BARE]
        multiples[name] = f"{figures['cpu_micros_per_request'] / bare:.1f} x"
    yield "… as a multiple of the bare request", multiples

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
    for phase, label in PHASES.items():
        yield row(label, "start", phase, "{:.2f} s")
    yield row(
        "… → first event in a consumer's hands; best", "start", "best", "{:.2f} s"
    )


def _row(
    results: Results, label: str, part: str, figure: str, form: str
) -> tuple[str, Mapping[str, str]]:
    """Return a label, and a figure of a part for each name."""
    # A part that was not measured for some includes leaves their cell empty.
    cells = {}
    for name, figures in results[part].items():
        cells[name] = form.format(figures[figure])
    return label, cells
