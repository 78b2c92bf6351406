"""What holds for every page of the book: links, figures, alt text, and a browser's opinion."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, ConsoleMessage, Page, Response

from tests.conftest import PROGRAM, ROOT, refuse_others
from tests.test_book import new_project

PHONE, DESK = 360, 1280


def pages(built: Path) -> list[Path]:
    """Those with a source of their own."""
    found = sorted([*built.glob("book/*.html"), *built.glob("notebooks/*.html")])
    assert built / "book/intro.html" in found
    assert built / "notebooks/experiments.html" in found
    return found


@pytest.fixture(scope="module")
def soups(built: Path) -> dict[str, BeautifulSoup]:
    """Every page and the search page and index, parsed, by name."""
    files = [*pages(built), built / "search.html", built / "genindex.html"]
    return {
        file.relative_to(built).as_posix(): BeautifulSoup(file.read_text(), "html.parser")
        for file in files
    }


def test_internal_links_and_pictures_exist(built: Path, soups: dict[str, BeautifulSoup]) -> None:
    broken = []
    for name, soup in soups.items():
        for tag in soup.find_all(["a", "img", "script", "link", "source", "iframe"]):
            url = str(tag.get("href") or tag.get("src") or "")
            if not urlsplit(url).scheme and not _exists(url, built / name, built, soups):
                broken.append(f"{name}: {url}")
    assert broken == []


def _exists(url: str, page: Path, built: Path, soups: dict[str, BeautifulSoup]) -> bool:
    parts = urlsplit(url)
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not (target.is_relative_to(built.resolve()) or target == page) or not target.exists():
        return False
    soup = soups.get(target.relative_to(built.resolve() if parts.path else built).as_posix())
    # NAME=VALUE is for a script of the page.
    if not parts.fragment or "=" in parts.fragment or soup is None:
        return True
    return soup.find(id=unquote(parts.fragment)) is not None


def test_ids_are_unique(soups: dict[str, BeautifulSoup]) -> None:
    for name, soup in soups.items():
        ids = Counter(str(tag["id"]) for tag in soup.find_all(id=True))
        assert {value: count for value, count in ids.items() if count > 1} == {}, name


def test_figures_say_where_they_come_from(soups: dict[str, BeautifulSoup]) -> None:
    """A line of class "provenance" within the figure, or after it in the same section."""
    for name, soup in soups.items():
        for figure in soup.select("article figure"):
            following = figure.find_next(class_="provenance")
            section = figure.find_parent("section")
            inside = figure.select_one(".provenance") is not None
            after = following is not None and section is following.find_parent("section")
            assert inside or after, f"{name}: {figure.get_text(' ', strip=True)[:80]}"


def test_captions_come_first_and_the_rest_is_folded(soups: dict[str, BeautifulSoup]) -> None:
    """Below a figure's pictures; a link in the fold leads to the notebook that makes the figure."""
    folds = 0
    for name, soup in soups.items():
        for figure in soup.select("article figure.runs[id]"):
            (fold,) = figure.select("details.origin")
            assert fold.find_previous_sibling().name == "figcaption", name
            said = figure.select(".provenance, .path, .credits")
            assert all(fold in line.parents for line in said), name
            (link,) = fold.find_all("a", string="this page's notebook")
            assert Path(name).stem in str(link["href"])
            folds += 1
    assert folds


def test_nothing_of_this_machine_is_in_the_pages(
    built: Path, project: Path, painting: Path
) -> None:
    for text in (*pages(built), *built.glob("_downloads/*/*.ipynb"), *built.glob("_sources/*/*")):
        content = text.read_text()
        for place in (project, painting.parent.name, ROOT, Path(sys.prefix), Path.home()):
            assert str(place) not in content, text


