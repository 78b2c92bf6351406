"""The book from end to end: parameters in, pages out, and nothing lost when something fails."""

import os
import re
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Page
from styleinv_book.build import _brought_in, _kept, _shared_digest, build_book, read_parameters

from styleinv import LAYERS, InputError
from tests.conftest import SMALL


def test_shows_the_readers_styles(built: Path) -> None:
    text = (built / "notebooks/experiments.html").read_text()
    assert "my $5^^$ painting" in text
    assert "coffee: Rachel Michetti" in text
    assert "32 x 32 pixels" in text


def test_figures_are_numbered_as_in_the_chapter(built: Path) -> None:
    numbers = {
        "inverting": ["1.1"],
        "style_loss": ["1.2"],
        "experiments": ["1.3", "1.4", "1.5", "1.6", "1.7"],
        "more_examples": ["A.1", "A.2", "A.3"],
    }
    for page, figures in numbers.items():
        soup = BeautifulSoup((built / f"notebooks/{page}.html").read_text(), "html.parser")
        captions = [caption.get_text(strip=True) for caption in soup.find_all("figcaption")]
        found = [caption.split()[1].rstrip(".") for caption in captions if caption[:6] == "Figure"]
        assert found == figures


def test_figures_keep_the_chapters_rows_and_columns(built: Path) -> None:
    """Reference and this build: layers down, the style and its losses across; both in tabs."""
    soup = BeautifulSoup((built / "notebooks/more_examples.html").read_text(), "html.parser")
    tables = soup.select("#figure-a-1 table.pictures, #figure-A-1 table.pictures")
    shown = [
        (
            [cell.get_text() for cell in table.select("thead th")],
            [cell.get_text() for cell in table.select("tbody th")],
        )
        for table in tables
    ]
    losses = ["style", "Gram", "N = 1", "N = 2", "N = 3", "N = 4"]
    assert shown == [(losses, list(LAYERS)), (losses, SMALL["layers"])]
    labels = [label.get_text() for label in soup.select("#figure-A-1 label")]
    assert labels == ["Reference runs", "This build"]


def test_figures_tell_what_made_them(built: Path) -> None:
    soup = BeautifulSoup((built / "notebooks/experiments.html").read_text(), "html.parser")
    reference, build = (x.get_text(" ") for x in soup.select("#figure-1-3 .provenance"))
    assert "vgg19_normalised_relu_2_2" in reference
    assert "256 x 256 pixels" in reference
    assert "encoder bundled" in build
    assert "32 x 32 pixels" in build
    facts = ("sha256", "protocol fast", "seed 0", "12 evaluations", "final loss", "stopped by")
    for fact in (*facts, "device cpu", "torch", "styleinv"):
        assert fact in build
    for page in (built / "notebooks").glob("*.html"):
        assert "_downloads/" in page.read_text() or page.stem in ("viewer", "provenance")


def test_reference_pictures_lead_to_their_state_in_the_viewer(built: Path) -> None:
    soup = BeautifulSoup((built / "notebooks/experiments.html").read_text(), "html.parser")
    link = soup.select_one("#figure-1-3 table.pictures a")
    assert link is not None
    path, state = str(link["href"]).split("#")
    assert (built / "notebooks" / path).is_file()
    assert parse_qs(state)["layer"] == ["relu_1_1"]


def test_numbers_in_prose_come_from_the_runs(built: Path) -> None:
    """Of 2 styles, 2 layers and 4 losses, 16 moment inversions; 4 of them with N = 4."""
    text = _text(built / "notebooks/experiments.html")
    assert re.search(r"in this build it was \d+ of 16, and \d of 4\.", text)


@pytest.fixture
def own_styles(built: Path, project: Path) -> list[str]:
    """The styles that `built` was built over."""
    return [*map(str, (project / "_build/inputs").glob("*/*")), "skimage:coffee"]


def test_the_second_build_runs_nothing_again(
    built: Path, project: Path, own_styles: list[str]
) -> None:
    """Until something that a notebook depends on changes."""
    kept = sorted((project / "_build/executed").iterdir())
    assert len(kept) == len(list((project / "notebooks").glob("*.md")))
    log = StringIO()
    with redirect_stderr(log):
        build_book(project, {**SMALL, "styles": own_styles})
    assert log.getvalue().count("kept from the last build") == len(kept)
    assert sorted((project / "_build/executed").iterdir()) == kept


