"""The plans of the vendor, and the budget that settings give a user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from connector.devkit.simulator.settings import PlanName, Settings


class Plan(NamedTuple):
    """Requests a minute and a month; a month of 0 has no cap."""

    per_minute: int
    per_month: int


PLANS: Final[dict[PlanName, Plan]] = {
    # No plan of the vendor: a month would slow down every test with fast refreshes.
    "demo": Plan(60, 0),
    "starter": Plan(30, 10_000),
    "standard": Plan(60, 250_000),
    "pro": Plan(120, 1_000_000),
    "enterprise": Plan(600, 0),
}


def plan_of(settings: Settings) -> Plan:
    """Return the limits in force. A limit of 0 is none."""
    per_minute, per_month = PLANS[settings.plan]
    if settings.limit_per_minute is not None:
        per_minute = settings.limit_per_minute
    if settings.limit_per_month is not None:
        per_month = settings.limit_per_month
    return Plan(per_minute, per_month)
