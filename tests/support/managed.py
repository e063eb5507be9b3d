"""A broker that refuses topic settings, as managed clusters do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from connector.devkit import jars
from connector.devkit.java import JavaProcess
from connector.devkit.local_kafka import LocalKafka

if TYPE_CHECKING:
    from collections.abc import Iterable

# The class was compiled from the source beside it, with Kafka's clients:
# `javac --release 17 -cp kafka-clients-4.3.1.jar RefusingPolicy.java`.
_POLICY_FOLDER = Path(__file__).with_name("topic_policy")


class ManagedKafka(LocalKafka):
    """A broker that creates no topic with one of the `refused` settings.

    `unknown`: it answers as if there were no such settings.
    """

    def __init__(
        self, data_dir: Path, refused: Iterable[str], *, unknown: bool = False
    ) -> None:
        policy = {
            "create.topic.policy.class.name": "RefusingPolicy",
            "test.refused": ",".join(refused),
            "test.refusal": "unknown" if unknown else "policy",
        }
        super().__init__(data_dir, extra=policy)

    def _java(self, *command: str) -> JavaProcess:
        folders = [*jars.fetch_set("kafka"), _POLICY_FOLDER]
        classpath = os.pathsep.join(map(str, folders))
        arguments = ["-Xmx256m", "-cp", classpath, *command]
        return JavaProcess("Kafka", arguments, self.data_dir / "kafka.log")
