"""How a page is found: by search, by the preview of a link, and by its place within the book."""

import os
import re
import textwrap
from html import escape
from typing import Any

from docutils import nodes
from docutils.nodes import document
from sphinx.addnodes import toctree
from sphinx.application import Sphinx
from sphinx.builders.html import StandaloneHTMLBuilder
from sphinx.config import Config

DESCRIPTION_LENGTH = 300  # in characters; search engines and previews show about half
PREVIEW = "_static/picture.jpg"
PREVIEW_SIZE = 1304, 683
PREVIEW_TEXT = "Two style images, and what the Gram matrices of four layers keep of them"
# Labels of what has a number in the chapter: fig-1-5, fig-a-1, eq-1-2, table-1-1, also with
# "equation-" before it, as Sphinx names numbered equations.
NUMBERED = re.compile(r"(fig|eq|table)-(\w)-(\d)")
KINDS = {"fig": "Figure", "eq": "Equation", "table": "Table"}


class BookBuilder(StandaloneHTMLBuilder):
    """HTML whose search leads to figures and equations by their numbers, and leaves code out."""

    def index_page(self, pagename: str, doctree: document, title: str) -> None:
        """Index a page without its code, and with a title for whatever has a number."""
        words = doctree.deepcopy()
        for code in list(words.findall(nodes.literal_block)):
            code.parent.remove(code)
        labels = self.env.get_domain("std").data["anonlabels"]
        for label, (page, place) in labels.items():
            if page == pagename and (found := NUMBERED.fullmatch(label)):
                kind, part, number = found.groups()
                name = nodes.title("", f"{KINDS[kind]} {part.upper()}.{number}")
                words += nodes.section("", name, ids=[place])
        super().index_page(pagename, words, title)


def know_address(app: Sphinx, config: Config) -> None:
    """Take the published book's address from `STYLEINV_ADDRESS`, if that is set."""
    config.html_baseurl = os.environ.get("STYLEINV_ADDRESS", config.html_baseurl)


def describe(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: document | None
) -> None:
    """Put a page's first paragraph into its head, and a picture, for search engines and previews.

    Previews follow only a whole address; without the book's, the picture's is relative to the page.
    """
    paragraph = doctree and next(doctree.findall(nodes.paragraph), None)
    if not paragraph:
        return
    text = escape(textwrap.shorten(paragraph.astext(), DESCRIPTION_LENGTH, placeholder=" …"))
    book = app.config.html_baseurl
    picture = f"{book.rstrip('/')}/{PREVIEW}" if book else context["pathto"](PREVIEW, 1)
    width, height = PREVIEW_SIZE
    context["metatags"] += f'''
<meta name="description" content="{text}">
<meta property="og:type" content="article">
<meta property="og:title" content="{escape(context["title"])}">
<meta property="og:description" content="{text}">
<meta property="og:image" content="{escape(picture)}">
<meta property="og:image:width" content="{width}">
<meta property="og:image:height" content="{height}">
<meta property="og:image:alt" content="{PREVIEW_TEXT}">
<meta name="twitter:card" content="summary_large_image">
'''


def say_where(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: document | None
) -> None:
    """Tell the page's template in which part of the book it is, if it is in one."""
    trees = app.env.get_doctree(app.config.root_doc).findall(toctree)
    parts = (tree["caption"] for tree in trees if pagename in tree["includefiles"])
    context["part"] = next(parts, None)
