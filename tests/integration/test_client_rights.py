"""`connector.client` on a broker with authentication and ACLs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from connector.client import AccessDenied, KafkaUnreachable, LiveLevels
from tests.support.guarded import NEEDED, PASSWORD, USER, GuardedKafka, grant
from tests.support.processes import PATIENCE_SECONDS
from tests.support.written_feed import SYMBOL, WrittenFeed, an_event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Names

RIGHTS = ("topic READ", "group READ")
# An invalid secret, which no message may show.
WRONG_SECRET = "hunter22"
FOREVER_SECONDS = 1_000_000


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedKafka]:
    kafka = GuardedKafka(tmp_path_factory.mktemp("guarded"))
    with kafka.broker:
        kafka.admit()
        yield kafka


@pytest.fixture
def feed(guarded: GuardedKafka, names: Names) -> Iterator[WrittenFeed]:
    with WrittenFeed(guarded.broker, names) as made:
        made.publish(an_event(1))
        yield made


def client_of(
    guarded: GuardedKafka, names: Names, password: str = PASSWORD
) -> LiveLevels:
    settings: dict[str, Any] = {
        "group.id": names.group_id,
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": USER,
        "sasl.password": password,
        "ssl.ca.location": guarded.files.authority,
    }
    # Waiting does not help here: a client that waited all the same would fail the test.
    return LiveLevels(
        guarded.scram,
        prefix=names.topic_prefix,
        kafka=settings,
        start_seconds=FOREVER_SECONDS,
    )


def test_two_rights_are_enough(
    guarded: GuardedKafka, names: Names, feed: WrittenFeed
) -> None:
    grant(guarded, names, {name: NEEDED[name] for name in RIGHTS})
    with client_of(guarded, names) as levels, levels.events() as events:
        assert levels[SYMBOL].sequence == 1
        feed.publish(an_event(2))
        event = events.next_event(PATIENCE_SECONDS)
        assert event is not None
        assert event.sequence == 2


@pytest.mark.parametrize("missing", RIGHTS)
def test_a_missing_right_is_named(
    guarded: GuardedKafka, names: Names, feed: WrittenFeed, missing: str
) -> None:
    granted = {name: NEEDED[name] for name in RIGHTS if name != missing}
    grant(guarded, names, granted)
    resource = feed.current if missing == "topic READ" else names.group_id
    with pytest.raises(AccessDenied, match="grant READ on the") as denied:
        client_of(guarded, names).start()
    assert resource in str(denied.value)


def test_a_wrong_password_is_told_at_once(
    guarded: GuardedKafka, names: Names, feed: WrittenFeed
) -> None:
    with pytest.raises(
        KafkaUnreachable, match="Kafka refuses the credentials"
    ) as wrong:
        client_of(guarded, names, WRONG_SECRET).start()
    assert WRONG_SECRET not in str(wrong.value)
