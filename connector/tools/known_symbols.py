"""Tell a person that the topics have never had a symbol, and which one may be meant."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from connector.config.secrets import printable, quote
from connector.config.values import symbols_typed
from connector.errors import KafkaUnavailable
from connector.tools.suggestion import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.kafka.events import Log
    from connector.kafka.names import Topics


def warn_of_unknown_symbols(log: Log, topics: Topics, typed: Iterable[str]) -> int:
    """Print a line to standard error for each symbol that has no state in `current`.

    A symbol may appear later, so `watch` goes on. So it does if the states cannot be read.

    Returns:
        the number of these symbols.
    """
    texts = list(typed)
    if not texts:
        return 0
    try:
        known = _known_symbols(log, topics)
    except KafkaUnavailable as error:
        sys.stderr.write(f"cannot tell if the symbols are known: {error}\n")
        return 0
    unknown = [text for text in texts if known.isdisjoint(symbols_typed(text))]
    for text in unknown:
        sys.stderr.write(f"{_finding(text, known, log.feeds)}\n")
    return len(unknown)


def _known_symbols(log: Log, topics: Topics) -> set[str]:
    """Return every symbol that has a state in one of the log's feeds."""
    partitions = log.partitions_of(*(topics.current(feed) for feed in log.feeds))
    starts, ends = {}, {}
    for partition, (begin, end) in log.bounds(partitions).items():
        starts[partition], ends[partition] = begin, end
    # The key is the symbol, so nothing has to be decoded.
    known = set()
    for record in log.read(starts, ends):
        if record.is_ours:
            known.add(record.key.decode(errors="replace"))
    return known


def _finding(text: str, known: set[str], feeds: list[str]) -> str:
    _, *cleaned = symbols_typed(text)
    wanted = cleaned[0] if cleaned else text
    finding = f"{quote(text)}: no events so far in feed {', '.join(feeds)}"
    return printable(finding + did_you_mean(wanted, known))
