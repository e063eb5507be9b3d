"""`python -m tests.chaos`: a long run of seeded faults. Exit status 1 where an invariant broke."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.run import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--minutes",
        type=float,
        default=20.0,
        help="how long faults go on (default %(default)g)",
    )
    parser.add_argument("--faults", type=int, help="how many (default: ten a minute)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument(
        "--kinds", default=",".join(FAULTS), help="of faults, separated by commas"
    )
    parser.add_argument(
        "--unfenced",
        action="store_true",
        help="the control: transactional ids of each process's own",
    )
    parser.add_argument("--without-registry", action="store_true")
    parser.add_argument(
        "--keep", type=Path, help="a folder for everything that was written"
    )
    given = parser.parse_args()
    faults = given.faults or round(10 * given.minutes)
    plan = Plan(
        seed=given.seed,
        faults=faults,
        pause_seconds=0.75 * 60 * given.minutes / faults,  # the rest is calm
        kinds=tuple(given.kinds.split(",")),
        with_registry=not given.without_registry,
        fenced=not given.unfenced,
    )
    print(f"seed {plan.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gex-chaos-") as folder:
        outcome = run(
            plan,
            given.keep or Path(folder),
            lambda text: print(f"{time.monotonic() - began:7.1f} {text}", flush=True),
        )
    print(outcome.text())
    for violation in outcome.verdict.violations[:50]:
        print(f"  {violation}")
    return bool(outcome.verdict.violations)


if __name__ == "__main__":
    sys.exit(main())
