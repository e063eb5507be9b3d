"""Headings of Markdown pages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def anchors(page: Path) -> set[str]:
    """Return the anchors that forges such as GitHub make of a page's headings."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE):
        words = re.sub(r"[^\w -]", "", heading)
        found.add(words.strip().lower().replace(" ", "-"))
    return found
