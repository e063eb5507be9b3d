"""The workflows for a public forge are valid. `make check` also looks for risky steps."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.deployment import ROOT

if TYPE_CHECKING:
    from pathlib import Path

# Go verifies it against the public checksum database.
ACTIONLINT = "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12"

# The first test compiles it.
pytestmark = pytest.mark.timeout(1200)


def faults(folder: Path) -> str:
    """Return what actionlint says about the workflows of a repository."""
    workflows = sorted((folder / ".github" / "workflows").glob("*.yml"))
    assert workflows
    # Without shellcheck, so that a machine that has it finds the same.
    done = subprocess.run(
        ["go", "run", ACTIONLINT, "-shellcheck=", "-pyflakes=", *workflows],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + (done.stderr if done.returncode > 1 else "")


def test_workflows_are_valid() -> None:
    assert faults(ROOT) == ""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("needs: build", "needs: nobody"),
        ("timeout-minutes: 20", "time-out: 20"),
        ("${{ matrix.python }}", "${{ matrix.ruby }}"),
    ],
)
def test_a_wrong_workflow_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    file = tmp_path / ".github" / "workflows" / "release.yml"
    text = file.read_text(encoding="utf-8")
    assert right in text
    file.write_text(text.replace(right, wrong), encoding="utf-8")

    assert "release.yml" in faults(tmp_path)
