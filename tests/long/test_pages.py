"""What holds for every page of the book: links, figures, alt text, and a browser's opinion."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
import yaml
from axe_playwright_python.base import AXE_SCRIPT
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, Page

from tests.conftest import ROOT, refuse_others

PHONE, DESK = 360, 1280
LOOKS: tuple[tuple[Literal["light", "dark"], int], ...] = (
    ("light", DESK),
    ("dark", DESK),
    ("light", PHONE),
)


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
    repeated = {}
    for name, soup in soups.items():
        ids = Counter(str(tag["id"]) for tag in soup.find_all(id=True))
        if twice := [value for value, count in ids.items() if count > 1]:
            repeated[name] = twice
    assert repeated == {}


def test_pictures_have_alt_text(soups: dict[str, BeautifulSoup]) -> None:
    silent = [
        f"{name}: {str(image)[:100]}"
        for name, soup in soups.items()
        for image in soup.find_all("img")
        if not image.get("alt") and not _is_decoration(image)
    ]
    assert silent == []


def _is_decoration(image: Tag) -> bool:
    return image.get("role") == "presentation" or any(
        tag.get("aria-hidden") == "true" for tag in [image, *image.parents]
    )


def test_figures_say_where_they_come_from(soups: dict[str, BeautifulSoup]) -> None:
    """A line of class "provenance" within the figure, or after it in the same section."""
    without = [
        f"{name}: {figure.get_text(' ', strip=True)[:80]}"
        for name, soup in soups.items()
        for figure in soup.select("article figure")
        if not _has_provenance(figure)
    ]
    assert without == []


def _has_provenance(figure: Tag) -> bool:
    if figure.select_one(".provenance"):
        return True
    following = figure.find_next(class_="provenance")
    section = figure.find_parent("section")
    return following is not None and section is following.find_parent("section")


def test_nothing_of_this_machine_is_in_the_pages(
    built: Path, project: Path, painting: Path
) -> None:
    texts = [*pages(built), *built.glob("_downloads/*/*.ipynb"), *built.glob("_sources/*/*")]
    assert len(texts) >= 4
    for text in texts:
        content = text.read_text()
        for path in (project, painting.parent, ROOT, Path(sys.prefix), Path.home()):
            assert str(path) not in content, text
        assert painting.parent.name not in content, text


def test_no_other_host_is_in_the_pages_head_or_scripts(soups: dict[str, BeautifulSoup]) -> None:
    """Links that a reader may follow are the only way out."""
    loaded = [
        f"{name}: {url}"
        for name, soup in soups.items()
        for tag in soup.find_all(True)
        for url in (str(tag.get("src") or (tag.get("href") if tag.name == "link" else "") or ""),)
        if urlsplit(url).scheme not in ("", "data") or url.startswith("//")
    ]
    assert loaded == []


@dataclass
class Visit:
    """What a browser found on one page, for one theme and width."""

    messages: list[str]
    refused: list[str]
    missing_pictures: list[str]
    equations: tuple[int, int]
    equation_errors: int
    width: int
    theme: str
    violations: list[str]


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
        page.on(
            "console",
            lambda said: (
                messages.append(f"{said.type}: {said.text}")
                if said.type in ("error", "warning")
                else None
            ),
        )
        page.on("pageerror", lambda error: messages.append(f"exception: {error}"))
        refused = refuse_others(page, own)
        page.goto(url, wait_until="load")
        page.add_style_tag(content=STILL)
        page.evaluate(SHOW_ALL)
        yield page, messages, refused


MISSING_PICTURES = "[...document.images].filter(i => !i.naturalWidth).map(i => i.outerHTML)"


def visit(
    browser: Browser, site: str, name: str, theme: Literal["light", "dark"], width: int
) -> Visit:
    url = f"{site}/{name}"
    with opened_page(browser, site, url, theme, width) as (page, messages, refused):
        seen = (
            page.evaluate(MISSING_PICTURES),
            (page.locator(".math").count(), page.locator(".math mjx-container").count()),
            page.locator("mjx-merror, [data-mjx-error]").count(),
            page.evaluate("document.documentElement.scrollWidth"),
            page.evaluate("document.documentElement.dataset.theme"),
        )
        page.evaluate(SHORTEN)
        page.evaluate(AXE_SCRIPT)
        return Visit(
            messages,
            refused,
            *seen,
            [
                f"{rule['id']}: {node['html'][:200]} ({node['failureSummary']})"
                for rule in page.evaluate(AXE)
                if rule["impact"] in ("serious", "critical")
                for node in rule["nodes"]
            ],
        )


@pytest.fixture(scope="module")
def visits(
    browser: Browser, site: str, soups: dict[str, BeautifulSoup]
) -> dict[tuple[str, str, int], Visit]:
    return {
        (name, theme, width): visit(browser, site, name, theme, width)
        for name in soups
        for theme, width in LOOKS
    }


Visits = dict[tuple[str, str, int], Visit]


def found(visits: Visits, what: str) -> dict[tuple[str, str, int], Any]:
    """The pages where there is something of this kind."""
    return {place: getattr(one, what) for place, one in visits.items() if getattr(one, what)}


@pytest.mark.browser
def test_the_console_stays_empty(visits: Visits) -> None:
    assert found(visits, "messages") == {}


@pytest.mark.browser
def test_nothing_is_asked_of_another_host(visits: Visits) -> None:
    assert found(visits, "refused") == {}


@pytest.mark.browser
def test_every_picture_loads(visits: Visits) -> None:
    assert found(visits, "missing_pictures") == {}


@pytest.mark.browser
def test_equations_are_typeset(visits: Visits) -> None:
    assert found(visits, "equation_errors") == {}
    assert any(one.equations[0] for one in visits.values())
    for place, one in visits.items():
        written, typeset = one.equations
        assert written == typeset, place


@pytest.mark.browser
def test_pages_fit_a_phone(visits: Visits) -> None:
    wide = {place: one.width for place, one in visits.items() if one.width > place[2] + 1}
    assert wide == {}


@pytest.mark.browser
def test_everyone_can_read_them(visits: Visits) -> None:
    """axe-core finds nothing serious, in either theme, with every fold open."""
    assert all(one.theme == theme for (_, theme, _), one in visits.items())
    problems = [
        f"{name} ({theme}, {width}): {violation}"
        for (name, theme, width), one in visits.items()
        for violation in one.violations
    ]
    assert problems == []


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
def test_search_finds_pages(page: tuple[Page, list[str]], site: str) -> None:
    opened, refused = page
    opened.goto(f"{site}/search.html")
    opened.locator("main input[name=q], .bd-article-container input[name=q]").first.fill("moment")
    opened.keyboard.press("Enter")
    opened.wait_for_url("**/search.html?q=moment*")
    opened.wait_for_selector("#search-results li a[href*='experiments.html']")
    assert refused == []


@pytest.fixture(scope="module")
def with_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of prose and a notebook, staged as `styleinv book` does it, from a repository."""
    root = tmp_path_factory.mktemp("repository")
    stage = root / "_build" / "stage"
    for folder in (root, stage):
        (folder / "notebooks").mkdir(parents=True)
        (folder / "book").mkdir()
        (folder / "book" / "prose.md").write_text("# Prose\n\n{doc}`../notebooks/sums`\n")
        (folder / "book" / "references.bib").write_text("")
    (root / "notebooks" / "sums.md").write_text("# Sums\n")
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Sums"), nbformat.v4.new_code_cell("1 + 1")],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        },
    )
    nbformat.write(notebook, stage / "notebooks" / "sums.ipynb")
    for name in ("extensions", "style", "templates"):
        shutil.copytree(ROOT / "book" / name, stage / "book" / name)
    (root / "results" / "runs").mkdir(parents=True)
    (root / "results" / "runs" / "a.png").write_bytes(b"a")
    (stage / "results").symlink_to(root / "results")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["execute"] = {"execute_notebooks": "off"}
    (stage / "_config.yml").write_text(yaml.safe_dump(config))
    toc = {"format": "jb-book", "root": "book/prose", "chapters": [{"file": "notebooks/sums"}]}
    (stage / "_toc.yml").write_text(yaml.safe_dump(toc))
    finished = subprocess.run(
        [Path(sys.executable).with_name("jupyter-book"), "build", stage, "-W", "-n"],
        env={"PATH": "", "STYLEINV_REPOSITORY": "https://github.com/someone/copy"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return root


def launch_links(root: Path, page: str) -> list[str]:
    html = (root / "_build/stage/_build/html" / page).read_text()
    return [
        str(link["href"])
        for link in BeautifulSoup(html, "html.parser").select(".dropdown-launch-buttons a")
    ]


def test_launch_buttons_lead_to_sources_in_the_repository(with_repository: Path) -> None:
    source = "https://github.com/someone/copy/blob/HEAD/"
    binder = "https://mybinder.org/v2/gh/someone/copy/HEAD?urlpath=lab/tree/"
    links = launch_links(with_repository, "notebooks/sums.html")
    assert links == [f"{binder}notebooks/sums.md", f"{source}notebooks/sums.md?plain=1"]
    for link in links:
        path = re.search(r"(notebooks/[^?]*)", link)
        assert path is not None
        assert (with_repository / path[1]).is_file()
    assert launch_links(with_repository, "book/prose.html") == [f"{source}book/prose.md?plain=1"]


def test_without_a_repository_there_are_no_launch_buttons(soups: dict[str, BeautifulSoup]) -> None:
    for soup in soups.values():
        assert not soup.select(".dropdown-launch-buttons")
        assert "mybinder.org/v2" not in str(soup)


def test_run_records_lie_beside_the_pages(with_repository: Path) -> None:
    html = with_repository / "_build/stage/_build/html"
    assert (html / "results/runs/a.png").read_bytes() == b"a"


def test_the_download_is_the_executed_notebook(
    built: Path, soups: dict[str, BeautifulSoup]
) -> None:
    name = "notebooks/experiments"
    link = soups[f"{name}.html"].select_one("a.btn-download-source-button")
    assert link is not None
    assert link["href"] == f"../_sources/{name}.ipynb"
    notebook = nbformat.read(built / f"_sources/{name}.ipynb", as_version=4)
    assert any(cell.get("outputs") for cell in notebook.cells)
