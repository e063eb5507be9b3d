"""The log in memory keeps the promises of the log on a broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.log_statements import LogStatements
from tests.support.memory_log import MemoryLog, MemoryTopic

if TYPE_CHECKING:
    from connector.core.model import Event


class MemoryShard:
    """A shard whose topic is in memory."""

    def __init__(self) -> None:
        self._topic = MemoryTopic()

    def new_log(self) -> MemoryLog:
        return MemoryLog(self._topic)

    def committed(self) -> list[Event]:
        return self._topic.events


# The statements are the tests: tests/integration runs the same ones over a real broker.
class TestMemoryLog(LogStatements):
    @pytest.fixture
    def shard(self) -> MemoryShard:
        return MemoryShard()
