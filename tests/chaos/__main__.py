"""`python -m tests.chaos`: a long run of seeded faults. Exit status 1 if an invariant broke.

The folder with the logs of workers and brokers and the upstream's truth log is kept if
an invariant broke, or if the run did not come to its end.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.run import Plan, run

FAULTS_A_MINUTE = 10
# Part of the time in which faults come; the rest is calm.
PART_WITH_FAULTS = 0.75

VIOLATIONS_SHOWN = 50

# Faults of all kinds leave few workers that publish for shards of others, in some runs none.
# Then nothing breaks without a fence either, and the control proves nothing.
ZOMBIE_KINDS = ("freeze at a point", "freeze", "network cut", "kill")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    found.add_argument(
        "--minutes",
        type=float,
        default=20.0,
        help="how long faults go on (default %(default)g)",
    )
    found.add_argument(
        "--faults",
        type=int,
        help=f"number of faults (default {FAULTS_A_MINUTE} a minute)",
    )
    found.add_argument("--seed", type=int, default=random.randrange(2**32))
    found.add_argument(
        "--kinds",
        type=kinds_of,
        help="of faults, separated by commas (default: all; with --unfenced: "
        f"{','.join(ZOMBIE_KINDS)}): {', '.join(FAULTS)}",
    )
    found.add_argument(
        "--unfenced",
        action="store_true",
        help="the control, in which invariants must break: each process has transactional "
        "ids of its own. Without --kinds, only the faults come that leave a worker which "
        "still publishes after another one has taken its shards",
    )
    found.add_argument("--without-registry", action="store_true")
    found.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="keep everything that was written there, also if all went well",
    )
    return found


def kinds_of(text: str) -> tuple[str, ...]:
    """Return the kinds of faults in an argument."""
    kinds = tuple(text.split(","))
    for kind in kinds:
        if kind not in FAULTS:
            known = ", ".join(FAULTS)
            raise argparse.ArgumentTypeError(f"no fault {kind!r}; there are {known}")
    return kinds


def default_kinds(options: argparse.Namespace) -> tuple[str, ...]:
    return ZOMBIE_KINDS if options.unfenced else tuple(FAULTS)


def plan_of(options: argparse.Namespace) -> Plan:
    faults = options.faults or round(FAULTS_A_MINUTE * options.minutes)
    return Plan(
        seed=options.seed,
        faults=faults,
        pause_seconds=PART_WITH_FAULTS * 60 * options.minutes / faults,
        kinds=options.kinds or default_kinds(options),
        with_registry=not options.without_registry,
        fenced=not options.unfenced,
    )


def main() -> int:
    options = parser().parse_args()
    plan = plan_of(options)
    print(f"seed {plan.seed}", flush=True)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="gex-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    began_at = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began_at:7.1f} {text}", flush=True)

    is_clean = False
    try:
        outcome = run(plan, folder, say)
        print(outcome.text())
        for violation in outcome.verdict.violations[:VIOLATIONS_SHOWN]:
            print(f"  {violation}")
        is_clean = not outcome.verdict.violations
    finally:
        # After an error, too, the evidence is worth keeping.
        if is_clean and options.keep is None:
            shutil.rmtree(folder)
        else:
            print(f"evidence is in {folder}", flush=True)
    if is_clean:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
