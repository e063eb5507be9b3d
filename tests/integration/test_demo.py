"""The demo and the installation say what happens, and fit the terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from connector.devkit.loopback_ports import usual_port

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "requirements" / "install.py"
COLUMNS = 80
COLOUR = re.compile(r"\x1b\[[0-9;]*[mK]")


def on_a_terminal(command: list[str], stop_at: bytes | None = None) -> tuple[int, str]:
    """Run a command on a terminal. Return its exit status and everything it wrote.

    Ask it to end once it has written `stop_at`.
    """
    terminal, child_end = pty.openpty()
    # The path of a log must not depend on this machine either.
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TMPDIR": "/tmp"}
    with subprocess.Popen(
        command, env=environment, stdout=child_end, stderr=child_end
    ) as process:
        os.close(child_end)
        shown = bytearray()
        try:
            while part := os.read(terminal, 65_536):
                shown += part
                if stop_at is not None and stop_at in shown:
                    stop_at = None
                    process.terminate()
        except OSError:
            # Linux reports an error at the end of a terminal whose program has ended.
            pass
        finally:
            os.close(terminal)
    return process.returncode, shown.decode()


def test_the_demo_fits_the_terminal_and_names_the_page_and_the_next_step() -> None:
    # Claim the usual ports, so that the demo takes others: tests beside this one may rely
    # on nobody being there.
    usual = {usual_port(port) for port in (9092, 8080, 9464)}
    command = [sys.executable, "-m", "connector", "demo"]
    command += ["--symbols", "BTCUSDT", "--period", "0.5"]

    code, shown = on_a_terminal(command, stop_at=b"CHANGED")

    assert code == 0, shown
    # Before it is ready, it may name the folder of downloads.
    _, ready, running = COLOUR.sub("", shown).partition("status page")
    lines = f"{ready}{running}".splitlines()
    assert [line for line in lines if len(line) > COLUMNS] == []
    assert re.search(r"status page +http://127\.0\.0\.1:\d+/status", shown)
    assert "every 0.5 s" in shown
    taken = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", shown)}
    assert len(taken) == 3
    assert taken.isdisjoint(usual)
    events = [line for line in lines if re.match(r"\d\d:\d\d:\d\d", line)]
    assert {line.split()[1] for line in events} == {"BTCUSDT"}
    # The pages that it names exist.
    pages = re.findall(r"docs/\S+\.md", shown)
    assert len(pages) == 3
    for page in pages:
        assert (ROOT / page).exists(), page


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--period", "0", "demo: --period 0.0, expected 0.5 to 60 seconds"),
        ("--period", "nan", "demo: --period nan, expected 0.5 to 60 seconds"),
        ("--seconds", "0", "demo: --seconds 0.0, expected more than 0"),
        ("--symbols", "BTC$", "expected symbols of A-Z"),
    ],
)
def test_the_demo_refuses_options_that_do_not_fit(
    option: str, value: str, expected: str
) -> None:
    command = [sys.executable, "-m", "connector", "demo", option, value]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, check=False
    )

    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stdout == ""


def test_the_installation_counts_packages_on_a_terminal(tmp_path: Path) -> None:
    # Installed already, so nothing is downloaded.
    pinned = tmp_path / "pinned.txt"
    pinned.write_text(f"pytest=={pytest.__version__} --hash=sha256:{'0' * 64}\n")

    code, shown = on_a_terminal([sys.executable, str(INSTALL), str(pinned)])

    assert code == 0, shown
    assert "installing 1 packages" in shown
    assert "1 of 1 packages collected" in shown


def test_the_installation_fails_with_the_error_of_pip(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("not a requirement\n")

    code, shown = on_a_terminal([sys.executable, str(INSTALL), str(wrong)])

    assert code != 0
    assert "ERROR: Invalid requirement" in shown
