"""Tells workers from other programs in their consumer group.

A program with the same `group.id` is given shards as a worker is, and nobody polls their
symbols. The group itself cannot tell the two apart: only the names of its members can.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from connector.config.secrets import Setting
    from connector.kafka.members import Member

# As `worker_name` makes them.
_WORKER_NAME: Final = re.compile(r".+-[0-9]+-[0-9a-f]{4}")

REMEDY: Final = "give that program another group.id, or stop it"


def worker_name() -> str:
    """Return a name that no other process has, however often a pod is recreated."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"


def foreign_members(
    members: Iterable[Member], configured_name: Setting | None
) -> tuple[Member, ...]:
    """Return the members that are no workers.

    `configured_name` is `client.id` in `kafka.client`, which all workers of a fleet then
    have as their name.
    """
    found = []
    for member in members:
        is_worker = _WORKER_NAME.fullmatch(member.name) is not None
        if not is_worker and member.name != configured_name:
            found.append(member)
    return tuple(found)


def summary(member: Member, group_id: str) -> str:
    """Return what is wrong with a foreign member of the group."""
    text = (
        f"{member.name} on {member.host} is in the consumer group {group_id}, "
        "but is no worker"
    )
    if member.shards:
        shards = ", ".join(str(shard) for shard in member.shards)
        text += f": nobody serves its shards {shards}"
    return text
