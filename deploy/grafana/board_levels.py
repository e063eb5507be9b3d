"""The dashboard for users of the levels: current values, their age and their changes.

Imported by the script `generate.py`.
"""  # noqa: INP001 - beside a script

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import units
from panels import (
    BLUE,
    GREEN,
    INTERVAL,
    LIVE,
    OLDEST,
    ORANGE,
    PLACES,
    PURPLE,
    RED,
    STATUSES,
    TEXT,
    Annotation,
    Panel,
    age,
    distance,
    level,
    per_minute,
    place_of_spot,
    status,
)

# Columns of Grafana's grid, which has 24 of them.
HALF: Final = 12
FULL: Final = 24

# Negative once the moment has passed. `timestamp` is the time of the scrape: compared with
# `time()`, the check would seem late until the next scrape.
UNTIL_NEXT_CHECK: Final = (
    "gex_symbol_next_check_timestamp_seconds"
    " - timestamp(gex_symbol_next_check_timestamp_seconds)"
)

# Events after which consumers may no longer rely on a symbol's levels.
LOSSES: Final = (
    'sum(increase(gex_events_total{kind=~"STALE|MISSING|INVALID"}[$__range]))'
)

# The lines of a symbol's panel by level: name, colour and width. Walls are thinner and
# paler the farther they lie from spot.
LEVELS: Final = {
    "spot_price": ("Spot", TEXT, 3),
    "all_expiry.call_resistance": ("Call resistance", RED, 2),
    "all_expiry.call_wall_2": ("Call wall 2", "light-red", 1),
    "all_expiry.call_wall_3": ("Call wall 3", "super-light-red", 1),
    "all_expiry.hvl": ("Gamma flip", ORANGE, 2),
    "all_expiry.put_support": ("Put support", GREEN, 2),
    "all_expiry.put_wall_2": ("Put wall 2", "light-green", 1),
    "all_expiry.put_wall_3": ("Put wall 3", "super-light-green", 1),
}

_ANY_LEVEL: Final = "|".join(LEVELS)
DRAWN_LEVELS: Final = f'max by (level) (gex_level{{level=~"{_ANY_LEVEL}"}})'

