"""The thread that reads the states of other workers: its idle time, its end, its errors."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka as ck
import pytest

from connector.errors import ConfigError
from connector.kafka.current_states import CurrentStates
from connector.kafka.names import Topics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_SECONDS: Final = 60
IDLE_SECONDS: Final = 0.1


class SlowTopics:
    """A log and a reader of topics without records. Reading them exceeds the idle time."""

    def __init__(self) -> None:
        self.partitions = {"gex.all.current": 1}

    def partitions_of(self, *topics: str) -> list[tuple[str, int]]:
        return [(topic, 0) for topic in topics]

    def ends(self, topic: str, _partitions: range) -> dict[tuple[str, int], int]:
        return {(topic, 0): 0}

    def read(self, _starts: object, _ends: object) -> list[Any]:
        time.sleep(3 * IDLE_SECONDS)
        return []

    def follow(self, _starts: object, is_over: Callable[[], bool]) -> Iterator[None]:
        while not is_over():
            time.sleep(0.01)
            yield None

    def close(self) -> None:
        pass


def states_of(
    open_log: Callable[[], Any], idle_seconds: float = PATIENCE_SECONDS
) -> CurrentStates:
    return CurrentStates(
        open_log,
        SlowTopics(),  # type: ignore[arg-type] # as much of a reader as is used
        Topics("gex"),
        ["all"],
        codec=None,  # type: ignore[arg-type] # there are no records
        idle_seconds=idle_seconds,
    )


async def stop(states: CurrentStates) -> None:
    states.close()
    if states._thread is not None:
        await asyncio.to_thread(states._thread.join, PATIENCE_SECONDS)


async def test_a_first_read_that_exceeds_the_idle_time_is_not_thrown_away() -> None:
    states = states_of(SlowTopics, IDLE_SECONDS)

    await states.request(PATIENCE_SECONDS)

    assert states.is_complete
    await stop(states)


async def test_the_end_of_an_earlier_thread_does_not_end_its_successor() -> None:
    states = states_of(SlowTopics, IDLE_SECONDS)
    await states.request(PATIENCE_SECONDS)
    earlier = states._thread
    assert earlier is not None
    # The loop is busy meanwhile: the thread has ended, and its last call waits.
    earlier.join(PATIENCE_SECONDS)

    await states.request(PATIENCE_SECONDS)

    assert states.is_complete
    assert states._thread not in {None, earlier}
    await stop(states)


@pytest.mark.parametrize(
    "error", [ConfigError(["no such setting"]), ck.KafkaException("no such group")]
)
async def test_any_error_is_told_at_once(error: Exception) -> None:
    def open_log() -> Any:
        raise error

    states = states_of(open_log)

    await states.request(PATIENCE_SECONDS)

    assert states.error is not None
    assert str(error) in states.error
    assert not states.is_complete
    await stop(states)
