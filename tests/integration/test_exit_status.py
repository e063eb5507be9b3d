"""A worker that cannot work says why, and ends with the documented exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import confluent_kafka
import pytest

from connector.devkit.simulator.settings import DEFAULT_KEY
from tests.support.log_messages import NOT_USABLE_YET, SHARD_OPEN
from tests.support.processes import (
    start_simulator,
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from connector.devkit.local_kafka import LocalKafka
    from tests.conftest import Names
    from tests.support.processes import Program, Variables

# Nothing listens on port 1.
NO_BROKER = {"GEX_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
RESOLVES_NO_NAME = "tests.support.unresolving_worker"
HAS_FEW_THREADS = "tests.support.threadless_worker"
# By default a worker waits for a minute: its dependencies may start after it.
SHORT_START = {"GEX_KAFKA__START_TIMEOUT_SECONDS": "2"}


@pytest.fixture
def simulator() -> Iterator[Program]:
    with start_simulator("--limit", "0") as program:
        yield program


@pytest.fixture
def variables(kafka: LocalKafka, names: Names, simulator: Program) -> Variables:
    return variables_for(kafka, names, simulator, ["BTCUSDT"])


def exit_of(variables: Variables) -> tuple[int, str]:
    """Return the exit status and the log of a worker that ends by itself."""
    with start_worker(variables, wait_ready=False) as worker:
        return worker.wait(), worker.log()


def assert_no_traceback(log: str) -> None:
    """Check that the user gets a message instead of an exception."""
    assert "Traceback" not in log


@contextmanager
def inherited(number: signal.Signals, handler: signal.Handlers) -> Iterator[None]:
    """Let the programs that are started inherit the handling of a signal."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


# A terminal that closes sends SIGHUP.
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_as_asked_is_0(variables: Variables, number: signal.Signals) -> None:
    # The tests may run under nohup.
    hangup = inherited(signal.SIGHUP, signal.SIG_DFL)
    with hangup, start_worker(variables) as worker:
        worker.signal(number)
        assert worker.wait() == 0
        assert '"stopped"' in worker.log()


def test_a_worker_under_nohup_outlives_its_terminal(variables: Variables) -> None:
    nohup = inherited(signal.SIGHUP, signal.SIG_IGN)
    with nohup, start_worker(variables) as worker:
        worker.signal(signal.SIGHUP)
        wait_for_log(worker, SHARD_OPEN)
        wait_until(worker.ready, "ready", worker)
        assert worker.terminate() == 0


def test_a_stop_does_not_wait_for_a_name_that_is_being_resolved(
    variables: Variables,
) -> None:
    unresolved = {
        **variables,
        "GEX_UPSTREAM__BASE_URL": "https://unresolved.invalid/v2",
        "GEX_UPSTREAM__TIMEOUT_SECONDS": "1",
    }
    with start_worker(unresolved, module=RESOLVES_NO_NAME) as worker:
        wait_for_log(worker, "a check failed: unavailable")
        assert worker.terminate() == 0


def test_a_limit_of_too_few_threads_is_2_and_named(variables: Variables) -> None:
    # librdkafka would end the process by an assertion.
    limited = {**variables, "PERMITTED_THREADS": "7"}
    with start_worker(limited, wait_ready=False, module=HAS_FEW_THREADS) as worker:
        assert worker.wait() == 2
        log = worker.log()
    assert "a limit permits only" in log
    assert "raise the limit of processes" in log
    assert_no_traceback(log)


def test_a_limit_of_too_few_open_files_is_2_and_named() -> None:
    # Such a worker was never ready, and could not be asked why.
    limited = ["bash", "-c", 'ulimit -n 60; exec "$0" -m connector run', sys.executable]
    variables = {**os.environ, **NO_BROKER, "GEX_SYMBOLS": "BTCUSDT"}
    variables["GEX_UPSTREAM__API_KEY"] = DEFAULT_KEY
    variables["GEX_HTTP__LISTEN"] = "127.0.0.1:0"

    worker = subprocess.run(
        limited, env=variables, capture_output=True, text=True, check=False
    )

    assert worker.returncode == 2, worker.stderr
    assert "a limit permits only 60 open files" in worker.stderr
    # Nobody is to find a worker that cannot work.
    assert "listening" not in worker.stderr
    assert_no_traceback(worker.stderr)


