"""Settings of the simulated service, except for the fault script."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct, ValidationError, convert, to_builtins

# Made up, in the form of a real key.
DEFAULT_KEY: Final = "bq_live_" + "simulator".ljust(32, "0")
DEFAULT_SYMBOLS: Final = (
    "BTCUSDT",
    "ETHUSDT",
    "SOLUSDT",
    "HYPEUSDT",
    "XRPUSDT",
    "BNBUSDT",
    "DOGEUSDT",
    "AVAXUSDT",
)
EXCHANGES: Final = ("deribit", "bybit", "okx", "binance")
INCLUDES: Final = ("expected_move", "max_pain", "ranked", "zones")

Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Probability = Annotated[float, Meta(ge=0, le=1)]


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """The market and the service around it. All but `seed` can change while it runs.

    Durations are in seconds, probabilities per refresh. Two simulators with the same
    settings show the same prices, refresh by refresh.

    Attributes:
        cold: Symbols that are supported, but listed as missing.
        drift: Let jitter add up instead of scattering around a fixed grid.
        phase: Refresh each symbol at moments of its `own`, or all `together`.
        every_request: Ignore time, and show a new refresh at every request.
        limit_per_minute: Requests a minute per key. 0 means a plan without a limit.
        zones_field: Name of the section `zones` in an entry; clients must accept both.
    """

    symbols: tuple[str, ...] = DEFAULT_SYMBOLS
    cold: tuple[str, ...] = ()
    seed: int = 1
    period_seconds: Annotated[float, Meta(ge=0.01, le=86_400)] = 30.0
    jitter_seconds: Seconds = 0.3
    drift: bool = False
    phase: Literal["own", "together"] = "own"
    skip_probability: Probability = 0.0
    late_probability: Probability = 0.0
    late_seconds: Seconds = 5.0
    visible_lag_seconds: Seconds = 0.0
    change_probability: Probability = 1.0
    every_request: bool = False
    keys: tuple[str, ...] = (DEFAULT_KEY,)
    forbidden_keys: tuple[str, ...] = ()
    limit_per_minute: Annotated[int, Meta(ge=0)] = 60
    zones_field: Literal["zones", "gamma_flip_zones"] = "zones"

    def changed(self, changes: dict[str, object]) -> Settings:
        """Return these settings with `changes`. Raises ValueError if they do not fit."""
        try:
            return convert(to_builtins(self) | changes, Settings)
        except ValidationError as error:
            raise ValueError(str(error)) from error
