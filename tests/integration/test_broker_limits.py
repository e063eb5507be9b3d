"""Brokers whose limits refuse our default time-outs, as managed clusters have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.guarded import CLIENT, NEEDED, GuardedKafka, grant
from tests.support.log_messages import SHARD_OPEN
from tests.support.processes import (
    PATIENCE_SECONDS,
    start_worker,
    variables_for,
    wait_for_log,
)
from tests.support.tools import run_tool

if TYPE_CHECKING:
    from tests.conftest import Names
    from tests.support.processes import Program

# Of the broker `guarded`.
BROKER_SETTINGS = {
    "transaction.max.timeout.ms": "30000",
    "group.min.session.timeout.ms": "10000",
    "group.coordinator.rebalance.protocols": "classic",
    "group.max.size": "1",
}
TRANSACTION_REMEDY = "set transaction.timeout.ms = 30000 in [kafka.client]"
SESSION_REMEDY = "set session.timeout.ms = 10000 in [kafka.client]"
TRANSACTION_FITS = {"GEX_KAFKA__CLIENT__TRANSACTION_TIMEOUT_MS": "30000"}
SESSION_FITS = {"GEX_KAFKA__CLIENT__SESSION_TIMEOUT_MS": "10000"}


@pytest.fixture
def variables(
    guarded: GuardedKafka, names: Names, simulator: Program
) -> dict[str, str]:
    """Return the variables of a worker that may do everything."""
    return variables_for(guarded.broker, names, simulator, ["BTCUSDT"])


@pytest.fixture
def least_rights(
    guarded: GuardedKafka, names: Names, variables: dict[str, str]
) -> dict[str, str]:
    """Return the variables of a worker that may not read the brokers' settings."""
    grant(guarded, names, NEEDED)
    return {**variables, **guarded.by_password()}


def test_check_names_each_limit_with_its_remedy(variables: dict[str, str]) -> None:
    code, printed = run_tool("check", variables=variables)

    assert code == 3, printed
    failed = [line for line in printed.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 2, printed
    assert TRANSACTION_REMEDY in failed[0]
    assert SESSION_REMEDY in failed[1]


def test_a_worker_that_no_limit_admits_ends_at_once_and_creates_nothing(
    guarded: GuardedKafka, names: Names, variables: dict[str, str]
) -> None:
    with start_worker(variables, wait_ready=False) as worker:
        assert worker.wait() == 3, worker.log()
        log = worker.log()

    last_line = log.splitlines()[-1]
    for expected in ("not started", TRANSACTION_REMEDY, SESSION_REMEDY):
        assert expected in last_line
    # Waiting would not help.
    assert "is not usable yet" not in log
    topics = guarded.admin().list_topics(timeout=PATIENCE_SECONDS).topics
    assert [topic for topic in topics if names.topic_prefix in topic] == []


def test_with_the_remedies_check_passes_and_a_worker_publishes(
    variables: dict[str, str],
) -> None:
    settings = {**variables, **TRANSACTION_FITS, **SESSION_FITS}

    code, printed = run_tool("check", variables=settings)
    assert code == 0, printed
    assert "ok    limits" in printed

    with start_worker(settings) as worker:
        wait_for_log(worker, SHARD_OPEN)
        # No second worker would be admitted.
        code, printed = run_tool("check", variables=settings)
        assert code == 0, printed
        assert "warn  group          1 members, as many as the brokers admit" in printed
        assert worker.terminate() == 0
        # Consumers warn about a setting of producers.
        assert "CONFWARN" not in worker.log()


def test_a_group_protocol_that_the_brokers_do_not_have_ends_a_worker_at_once(
    variables: dict[str, str],
) -> None:
    settings = {**variables, **TRANSACTION_FITS, f"{CLIENT}GROUP_PROTOCOL": "consumer"}
    named = "group.protocol is consumer, but the brokers have classic only"

    code, printed = run_tool("check", variables=settings)
    assert code == 3, printed
    assert f"FAIL  limits         {named}" in printed

    with start_worker(settings, wait_ready=False) as worker:
        assert worker.wait() == 3, worker.log()
        assert named in worker.log().splitlines()[-1]


@pytest.mark.parametrize(
    ("fitting", "remedy"),
    [
        (TRANSACTION_FITS, "set session.timeout.ms in kafka.client"),
        (SESSION_FITS, "set transaction.timeout.ms in kafka.client"),
    ],
    ids=["the session does not fit", "the transactions do not fit"],
)
def test_a_worker_that_cannot_read_the_limits_ends_by_the_brokers_refusal(
    least_rights: dict[str, str], fitting: dict[str, str], remedy: str
) -> None:
    with start_worker({**least_rights, **fitting}, wait_ready=False) as worker:
        assert worker.wait() == 3, worker.log()
        log = worker.log()

    assert remedy in log
    assert "Traceback" not in log


def test_check_says_that_it_could_not_read_the_limits(
    least_rights: dict[str, str],
) -> None:
    code, printed = run_tool("check", variables=least_rights)

    assert code == 0, printed
    assert "warn  limits         not tried" in printed
    compared = (
        "session.timeout.ms is 6000, group.min.session.timeout.ms by default 6000"
    )
    assert compared in printed
