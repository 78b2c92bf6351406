"""The book from end to end: parameters in, pages out, and nothing lost when something fails."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, Request, Route, sync_playwright

from styleinv import InputError, gallery
from styleinv.book import build_book, read_parameters
from tests.conftest import ROOT

SMALL = {"size": 32, "layers": ["relu_1_1", "relu_2_2"]}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the book is made from, with a reader's image beside it."""
    root = tmp_path_factory.mktemp("project")
    for name in ("_config.yml", "_toc.yml", "book", "notebooks", "results"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, root / name)
    return root


@pytest.fixture(scope="session")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's image, outside of the project, with what deserves a note and an odd name."""
    path = tmp_path_factory.mktemp("private") / "my $5^^$ painting.png"
    pixels = gallery.paint("rectangles", 24)
    picture = Image.fromarray((255 * pixels).astype("uint8"))
    picture.putalpha(200)
    picture.save(path)
    return path


@pytest.fixture(scope="session")
def built(project: Path, painting: Path) -> Path:
    """The book over the reader's image and a bundled style, built by the command line."""
    finished = subprocess.run(
        [
            *(Path(sys.executable).with_name("styleinv"), "book"),
            *("-p", f"styles={painting},skimage:coffee"),
            *("-p", "size=32", "-p", "layers=relu_1_1,relu_2_2"),
        ],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("The book is ready: open ")
    assert "transparent" in finished.stderr
    return project / "_build" / "html"


class _Page(HTMLParser):
    """Images without alt text, and links of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.silent_images: list[str] = []
        self.links: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img" and not values.get("alt"):
            self.silent_images.append(str(values.get("src"))[:60])
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))


def pages(built: Path) -> list[Path]:
    return [built / "book/intro.html", built / "notebooks/experiments.html"]


def test_shows_the_readers_styles(built: Path) -> None:
    text = (built / "notebooks/experiments.html").read_text()
    assert "my $5^^$ painting" in text
    assert "coffee: Rachel Michetti" in text
    assert "32 x 32 pixels" in text


def test_figures_have_caption_alt_text_and_provenance(built: Path) -> None:
    text = (built / "notebooks/experiments.html").read_text()
    for number in ("1.3", "1.4"):
        assert f"Figure {number}. " in text
    captions, provenances = text.count("<figcaption>"), text.count("<strong>Provenance:</strong>")
    assert captions == provenances == 3
    for fact in ("encoder bundled", "protocol fast", "seed 0", "iterations", "device cpu"):
        assert text.count(fact) >= 2
    for page in pages(built):
        assert _Page(page).silent_images == []


def test_numbers_in_prose_come_from_the_runs(built: Path) -> None:
    """2 styles, 2 layers, 5 losses: 20 inversions on this page, said on the first one too."""
    assert "20 inversions passed" in _text(built / "notebooks/experiments.html")
    assert "20 inversions while this book was built" in _text(built / "book/intro.html")


def _text(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page.read_text()))


def test_internal_links_lead_somewhere(built: Path) -> None:
    for page in pages(built):
        for link in _Page(page).links:
            target = link.split("#")[0]
            if target and not re.match(r"[a-z]+:", target):
                assert (page.parent / target).exists(), f"{page.name}: {link}"


def test_nothing_of_this_machine_is_in_the_pages(
    built: Path, project: Path, painting: Path
) -> None:
    texts = [*pages(built), *built.glob("_downloads/*/*.ipynb"), *built.glob("_sources/*/*")]
    assert len(texts) >= 4
    for path in (project, painting.parent, ROOT, Path(sys.prefix), Path.home()):
        for text in texts:
            assert str(path) not in text.read_text(), text
    assert not any(painting.parent.name in text.read_text() for text in texts)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"colour": "red"}, "parameter 'colour' is unknown; known are: device, encoder"),
        ({"styles": "absent.jpg"}, "image 'absent.jpg' is not an existing file"),
        ({**SMALL, "layers": ["relu_9_9"]}, r"experiments.md, cell \d+: .*layers is 'relu_9_9'"),
        ({**SMALL, "protocol": "slow"}, "protocol is 'slow'"),
    ],
)
def test_a_failure_leaves_the_last_good_book(
    built: Path, project: Path, parameters: dict[str, object], match: str
) -> None:
    before = (built / "index.html").stat().st_mtime_ns
    with pytest.raises(InputError, match=match):
        build_book(project, parameters)
    assert (built / "index.html").stat().st_mtime_ns == before


def test_a_page_with_a_warning_is_an_error(built: Path, project: Path) -> None:
    intro = project / "book" / "intro.md"
    good = intro.read_text()
    intro.write_text(good + "\n{doc}`nowhere`\n")
    try:
        with pytest.raises(
            InputError, match=r"do not render without a warning \(book/intro.md:.*nowhere"
        ):
            build_book(project, {**SMALL, "styles": ["bundled:mosaic"]})
    finally:
        intro.write_text(good)
    assert (built / "index.html").exists()


def test_parameters_from_file_and_command_line(tmp_path: Path) -> None:
    file = tmp_path / "parameters.yml"
    file.write_text("size: 48\nstyles: [a.jpg, b.png]\n")
    assert read_parameters(["size=64", "encoder=random"], file) == {
        "size": 64,
        "styles": ["a.jpg", "b.png"],
        "encoder": "random",
    }
    for bad in ("size", "=3"):
        with pytest.raises(InputError, match="must be NAME=VALUE"):
            read_parameters([bad], None)
    file.write_text("[1, 2")
    with pytest.raises(InputError, match="cannot be read as YAML"):
        read_parameters([], file)


def test_not_a_project(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"root is .*_toc.yml"):
        build_book(tmp_path, {})


@pytest.fixture(scope="session")
def site(built: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(built))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")


@pytest.fixture
def page(chromium: str, site: str) -> Iterator[tuple[Page, list[str]]]:
    """A page of a browser that may speak to the site only, and what it asked of others."""
    refused: list[str] = []

    def refuse(route: Route, request: Request) -> None:
        refused.append(request.url)
        route.abort()

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        opened = browser.new_page()
        opened.route(lambda url: not url.startswith((site, "data:")), refuse)
        yield opened, refused
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("path", ["book/intro.html", "notebooks/experiments.html"])
def test_reads_unplugged(page: tuple[Page, list[str]], site: str, path: str) -> None:
    """All pictures load, and nothing is asked of another host."""
    opened, refused = page
    opened.goto(f"{site}/{path}", wait_until="load")
    widths = opened.eval_on_selector_all("article img", "images => images.map(i => i.naturalWidth)")
    assert widths
    assert min(widths) > 100
    assert refused == []


@pytest.mark.browser
def test_equations_are_typeset_and_run_tables_unfold(
    page: tuple[Page, list[str]], site: str
) -> None:
    opened, _ = page
    opened.goto(f"{site}/notebooks/experiments.html", wait_until="load")
    opened.wait_for_selector("mjx-container")
    table = opened.locator("details:has(table) table").first
    assert not table.is_visible()
    opened.get_by_text("runs behind this figure").first.click()
    assert table.is_visible()
    assert "relu_2_2" in table.inner_text()
