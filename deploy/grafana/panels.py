"""A dashboard's panel as data, and the queries that several panels share.

Imported by the script `generate.py`.
"""  # noqa: INP001 - beside a script

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from grafana_foundation_sdk.models import units

from connector.core.model import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

# Names of Grafana's palette, which suits light and dark themes.
GREEN: Final = "green"
ORANGE: Final = "orange"
RED: Final = "red"
BLUE: Final = "blue"
PURPLE: Final = "purple"
GREY: Final = "#808080"
TEXT: Final = "text"

STATUS_COLOURS: Final = {
    "LIVE": GREEN,
    "STALE": ORANGE,
    "MISSING": PURPLE,
    "INVALID": RED,
    "REMOVED": GREY,
}

# Colours of lines that mean the same on every panel.
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
    "plan_refused": RED,
    "quota_exhausted": RED,
    "intercepted": ORANGE,
    "unavailable": ORANGE,
    "rate_limited": PURPLE,
    "target (mean)": GREY,
    "all": GREY,
}

# Grafana's window for `rate`: at least four scrapes.
INTERVAL: Final = "$__rate_interval"


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of a dashboard.

    `shows`, `bad` and `do` are for readers who do not know the code: the panel's meaning,
    the signs of trouble, and the remedy. `shows` defaults to the help texts of the metrics.
    `see` is a section of the documentation.
    """

    title: str
    queries: Mapping[str, str]
    """PromQL by legend, or by column in a table. `generate.py` adds the selectors."""

    _: KW_ONLY
    bad: str
    do: str
    see: str
    shows: str = ""
    unit: str = units.Short
    kind: Literal["stat", "graph", "bars", "states", "table"] = "graph"
    steps: Mapping[float, str] = field(default_factory=dict)
    """Colours by the lowest value they apply to."""

    values: Mapping[float, tuple[str, str]] = field(default_factory=dict)
    """Names and colours of single values."""

    width: int = 0
    height: int = 0
    decimals: int | None = None
    repeat: str = ""


@dataclass(frozen=True, slots=True)
class Annotation:
    """Stretches of time that a dashboard marks on all its graphs.

    The query has a value above zero meanwhile, for each series.
    """

    name: str
    title: str
    """The text of a mark, with labels in braces as in a legend."""

    query: str
    colour: str


# A number for each status, with its name and colour: Grafana maps numbers only.
STATUSES: Final = {
    float(code): (status, STATUS_COLOURS[status])
    for code, status in enumerate(Status, 1)
}


def status() -> str:
    """Return a query for each symbol's status, as its number in `STATUSES`."""
    # Exactly one of a symbol's series is 1, the others are 0.
    numbers = []
    for code, (name, _) in STATUSES.items():
        numbers.append(f'{code:g} * gex_symbol_status{{status="{name}"}}')
    any_number = " or ".join(numbers)
    # A symbol without an answer has only zeros: leave it out.
    return f"max by (symbol) ({any_number}) > 0"


def level(path: str) -> str:
    """Return a query for a level by symbol. Any worker may export it."""
    # Aggregate away the worker: a shard that moves would start a new line.
    return f'max by (symbol) (gex_level{{level="{path}"}})'


def distance(path: str) -> str:
    """Return a query for a level's distance from spot, relative to spot."""
    return f"{level(path)} / {level('spot_price')} - 1"


# Where spot is, from below to above, as numbers with their names and colours.
BELOW_SUPPORT: Final = 1
BELOW_FLIP: Final = 2
ABOVE_FLIP: Final = 3
ABOVE_RESISTANCE: Final = 4
PLACES: Final[Mapping[float, tuple[str, str]]] = {
    BELOW_SUPPORT: ("below support", RED),
    BELOW_FLIP: ("below flip", BLUE),
    ABOVE_FLIP: ("above flip", GREEN),
    ABOVE_RESISTANCE: ("above resistance", PURPLE),
}


