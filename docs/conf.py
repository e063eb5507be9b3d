"""The documentation site: Sphinx with MyST (Markdown) and Furo. `make site` builds it."""

import re
from pathlib import Path
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).parents[1]
VERSION = (ROOT / "connector" / "__init__.py").read_text("utf-8")

project = "gex-levels-connector"
author = "The gex-levels-connector contributors"
project_copyright = author
release = re.search(r'__version__ = "(.+)"', VERSION)[1]

extensions = ["myst_parser"]
# A link to a heading uses the anchor that forges such as GitHub make of it.
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist"]
# `make site` turns warnings into errors, so a link to a missing page or heading fails.
nitpicky = True
# Some output in code blocks looks like a language that it is not.
highlight_language = "text"

html_theme = "furo"
html_title = f"gex-levels-connector {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["search.js"]
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False
html_show_sphinx = False
# Smart quotes would change what a reader copies.
smartquotes = False


class LinksToFolders(SphinxPostTransform):
    """Keep the text of links to folders of the repository, which have no page on the site."""

    # Before MyST resolves links, with priority 9.
    default_priority = 5

    def run(self, **_: Any) -> None:
        """Replace the links of one page. A link to nowhere stays, and is reported."""
        folder = Path(self.env.doc2path(self.env.docname)).parent
        for link in list(self.document.findall(pending_xref)):
            if link["reftype"] == "myst" and (folder / link["reftarget"]).is_dir():
                link.replace_self(link.children)


class EnglishAndStatuses(SearchEnglish):
    """The words of English pages, and numbers of three digits, such as the HTTP status 429."""

    def word_filter(self, word: str) -> bool:
        """Return True if a word belongs into the index. static/search.js finds the numbers."""
        return bool(re.fullmatch(r"\d{3}", word)) or super().word_filter(word)


def setup(app: Sphinx) -> None:
    """Add the classes above. Sphinx calls this function."""
    app.add_post_transform(LinksToFolders)
    app.add_search_language(EnglishAndStatuses)
