"""What a panel is, and the queries that several have."""  # noqa: INP001 - beside a script

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from grafana_foundation_sdk.models import units

from connector.core.model import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

GREEN, ORANGE, RED, BLUE, PURPLE, GREY, TEXT = (
    "green",
    "orange",
    "red",
    "blue",
    "purple",
    "#808080",
    "text",
)
STATUS_COLOURS: Final = {
    "LIVE": GREEN,
    "STALE": ORANGE,
    "MISSING": PURPLE,
    "INVALID": RED,
    "REMOVED": GREY,
}
NAMED_COLOURS: Final = {
    **STATUS_COLOURS,
    "CHANGED": BLUE,
    "SNAPSHOT": "light-blue",
    "FRESH": "light-green",
    "RESTORED": "super-light-green",
    "ok": GREEN,
    "committed": GREEN,
    "aborted": RED,
    "key_refused": RED,
    "unavailable": ORANGE,
    "rate_limited": PURPLE,
    "target (mean)": GREY,
    "all": GREY,
}
"""Of lines that mean the same on every panel."""

INTERVAL: Final = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `queries` are PromQL by legend, in a table by column, without the selectors that `generate.py` adds.

    `shows` is by default what the catalogue says of the metrics. `bad` and `do` are for somebody who never read our
    code; `see` is a section of our documentation. `steps` are colours by the value from which on they hold; `values`
    names and colours of single values.
    """

    title: str
    queries: Mapping[str, str]
    unit: str = units.Short
    shows: str = ""
    bad: str = ""
    do: str = ""
    see: str = ""
    kind: Literal["stat", "graph", "bars", "states", "table"] = "graph"
    steps: Mapping[float, str] = field(default_factory=dict)
    values: Mapping[float, tuple[str, str]] = field(default_factory=dict)
    width: int = 0
    height: int = 0
    decimals: int | None = None
    repeat: str = ""


STATUSES: Final = {
    float(code): (status, STATUS_COLOURS[status])
    for code, status in enumerate(Status, 1)
}


def status() -> str:
    """The number in `STATUSES` of each symbol's status."""
    shown = (
        f'{code:g} * gex_symbol_status{{status="{name}"}}'
        for code, (name, _) in STATUSES.items()
    )
    return f"max by (symbol) ({' or '.join(shown)}) > 0"


def level(path: str) -> str:
    """A level by symbol, whichever worker shows it."""
    return f'max by (symbol) (gex_level{{level="{path}"}})'


def distance(path: str) -> str:
    """How far a level is from spot, as a share of spot; below spot it is negative."""
    return f"{level(path)} / {level('spot_price')} - 1"


def age(moment: str) -> str:
    """Seconds by symbol since the levels were `computed`, or last `observed`."""
    return f"time() - max by (symbol) (gex_symbol_{moment}_timestamp_seconds)"


def quantiles(histogram: str, *more: int) -> dict[str, str]:
    """The median, the 95th percentile and more of a histogram over all workers, by `p` and percent."""
    buckets = f"sum by (le) (rate({histogram}_bucket[{INTERVAL}]))"
    return {
        f"p{percent}": f"histogram_quantile({percent / 100:g}, {buckets})"
        for percent in (50, 95, *more)
    }


def mean(histogram: str, window: str) -> str:
    """The mean of a histogram over all workers."""
    return (
        f"sum(rate({histogram}_sum[{window}])) / sum(rate({histogram}_count[{window}]))"
    )


def per_minute(counter: str, by: str) -> str:
    """How many a minute by a label, over all workers."""
    return f"60 * sum by ({by}) (rate({counter}[{INTERVAL}]))"


def share_live() -> str:
    """Symbols with status LIVE as a share of all."""
    live = 'gex_symbol_status{status="LIVE"}'
    return f"sum({live}) / count({live})"


LIVE: Final = Panel(
    "Live symbols",
    {"live": share_live()},
    units.PercentUnit,
    "Share of the symbols whose levels may be relied on: status LIVE.",
    "Below 100 %: the others are STALE, MISSING or INVALID, as the panel of the statuses says.",
    "All of them: is the API away, or the key refused? One: is it misspelt?",
    "runbooks.md#gexnolivesymbol",
    "stat",
    {0: RED, 0.9: ORANGE, 1: GREEN},
)
OLDEST: Final = Panel(
    "Oldest levels",
    {"age": "max(time() - gex_symbol_computed_timestamp_seconds)"},
    units.Seconds,
    "Time since the upstream computed the levels of the symbol that is furthest behind.",
    "Over `stale_after_seconds` (90): consumers are told STALE.",
    "See the age of each symbol. The upstream computes about every 30 s.",
    "runbooks.md#gexfreshnessburn",
    "stat",
    {0: GREEN, 60: ORANGE, 90: RED},
    decimals=0,
)
