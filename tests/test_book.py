"""The book from end to end: parameters in, pages out, and nothing lost when something fails."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page

from styleinv import InputError
from styleinv.book import build_book, read_parameters

SMALL = {"size": 32, "layers": ["relu_1_1", "relu_2_2"]}


def test_shows_the_readers_styles(built: Path) -> None:
    text = (built / "notebooks/experiments.html").read_text()
    assert "my $5^^$ painting" in text
    assert "coffee: Rachel Michetti" in text
    assert "32 x 32 pixels" in text


def test_figures_have_caption_and_provenance(built: Path) -> None:
    text = (built / "notebooks/experiments.html").read_text()
    for number in ("1.3", "1.4"):
        assert f"Figure {number}. " in text
    captions, provenances = text.count("<figcaption>"), text.count("<strong>Provenance:</strong>")
    assert captions == provenances == 3
    for fact in ("encoder bundled", "protocol fast", "seed 0", "iterations", "device cpu"):
        assert text.count(fact) >= 2


def test_numbers_in_prose_come_from_the_runs(built: Path) -> None:
    """2 styles, 2 layers, 5 losses: 20 inversions on this page, said on the first one too."""
    assert "20 inversions passed" in _text(built / "notebooks/experiments.html")
    assert "20 inversions while this book was built" in _text(built / "book/intro.html")


def _text(page: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", page.read_text()))


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


@pytest.mark.browser
def test_run_tables_unfold(page: tuple[Page, list[str]], site: str) -> None:
    opened, _ = page
    opened.goto(f"{site}/notebooks/experiments.html", wait_until="load")
    table = opened.locator("details:has(table) table").first
    assert not table.is_visible()
    opened.get_by_text("runs behind this figure").first.click()
    assert table.is_visible()
    assert "relu_2_2" in table.inner_text()
