"""Describe one consumer group in a process of its own, which `connector.kafka.members` starts.

`describe_consumer_groups` can abort its process when brokers come back while it waits
for the coordinator (https://github.com/confluentinc/librdkafka/issues/4605). Here that
ends only one request.

Standard input is a JSON object: `settings` for librdkafka, `oauth_cb` (`module:function`,
or null), `group_id`, `request_seconds` and `life_seconds`. The settings hold secrets, and
nobody else can read a pipe. Standard output is a JSON object: `members`, the `state` of the
group, and `error` with librdkafka's `code` and `text`, or null.

Import nothing of the connector: that would double the CPU time of a start.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient


def main() -> None:
    """Answer the question on standard input."""
    # A core file of an abort would hold the secrets. A sandbox may forbid the change.
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    question = json.load(sys.stdin)
    # The kernel ends a process whose worker died before it.
    signal.alarm(question["life_seconds"])
    json.dump(_answer(question), sys.stdout)
    sys.stdout.flush()
    # Skip the client's destructor: it waits for brokers that do not answer.
    os._exit(0)


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    group_id = question["group_id"]
    settings = question["settings"]
    if question["oauth_cb"] is not None:
        # The worker has imported it, too.
        module, _, name = question["oauth_cb"].partition(":")
        settings["oauth_cb"] = getattr(importlib.import_module(module), name)
    try:
        admin = AdminClient(settings)
        asked = admin.describe_consumer_groups(
            [group_id], request_timeout=question["request_seconds"]
        )
        group = asked[group_id].result()
    except ck.KafkaException as exception:
        error = exception.args[0]
        described = {"code": error.code(), "text": error.str()}
        return {"members": [], "state": "", "error": described}
    members = [_described(member) for member in group.members]
    return {"members": members, "state": group.state.name, "error": None}


def _described(member: Any) -> dict[str, Any]:
    partitions = member.assignment.topic_partitions if member.assignment else []
    return {
        "client_id": member.client_id,
        "host": member.host,
        "partitions": [[one.topic, one.partition] for one in partitions],
    }


if __name__ == "__main__":
    main()