# Pictures that wait for the reader to scroll would not be there, nor would what is folded away.
SHOW_ALL = """async () => {
  for (const image of document.images) image.loading = "eager";
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  if (window.MathJax?.startup?.promise) await MathJax.startup.promise;
  await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
  await new Promise(done => setTimeout(done, 100));  // what the pages do about it
}"""
AXE = """axe.run(document, {resultTypes: ["violations"], preload: false}).then(r => r.violations)"""
# The further rows of a long table look like the first ones, and take axe seconds each.
SHORTEN = """() => {
  for (const table of document.querySelectorAll("table"))
    for (const row of [...table.rows].slice(12)) row.remove();
}"""
STILL = "*, *::before, *::after { animation: none !important; transition: none !important }"


@contextmanager
def opened_page(
    browser: Browser, own: str, url: str, theme: Literal["light", "dark"], width: int
) -> Iterator[tuple[Page, list[str], list[str]]]:
    """The page with all that it loads, what its console says, what it asked of others."""
    with browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=theme, reduced_motion="reduce"
    ) as context:
        context.add_init_script(f"localStorage.mode = localStorage.theme = {theme!r}")
        page = context.new_page()
        messages: list[str] = []

        def listen(said: ConsoleMessage) -> None:
            if said.type in ("error", "warning"):
                messages.append(f"{said.type}: {said.text}")

        page.on("console", listen)
        page.on("pageerror", lambda error: messages.append(f"exception: {error}"))
        refused = refuse_others(page, own)
        page.goto(url, wait_until="load")
        page.add_style_tag(content=STILL)
        page.evaluate(SHOW_ALL)
        yield page, messages, refused


STYLES_OF = """selector => [...document.querySelectorAll(selector)].map(
  element => getComputedStyle(element)).map(s => [s.color, s.fontWeight, s.fill])"""
NOT_TYPESET = ".math:not(:has(mjx-container)), mjx-merror, [data-mjx-error]"
SCROLLED_EQUATIONS = """[...document.querySelectorAll("div.math mjx-container")]
  .filter(e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth).map(e => e.textContent)"""
# A table that scrolls says so.
UNMARKED_TABLES = """[...document.querySelectorAll(".scroll, .pst-scrollable-table-container")]
  .filter(e => e.scrollWidth > e.clientWidth)
  .filter(e => !getComputedStyle(e, "::before").content.includes("scrolls"))
  .map(e => e.textContent.slice(0, 80))"""
# The live page has places for pictures that are still to come.
MISSING_PICTURES = """[...document.images].filter(i => i.src && !i.naturalWidth)
  .map(i => i.outerHTML)"""


@pytest.mark.browser
@pytest.mark.parametrize(("theme", "width"), [("light", DESK), ("dark", DESK), ("light", PHONE)])
def test_every_page_in_a_browser(
    browser: Browser,
    site: str,
    soups: dict[str, BeautifulSoup],
    theme: Literal["light", "dark"],
    width: int,
) -> None:
    """All loads, equations are typeset, it fits, and axe-core finds nothing serious in any fold."""
    faults = {}
    equations = 0
    for name in soups:
        with opened_page(browser, site, f"{site}/{name}", theme, width) as (page, said, refused):
            assert page.evaluate("document.documentElement.dataset.theme") == theme
            equations += page.locator(".math mjx-container").count()
            found = {
                "missing pictures": page.evaluate(MISSING_PICTURES),
                "equations": page.locator(NOT_TYPESET).all_inner_texts(),
                "scrolled equations": page.evaluate(SCROLLED_EQUATIONS),
                "unmarked tables": page.evaluate(UNMARKED_TABLES),
                "wide": page.evaluate("document.documentElement.scrollWidth") > width + 1,
                "axe": violations(page),
                "console": said,
                "refused": refused,
            }
        faults |= {(name, what): fault for what, fault in found.items() if fault}
    assert faults == {}
    assert equations


def violations(page: Page) -> list[str]:
    page.evaluate(SHORTEN)
    page.evaluate(AXE_SCRIPT)
    return [
        f"{rule['id']}: {node['html'][:200]} ({node['failureSummary']})"
        for rule in page.evaluate(AXE)
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"]
    ]