_OVERVIEW: Final = (
    LIVE,
    OLDEST,
    Panel(
        "Last answer",
        {"age": "max(time() - gex_symbol_observed_timestamp_seconds)"},
        unit=units.Seconds,
        shows=(
            "Time since the API last answered, for the symbol that has waited longest."
        ),
        bad=(
            "Above two minutes: no worker sends requests, or the API does not answer."
        ),
        do=(
            "Check workers, key and requests by outcome on the dashboard GEX connector."
        ),
        see="how-to/operations.md#the-api",
        kind="stat",
        # Silence of 90 s makes levels stale, even if the upstream still computes them.
        steps={0: GREEN, 90: ORANGE, 120: RED},
        decimals=0,
    ),
    Panel(
        "Next check",
        {"in": f"min({UNTIL_NEXT_CHECK})"},
        unit=units.Seconds,
        shows="Time until the next request for any symbol, as of the last scrape.",
        bad=(
            "Below zero for long: the schedule has stalled, or the budget is used up."
        ),
        do="Check budget and loops on the dashboard GEX connector.",
        see="how-to/operations.md#budget",
        kind="stat",
        # A check that is due may wait a few seconds for the budget.
        steps={-1e9: RED, -60: ORANGE, -5: BLUE},
    ),
    Panel(
        "Changes",
        {"changes": 'sum(increase(gex_events_total{kind="CHANGED"}[$__range]))'},
        shows=(
            "CHANGED events of the feed in the selected time range: levels that moved."
        ),
        bad=(
            "None during an hour of trading although the levels are fresh: every "
            "change is ignored."
        ),
        do="Check `ignore` and `thresholds` of the feed.",
        see="reference/configuration.md#feeds",
        kind="stat",
        steps={0: BLUE},
        decimals=0,
    ),
    Panel(
        "Levels lost",
        {"losses": LOSSES},
        shows=(
            "STALE, MISSING and INVALID events of the feed in the selected time range."
        ),
        bad="More than a few.",
        do="Check below which symbols are affected, when and for how long.",
        see="how-to/operations.md#the-api",
        kind="stat",
        steps={0: GREEN, 1: ORANGE, 20: RED},
        # `increase` extrapolates to fractions.
        decimals=0,
    ),
    Panel(
        "Symbols",
        {
            "Status": status(),
            # 0 for every other symbol, so that no cell is empty.
            "On fallback": (
                "max by (symbol) (gex_symbol_positioning_fallback)"
                " or 0 * max by (symbol) (gex_symbol_status)"
            ),
            "Age": age("computed"),
            "Spot": level("spot_price"),
            "Spot is": place_of_spot(),
            "Call resistance": level("all_expiry.call_resistance"),
            "to resistance": distance("all_expiry.call_resistance"),
            "Put support": level("all_expiry.put_support"),
            "to support": distance("all_expiry.put_support"),
            "Gamma flip": level("all_expiry.hvl"),
            "to flip": distance("all_expiry.hvl"),
            # The rhythm that the schedule has learnt.
            "Period": "max by (symbol) (gex_symbol_period_seconds)",
            "Jitter": "max by (symbol) (gex_symbol_jitter_seconds)",
        },
        shows=(
            "Current levels over all expiries, their distance from spot, their "
            "age, and how often and how regularly the upstream refreshes them. Spot "
            "is that of the last refresh: beyond resistance or support it has a colour. "
            "Levels are shown while LIVE or STALE. Resistance and support are the "
            "strikes of the largest positive net gamma above and below spot. On "
            "fallback is 1 if the levels come from another model than asked for."
        ),
        bad=(
            "A status other than LIVE, or an age above 90 s: consumers cannot rely"
            " on the levels."
        ),
        do=(
            "docs/how-to/consume.md explains what each status means to a consumer. For remedies see"
        ),
        see="how-to/operations.md#the-api",
        unit=units.LocaleFormat,
        decimals=5,
        kind="table",
        width=FULL,
        height=9,
    ),
    Panel(
        "Status",
        {"{{symbol}}": status()},
        shows=(
            "Status of each symbol. LIVE: consumers can rely on the levels. STALE:"
            " the levels are too old. MISSING: the API has no levels at the "
            "moment. INVALID: the API does not know the symbol. REMOVED: the "
            "symbol is no longer configured."
        ),
        bad="Any other status than LIVE. A gap: no worker owns the symbol.",
        do=(
            "INVALID: check the spelling; the API may no longer offer the symbol. "
            "For the other statuses see"
        ),
        see="how-to/operations.md#the-api",
        kind="states",
        values=STATUSES,
        width=HALF,
    ),
    Panel(
        "Age of the levels",
        {"{{symbol}}": age("computed")},
        unit=units.Seconds,
        shows=(
            "Time since each symbol's levels were computed. The line drops at "
            "every refresh."
        ),
        bad=(
            "A line that keeps climbing: the symbol is no longer refreshed, or no "
            "worker requests it."
        ),
        do=(
            "If all lines climb, check the API and the workers. If one line "
            "climbs, contact the vendor."
        ),
        see="how-to/runbooks.md#gexfreshnessburn",
        # `stale_after_seconds`, unless the feed configures another value.
        steps={0: "transparent", 90: RED},
        width=HALF,
    ),
    Panel(
        "Spot against its levels",
        {"{{symbol}}": place_of_spot()},
        shows=(
            "Where each symbol's spot is among its levels over all expiries, as of "
            "the last refresh: below put support, between support and resistance on "
            "either side of the gamma flip, or above call resistance. Each worker "
            "exports the levels of its first 50 symbols."
        ),
        bad=(
            "For users of the levels: spot beyond resistance or support, or on the "
            "other side of the flip. For operators: a gap, the symbol has no levels."
        ),
        do=(
            "The row Levels of each symbol draws the prices. For gaps, check the panel "
            "Status."
        ),
        see="how-to/operations.md#the-api",
        kind="states",
        values=PLACES,
        width=FULL,
    ),
)

