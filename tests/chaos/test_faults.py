"""Short runs of `make chaos`, and its control without fencing."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.run import SYMBOLS, Plan, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Another seed in each run; a failure names it, and the variable repeats it.
SEED = int(os.environ.get("GEX_TEST_SEED", random.randrange(2**32)))

# With other kinds, a seed draws other faults.
FIRST_KINDS = (
    "kill",
    "kill at a point",
    "freeze",
    "freeze at a point",
    "hiccup",
    "restart",
    "scale",
    "broker",
    "coordinator",
    "all brokers",
    "network cut",
    "network stall",
    "network delay",
    "upstream",
    "clock",
)
OTHER_KINDS = tuple(kind for kind in FAULTS if kind not in FIRST_KINDS)

FAILED_ONCE = (
    # A client's metadata lacked partitions for minutes; clocks were set.
    Plan(seed=2, faults=12, pause_seconds=2.5, kinds=FIRST_KINDS),
)


def long_plan(plan: Plan, name: str) -> Any:
    """Return a parameter for a run that takes a minute or more."""
    return pytest.param(plan, id=name, marks=pytest.mark.long)


PLANS = [
    pytest.param(
        Plan(SEED, faults=5, pause_seconds=2.0, kinds=FIRST_KINDS), id="five faults"
    ),
    long_plan(Plan(SEED, faults=12, pause_seconds=2.5), "twelve faults"),
    long_plan(
        Plan(SEED, faults=10, pause_seconds=4, kinds=OTHER_KINDS, with_registry=True),
        "ten other faults",
    ),
]
for failed in FAILED_ONCE:
    PLANS.append(long_plan(failed, f"seed {failed.seed}"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("plan", PLANS)
def test_faults_never_lose_duplicate_or_disorder_an_event(
    plan: Plan, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    record_property("seed", plan.seed)

    outcome = run(plan, tmp_path, print)

    record_property("verdict", outcome.verdict.text())
    assert outcome.verdict.violations == [], f"seed {plan.seed}, see {tmp_path}"
    # Every symbol is published at the start and after the last fault, more often in a
    # longer run.
    assert outcome.verdict.published >= 2 * len(SYMBOLS)
    if plan.faults >= 12:
        assert outcome.verdict.published > 50
    # The viewer of status pages has worked too.
    assert outcome.looks > 0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_without_fencing_the_same_faults_break_the_order(tmp_path: Path) -> None:
    # Freeze before the first record is sent. The next owner would see a record in an open
    # transaction when it opens the shard.
    plan = Plan(
        seed=1,
        faults=6,
        pause_seconds=4,
        kinds=("freeze at a point",),
        points=("begin",),
        fenced=False,
    )
    verdict = run(plan, tmp_path / "short", print).verdict
    if not verdict.zombie_writes:
        # Nobody has written while a worker was frozen: a busy machine needs longer to
        # take its shards over. Longer pauses leave workers that are not frozen.
        slow = replace(plan, faults=4, pause_seconds=20, freeze_longer_seconds=20)
        verdict = run(slow, tmp_path / "long", print).verdict

    # If the judge found nothing here, it would be blind.
    assert verdict.duplicated or verdict.out_of_order
    assert verdict.zombie_writes