@pytest.mark.browser
def test_pages_open_from_a_folder(
    browser: Browser, built: Path, soups: dict[str, BeautifulSoup]
) -> None:
    """As the last line of `styleinv book` tells the reader to."""
    for name in soups:
        url = (built / name).as_uri()
        with opened_page(browser, built.as_uri(), url, "light", DESK) as (page, messages, refused):
            assert messages == refused == page.evaluate(MISSING_PICTURES) == [], name


@pytest.mark.browser
def test_text_comes_alive_in_a_folder(browser: Browser, built: Path) -> None:
    """In both tabs of the figure; `tests/test_interactive.py` has what it shows."""
    files = [(built / f"notebooks/{name}.html").as_uri() for name in ("inverting", "style_loss")]
    with opened_page(browser, built.as_uri(), files[0], "light", PHONE) as (page, messages, _):
        for tab in page.locator("#figure-filmstrip .tabs label").all():
            tab.click()
            page.locator(".player input:visible").press("Home")
            texts = page.locator(".player-loss:visible").all_inner_texts()
            assert len(texts) == page.locator(".player-frames:visible img.shown").count() == 2
        assert messages == []
    with opened_page(browser, built.as_uri(), files[1], "light", PHONE) as (page, messages, _):
        page.get_by_role("button", name="Noise = style").click()
        assert page.locator("[data-of=mmd]").inner_text() == "0.000"
        assert messages == []


@pytest.mark.browser
def test_the_live_page_computes(browser: Browser, built: Path) -> None:
    """From a folder, over the reader's image of this build."""
    url = (built / "notebooks" / "live.html").as_uri()
    with opened_page(browser, built.as_uri(), url, "light", DESK) as (page, messages, refused):
        page.get_by_label("Size in pixels").fill("32")
        page.get_by_role("button", name="Start", exact=True).click()
        page.get_by_alt_text("Inversion of my $5^^$ painting").wait_for()
        assert messages == refused == []


@pytest.mark.browser
@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("Figure 1.5", "notebooks/experiments.html#fig-1-5"),
        ("equation 1.2", "notebooks/style_loss.html#eq-1-2"),
        ("receptive field", "book/glossary.html#term-receptive-field"),
        ("moment", "book/glossary.html#term-moment"),
    ],
)
def test_search_finds_what_is_meant(
    page: tuple[Page, list[str]], site: str, words: str, place: str
) -> None:
    """It comes first; what the results quote is no code."""
    opened, refused = page
    opened.goto(f"{site}/search.html")
    opened.locator("main input[name=q], .bd-article-container input[name=q]").first.fill(words)
    opened.keyboard.press("Enter")
    opened.wait_for_url("**/search.html?q=*")
    opened.wait_for_selector("#search-results li .context")
    first = opened.locator("#search-results li > a").first.evaluate("link => link.href")
    assert first == f"{site}/{place}"
    assert "import " not in opened.locator("#search-results").inner_text()
    assert refused == []


MEGABYTE = 1_000_000


@pytest.mark.browser
def test_the_book_is_light(
    browser: Browser, built: Path, site: str, soups: dict[str, BeautifulSoup]
) -> None:
    """All of it, and what a browser loads of a page before its reader does anything."""
    book = sum(file.stat().st_size for file in built.rglob("*") if file.is_file())
    assert book < 70 * MEGABYTE
    loaded = {name: weight(browser, f"{site}/{name}") for name in soups}
    assert loaded["book/intro.html"] < 2 * MEGABYTE
    assert {name: size for name, size in loaded.items() if size > 5 * MEGABYTE} == {}


def weight(browser: Browser, url: str) -> int:
    sizes: list[int] = []

    def add(answer: Response) -> None:
        sizes.append(int(answer.headers.get("content-length", 0)))

    with browser.new_context(viewport={"width": DESK, "height": 800}) as context:
        page = context.new_page()
        page.on("response", add)
        page.goto(url, wait_until="load")
        page.wait_for_timeout(500)  # for what scripts ask for
    return sum(sizes)


