"""What a worker that cannot work says, and its exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import confluent_kafka
import pytest

from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Mapping[str, str]:
    return variables_for(kafka, names, simulator, ["BTCUSDT"])


def exit_of(variables: Mapping[str, str]) -> tuple[int, str]:
    with start_worker(variables, wait_ready=False) as worker:
        return worker.wait(), worker.log()


def test_stopped_as_asked_is_0(variables: Mapping[str, str]) -> None:
    with start_worker(variables) as worker:
        assert worker.terminate() == 0


def test_a_faulty_configuration_is_2_with_every_fault(
    variables: Mapping[str, str],
) -> None:
    wrong = {
        "GEX_UPSTREAM__BASE_URL": "ftp://x",
        "GEX_KAFKA__SHARDS": "0",
        "GEX_KAFKA__SHARD": "1",
    }
    code, log = exit_of({**variables, **wrong})
    assert code == 2
    assert [
        name
        for name in ("base_url", "kafka.shards", "GEX_KAFKA__SHARD")
        if name not in log
    ] == []
    assert "Traceback" not in log


def test_an_address_in_use_is_2(
    variables: Mapping[str, str], simulator: Program
) -> None:
    code, log = exit_of(
        {**variables, "GEX_HTTP__LISTEN": simulator.url.removeprefix("http://")}
    )
    assert code == 2
    assert "http.listen" in log
    assert "Traceback" not in log


def test_an_unreachable_broker_is_3_once_the_time_is_over(
    variables: Mapping[str, str],
) -> None:
    nowhere = {
        "GEX_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "GEX_KAFKA__START_TIMEOUT_SECONDS": "2",
    }
    code, log = exit_of({**variables, **nowhere})
    assert code == 3
    assert "check that the broker runs" in log
    assert "Traceback" not in log


def test_a_dead_registry_is_3_once_the_time_is_over(
    variables: Mapping[str, str],
) -> None:
    nowhere = {
        "GEX_SCHEMA_REGISTRY__URL": "http://127.0.0.1:1",
        "GEX_KAFKA__START_TIMEOUT_SECONDS": "2",
    }
    code, log = exit_of({**variables, **nowhere})
    assert code == 3
    assert "the schema registry does not answer" in log
    assert "Traceback" not in log


def test_another_number_of_shards_than_the_topic_has_is_3_at_once(
    variables: Mapping[str, str],
) -> None:
    with start_worker(variables) as worker:
        worker.terminate()
    code, log = exit_of({**variables, "GEX_KAFKA__SHARDS": "2"})
    assert code == 3
    assert "has 1 partitions, but kafka.shards is 2; set kafka.shards = 1" in log
    assert "or use another kafka.topic_prefix" in log


def test_a_state_that_cannot_be_ours_is_4(
    kafka: LocalKafka, names: Names, variables: Mapping[str, str]
) -> None:
    with start_worker(variables) as worker:
        worker.terminate()
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    producer.produce(
        f"{names.topic_prefix}.all.current", b"not avro", b"BTCUSDT", partition=0
    )
    producer.flush()
    code, log = exit_of(variables)
    assert code == 4
    assert "no schema of this version" in log
    assert "Traceback" not in log


def test_a_stop_during_the_start_is_0(variables: Mapping[str, str]) -> None:
    with start_worker(
        {**variables, "GEX_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}, wait_ready=False
    ) as worker:
        wait_until(
            lambda: "not usable yet" in worker.log(), "it is waiting for Kafka", worker
        )
        assert worker.terminate() == 0


def test_a_worker_joins_by_the_consumer_protocol_of_kip_848_too(
    variables: Mapping[str, str],
) -> None:
    with start_worker(
        {**variables, "GEX_KAFKA__CLIENT__GROUP_PROTOCOL": "consumer"}
    ) as worker:
        wait_until(lambda: "shard open" in worker.log(), "it has its shard", worker)
        assert worker.terminate() == 0
