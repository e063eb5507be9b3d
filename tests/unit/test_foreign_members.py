"""Programs in the workers' consumer group that are no workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from connector.errors import KafkaUnavailable
from connector.kafka.foreign_members import foreign_members, summary, worker_name
from connector.kafka.members import Member
from connector.kafka.names import ShardId
from connector.runtime.foreign_members import ForeignMembersWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARD = ShardId("all", 3)


def member(name: str, *shards: ShardId) -> Member:
    return Member(name, "10.0.0.7", shards)


class Bench:
    """A watch over a group that a test decides."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.members: tuple[Member, ...] | None = ()
        self.has_all_shards = False
        self.looks = 0
        self.watch = ForeignMembersWatch(
            self._list, lambda: self.has_all_shards, "group", None, executor
        )

    def _list(self) -> tuple[Member, ...]:
        self.looks += 1
        if self.members is None:
            raise KafkaUnavailable("no answer")
        return self.members


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ThreadPoolExecutor(1) as executor:
        yield Bench(executor)


def test_workers_are_told_from_other_programs_by_their_names() -> None:
    group = [member(worker_name()), member("rdkafka"), member("consumer-levels-1")]

    assert [one.name for one in foreign_members(group, None)] == [
        "rdkafka",
        "consumer-levels-1",
    ]


def test_a_configured_name_is_that_of_workers() -> None:
    group = [member("levels"), member(worker_name()), member("dashboard")]

    assert foreign_members(group, "levels") == (member("dashboard"),)


def test_a_summary_names_program_group_and_shards() -> None:
    assert summary(member("dashboard", SHARD), "gex") == (
        "dashboard on 10.0.0.7 is in the consumer group gex, but is no worker: "
        "nobody serves its shards all-3"
    )
    assert summary(member("dashboard"), "gex").endswith("but is no worker")


async def test_a_program_with_shards_is_logged_once_and_so_is_its_end(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench.members = (member("dashboard", SHARD), member("harmless"))
    await bench.watch.look()
    await bench.watch.look()

    assert [one.name for one in bench.watch.found] == ["dashboard"]
    assert caplog.text.count("another program has shards of the group") == 1

    bench.members = (member("harmless"),)
    await bench.watch.look()
    await bench.watch.look()

    assert not bench.watch.found
    assert caplog.text.count("no other program has shards of the group any more") == 1


async def test_a_group_that_cannot_be_described_changes_no_verdict(
    bench: Bench,
) -> None:
    bench.members = (member("dashboard", SHARD),)
    await bench.watch.look()
    bench.members = None
    await bench.watch.look()

    assert bench.watch.found == (member("dashboard", SHARD),)


async def test_a_worker_that_has_all_shards_need_not_look(bench: Bench) -> None:
    bench.has_all_shards = True
    bench.members = (member("dashboard"),)

    await bench.watch.look()

    assert bench.looks == 0