# What only those who made the book would say.
HOUSE_WORDS = re.compile(
    r"\b(ledger|warm[- ]?ups?|to be met|criteri(?:on|a)|missed|sweeps?)\b", re.IGNORECASE
)
# A command and a module have the name `sweep`: these pages explain it.
ABOUT_SWEEPS = re.compile(r"book/(rerun|api\w*)|notebooks/(scaling|provenance)")


def test_pages_do_without_house_words(built: Path, soups: dict[str, BeautifulSoup]) -> None:
    found = []
    for name in (file.relative_to(built).as_posix() for file in pages(built)):
        article = copy(soups[name].article)
        assert article is not None
        for hidden in article.select("script, style, code, pre, dl.py"):
            hidden.decompose()
        words = {word.lower() for word in HOUSE_WORDS.findall(article.get_text(" "))}
        if ABOUT_SWEEPS.match(name):
            words -= {"sweep", "sweeps"}
        found += [f"{name}: {word}" for word in sorted(words)]
    assert found == []


def test_pictures_have_a_text_alternative(soups: dict[str, BeautifulSoup]) -> None:
    without = [
        f"{name}: {str(image)[:200]}"
        for name, soup in soups.items()
        for image in soup.select("article img")
        if not image.get("alt")
    ]
    assert without == []


def test_claims_lead_to_figures_not_to_pages(built: Path, soups: dict[str, BeautifulSoup]) -> None:
    """Links to a figure of another page end in the place of one, with a picture behind it."""
    links = [
        str(link["href"])
        for link in soups["notebooks/claims.html"].select("article a[href*='.html']")
        if "figure" in link.get_text().lower()
    ]
    assert len(links) > 10
    for link in links:
        path, _, place = link.partition("#")
        page = (built / "notebooks" / path).resolve().relative_to(built.resolve())
        target = soups[page.as_posix()].find(id=place) if place else None
        assert target is not None, link
        figure = target if target.name == "figure" else target.find_next("figure")
        assert figure is not None, link


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(DESK, 800), (390, 844)])
def test_home_says_what_it_is_before_anyone_scrolls(
    browser: Browser, site: str, width: int, height: int
) -> None:
    with browser.new_page(viewport={"width": width, "height": height}) as page:
        page.goto(f"{site}/book/intro.html", wait_until="load")
        for what in ("h1", "p", ".doors", "p:has(.pasted-text)", ".first-picture img"):
            box = page.locator(f"article {what}").first.bounding_box()
            assert box is not None, what
            assert box["y"] + box["height"] <= height, what


def test_a_page_says_where_it_is_and_what_comes_next(soups: dict[str, BeautifulSoup]) -> None:
    page = soups["notebooks/style_loss.html"]
    assert page.select_one(".where").get_text() == "Home / The chapter"
    titles = [x.get_text(strip=True) for x in page.select(".prev-next-title")]
    names = ("notebooks/from_scratch.html", "notebooks/training.html")
    assert titles == [soups[x].h1.get_text().rstrip("#") for x in names]


def test_without_a_repository_there_are_no_launch_buttons(soups: dict[str, BeautifulSoup]) -> None:
    for soup in soups.values():
        assert not soup.select(".dropdown-launch-buttons, .btn-source-file-button")
        assert "mybinder.org/v2" not in str(soup)


def test_figures_are_numbered_as_in_the_chapter(soups: dict[str, BeautifulSoup]) -> None:
    numbers = {
        "inverting": ["1.1"],
        "style_loss": ["1.2"],
        "experiments": ["1.3", "1.4", "1.5", "1.6", "1.7"],
        "more_examples": ["A.1", "A.2", "A.3"],
    }
    for page, figures in numbers.items():
        captions = soups[f"notebooks/{page}.html"].find_all("figcaption")
        words = [caption.get_text(strip=True).split() for caption in captions]
        assert [word[1].rstrip(".") for word in words if word[0] == "Figure"] == figures


