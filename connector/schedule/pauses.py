"""Keep the pauses in which no batch may be checked. Pure."""

from __future__ import annotations

import msgspec


class Pauses(msgspec.Struct):
    """The ends of the pauses, as moments of a monotonic clock.

    The server requests one pause. Another waits for a new API key while the upstream
    refuses the present one, or the plan of its user. The last waits for the next month, or
    for the next probe, while the requests of the month are used up.
    """

    by_server_until: float = float("-inf")
    for_key_until: float = float("-inf")
    for_month_until: float = float("-inf")

    @property
    def until(self) -> float:
        """The moment at which all pauses are over."""
        return max(self.by_server_until, self.for_key_until, self.for_month_until)

    def extend_by_server(self, until: float) -> None:
        """Pause at least until this moment, at the server's request."""
        self.by_server_until = max(self.by_server_until, until)
