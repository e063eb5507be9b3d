"""Counts the checks of each symbol that failed in a row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from connector.core.model import Value
from connector.errors import NotRouted, RequestRefused, UpstreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from connector.schedule.batches import Batch


class FailedChecks(Value, frozen=True):
    """Failed checks in a row. `since` is when the first one failed, in microseconds."""

    since: int
    count: int
    error: UpstreamError


class FailingChecks:
    """By symbol, the failures since the API last answered for it.

    Per symbol, since batches are regrouped, and since some may fail while others succeed.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        """`now` returns microseconds since the epoch."""
        self._now = now
        self._by_symbol: dict[tuple[str, str], FailedChecks] = {}

    def failed(self, batch: Batch, error: UpstreamError) -> None:
        """Note a failed check of a batch."""
        if isinstance(error, RequestRefused) and not isinstance(error, NotRouted):
            # The API has answered: a symbol is missing or invalid.
            self.answered(batch)
            return
        now = self._now()
        for symbol in batch.symbols:
            before = self._by_symbol.get((batch.feed, symbol))
            since = now if before is None else before.since
            count = 1 if before is None else before.count + 1
            self._by_symbol[batch.feed, symbol] = FailedChecks(since, count, error)

    def answered(self, batch: Batch) -> None:
        """Note an answer for a batch."""
        for symbol in batch.symbols:
            self._by_symbol.pop((batch.feed, symbol), None)

    def keep_only(self, covered: Container[tuple[str, str]]) -> None:
        """Forget symbols that others poll now."""
        for key in list(self._by_symbol):
            if key not in covered:
                del self._by_symbol[key]

    @property
    def symbols(self) -> frozenset[tuple[str, str]]:
        """Feeds and symbols whose last check failed."""
        return frozenset(self._by_symbol)

    @property
    def longest(self) -> FailedChecks | None:
        """The longest series of failures, None if the last check of each symbol succeeded."""
        found = None
        for checks in self._by_symbol.values():
            if found is None or checks.since < found.since:
                found = checks
        return found
