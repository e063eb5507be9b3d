"""Which of two workers owns the shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.processes import wait_until

if TYPE_CHECKING:
    from tests.support.processes import Program


def owner_and_standby(one: Program, other: Program) -> tuple[Program, Program]:
    """Wait until only one of two workers has shards, and return that one first.

    Both can be ready before the group has given the shards to either.
    """

    def only_one_owns() -> bool:
        return (shards_owned(one) > 0) != (shards_owned(other) > 0)

    wait_until(only_one_owns, "one of them has the shards", one)
    if shards_owned(one):
        return one, other
    return other, one


def shards_owned(worker: Program) -> int:
    return worker.metric("gex_shards_owned")
