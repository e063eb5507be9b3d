"""The truth log: every refresh and every answer, for tests to compare with."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from connector.devkit.simulator.levels import (
    Shown,  # noqa: TC001 -- msgspec resolves annotations at run time
)

if TYPE_CHECKING:
    from connector.devkit.simulator.levels import Content
    from connector.devkit.simulator.reply import Reply

# Bound the memory of a long run.
_ANSWERS_KEPT: Final = 100_000
_CONTENTS_KEPT: Final = 20_000


class Answer(msgspec.Struct, gc=False):
    """A request for levels and its answer. Moments are microseconds, Unix time.

    Attributes:
        key: The API key, or "unknown" if the settings do not have it.
        shown: The entries by symbol, None for a null entry. Empty if no data were sent.
        status: HTTP status, or 0 if the connection was closed before the end.
        answered_at: The moment when the response was handed to the socket.
    """

    received_at: int
    key: str
    request_id: str
    symbols: list[str]
    include: list[str]
    exchanges: list[str]
    positioning: str = ""
    faults: list[str] = []
    shown: dict[str, Shown | None] = {}
    status: int = 0
    answered_at: int = 0
    sequence: int = 0


class Computed(msgspec.Struct, frozen=True, gc=False):
    """A refresh that became visible.

    `sha256` is that of the entry without optional sections and without a venue filter.
    """

    sequence: int
    symbol: str
    computed_at: str
    visible_at: int
    sha256: str


class Truth(msgspec.Struct, frozen=True):
    """A page of the log. Pass `cursor` as `since` to get the next page.

    `contents` has the entries shown most recently, by SHA-256.
    """

    cursor: int
    refreshes: list[Computed]
    answers: list[Answer]
    contents: dict[str, str]


class AnswerLog:
    """The answers given and the entries shown in them, bounded in number."""

    def __init__(self) -> None:
        self._answers: deque[Answer] = deque(maxlen=_ANSWERS_KEPT)
        self._contents: dict[str, bytes] = {}

    def add(self, answer: Answer) -> None:
        """Append an answer whose outcome is known."""
        self._answers.append(answer)

    def since(self, sequence: int) -> list[Answer]:
        """Return the answers with a higher sequence, oldest first."""
        answers: list[Answer] = []
        # Readers ask for the end of a long log, so search from there.
        for answer in reversed(self._answers):
            if answer.sequence <= sequence:
                break
            answers.append(answer)
        answers.reverse()
        return answers

    def remember_contents(self, reply: Reply) -> None:
        """Keep the entries of a reply, and drop the oldest ones over the limit."""
        for content in reply.results.values():
            if content is not None:
                self._remember(content)
        while len(self._contents) > _CONTENTS_KEPT:
            oldest = next(iter(self._contents))
            del self._contents[oldest]

    def contents(self) -> dict[str, str]:
        """Return the kept entries as JSON, by SHA-256."""
        contents = {}
        for sha256, raw in self._contents.items():
            contents[sha256] = raw.decode()
        return contents

    def _remember(self, content: Content) -> None:
        self._contents.setdefault(content.shown.sha256, content.raw)