def test_a_figure_of_the_readers_styles_beside_the_reference_runs(
    soups: dict[str, BeautifulSoup],
) -> None:
    page = soups["notebooks/experiments.html"]
    (figure,) = page.select("#figure-1-3")
    path, _, state = str(figure.select("table.pictures a")[0]["href"]).partition("#")
    assert path == "../notebooks/viewer.html"
    assert parse_qs(state)["layer"] == ["relu_1_1"]
    for fact in ("my $5^^$ painting", "coffee: Rachel Michetti", "32 x 32 pixels"):
        assert fact in figure.get_text()
    # Of 2 styles and 2 layers, 8 runs have N = 3 or 4.
    rows = [[cell.get_text() for cell in row.select("th, td")] for row in page.select("tr")]
    assert ["This build", "N = 3, 4", "8"] in [row[:3] for row in rows]


@pytest.mark.browser
def test_tables_unfold_and_tabs_switch(page: tuple[Page, list[str]], site: str) -> None:
    opened, _ = page
    opened.goto(f"{site}/notebooks/experiments.html", wait_until="load")
    table = opened.locator("details.origin table").first
    assert not table.is_visible()
    opened.get_by_text("How this was made").first.click()
    assert "relu_2_2" in table.inner_text()
    figure = opened.locator("#figure-1-3")
    reference, build = (figure.locator("> .panel").nth(i) for i in (0, 1))
    assert (reference.is_visible(), build.is_visible()) == (True, False)
    figure.get_by_text("This build").click()
    assert (reference.is_visible(), build.is_visible()) == (False, True)
    opened.keyboard.press("ArrowLeft")
    assert (reference.is_visible(), build.is_visible()) == (True, False)


@pytest.mark.browser
def test_the_choice_of_a_tab_holds_for_all_figures(browser: Browser, site: str) -> None:
    """Also for those on other pages, and a figure stays where it was when it was chosen."""
    with browser.new_context(viewport={"width": DESK, "height": 800}) as context:
        page = context.new_page()
        page.goto(f"{site}/notebooks/experiments.html", wait_until="load")
        page.evaluate(SHOW_ALL)
        tab = page.locator(".tabs > label", has_text="This build").last
        tab.scroll_into_view_if_needed()
        before = tab.bounding_box()
        tab.click()
        after = tab.bounding_box()
        assert before is not None
        assert after is not None
        assert after["y"] == pytest.approx(before["y"], abs=2)
        for address in ("experiments", "inverting"):
            page.goto(f"{site}/notebooks/{address}.html", wait_until="load")
            tabs = page.locator(".tabs:has-text('This build')")
            chosen = tabs.locator("input:checked + label").all_inner_texts()
            assert chosen == ["This build"] * tabs.count()
            assert chosen


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_captions_and_plots_are_as_dark_as_the_text(
    browser: Browser, site: str, soups: dict[str, BeautifulSoup], theme: Literal["light", "dark"]
) -> None:
    """And plots have no ground of their own, so that they can be read in both themes."""
    pages = [name for name, soup in soups.items() if soup.select("figure figcaption")]
    plots = 0
    for name in pages:
        with opened_page(browser, site, f"{site}/{name}", theme, DESK) as (page, _, _):
            text = page.evaluate("getComputedStyle(document.querySelector('article p')).color")
            said = page.evaluate(STYLES_OF, "figcaption")
            assert {(colour, weight) for colour, weight, _ in said} <= {(text, "400")}, name
            drawn = page.evaluate(STYLES_OF, "svg.plot")
            assert {fill for _, _, fill in drawn} <= {text}, name
            grounds = "[...document.querySelectorAll('svg.plot')].map(x => x.querySelector('path'))"
            fills = page.evaluate(f"{grounds}.map(x => getComputedStyle(x).fill)")
            assert {*fills} <= {"none"}, name
            plots += len(drawn)
    assert plots


def test_jupyter_book_alone_builds_the_pages(tmp_path: Path) -> None:
    """Without `styleinv book`: the notebooks are executed with their own parameters."""
    root = new_project(tmp_path)
    command = [PROGRAM.with_name("jupyter-book"), "build", root, "-W", "-n"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    page = BeautifulSoup((root / "_build/html/notebooks/pictures.html").read_text(), "html.parser")
    assert page.select("#figure-1 table.pictures img")
