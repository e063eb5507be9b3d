"""A stuck event loop is noticed from another thread. A frozen process is not taken for one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from connector.runtime.loop_watch import HOPELESS_SECONDS, STALL_SECONDS, LoopWatch

if TYPE_CHECKING:
    import pytest


class Harness:
    """A watch of a loop, by default the test's own: it turns only while the test awaits."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.now = 100.0
        self.ends = 0
        self.loop = loop or asyncio.get_running_loop()
        self.watch = LoopWatch(self.loop, lambda: self.now, self._end)
        # The first look asks the loop, and the others wait for its answer.
        assert self.watch.look()

    def look_for(self, seconds: float) -> bool:
        """Look twice a second for some time, and return the last answer."""
        for _ in range(int(seconds * 2)):
            self.now += 0.5
            answer = self.watch.look()
        return answer

    def _end(self) -> None:
        self.ends += 1


async def test_a_loop_that_turns_is_not_stuck() -> None:
    harness = Harness()
    for _ in range(HOPELESS_SECONDS):
        await asyncio.sleep(0)
        assert harness.look_for(1)

    assert not harness.watch.has_stalled


async def test_a_stuck_loop_is_noticed_in_time_and_the_log_names_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness()
    assert harness.look_for(STALL_SECONDS - 0.5)

    assert not harness.look_for(0.5)

    assert harness.watch.has_stalled
    (line,) = caplog.records
    assert line.levelname == "CRITICAL"
    # This function is the call that does not let the loop turn.
    assert "test_a_stuck_loop_is_noticed" in vars(line)["stuck_in"]


async def test_a_loop_that_goes_on_may_serve_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness()
    harness.look_for(STALL_SECONDS + 1)

    await asyncio.sleep(0)

    assert harness.look_for(0.5)
    assert not harness.watch.has_stalled
    assert caplog.messages[-1] == "the event loop goes on"


async def test_a_frozen_process_is_not_taken_for_a_stuck_loop() -> None:
    harness = Harness()
    # Both threads stood still. The watching one is merely the first to go on.
    harness.now += 3_600

    assert harness.watch.look()
    assert harness.look_for(STALL_SECONDS / 2)


async def test_a_loop_that_stays_stuck_ends_the_process() -> None:
    harness = Harness()
    harness.look_for(HOPELESS_SECONDS - 0.5)
    assert harness.ends == 0

    harness.look_for(0.5)

    assert harness.ends == 1


async def test_a_closed_loop_is_ignored() -> None:
    # The group's thread may outlive the loop while the process ends.
    harness = Harness(asyncio.new_event_loop())
    harness.loop.close()

    assert harness.look_for(2 * HOPELESS_SECONDS)
    assert harness.ends == 0
