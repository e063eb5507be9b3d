"""Kafka's credentials are replaced in their files while workers run."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.guarded import CLIENT, NEEDED, PASSWORD, GuardedKafka, grant
from tests.support.log_messages import SHARD_OPEN, STANDS_BY
from tests.support.processes import (
    start_worker,
    variables_for,
    wait_for_log,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Names
    from tests.support.processes import Program

# A worker looks every ten seconds, and waits for up to ten more.
pytestmark = pytest.mark.long

NEW_PASSWORD = "scram-pass-of-tomorrow"
RESTART = 5
REFUSED = "Kafka refuses the credentials"
NOT_YET = "cannot use the new credentials of Kafka yet"


@pytest.fixture
def variables(
    guarded: GuardedKafka, names: Names, simulator: Program
) -> dict[str, str]:
    """Return the variables of a worker without its credentials."""
    guarded.admit()
    grant(guarded, names, NEEDED)
    return variables_for(guarded.broker, names, simulator, ["BTCUSDT"])


@pytest.fixture
def password_file(
    guarded: GuardedKafka, variables: dict[str, str], tmp_path: Path
) -> Path:
    """Return the file with the password of a worker that has these variables."""
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    variables |= guarded.by_password()
    del variables[f"{CLIENT}SASL_PASSWORD"]
    variables["GEX_KAFKA__SASL_PASSWORD_FILE"] = str(file)
    return file


def assert_ended_to_be_started_again(worker: Program) -> None:
    assert worker.wait() == RESTART, worker.log()
    assert "ending, to be started again" in worker.log()
    assert '"group_left_in_time": true' in worker.log()
    for password in (PASSWORD, NEW_PASSWORD):
        assert password not in worker.log()


def test_a_new_password_is_tried_before_owner_and_standby_end_for_it(
    guarded: GuardedKafka, variables: dict[str, str], password_file: Path
) -> None:
    with start_worker(variables) as owner, start_worker(variables) as standby:
        wait_for_log(standby, STANDS_BY)
        password_file.write_text(f"{NEW_PASSWORD}\n")
        for worker in (owner, standby):
            wait_for_log(worker, NOT_YET)
            assert worker.ready()
            assert "Authentication failed" in worker.log()

        guarded.admit(NEW_PASSWORD)
        for worker in (owner, standby):
            assert_ended_to_be_started_again(worker)

    with start_worker(variables) as again:
        wait_for_log(again, SHARD_OPEN)


def test_a_password_that_kafka_refuses_is_named_until_it_is_replaced(
    guarded: GuardedKafka, variables: dict[str, str], password_file: Path
) -> None:
    with start_worker(variables) as owner, start_worker(variables) as standby:
        guarded.admit(NEW_PASSWORD)
        # Connections that exist outlive their password.
        guarded.broker.kill()
        guarded.broker.start()
        for worker in (owner, standby):
            wait_for_log(worker, REFUSED)
            reasons = worker.text_of_error("/health/ready")
            assert REFUSED in reasons
            assert "Kafka unreachable" not in reasons
            assert "check sasl.mechanism" in worker.log()

        password_file.write_text(f"{NEW_PASSWORD}\n")
        for worker in (owner, standby):
            assert_ended_to_be_started_again(worker)

    with start_worker(variables) as again:
        wait_for_log(again, SHARD_OPEN)


def test_a_new_certificate_counts_once_its_key_is_there(
    guarded: GuardedKafka, variables: dict[str, str], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    shutil.copy(guarded.files.certificate, certificate)
    shutil.copy(guarded.files.key, key)
    variables |= {
        **guarded.by_certificate(),
        f"{CLIENT}SSL_CERTIFICATE_LOCATION": str(certificate),
        f"{CLIENT}SSL_KEY_LOCATION": str(key),
    }
    renewed = guarded.issue(tmp_path / "renewed")
    with start_worker(variables) as worker:
        assert "gex_kafka_certificate_expiry_timestamp_seconds" in worker.text(
            "/metrics"
        )
        shutil.copy(renewed.certificate, certificate)
        wait_for_log(worker, NOT_YET)
        assert worker.ready()

        shutil.copy(renewed.key, key)
        assert_ended_to_be_started_again(worker)

    with start_worker(variables) as again:
        wait_until(again.ready, "ready with the new certificate", again)
