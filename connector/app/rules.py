"""The rules of a feed, as it is configured."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from connector.core.diff import Rules
from connector.core.transition import FeedRules

if TYPE_CHECKING:
    from connector.config.model import Feed


def rules_of(feed: Feed) -> FeedRules:
    """Return the rules that decide which changes of a feed become events."""
    exchanges = ",".join(sorted(feed.exchanges))
    include = ",".join(sorted(feed.include))
    request = f"exchanges={exchanges};include={include}"
    if feed.positioning is not None:
        request += f";positioning={feed.positioning}"
    return FeedRules(
        name=feed.name,
        request_fingerprint=hashlib.sha256(request.encode()).hexdigest()[:16],
        rules=Rules.of(feed.ignore, feed.thresholds),
        stale_after_seconds=feed.stale_after_seconds,
    )