def test_a_worker_that_gets_no_thread_any_more_ends_with_4(
    variables: Variables,
) -> None:
    """Its end must not need a thread, nor wait for those that hang."""
    with start_worker(variables, wait_ready=False, module=HAS_FEW_THREADS) as worker:
        assert worker.wait() == 4
        log = worker.log()
    assert "can't start new thread: a limit of threads is reached" in log
    assert "raise the limit of processes" in log
    assert "a defect of the connector" not in log
    assert_no_traceback(log)


def test_a_worker_raises_its_limit_of_open_files() -> None:
    # systemd's limit is 1,024, with a much higher one that a process may ask for.
    code = """
import resource
from connector.cli import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))
allow_open_files()
print(resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert printed.strip() == "(512, 512)"


def test_a_faulty_configuration_is_2_with_every_fault(
    variables: Variables,
) -> None:
    wrong = {
        "GEX_UPSTREAM__BASE_URL": "ftp://x",
        "GEX_KAFKA__SHARDS": "0",
        "GEX_KAFKA__SHARD": "1",
    }

    code, log = exit_of({**variables, **wrong})

    assert code == 2
    # One run names them all, so that the user corrects them in one go.
    for name in ("base_url", "kafka.shards", "GEX_KAFKA__SHARD"):
        assert name in log
    assert_no_traceback(log)


def test_an_address_in_use_is_2(variables: Variables, simulator: Program) -> None:
    in_use = simulator.url.removeprefix("http://")

    code, log = exit_of({**variables, "GEX_HTTP__LISTEN": in_use})

    assert code == 2
    assert "http.listen" in log
    assert_no_traceback(log)


def test_an_unreachable_broker_is_3_after_the_start_timeout(
    variables: Variables,
) -> None:
    code, log = exit_of({**variables, **NO_BROKER, **SHORT_START})
    assert code == 3
    assert "check that the broker runs" in log
    assert_no_traceback(log)


def test_a_dead_registry_is_3_after_the_start_timeout(
    variables: Variables,
) -> None:
    no_registry = {"GEX_SCHEMA_REGISTRY__URL": "http://127.0.0.1:1"}

    code, log = exit_of({**variables, **no_registry, **SHORT_START})

    assert code == 3
    assert "the schema registry does not answer" in log
    assert_no_traceback(log)


def test_another_number_of_shards_than_the_topic_has_is_3_at_once(
    variables: Variables,
) -> None:
    # A first run creates the topics with one partition.
    with start_worker(variables) as worker:
        worker.terminate()

    # No short start timeout: waiting would not help.
    code, log = exit_of({**variables, "GEX_KAFKA__SHARDS": "2"})

    assert code == 3
    assert "has 1 partitions, but kafka.shards is 2; set kafka.shards = 1" in log
    assert "or use another kafka.topic_prefix" in log


def test_a_state_of_a_version_that_this_one_cannot_read_is_4(
    kafka: LocalKafka, names: Names, variables: Variables
) -> None:
    with start_worker(variables) as worker:
        worker.terminate()

    # The header says that a connector wrote it.
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka.bootstrap_servers})
    topic = f"{names.topic_prefix}.all.current"
    producer.produce(
        topic, b"newer", b"BTCUSDT", partition=0, headers={"worker": "newer"}
    )
    producer.flush()

    code, log = exit_of(variables)

    assert code == 4
    assert "no schema of this version" in log
    assert "start the newer version" in log
    assert_no_traceback(log)


def test_a_stop_during_the_start_is_0(variables: Variables) -> None:
    with start_worker({**variables, **NO_BROKER}, wait_ready=False) as worker:
        # The worker waits for Kafka, and must still obey SIGTERM.
        wait_for_log(worker, NOT_USABLE_YET)
        assert worker.terminate() == 0


def test_a_worker_can_join_by_the_consumer_protocol_of_kip_848(
    variables: Variables,
) -> None:
    protocol = {"GEX_KAFKA__CLIENT__GROUP_PROTOCOL": "consumer"}
    with start_worker({**variables, **protocol}) as worker:
        # Being ready is not enough: a standby without a shard is ready too.
        wait_for_log(worker, SHARD_OPEN)
        assert worker.terminate() == 0
