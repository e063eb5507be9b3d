"""Readers whose next records are deleted before they read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import confluent_kafka as ck
import confluent_kafka.admin as admin_api
import pytest

from connector.config.model import Kafka
from connector.errors import KafkaUnavailable
from connector.kafka.clients import Clients
from connector.kafka.events import BEGINNING, Log
from connector.kafka.names import Topics
from tests.support.processes import PATIENCE_SECONDS
from tests.support.topics import create_topics

if TYPE_CHECKING:
    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names


@pytest.fixture
def log(kafka: LocalKafka, names: Names) -> Log:
    """Return the log of a feed whose first two records of three are deleted."""
    servers = kafka.bootstrap_servers
    topic = f"{names.topic_prefix}.all.changes"
    admin = admin_api.AdminClient({"bootstrap.servers": servers})
    create_topics(kafka, admin_api.NewTopic(topic, 1, 1))
    producer = ck.Producer({"bootstrap.servers": servers})
    for value in (b"1", b"2", b"3"):
        producer.produce(topic, value)
    assert producer.flush(PATIENCE_SECONDS) == 0
    first_kept = ck.TopicPartition(topic, 0, 2)
    [deleted] = admin.delete_records([first_kept]).values()
    deleted.result(PATIENCE_SECONDS)

    config = Kafka(
        bootstrap_servers=kafka.bootstrap_servers, topic_prefix=names.topic_prefix
    )
    return Log(Clients(config), Topics(names.topic_prefix))


def test_a_follower_goes_on_with_the_first_record_that_is_left(
    log: Log, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    partition = (f"{names.topic_prefix}.all.changes", 0)

    records = log.follow({partition: 0}, stopped=lambda: False)
    values = (record.value for record in records if record is not None)

    assert next(values) == b"3"
    assert "records were deleted before they were read" in caplog.text
    log.close()


def test_a_reader_of_a_period_says_what_to_do(log: Log, names: Names) -> None:
    partition = (f"{names.topic_prefix}.all.changes", 0)

    with pytest.raises(KafkaUnavailable, match="run the command again"):
        list(log.read({partition: 0}, {partition: 3}))

    # Those that are left can be read.
    [record] = log.read({partition: BEGINNING}, {partition: 3})
    assert record.value == b"3"
    log.close()
