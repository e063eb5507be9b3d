"""The files that a release must mention."""

from __future__ import annotations

import re
from pathlib import Path

from connector import __version__

ROOT = Path(__file__).parents[2]
HEADING = re.compile(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", re.MULTILINE)


def test_the_changelog_has_a_section_for_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    (first, _), (second, date), *_ = HEADING.findall(text)

    assert (first, second) == ("Unreleased", __version__)
    assert date


def test_the_security_policy_shows_how_to_verify_this_version() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")

    assert f"gex_levels_connector-{__version__}-py3-none-any.whl" in text
    assert f"git checkout v{__version__}" in text
