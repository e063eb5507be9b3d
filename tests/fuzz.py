"""Try many cases of the property tests: `make fuzz MINUTES=10 [SEED=1]`.

Runs pytest in rounds. Each round has its own seed, counted up from the first. The run ends with the
first failure, which Hypothesis has reduced to a small one. Turn it into an `@example` or, if it is
the body of a response, into a file in tests/property/corpus.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import subprocess
import sys
import time

from tests.support.profiles import VARIABLE

TESTS = "tests/property"
COMMAND = (
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-x",
    "-p",
    "no:cacheprovider",
    "--timeout=0",
    "--hypothesis-show-statistics",
)
MAX_OUTPUT_CHARACTERS = 20_000
_PASSING_CASES = re.compile(r"(\d+) passing, \d+ failing")


def main() -> int:
    options = parse_arguments()
    started_at = time.monotonic()
    seed = options.seed
    total = 0
    while time.monotonic() - started_at < options.minutes * 60:
        round_at = time.monotonic()
        done = run_round(seed, options.times)
        seconds = time.monotonic() - round_at
        cases = sum(int(count) for count in _PASSING_CASES.findall(done.stdout))
        total += cases
        say(
            f"seed {seed}: {cases:,} cases in {seconds:.0f} s,"
            f" {cases / seconds:,.0f} per second; {total:,} in total"
        )
        if done.returncode:
            say(done.stdout[-MAX_OUTPUT_CHARACTERS:] + done.stderr)
            say(f"to reproduce: --seed {seed} --times {options.times}")
            return 1
        seed += 1

    minutes = (time.monotonic() - started_at) / 60
    say(f"no failure in {total:,} cases and {minutes:.1f} minutes")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--minutes",
        type=float,
        default=10.0,
        help="start no round after this time (default: %(default)g)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=secrets.randbelow(2**32),
        help="the seed of the first round (default: random)",
    )
    parser.add_argument(
        "--times",
        type=int,
        default=5,
        help="how many times the usual cases a round tries (default: %(default)d)",
    )
    return parser.parse_args()


def run_round(seed: int, times: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, f"--hypothesis-seed={seed}", TESTS],
        env={**os.environ, VARIABLE: str(times)},
        capture_output=True,
        text=True,
        check=False,
    )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
