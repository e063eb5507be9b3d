"""Run a consumer program through the conformance suite.

    python -m tests.conformance [--case NAME ...] -- COMMAND [ARGUMENT ...]

The suite adds its options to the command. docs/how-to/write-a-consumer.md says what the
program must print. The exit status is 0 if the program passes every case, else 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.conformance.cases import ALL_CASES
from tests.conformance.program import Program
from tests.conformance.suite import new_world, play_all


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description="Check a consumer program against everything that topics can hold.",
    )
    parser.add_argument(
        "--case", action="append", metavar="NAME", help="only this one; may be repeated"
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="longest wait for a line or an end (default: %(default)s)",
    )
    parser.add_argument("command", nargs="+", help="the program, after --")
    return parser.parse_args()


def main() -> int:
    """Run the suite and print the verdict of each case."""
    options = parse_options()
    program = Program("program", tuple(options.command))
    cases = ALL_CASES
    if options.case:
        cases = tuple(case for case in cases if case.__name__ in options.case)
    with (
        tempfile.TemporaryDirectory() as folder,
        new_world(Path(folder), options.patience) as world,
    ):
        results = play_all(world, [program], cases)

    for result in results:
        print(f"{result.case}: {'refused' if result.faults else 'ok'}")
        for fault in result.faults:
            print(f"  {fault}")
    refused = sum(bool(result.faults) for result in results)
    print(f"{len(results)} cases, {refused} refused")
    return 1 if refused or not results else 0


if __name__ == "__main__":
    sys.exit(main())
