"""The dashboard for whoever trades by the levels: what holds now, how old it is, and how it came about."""  # noqa: INP001 - beside a script

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import units
from panels import (
    BLUE,
    GREEN,
    LIVE,
    OLDEST,
    ORANGE,
    RED,
    STATUSES,
    TEXT,
    Panel,
    age,
    distance,
    level,
    per_minute,
    status,
)

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
"""What is drawn of a symbol: name, colour, width of the line."""


ROWS: Final = {
    "": (
        LIVE,
        OLDEST,
        Panel(
            "Last answer",
            {"age": "max(time() - gex_symbol_observed_timestamp_seconds)"},
            units.Seconds,
            "Time since the API last answered for the symbol that waits longest.",
            "Over two minutes: nobody asks, or nobody answers.",
            "Look at the connector's dashboard: workers, key, requests by outcome.",
            "operations.md#the-api",
            "stat",
            {0: GREEN, 90: ORANGE, 120: RED},
            decimals=0,
        ),
        Panel(
            "Next check",
            {
                "in": "min({0} - timestamp({0}))".format(
                    "gex_symbol_next_check_timestamp_seconds"
                )
            },
            units.Seconds,
            "How long, at the last scrape, until a symbol is asked for next.",
            "Below zero for long: the schedule hangs or the budget is used up.",
            "Look at the connector's budget and loops.",
            "operations.md#budget",
            "stat",
            {-1e9: RED, -60: ORANGE, -5: BLUE},
        ),
        Panel(
            "Changes",
            {"changes": 'sum(increase(gex_events_total{kind="CHANGED"}[$__range]))'},
            shows="Events CHANGED of the feed in the time chosen above: levels that moved.",
            bad="None in an hour of trading, though the ages are short: nothing counts as a change.",
            do="Look at `ignore` and `thresholds` of the feed.",
            see="configuration.md#feeds",
            kind="stat",
            steps={0: BLUE},
            decimals=0,
        ),
        Panel(
            "Losses",
            {
                "losses": 'sum(increase(gex_events_total{kind=~"STALE|MISSING|INVALID"}[$__range]))'
            },
            shows="Events STALE, MISSING and INVALID of the feed in the time chosen above: levels that were lost.",
            bad="More than a few.",
            do="See below which symbol, when and for how long.",
            see="operations.md#the-api",
            kind="stat",
            steps={0: GREEN, 1: ORANGE, 20: RED},
            decimals=0,
        ),
        Panel(
            "Symbols",
            {
                "Status": status(),
                "Age": age("computed"),
                "Spot": level("spot_price"),
                "Call resistance": level("all_expiry.call_resistance"),
                "to resistance": distance("all_expiry.call_resistance"),
                "Put support": level("all_expiry.put_support"),
                "to support": distance("all_expiry.put_support"),
                "Gamma flip": level("all_expiry.hvl"),
                "to flip": distance("all_expiry.hvl"),
                "Period": "max by (symbol) (gex_symbol_period_seconds)",
                "Jitter": "max by (symbol) (gex_symbol_jitter_seconds)",
            },
            shows="What holds now: levels over all expiries, how far each is from spot, how old they are, and how often"
            " and how punctually the upstream refreshes them. Levels are shown while LIVE or STALE.",
            bad="A status other than LIVE, or an age above 90 s: the levels must not be relied on.",
            do="What each status means to a consumer is in the README, what to do about it here:",
            see="operations.md#the-api",
            unit=units.LocaleFormat,
            decimals=5,
            kind="table",
            width=24,
            height=9,
        ),
        Panel(
            "Status",
            {"{{symbol}}": status()},
            shows="Status of each symbol: LIVE may be relied on; STALE is too old; of MISSING the API has nothing at"
            " the moment; INVALID it does not know; REMOVED is no longer configured.",
            bad="Anything but LIVE; a gap: no worker has the symbol.",
            do="INVALID is misspelt or gone. For the others see:",
            see="operations.md#the-api",
            kind="states",
            values=STATUSES,
            width=12,
        ),
        Panel(
            "Age of the levels",
            {"{{symbol}}": age("computed")},
            units.Seconds,
            "Time since each symbol's levels were computed: a saw that falls at every refresh.",
            "A line that climbs on: its symbol is no longer refreshed, or nobody asks.",
            "All climb: the API or the workers. One climbs: the vendor.",
            "runbooks.md#gexfreshnessburn",
            steps={0: "transparent", 90: RED},
            width=12,
        ),
        Panel(
            "Events by kind",
            {"{{kind}}": per_minute("gex_events_total", "kind")},
            units.EventsPerMinute,
            "What was published, all symbols of the feed together. CHANGED is the normal case.",
            "STALE, MISSING or INVALID that come again and again; nothing at all in trading hours.",
            "Which symbol: see Status. Events themselves: `gex-connector watch`.",
            "operations.md#the-api",
            "bars",
            width=12,
        ),
        Panel(
            "Time to the next check",
            {
                "{{symbol}}": "max by (symbol) ({0} - timestamp({0}))".format(
                    "gex_symbol_next_check_timestamp_seconds"
                )
            },
            units.Seconds,
            "How long, at each scrape, until the symbol is asked for again. It asks when it expects a refresh.",
            "Below zero for long: the budget does not allow the check, or the schedule hangs.",
            "Look at the connector's budget.",
            "operations.md#budget",
            width=12,
        ),
    ),
    "Levels of each symbol": (
        Panel(
            "$symbol",
            {
                "{{level}}": 'max by (level) (gex_level{level=~"'
                + "|".join(LEVELS)
                + '"})'
            },
            shows="Spot against the levels over all expiries: call resistance and put support with the walls behind"
            " them, and the gamma flip, above which dealers dampen moves and below which they amplify them."
            " At most 50 symbols of a worker have this.",
            bad="A gap: there are no levels (MISSING, INVALID), or no worker has the symbol.",
            do="See Status above.",
            see="operations.md#the-api",
            width=12,
            height=10,
            unit=units.LocaleFormat,
            decimals=5,
            repeat="symbol",
        ),
    ),
}
