"""Settings of the simulated service, except for the fault script."""

from __future__ import annotations

from typing import Annotated, Final, Literal, get_type_hints

from msgspec import Meta, Struct, ValidationError, convert, to_builtins

from connector.devkit.simulator.hints import describe_hint

# Made up, in the form of a real key.
DEFAULT_KEY: Final = "bq_live_" + "simulator".ljust(32, "0")

# The API has the first four. Tests that fill a request ask for all eight.
EIGHT_SYMBOLS: Final = (
    "BTCUSDT",
    "ETHUSDT",
    "SOLUSDT",
    "HYPEUSDT",
    "XRPUSDT",
    "BNBUSDT",
    "DOGEUSDT",
    "AVAXUSDT",
)
DEFAULT_SYMBOLS: Final = EIGHT_SYMBOLS[:4]

EXCHANGES: Final = (
    "deribit",
    "bybit",
    "okx",
    "binance",
    "derive",
    "thalex",
    "delta_india",
    "delta",
)
# Contract 2.0 knew only these venues.
OLD_EXCHANGES: Final = EXCHANGES[:4]
INCLUDES: Final = ("expected_move", "max_pain", "ranked", "zones")

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Probability = Annotated[float, Meta(ge=0, le=1)]
# Enough for ten years, and small enough for arithmetic with microseconds.
MonthSeconds = Annotated[float, Meta(ge=0, le=315_576_000)]
Limit = Annotated[int, Meta(ge=0)]

Contract = Literal["2.10", "2.0"]
PlanName = Literal["demo", "starter", "standard", "pro", "enterprise"]
StampFormat = Literal["millis", "micros", "seconds", "zero_millis", "offset"]
Placement = Literal["both", "entry", "extra_text", "extra_by_symbol", "nowhere"]
Health = Literal["auto", "ok", "degraded", "unhealthy"]

# Requests that the vendor's pages do not call right or wrong.
Doubtful = Literal[
    "include", "positioning", "nine_symbols", "no_symbol", "only_invalid"
]

