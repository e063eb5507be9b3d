"""Commands whose output cannot be written, and those that are interrupted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

PATIENCE_SECONDS = 180
COMMAND = (sys.executable, "-m", "connector")


def test_a_full_disk_is_named_and_is_no_success() -> None:
    # Each write to this device fails as on a full disk.
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "simulate", "--list-faults"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )

    assert done.returncode == 4
    assert done.stderr == "cannot write the output: No space left on device\n"


def test_a_command_that_is_interrupted_has_not_succeeded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent_broker:
        port = silent_broker.getsockname()[1]
        silent_broker.settimeout(PATIENCE_SECONDS)
        variables = {"GEX_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{port}"}
        with subprocess.Popen(
            [*COMMAND, "history"],
            env={**os.environ, **variables},
            stderr=subprocess.PIPE,
            text=True,
        ) as program:
            # It has begun, and waits for an answer.
            connection, _ = silent_broker.accept()
            with connection:
                # As Ctrl-C. That does not reach tests that a shell started in the background.
                program.send_signal(signal.SIGTERM)
                _, errors = program.communicate(timeout=PATIENCE_SECONDS)

    assert program.returncode == 130
    assert "Traceback" not in errors
