"""What the book's Sphinx extension adds to pages, over a project of two."""

import base64
import json
import re
from io import StringIO
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from sphinx.application import Sphinx
from styleinv_book.figures import folded_origin, plot_axes
from styleinv_book.sphinx_extension import name_fields

from styleinv.runs.record import TracePoint
from tests.conftest import ROOT

PICTURE = b"a picture"
SHOWN = f'<img alt="" src="data:image/png;base64,{base64.b64encode(PICTURE).decode()}">'
PAGES = {
    "index.md": '# Home\n\nA {term}`moment` & "more" of it.\n\nMore.\n\n'
    "```{toctree}\n:caption: Words\nbook/glossary\n```\n"
    "```{toctree}\n:caption: Numbers\nbook/numbers\nbook/equation\n```\n",
    "book/equation.md": "# Equation\n\n(fig-1-5)=\n{math}`x`\n\n```python\nimport secret\n```\n\n"
    f"{SHOWN}\n\n<p>{SHOWN}</p>\n",
    "book/glossary.md": "# Glossary\n\n```{glossary}\nmoment\n  A *mean*,\n  or the like.\n```\n",
}


def plot_cell() -> NotebookNode:
    """A cell that returns a plot, and says by HTML where it comes from."""
    plot, axes = plot_axes()
    axes.plot([1, 2], [3, 4])
    drawn = StringIO()
    plot.savefig(drawn, format="svg")
    outputs = [
        new_output("display_data", {"image/svg+xml": drawn.getvalue()}),
        new_output("display_data", {"text/html": folded_origin("<p>made here</p>")}),
    ]
    options = {"mystnb": {"image": {"alt": "A line"}, "figure": {"caption": "A plot."}}}
    return new_code_cell("plot", outputs=outputs, metadata=options)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages."""
    source = tmp_path_factory.mktemp("pages")
    (source / "book").mkdir()
    for name, text in PAGES.items():
        (source / name).write_text(text, encoding="utf-8")
    result = new_output("execute_result", {"text/plain": "42"})
    cell = new_code_cell("6 * 7", outputs=[result], execution_count=1)
    cells = [cell, plot_cell()]
    nbformat.write(new_notebook(cells=cells), source / "book" / "numbers.ipynb")
    out = source / "html"
    settings = {
        "extensions": ["myst_nb", "styleinv_book.sphinx_extension"],
        "html_theme": "sphinx_book_theme",
        "nb_ipywidgets_js": {},
        "nb_execution_mode": "off",
        "html_baseurl": "https://someone.github.io/copy/",
        "templates_path": [str(ROOT / "book" / "templates")],
    }
    app = Sphinx(source, None, out, source / "doctrees", "html", settings, status=None)
    app.build()
    return out


def parsed(page: Path) -> BeautifulSoup:
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def home(built: Path) -> BeautifulSoup:
    """The first page."""
    return parsed(built / "index.html")


def test_a_page_is_described_by_its_first_paragraph(home: BeautifulSoup) -> None:
    def content(selector: str) -> list[str]:
        return [str(tag["content"]) for tag in home.select(f"head {selector}")]

    text = "A moment & “more” of it."
    assert content("meta[name=description]") == content("meta[property='og:description']") == [text]
    assert content("meta[property='og:title']") == ["Home"]


def test_a_preview_has_a_picture_with_a_whole_address(home: BeautifulSoup) -> None:
    (picture,) = home.select("head meta[property='og:image']")
    assert picture["content"] == "https://someone.github.io/copy/_static/picture.jpg"
    with Image.open(ROOT / "book" / "style" / "picture.jpg") as image:
        size = tuple(
            int(str(home.select(f"head meta[property='og:image:{side}']")[0]["content"]))
            for side in ("width", "height")
        )
        assert image.size == size


def test_a_page_says_in_which_part_of_the_book_it_is(built: Path, home: BeautifulSoup) -> None:
    (place,) = parsed(built / "book" / "equation.html").select("article .where")
    assert place.get_text() == "Home / Numbers"
    assert (built / "book" / str(place.a["href"])).resolve() == built / "index.html"
    assert home.select(".where") == []


def test_search_knows_figures_by_their_numbers_and_no_code(built: Path) -> None:
    script = (built / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(script.removeprefix("Search.setIndex(").removesuffix(")"))
    page = index["docnames"].index("book/equation")
    assert index["alltitles"]["Figure 1.5"] == [[page, "fig-1-5"]]
    assert parsed(built / "book" / "equation.html").select("#fig-1-5")
    assert "mean" in index["terms"]
    assert "secret" not in index["terms"]
    assert "import secret" in parsed(built / "book" / "equation.html").get_text()


def test_a_term_shows_its_meaning(home: BeautifulSoup) -> None:
    (link,) = home.select("article a[href$='glossary.html#term-moment']")
    assert link["title"] == "A mean, or the like."


def test_the_api_names_the_fields_of_records_without_their_checks() -> None:
    signature = "(loss: Annotated[float, Meta(ge=0)], iteration: int)"

    def shown(kind: type) -> object:
        return name_fields(None, "class", "x", kind, None, signature, "")

    assert shown(TracePoint) == (f"({', '.join(TracePoint.__struct_fields__)})", None)
    assert shown(str) is None


def test_a_picture_in_a_page_becomes_one_file(built: Path) -> None:
    page = built / "book" / "equation.html"
    first, second = (str(image["src"]) for image in parsed(page).select("article img"))
    assert first == second
    assert (page.parent / first).read_bytes() == PICTURE


def test_only_pages_with_equations_load_mathjax(built: Path) -> None:
    def scripts(name: str) -> list[str]:
        return [x["src"] for x in parsed(built / name).select("script[src*='mathjax/']")]

    (src,) = scripts("book/equation.html")
    assert (built / "book" / src).is_file()
    assert scripts("book/numbers.html") == scripts("index.html") == []


def test_what_mathjax_is_told_to_load_is_there(built: Path) -> None:
    page = (built / "book" / "equation.html").read_text(encoding="utf-8")
    parts = json.loads(re.findall(r"window.MathJax = (\{.*\})", page)[0])["loader"]["load"]
    assert len(parts) > 3
    for part in parts:
        path = part.replace("[tex]", "input/tex/extensions") + ".js"
        assert (built / "_static" / "mathjax" / path).is_file(), part


def test_only_the_page_keeps_what_a_notebook_has_computed(built: Path) -> None:
    assert "42" in parsed(built / "book" / "numbers.html").article.get_text()
    cell, *_ = nbformat.read(built / "_sources" / "book" / "numbers.ipynb", as_version=4).cells
    assert (cell.source, cell.outputs, cell.execution_count) == ("6 * 7", [], None)


def test_plots_are_in_the_page_and_lead_to_their_notebook(built: Path) -> None:
    page = parsed(built / "book" / "numbers.html")
    (plot,) = page.select("figure svg.plot")
    assert plot["aria-label"] == "A line"
    assert page.select_one("figure figcaption").get_text(strip=True).startswith("A plot.")  # type: ignore[union-attr]
    assert page.select("article figure img") == []
    (link,) = page.find_all("a", string="this page's notebook")
    notebook = (built / "book" / str(link["href"])).resolve()
    assert nbformat.read(notebook, as_version=4).cells[0].source == "6 * 7"