# Answers of which the pages do not say if they count against the month.
Uncounted = Literal["4xx", "429", "5xx", "siblings"]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The market and the service around it. All but `seed` can change while it runs.

    Two simulators with the same settings show the same prices, refresh by refresh.
    """

    # The market.
    symbols: Annotated[
        tuple[str, ...], Meta(description="Supported symbols, spelt exactly so")
    ] = DEFAULT_SYMBOLS
    cold: Annotated[
        tuple[str, ...], Meta(description="Supported symbols that are `missing`")
    ] = ()
    seed: Annotated[int, Meta(description="Seed of everything random")] = 1
    period_seconds: Annotated[
        float,
        Meta(ge=0.01, le=86_400, description="Time between refreshes of a symbol"),
    ] = 30.0
    jitter_seconds: Annotated[
        Seconds, Meta(description="Standard deviation of a refresh's moment")
    ] = 0.3
    drift: Annotated[
        bool, Meta(description="Let jitter add up, instead of scattering around a grid")
    ] = False
    phase: Annotated[
        Literal["own", "together"],
        Meta(description="Refresh each symbol at moments of its own, or all in step"),
    ] = "own"
    skip_probability: Annotated[
        Probability, Meta(description="Probability that a refresh is skipped")
    ] = 0.0
    late_probability: Annotated[
        Probability, Meta(description="Probability that a refresh is late")
    ] = 0.0
    late_seconds: Annotated[
        Seconds, Meta(description="Delay of a refresh that is late")
    ] = 5.0
    visible_lag_seconds: Annotated[
        Seconds, Meta(description="Time from `computed_at` until a request sees it")
    ] = 0.0
    change_probability: Annotated[
        Probability, Meta(description="Probability that a refresh changes the levels")
    ] = 1.0
    every_request: Annotated[
        bool, Meta(description="Ignore time; show a new refresh at every request")
    ] = False

    # Models.
    no_tape: Annotated[
        tuple[str, ...],
        Meta(description="Symbols without a trade tape: `flow` falls back to `std`"),
    ] = ()
    positioning_placement: Annotated[
        Placement,
        Meta(
            description="Name the model in the entry, in `meta.extra`, both or nowhere"
        ),
    ] = "both"
    flow_walls: Annotated[
        Literal["null", "filled"],
        Meta(description="Second and third walls under `flow`"),
    ] = "null"
    flow_computed: Annotated[
        Literal["refresh", "request"],
        Meta(description="With `request`, numbers move under an equal `computed_at`"),
    ] = "refresh"

    # The form of an answer.
    contract: Annotated[
        Contract, Meta(description="Contract whose answers are given")
    ] = "2.10"
    version: Annotated[
        str, Meta(description="Version to report instead of the contract's")
    ] = ""
    is_breaking: Annotated[
        bool, Meta(description="The changelog calls the reported version breaking")
    ] = False
    computed_at_format: Annotated[
        StampFormat,
        Meta(description="How moments are written (contract 2.0: `micros`)"),
    ] = "millis"
    whole_numbers: Annotated[
        bool, Meta(description="Write whole prices as integers: `67000`")
    ] = False
    zones_field: Annotated[
        Literal["by_contract", "zones", "gamma_flip_zones"],
        Meta(description="Name of the section `zones` (2.0: `zones`)"),
    ] = "by_contract"
    data_at_top: Annotated[
        bool, Meta(description="Data fields at the top level, without `data`")
    ] = False
    null_for_invalid: Annotated[
        bool, Meta(description="`results` has a null for each invalid symbol")
    ] = True
    full_meta: Annotated[
        bool,
        Meta(description="Fill the optional fields of `meta` from the first entry"),
    ] = False
    errors: Annotated[
        tuple[Doubtful, ...], Meta(description="Doubtful requests that are refused")
    ] = ("include", "positioning", "nine_symbols", "no_symbol")

    # Keys and budgets.
    keys: Annotated[
        tuple[str, ...], Meta(description="Valid keys, all of one user")
    ] = (DEFAULT_KEY,)
    users: Annotated[
        dict[str, str],
        Meta(description="Owners of keys that belong to other users, by key"),
    ] = {}
    forbidden_keys: Annotated[
        tuple[str, ...], Meta(description="Keys whose plan permits nothing: 403")
    ] = ()
    plan: Annotated[
        PlanName, Meta(description="Preset of both limits; `demo` is 60 and no month")
    ] = "demo"
    limit_per_minute: Annotated[
        Limit | None, Meta(description="Overrides the plan's. 0: no limit, no headers")
    ] = None
    limit_per_month: Annotated[
        Limit | None, Meta(description="Overrides the plan's. 0: no cap")
    ] = None
    minute_per: Annotated[
        Literal["user", "key"], Meta(description="Whose budget the minute is")
    ] = "user"
    month_seconds: Annotated[
        MonthSeconds,
        Meta(description="Length of a month that starts now. 0: calendar months (UTC)"),
    ] = 0.0
    month_counts: Annotated[
        tuple[Uncounted, ...],
        Meta(description="Answers besides 200 that count against the month"),
    ] = ()
    uncapped_quota: Annotated[
        Literal["absent", "text", "negative", "zero"],
        Meta(description="`X-Quota-*` of a plan without a cap"),
    ] = "absent"
    limits_on_401: Annotated[
        bool, Meta(description="A 401 carries the figures of the first key's user")
    ] = False

    # The other endpoints.
    health: Annotated[
        Health, Meta(description="`/health`; `auto` follows the oldest symbol")
    ] = "auto"
    venues_off: Annotated[
        tuple[str, ...], Meta(description="Venues whose chain and tape are off")
    ] = ()

    @property
    def is_old(self) -> bool:
        """True if answers follow contract 2.0."""
        return self.contract == "2.0"

    @property
    def stamp_format(self) -> StampFormat:
        """The format of moments under the contract."""
        return "micros" if self.is_old else self.computed_at_format

    @property
    def zones_name(self) -> str:
        """The name of the section `zones` in an entry."""
        if self.zones_field != "by_contract":
            return self.zones_field
        return "zones" if self.is_old else "gamma_flip_zones"

    def user_of(self, key: str) -> str:
        """Return the user that a key belongs to."""
        return self.users.get(key, "")

    def changed(self, changes: dict[str, object]) -> Settings:
        """Return these settings with `changes`. Raises ValueError if they do not fit."""
        hints = get_type_hints(Settings, include_extras=True)
        for name, value in changes.items():
            if name not in hints:
                raise ValueError(
                    f"unknown setting {name!r}; known are {', '.join(hints)}"
                )
            # One at a time, so that the error names the setting.
            try:
                convert(value, hints[name])
            except ValidationError as error:
                expected = describe_hint(hints[name])
                raise ValueError(
                    f"setting {name}: {error}; expected {expected}"
                ) from error
        return convert(to_builtins(self) | changes, Settings)