def _text(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page.read_text()))


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"colour": "red"}, "parameter 'colour' is unknown; known are: adam_iterations, device"),
        ({"seeds": "0,one"}, "parameter 'seeds' is 'one', but must be a whole number"),
        ({"seeds": []}, "parameter 'seeds' is empty, but must name at least one"),
        ({"styles": "a.jpg,,b.jpg"}, "parameter 'styles' is '', but must be a text"),
        ({"size": "big"}, "parameter 'size' is 'big', but must be a whole number"),
        ({"size": True}, "parameter 'size' is True, but must be a whole number"),
        ({"styles": "_config.yml"}, "'_config.yml' is in no format that can be read"),
        ({"styles": "absent.jpg"}, "image 'absent.jpg' is not an existing file"),
        ({**SMALL, "layers": ["relu_9_9"]}, r"\w+.md, cell In \[\d+\]: .*layers? is 'relu_9_9'"),
        ({**SMALL, "protocol": "slow"}, "protocol is 'slow'"),
    ],
)
def test_a_failure_leaves_the_last_good_book(
    built: Path, project: Path, parameters: dict[str, object], match: str
) -> None:
    before = (built / "index.html").stat().st_mtime_ns
    environment = dict(os.environ)
    with pytest.raises(InputError, match=match):
        build_book(project, parameters)
    assert (built / "index.html").stat().st_mtime_ns == before
    assert dict(os.environ) == environment


def test_a_page_with_a_warning_is_an_error(
    built: Path, project: Path, own_styles: list[str]
) -> None:
    intro = project / "book" / "intro.md"
    good = intro.read_text()
    intro.write_text(good + "\n{doc}`nowhere`\n")
    try:
        with pytest.raises(
            InputError, match=r"do not render without a warning \(book/intro.md:.*nowhere"
        ):
            build_book(project, {**SMALL, "styles": own_styles})
    finally:
        intro.write_text(good)
    assert (built / "index.html").exists()


def test_texts_are_taken_as_they_are(tmp_path: Path) -> None:
    """A file may be named as no YAML value could be."""
    assert read_parameters(["styles=[a] #1.jpg,@b: c.png"], None) == {
        "styles": "[a] #1.jpg,@b: c.png"
    }


def test_an_executed_notebook_is_kept_until_what_it_depends_on_changes(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "results/runs").mkdir(parents=True)
    source, result = tmp_path / "notebooks/one.md", tmp_path / "results/runs/a.json"
    source.write_text("one")
    result.write_text("one")
    names = [_kept(source, {"size": 32}, _shared_digest(tmp_path))]
    assert names == [_kept(source, {"size": 32}, _shared_digest(tmp_path))]
    names.append(_kept(source, {"size": 48}, _shared_digest(tmp_path)))
    result.write_text("two")
    names.append(_kept(source, {"size": 32}, _shared_digest(tmp_path)))
    result.rename(tmp_path / "results/a.json")
    names.append(_kept(source, {"size": 32}, _shared_digest(tmp_path)))
    source.write_text("two")
    names.append(_kept(source, {"size": 32}, _shared_digest(tmp_path)))
    assert len(set(names)) == 5


def test_a_readers_file_keeps_its_name(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        (tmp_path / "my file.png").write_bytes(content)
        named = _brought_in(str(tmp_path / "my file.png"), tmp_path)
        assert (tmp_path / "notebooks" / named).resolve().read_bytes() == content
        assert named.endswith("/my file.png")
    assert _brought_in("bundled:strokes", tmp_path) == "bundled:strokes"


def test_parameters_from_file_and_command_line(tmp_path: Path) -> None:
    file = tmp_path / "parameters.yml"
    file.write_text("size: 48\nstyles: [a.jpg, b.png]\n")
    assert read_parameters(["size=64", "encoder=random"], file) == {
        "size": "64",
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


@pytest.mark.browser
def test_run_tables_unfold(page: tuple[Page, list[str]], site: str) -> None:
    opened, _ = page
    opened.goto(f"{site}/notebooks/experiments.html", wait_until="load")
    table = opened.locator("details:has(table) table").first
    assert not table.is_visible()
    opened.get_by_text("runs behind this figure").first.click()
    assert table.is_visible()
    assert "relu_2_2" in table.inner_text()


@pytest.mark.browser
def test_tabs_switch_by_mouse_and_keyboard(page: tuple[Page, list[str]], site: str) -> None:
    opened, _ = page
    opened.goto(f"{site}/notebooks/experiments.html", wait_until="load")
    figure = opened.locator("#figure-1-3")
    reference, build = (figure.locator(".panel").nth(i) for i in (0, 1))
    assert (reference.is_visible(), build.is_visible()) == (True, False)
    figure.get_by_text("This build").click()
    assert (reference.is_visible(), build.is_visible()) == (False, True)
    opened.keyboard.press("ArrowLeft")
    assert (reference.is_visible(), build.is_visible()) == (True, False)
