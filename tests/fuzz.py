"""Many cases of the properties of decoder, difference and state machine: `make fuzz MINUTES=10 [SEED=1]`.

Rounds of pytest, each with a seed of its own that is the first one's and a count; it ends at the first failure, which
Hypothesis has made small. What it found becomes an `@example`, or a file in tests/property/corpus where it is a body.
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

TESTS = [
    f"tests/property/test_{name}.py" for name in ("decoder", "diff", "state_machine")
]
COMMAND = (
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-x",
    "-p",
    "no:cacheprovider",
    "--timeout=0",
)
_PASSING = re.compile(r"(\d+) passing, \d+ failing")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="no round begins after so long"
    )
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(2**32), help="of the first round"
    )
    parser.add_argument(
        "--times",
        type=int,
        default=5,
        help="cases of a round, in multiples of the usual ones",
    )
    options = parser.parse_args()
    started, total, seed = time.monotonic(), 0, options.seed
    while time.monotonic() - started < options.minutes * 60:
        round_at = time.monotonic()
        command = [
            *COMMAND,
            "--hypothesis-show-statistics",
            f"--hypothesis-seed={seed}",
            *TESTS,
        ]
        variables = {**os.environ, VARIABLE: str(options.times)}
        done = subprocess.run(
            command, env=variables, capture_output=True, text=True, check=False
        )
        cases, seconds = (
            sum(map(int, _PASSING.findall(done.stdout))),
            time.monotonic() - round_at,
        )
        total += cases
        say(
            f"seed {seed}: {cases:,} cases in {seconds:.0f} s, {cases / seconds:,.0f} a second; {total:,} in all"
        )
        if done.returncode:
            say(done.stdout[-20_000:] + done.stderr)
            say(f"seed {seed} --times {options.times} finds it again")
            return 1
        seed += 1
    say(
        f"nothing found in {total:,} cases and {(time.monotonic() - started) / 60:.1f} minutes"
    )
    return 0


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