def place_of_spot() -> str:
    """Return a query for the place of each symbol's spot, as its number in `PLACES`.

    A symbol without spot or flip has no place unless spot is beyond the other levels.
    """
    spot = level("spot_price")
    resistance = level("all_expiry.call_resistance")
    support = level("all_expiry.put_support")
    flip = level("all_expiry.hvl")
    # A comparison keeps the series for which it is true. The first result counts.
    return (
        f"({spot} > {resistance}) * 0 + {ABOVE_RESISTANCE}"
        f" or ({spot} < {support}) * 0 + {BELOW_SUPPORT}"
        f" or ({spot} >= bool {flip}) + {BELOW_FLIP}"
    )


def age(moment: str) -> str:
    """Return a query for the seconds since levels were `computed`, or `observed`."""
    return f"time() - max by (symbol) (gex_symbol_{moment}_timestamp_seconds)"


def quantiles(histogram: str, *more: int, window: str = INTERVAL) -> dict[str, str]:
    """Return the 50th, the 95th and more percentiles over all workers, by `p50` and so on."""
    # Add the buckets of all workers first: a mean of percentiles means nothing.
    buckets = f"sum by (le) (rate({histogram}_bucket[{window}]))"
    queries = {}
    for percent in (50, 95, *more):
        queries[f"p{percent}"] = f"histogram_quantile({percent / 100:g}, {buckets})"
    return queries


def mean(histogram: str, window: str) -> str:
    """Return a query for the mean of a histogram over all workers."""
    # Divide the sums: a mean of the workers' means would weigh a quiet worker like a busy one.
    total = f"sum(rate({histogram}_sum[{window}]))"
    count = f"sum(rate({histogram}_count[{window}]))"
    return f"{total} / {count}"


def per_minute(counter: str, by: str) -> str:
    """Return a query for a counter's rate per minute by a label, over all workers."""
    # `rate` is per second.
    return f"60 * sum by ({by}) (rate({counter}[{INTERVAL}]))"


def share_of_checks(result: str) -> str:
    """Return a query for the share of checks with a result, by feed."""
    results = f"sum by (feed) (rate(gex_symbols_{result}_total[{INTERVAL}]))"
    checks = f"sum by (feed) (rate(gex_symbols_requested_total[{INTERVAL}]))"
    # A scrape between a request and its answer can count more answers than requests.
    return f"clamp_max({results} / {checks}, 1)"


def share_live() -> str:
    """Return a query for the share of symbols with status LIVE."""
    # Every symbol has this series: it is 0 for another status, and counts all the same.
    live = 'gex_symbol_status{status="LIVE"}'
    return f"sum({live}) / count({live})"


# The first panels of both dashboards.
LIVE: Final = Panel(
    "Live symbols",
    {"live": share_live()},
    unit=units.PercentUnit,
    shows="Share of the symbols with status LIVE, whose levels consumers can rely on.",
    bad=(
        "Below 100 %: the other symbols are STALE, MISSING or INVALID. The panel Status "
        "shows which."
    ),
    do=(
        "If all symbols are affected, check the API and the key. If it is one symbol, "
        "check its spelling."
    ),
    see="how-to/runbooks.md#gexnolivesymbol",
    kind="stat",
    steps={0: RED, 0.9: ORANGE, 1: GREEN},
)
OLDEST: Final = Panel(
    "Oldest levels",
    {"age": "max(time() - gex_symbol_computed_timestamp_seconds)"},
    unit=units.Seconds,
    shows="Time since the upstream computed the oldest levels of any symbol.",
    bad="Above `stale_after_seconds` (90): the connector publishes STALE.",
    do="Check the age of each symbol. The upstream computes levels about every 30 s.",
    see="how-to/runbooks.md#gexfreshnessburn",
    kind="stat",
    # Two periods of the upstream, and the default of `stale_after_seconds`.
    steps={0: GREEN, 60: ORANGE, 90: RED},
    decimals=0,
)
