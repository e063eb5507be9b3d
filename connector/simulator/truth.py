"""The truth log: what was computed, and what every request was answered. The checker of a test relies on it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from connector.simulator.market import iso

if TYPE_CHECKING:
    from itertools import count

    from connector.simulator.levels import Content
    from connector.simulator.market import Market

KEPT_ANSWERS: Final = 100_000
KEPT_CONTENTS: Final = 20_000


class Shown(msgspec.Struct, frozen=True, gc=False):
    """An entry as it was sent: the text of its `computed_at`, and the SHA-256 of its bytes.

    The bytes are canonical JSON (keys sorted, no blanks, every number a float) but where a fault spoilt them.
    """

    computed_at: str | None
    sha256: str


class Answer(msgspec.Struct, gc=False):
    """A request for levels. `received_at` and `answered_at` (handed to the socket) are microseconds, Unix time.

    `status` is 0 where the connection was closed before the end. `shown` says null for a null entry and is empty where
    no data were sent. A key that is not among the settings' is logged as "unknown".
    """

    received_at: int
    key: str
    symbols: list[str]
    include: list[str]
    exchanges: list[str]
    request_id: str
    faults: list[str] = []
    shown: dict[str, Shown | None] = {}
    status: int = 0
    answered_at: int = 0
    sequence: int = 0


class Computed(msgspec.Struct, frozen=True, gc=False):
    """A refresh that became visible; `sha256` is of the entry without optional sections and without filter."""

    sequence: int
    symbol: str
    computed_at: str
    visible_at: int
    sha256: str


class Truth(msgspec.Struct, frozen=True):
    """A page of the log: pass `cursor` as `since` for the next. `contents`: the entries last shown, by SHA-256."""

    cursor: int
    refreshes: list[Computed]
    answers: list[Answer]
    contents: dict[str, str]


class TruthLog:
    """Bounded; refreshes and answers are counted in one row."""

    def __init__(self, sequence: count[int]) -> None:
        self._sequence = sequence
        self._answers: deque[Answer] = deque(maxlen=KEPT_ANSWERS)
        self._contents: dict[str, bytes] = {}
        self.by_status: dict[int, int] = {}

    def answered(self, answer: Answer) -> None:
        """Log an answer, now that its outcome is known."""
        answer.sequence = next(self._sequence)
        self._answers.append(answer)
        self.by_status[answer.status] = self.by_status.get(answer.status, 0) + 1

    def remember(self, content: Content) -> None:
        """Keep the text of an entry that is shown for the first time."""
        self._contents[content.sha256] = content.raw
        if len(self._contents) > KEPT_CONTENTS:
            del self._contents[next(iter(self._contents))]

    def since(self, since: int, market: Market, *, contents: bool) -> Truth:
        """Everything after `since` that is still kept."""
        answers: list[Answer] = []
        for answer in reversed(self._answers):
            if answer.sequence <= since:
                break
            answers.append(answer)
        refreshes = []
        for symbol, refresh in market.refreshes(since):
            digest = market.digest(symbol, refresh)
            refreshes.append(Computed(refresh.sequence, symbol, iso(refresh.computed_at), refresh.visible_at, digest))
        cursor = max([since, *(one.sequence for one in answers[:1]), *(one.sequence for one in refreshes[-1:])])
        texts = {sha: raw.decode() for sha, raw in self._contents.items()} if contents else {}
        return Truth(cursor, refreshes, answers[::-1], texts)
