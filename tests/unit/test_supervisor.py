"""The reasons for which a worker stops, and its exit status."""

from __future__ import annotations

import asyncio

import pytest

from connector.errors import EXIT_FATAL, EXIT_KAFKA, SetupError
from connector.runtime.supervisor import Supervisor

# Longer than any test: work that only ends if it is cancelled.
ENDLESS_SECONDS = 3_600


async def fails(error: Exception) -> None:
    raise error


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor()


async def test_a_worker_that_is_asked_to_stop_exits_with_0(
    supervisor: Supervisor,
) -> None:
    assert not supervisor.is_stopping

    supervisor.stop()
    await supervisor.wait_stopped()

    # In one comparison: mypy takes the property for unchanged since the assertion above.
    assert (supervisor.is_stopping, supervisor.exit_code) == (True, 0)


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        pytest.param(SetupError("a topic does not fit"), EXIT_KAFKA, id="ours"),
        pytest.param(ValueError("x"), EXIT_FATAL, id="defect"),
    ],
)
async def test_a_task_that_fails_stops_the_worker_with_its_exit_status(
    supervisor: Supervisor,
    error: Exception,
    exit_code: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    supervisor.watch(fails(error))
    await supervisor.wait_stopped()

    assert supervisor.exit_code == exit_code
    # Only an error that is not ours is logged as a defect.
    is_defect = "a defect of the connector" in caplog.text
    assert is_defect == isinstance(error, ValueError)


async def test_a_limit_of_threads_is_no_defect(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor.watch(fails(RuntimeError("can't start new thread")))
    await supervisor.wait_stopped()

    assert supervisor.exit_code == EXIT_FATAL
    [record] = caplog.records
    assert record.getMessage() == "cannot go on"
    assert "raise the limit of processes" in vars(record)["error"]


async def test_a_task_that_is_cancelled_stops_nothing(supervisor: Supervisor) -> None:
    task = supervisor.watch(asyncio.sleep(ENDLESS_SECONDS))

    task.cancel()
    await asyncio.wait([task])

    assert not supervisor.is_stopping


async def test_work_ends_with_its_result(supervisor: Supervisor) -> None:
    async def work() -> int:
        return 7

    assert await supervisor.until_stopped(work()) == 7


async def test_work_ends_without_a_result_when_the_worker_stops(
    supervisor: Supervisor,
) -> None:
    supervisor.stop()

    work = asyncio.sleep(ENDLESS_SECONDS, 7)

    assert await supervisor.until_stopped(work) is None
