"""Keys and budgets: who may ask, and the figures that every answer carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, get_args

from connector.devkit.simulator.plans import plan_of
from connector.devkit.simulator.quota import Budget, Quota, seconds_left, seconds_until

if TYPE_CHECKING:
    from connector.devkit.simulator.reply import Refusal, Reply
    from connector.devkit.simulator.settings import Settings

_FIRST_ERROR: Final = 400
_FIRST_SERVER_ERROR: Final = 500
_UNAUTHORIZED: Final = "401"
_RATE_LIMITED: Final = "429"

# Headers that tell a client its budgets start with these.
_LIMIT_HEADERS: Final = ("X-RateLimit-", "X-Quota-")


class Access:
    """Checks keys, spends budgets, and writes their figures into replies."""

    def __init__(self, settings: Settings, now: int) -> None:
        self.settings = settings
        self.quota = Quota(settings, now)

    def change(self, settings: Settings, now: int) -> None:
        """Apply new settings from now on."""
        self.settings = settings
        self.quota.change(settings, now)

    def is_known(self, key: str) -> bool:
        """Return True if the settings have the key, with or without permission."""
        settings = self.settings
        return key in {*settings.keys, *settings.users, *settings.forbidden_keys}

    def spend(self, requests: int, key: str | None, now: int, budget: Budget) -> None:
        """Use up budgets as another program would, by default with the first key.

        Raises ValueError if there is no such budget.
        """
        if budget not in get_args(Budget):
            known = ", ".join(get_args(Budget))
            raise ValueError(f"budget {budget!r}, expected one of {known}")
        spender = key or self.settings.keys[0]
        self.quota.spend(spender, requests, now, budget)

    def admit(self, key: str, now: int, *, is_sibling: bool = False) -> Refusal | None:
        """Spend a request with a valid key. Return the error it deserves, if any.

        The month is spent in advance; `settle` takes back requests that do not count.
        """
        settings = self.settings
        is_valid = key in settings.keys or key in settings.users
        if not is_valid and key in settings.forbidden_keys:
            if "4xx" in settings.month_counts:
                self.quota.spend(key, 1, now, "month")
            return self._plan_refusal()
        if not is_valid:
            return {"status": _UNAUTHORIZED}

        # A refused request leaves the minute as it is.
        refusal = self._exhaustion(key, now)
        if refusal is None:
            self.quota.spend(key, 1, now)
            if is_sibling and "siblings" not in settings.month_counts:
                self.quota.refund_month(key, now)
        elif _RATE_LIMITED in settings.month_counts:
            self.quota.spend(key, 1, now, "month")
        return refusal

    def settle(self, key: str, reply: Reply, now: int) -> None:
        """Take an error back from the month unless the settings count it."""
        if reply.status < _FIRST_ERROR or self._counts(reply.status):
            return
        self.quota.refund_month(key, now)
        # An answer of the API shows the corrected figures; a firewall's shows none.
        is_limited = reply.status == int(_RATE_LIMITED)
        says_used_up = is_limited and reply.headers.get("X-Quota-Remaining") == "0"
        if "X-Quota-Used" in reply.headers and not says_used_up:
            reply.headers |= self.quota.month_headers(key, now)

    def write_figures(self, key: str, reply: Reply, now: int) -> None:
        """Write both budgets into the headers, and the minute into `meta`."""
        figures = self.quota.rate_limit(key, now)
        if figures:
            reply.meta["rate_limit"] = figures
        for name, value in figures.items():
            reply.headers[f"X-RateLimit-{name.capitalize()}"] = str(value)
        reply.headers |= self.quota.month_headers(key, now)

    def hide_figures(self, reply: Reply) -> None:
        """Take the figures out of a 401, which has no user, unless settings keep them."""
        if self.settings.limits_on_401 or self.settings.is_old:
            return
        reply.meta.pop("rate_limit", None)
        for name in list(reply.headers):
            if name.startswith(_LIMIT_HEADERS):
                del reply.headers[name]

    def _counts(self, status: int) -> bool:
        counted = self.settings.month_counts
        if status == int(_RATE_LIMITED):
            return _RATE_LIMITED in counted
        if status >= _FIRST_SERVER_ERROR:
            return "5xx" in counted
        return "4xx" in counted

    def _plan_refusal(self) -> Refusal:
        if self.settings.is_old:
            return {"status": "403"}
        return {"status": "403", "message": "This plan has no API access"}

    def _exhaustion(self, key: str, now: int) -> Refusal | None:
        plan = plan_of(self.settings)
        if not self.settings.is_old and self.quota.is_month_used_up(key, now):
            seconds = seconds_until(self.quota.month(now).ends_at, now)
            return {
                "status": _RATE_LIMITED,
                "message": f"The monthly cap of {plan.per_month} is used up",
                "details": {"retry_after_seconds": seconds},
            }
        if not self.quota.is_minute_used_up(key, now):
            return None

        seconds = seconds_left(now)
        if self.settings.is_old:
            details = {"retry_after_seconds": seconds}
            return {"status": _RATE_LIMITED, "details": details}
        return {
            "status": _RATE_LIMITED,
            "message": f"Rate limit exceeded. Try again in {seconds} seconds.",
            "details": {
                "retry_after_seconds": seconds,
                "limit": f"{plan.per_minute} per 1 minute",
            },
        }
