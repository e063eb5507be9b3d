"""Runs the cases, several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from connector.devkit.local_kafka import LocalKafka
from tests.conformance.stage import Stage, World
from tests.support.registry import LocalRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.conformance.cases import Case
    from tests.conformance.program import Program

# Cases mostly wait.
_AT_ONCE: Final = 4
# Everyone may do what no rule denies. As by default, brokers create the topics that a program
# asks for, so that it must not ask for the wrong ones.
_SETTINGS: Final = {
    "auto.create.topics.enable": "true",
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "allow.everyone.if.no.acl.found": "true",
}


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one program in one case. `shown` is the end of its output."""

    case: str
    program: str
    faults: Sequence[str]
    shown: str


@contextmanager
def new_world(folder: Path, patience_seconds: float) -> Iterator[World]:
    """Start a broker with access rules, and a schema registry."""
    with (
        LocalKafka(folder / "kafka", extra=_SETTINGS) as kafka,
        LocalRegistry(folder / "registry") as registry,
    ):
        yield World(kafka, registry.url, patience_seconds)


def play(case: Case, world: World, programs: Sequence[Program]) -> list[Result]:
    """Play one case with all programs at once."""
    with Stage(world, programs) as stage:
        case(stage)
    results = []
    for program in programs:
        name = program.name
        result = Result(
            case.__name__, name, stage.faults[name], stage.shown.get(name, "")
        )
        results.append(result)
    return results


def play_all(
    world: World, programs: Sequence[Program], cases: Sequence[Case]
) -> list[Result]:
    """Play these cases, some at once, and return the results in their order."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        played = [pool.submit(play, case, world, programs) for case in cases]
        results = []
        for results_of_case in played:
            results += results_of_case.result()
    return results
