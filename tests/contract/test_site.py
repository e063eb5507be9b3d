"""The documentation site builds without a warning, works offline, and no link leads nowhere."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.markdown import anchors

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
# Sphinx checks the links within docs/. These pages are read elsewhere.
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "schemas/README.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Attributes whose files the browser fetches when it opens a page.
RESOURCES = {"link": "href", "script": "src", "img": "src", "iframe": "src"}


class Resources(HTMLParser):
    """Collects the addresses that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        address = dict(attrs).get(RESOURCES.get(tag, ""))
        if address is not None:
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning"]
    command += ["--keep-going", "-d", f"{folder}/doctrees", str(DOCS), f"{folder}/html"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False
    )
    # A link to a page or heading that does not exist is a warning, too.
    assert done.returncode == 0, done.stderr
    return folder / "html"


def test_every_page_is_on_the_site(site: Path) -> None:
    pages = {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")}
    built = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}

    assert len(pages) > 10
    assert pages <= built


def test_the_site_loads_nothing_from_other_servers(site: Path) -> None:
    for path in site.rglob("*.html"):
        page = Resources()
        page.feed(path.read_text("utf-8"))
        assert page.addresses, path
        for address in page.addresses:
            assert not re.match(r"(https?:)?//", address), f"{path.name}: {address}"
    for path in site.rglob("*.css"):
        text = path.read_text("utf-8")
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", text), path.name


def test_the_site_can_be_searched_without_a_server(site: Path) -> None:
    index = (site / "searchindex.js").read_text("utf-8")

    assert "how-to/runbooks" in index
    assert "gexshardsnotowned" in index


def test_the_site_can_be_searched_for_an_http_status(site: Path) -> None:
    index = (site / "searchindex.js").read_text("utf-8")

    # Sphinx leaves out numbers, both in its index and in a query.
    assert re.search(r'"429":\[', index)
    assert "_static/search.js" in (site / "search.html").read_text("utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_the_links_of_a_page_outside_the_site_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in LINK.findall(page.read_text("utf-8")):
        target, _, anchor = link.partition("#")
        if re.match(r"https?:", target):
            continue
        path = page.parent / target if target else page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path), link


def test_the_consumer_in_the_readme_uses_names_that_exist() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    (code,) = blocks
    tree = ast.parse(code)

    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        module = importlib.import_module(node.module or "")
        for name in node.names:
            assert hasattr(module, name.name)
