"""What the book's Sphinx extension adds to pages, over a project of two."""

import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from styleinv_book.sphinx_extension import name_fields

from styleinv.runs.record import TracePoint

PAGES = {
    "index.md": '# Home\n\nA {term}`moment` & "more" of it.\n\nMore.\n\n'
    "```{toctree}\nbook/glossary\n```\n",
    "book/glossary.md": "# Glossary\n\n```{glossary}\nmoment\n  A *mean*,\n  or the like.\n```\n",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    """The first page."""
    source = tmp_path_factory.mktemp("pages")
    (source / "book").mkdir()
    for name, text in PAGES.items():
        (source / name).write_text(text, encoding="utf-8")
    out = source / "html"
    settings = {
        "extensions": ["myst_nb", "styleinv_book.sphinx_extension"],
        "html_theme": "sphinx_book_theme",
        "nb_ipywidgets_js": {},
    }
    app = Sphinx(source, None, out, source / "doctrees", "html", settings, status=None)
    app.build()
    return BeautifulSoup((out / "index.html").read_text(encoding="utf-8"), "html.parser")


def test_a_page_is_described_by_its_first_paragraph(home: BeautifulSoup) -> None:
    def content(selector: str) -> list[str]:
        return [str(tag["content"]) for tag in home.select(f"head {selector}")]

    text = "A moment & “more” of it."
    assert content("meta[name=description]") == content("meta[property='og:description']") == [text]
    assert content("meta[property='og:title']") == ["Home"]


def test_a_term_shows_its_meaning(home: BeautifulSoup) -> None:
    (link,) = home.select("article a[href$='glossary.html#term-moment']")
    assert link["title"] == "A mean, or the like."


def test_the_api_names_the_fields_of_records_without_their_checks() -> None:
    signature = "(loss: Annotated[float, Meta(ge=0)], iteration: int)"

    def shown(kind: type) -> object:
        return name_fields(None, "class", "x", kind, None, signature, "")

    assert shown(TracePoint) == (f"({', '.join(TracePoint.__struct_fields__)})", None)
    assert shown(str) is None