_HISTORY: Final = (
    Panel(
        "Model of the levels",
        {
            "{{symbol}}: {{positioning}}": (
                "max by (symbol, positioning) (gex_symbol_positioning)"
            ),
            "{{symbol}} fell back: {{reason}}": (
                "max by (symbol, reason) (gex_symbol_positioning_fallback)"
            ),
        },
        shows=(
            "The model behind each symbol's levels, and the API's reason if it fell "
            "back to it. Levels of two models are not comparable."
        ),
        bad=(
            "A line for a fallback: every level may have jumped without a move of the "
            "market."
        ),
        do="Wait, or ask for `std` if the fallback lasts.",
        see="how-to/runbooks.md#gexpositioningfallback",
        kind="bars",
        width=HALF,
    ),
    Panel(
        "Events by kind",
        {"{{kind}}": per_minute("gex_events_total", "kind")},
        unit=units.EventsPerMinute,
        shows=(
            "Published events of all symbols of the feed. CHANGED is the normal case."
        ),
        bad=(
            "Repeated STALE, MISSING or INVALID events; no events at all during "
            "trading hours."
        ),
        do=(
            "The panel Status shows the symbols; `gex-connector watch` shows the "
            "events."
        ),
        see="how-to/operations.md#the-api",
        kind="bars",
        width=HALF,
    ),
    Panel(
        "Time to the next check",
        {"{{symbol}}": f"max by (symbol) ({UNTIL_NEXT_CHECK})"},
        unit=units.Seconds,
        shows=(
            "Time until each symbol's next request, at each scrape. A request is "
            "planned for when a refresh is expected."
        ),
        bad=(
            "Below zero for long: the budget does not allow the request, or the "
            "schedule has stalled."
        ),
        do="Check the budget on the dashboard GEX connector.",
        see="how-to/operations.md#budget",
        width=HALF,
    ),
)

_LEVELS_OF_EACH_SYMBOL: Final = (
    Panel(
        "$symbol",
        {"{{level}}": DRAWN_LEVELS},
        shows=(
            "Spot against the levels over all expiries: call resistance and put "
            "support with the walls behind them, and the gamma flip. Above the "
            "flip dealers dampen moves, below it they amplify them. Each worker "
            "exports the levels of its first 50 symbols."
        ),
        bad=(
            "A gap: the symbol has no levels (MISSING, INVALID), or no worker owns it."
        ),
        do="Check the panel Status.",
        see="how-to/operations.md#the-api",
        width=HALF,
        height=10,
        unit=units.LocaleFormat,
        decimals=5,
        repeat="symbol",
    ),
)

_NOT_LIVE: Final = f'max_over_time(gex_symbol_status{{status!="LIVE"}}[{INTERVAL}])'
_MODEL: Final = "gex_symbol_positioning"

# Marks on every graph. The windows are those of `rate`, so that no change falls between
# two points of a long time range.
ANNOTATIONS: Final = (
    Annotation(
        "Not LIVE",
        "{{symbol}}: {{status}}",
        f"max by (symbol, status) ({_NOT_LIVE})",
        RED,
    ),
    Annotation(
        "Other model",
        "{{symbol}}: model is now {{positioning}}",
        # A model that the symbol did not have a moment before, when it had another one.
        f"max by (symbol, positioning) ({_MODEL})"
        f" unless max by (symbol, positioning) ({_MODEL} offset {INTERVAL})"
        f" and on (symbol) max by (symbol) ({_MODEL} offset {INTERVAL})",
        PURPLE,
    ),
)

# The rows of the dashboard by their title, from top to bottom. All but the first open
# collapsed.
ROWS: Final = {
    "": _OVERVIEW,
    "Models, events and checks": _HISTORY,
    "Levels of each symbol": _LEVELS_OF_EACH_SYMBOL,
}
