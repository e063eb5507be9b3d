"""Which feed a topic belongs to, by its name."""

from __future__ import annotations

import pytest

from connector.kafka.names import Topics


@pytest.mark.parametrize(
    ("topic", "feed"),
    [
        ("gex.levels.all.changes", "all"),
        ("gex.levels.my.feed.changes", "my.feed"),
        ("gex.levels.all.current", None),
        ("other.all.changes", None),
        # Feed `levels` of the prefix `gex`.
        ("gex.levels.changes", None),
    ],
)
def test_the_feed_of_events_is_known_by_the_topic(topic: str, feed: str | None) -> None:
    topics = Topics("gex.levels")
    assert topics.feed_of_changes(topic) == feed
    assert topics.is_changes(topic) == (feed is not None)
