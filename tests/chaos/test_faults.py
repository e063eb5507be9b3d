"""A short run of `make chaos`: three brokers, three workers, a bad network, an upstream; and the control."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.chaos.run import Plan, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAILED_ONCE = (Plan(seed=2, faults=12, pause_seconds=2.5),)
"""Plans that found something: a client's metadata that lacked partitions for minutes, and clocks that were set."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plan", [*FAILED_ONCE, None])
def test_no_row_of_faults_loses_doubles_or_disorders_an_event(
    plan: Plan | None, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seed = int(os.environ.get("GEX_TEST_SEED", random.randrange(2**32)))
    plan = plan or Plan(seed, faults=12, pause_seconds=2.5)
    record_property("seed", plan.seed)
    outcome = run(plan, tmp_path, print)
    record_property("verdict", outcome.verdict.text())
    assert outcome.verdict.violations == [], f"seed {plan.seed}"
    assert outcome.verdict.published > 50
    assert outcome.looks > 0


@pytest.mark.timeout(600)
def test_without_fencing_the_same_faults_break_the_order(tmp_path: Path) -> None:
    # Before the first record is sent: one that waits in an open transaction is seen by whoever opens the shard.
    plan = Plan(
        seed=1,
        faults=6,
        pause_seconds=4,
        kinds=("freeze at a point",),
        points=("begin",),
        fenced=False,
    )
    found = run(plan, tmp_path, print).verdict
    assert found.duplicated or found.out_of_order
    assert found.zombie_writes
