"""Figures from run records: what they show, say and link to."""

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from styleinv_book import figures
from styleinv_book.figures import Album, Picture
from styleinv_book.viewer import link_to

from styleinv.encoder import Encoder
from styleinv.inversion import RESULTS_VERSION
from styleinv.runs.reference import make_reference_runs
from styleinv.runs.sweeps import sweep
from tests.test_reference import write_reference

STYLES = ["bundled:strokes", "skimage:coffee"]
LAYERS = ["relu_1_1", "relu_2_1"]
LOSSES = ["gram", "moment-2"]


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory, bundled: Encoder) -> Album:
    folder = tmp_path_factory.mktemp("runs")
    asked = {"layers": LAYERS, "losses": LOSSES, "encoder": bundled, "size": 16, "iterations": 3}
    return Album(sweep(STYLES, folder=folder, **asked))


def soup(content: str) -> BeautifulSoup:
    assert "\n\n" not in content  # where Markdown would end the HTML
    return BeautifulSoup(content, "html.parser")


def texts(content: str, selector: str) -> list[str]:
    return [found.get_text() for found in soup(content).select(selector)]


def test_by_style_has_the_style_on_top_and_a_row_per_layer(album: Album) -> None:
    panel = album.by_style("gram")
    assert panel is not None
    assert texts(panel.content, "thead th") == ["strokes", "coffee"]
    assert texts(panel.content, "tbody th") == ["style", *LAYERS]
    alts = [str(img["alt"]) for img in soup(panel.content).find_all("img")]
    assert alts[:3] == [
        "strokes: the style image",
        "coffee: the style image",
        "strokes: inversion of Gram at relu_1_1, protocol fast, encoder bundled, seed 0",
    ]
    assert len(panel.runs) == 4


def test_by_loss_has_a_row_per_layer_and_a_column_per_loss(album: Album) -> None:
    panel = album.by_loss(1, ["gram", "moment-2", "moment-4"])
    assert panel is not None
    assert texts(panel.content, "thead th") == ["style", "Gram", "N = 2"]
    assert texts(panel.content, "tbody th") == LAYERS
    assert {run.record.source for run in panel.runs} == {"skimage:coffee"}


def test_what_was_not_run_has_no_tab(album: Album) -> None:
    assert album.by_style("mmd") is None
    assert album.by_loss(2, LOSSES) is None
    shown = figures.figure("one", "<em>Caption</em>", album.by_style("mmd"), album.by_style("gram"))
    assert texts(shown, "label") == ["This build"]
    assert texts(shown, "figcaption em") == ["Caption"]
    assert texts(shown, "summary") == ["The 4 runs behind this figure"]
    assert len(soup(shown).select(".panel tbody tr")) == 3 + 4


def test_styles_of_one_short_name_stay_apart(album: Album) -> None:
    runs = {("skimage:strokes", layer, loss): run for (_, layer, loss), run in album.runs.items()}
    both = Album({**album.runs, **runs})
    assert both.labels() == {
        "bundled:strokes": "bundled:strokes",
        "skimage:coffee": "coffee",
        "skimage:strokes": "skimage:strokes",
    }


@pytest.mark.parametrize(
    ("width", "columns", "shown"), [(16, 1, 256), (64, 3, 192), (96, 6, 96), (256, 6, 256)]
)
def test_small_pictures_are_enlarged_to_whole_multiples(
    width: int, columns: int, shown: int
) -> None:
    picture = Picture("x.png", "x", width, width)
    table = soup(figures.picture_table([[picture] * columns], ["row"], ["column"] * columns))
    assert {int(str(img["width"])) for img in table.find_all("img")} == {shown}


def test_embedded_pictures_are_the_runs_pixels(album: Album) -> None:
    key = (STYLES[0], LAYERS[0], "gram")
    data = album.picture(key).source.removeprefix("data:image/png;base64,")
    with Image.open(BytesIO(base64.b64decode(data))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), album.runs[key].image)


def test_reference_pictures_are_linked_and_lead_to_the_viewer(
    tmp_path: Path, bundled: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"styles": STYLES[:1], "losses": ["gram"], "size": 16, "iterations": [2]}
    make_reference_runs(write_reference(tmp_path, bundled.sha256, {"few": fields}), "bundled")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    reference = figures.reference("few", "..", seed=0, iterations=2)
    assert reference.title == "Reference runs"
    key = next(iter(reference.runs))
    picture, style = reference.picture(key), reference.picture(key[0])
    assert Path(picture.source).is_file()
    assert Path(style.source).is_file()
    assert picture.link == f"../notebooks/viewer.html{link_to(reference.runs[key].record)}"
    shown = soup(figures.picture_table([[picture, style]], ["row"], ["one", "other"]))
    assert [str(link["href"]) for link in shown.find_all("a")] == [picture.link]


def test_provenance_names_every_fact_and_the_span(album: Album) -> None:
    text = soup(figures.provenance(list(album.runs.values()))).get_text()
    run = next(iter(album.runs.values())).record
    losses = [run.record.result.loss for run in album.runs.values()]
    for fact in (
        f"encoder bundled (sha256 {run.asked.encoder_sha256[:12]})",
        "16 x 16 pixels",
        "protocol fast (l-bfgs; theta 1e-05; budget 3 evaluations)",
        "seed 0",
        "3 evaluations",
        f"final loss {min(losses):.2g} to {max(losses):.2g}",
        "stopped by budget (8)",
        f"results version {RESULTS_VERSION}",
    ):
        assert fact in text


def test_photographs_are_credited(album: Album) -> None:
    assert "coffee: Rachel Michetti" in figures.credit_line(album.styles)
    assert figures.credit_line(["bundled:strokes", "mine.jpg"]) == ""


def test_names_are_text_not_html() -> None:
    name = 'a & <i>"b"</i>'
    assert texts(figures.html_table(["<b>"], [[name, 1]]), "td") == [name, "1"]
    shown = soup(figures.picture_table([[Picture(name, name, 1, 1)]], [name], [name]))
    assert [cell.get_text() for cell in shown.find_all("th")] == [name, name]
    assert [(img["src"], img["alt"]) for img in shown.find_all("img")] == [(name, name)]


def test_the_same_plot_gives_the_same_svg(album: Album) -> None:
    runs = {loss: album.runs[STYLES[0], LAYERS[0], loss] for loss in LOSSES}
    first, second = (figures.as_html(figures.curves(runs), "Curves") for _ in range(2))
    assert first == second
    assert 'alt="Curves"' in first
