"""Figures from run records: what they show, say and link to."""

import base64
import dataclasses
import re
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup
from PIL import Image
from styleinv_book import figures
from styleinv_book.ablation import KNOWN
from styleinv_book.figures import Album, Panel, Picture
from styleinv_book.viewer import link_to

from styleinv import InputError, losses
from styleinv.encoder import Encoder
from styleinv.inversion import RESULTS_VERSION
from styleinv.live.labels import COLOURS, TITLES
from styleinv.protocol import PROTOCOLS, told_beyond
from styleinv.runs.record import WarmupStage
from styleinv.runs.reference import make_reference_runs
from styleinv.runs.store import Run
from styleinv.runs.sweeps import sweep

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


def labels(panel: Panel | None) -> tuple[list[str], list[str]]:
    """Of the columns and of the rows."""
    assert panel is not None
    return texts(panel.content, "thead th"), texts(panel.content, "tbody th")


def test_by_style_has_the_style_on_top_and_a_row_per_layer(album: Album) -> None:
    assert labels(album.by_style("gram")) == (["strokes", "coffee"], ["style", *LAYERS])


def test_by_loss_has_a_row_per_layer_and_a_column_per_loss(album: Album) -> None:
    panel = album.by_loss(1, ["gram", "moment-2", "moment-4"])
    assert labels(panel) == (["style", "Gram", "N = 2"], LAYERS)


def test_a_picture_says_what_it_shows(album: Album) -> None:
    assert album.picture("bundled:strokes").alt == "strokes: the style image"
    assert album.picture(("skimage:coffee", "relu_2_1", "moment-2")).alt == (
        "coffee: inversion of N = 2 at relu_2_1, protocol fast, encoder bundled, seed 0"
    )


def test_what_was_not_run_has_no_tab(album: Album) -> None:
    tabs = album.by_style("mmd"), album.by_loss(2, LOSSES), album.by_style("gram")
    content = figures.figure("one", "<em>Caption</em>", *tabs)
    assert texts(content, "label") == ["This build"]
    assert texts(content, "figure > figcaption em") == ["Caption"]
    assert texts(content, "summary") == ["How this was made: runs, files, notebook"]
    assert len(texts(content, ".panel tbody tr")) == 3 + 4


def test_styles_of_one_short_name_stay_apart(album: Album) -> None:
    runs = {("skimage:strokes", *rest): run for (_, *rest), run in album.runs.items()}
    assert list(Album({**album.runs, **runs}).labels().values()) == [
        "bundled:strokes",
        "coffee",
        "skimage:strokes",
    ]
    # No folder is shown, and none of several files is lost.
    files = ["../_build/inputs/1/a.png", "../_build/inputs/2/a.png", "x/a.jpg", "x/<b>*$a$*.png"]
    runs = {(file, *key[1:]): run for file in files for key, run in album.runs.items()}
    shown = ["a.png", "a.png (2)", "a.jpg", "<b>*$a$*"]
    assert list(Album(runs).labels().values()) == shown
    cells = {"row": {label: (album, STYLES[0]) for label in Album(runs).labels().values()}}
    assert labels(figures.panel(cells)) == (shown, ["row"])


@pytest.mark.parametrize(
    ("width", "columns", "to", "is_wide"),
    [
        (16, 1, 256, False),
        (64, 4, 192, True),
        (64, 8, 128, True),
        (128, 7, 128, True),
        (256, 2, 256, False),
        (256, 3, 256, True),
        (256, 5, 128, False),
        (256, 7, 128, True),
        (768, 2, 128, False),
    ],
)
def test_pictures_are_shown_at_whole_multiples_or_parts(
    width: int, columns: int, to: int, is_wide: bool
) -> None:
    row = {str(i): Picture("x.png", "x", width, width) for i in range(columns)}
    table = soup(figures.picture_table({"row": row}))
    assert {str(img["width"]) for img in table.find_all("img")} == {str(to)}
    assert bool(table.select(".full-width")) == is_wide
    assert bool(table.select(".one-to-one")) == bool(table.select(".reduced")) == (to < width)


def test_embedded_pictures_are_the_runs_pixels(album: Album) -> None:
    key = (STYLES[0], LAYERS[0], "gram")
    data = album.picture(key).source.removeprefix("data:image/png;base64,")
    with Image.open(BytesIO(base64.b64decode(data))) as picture:
        np.testing.assert_array_equal(np.asarray(picture), album.runs[key].image)


def test_reference_pictures_are_linked_and_lead_to_the_viewer(
    tmp_path: Path, bundled: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {"styles": STYLES[:1], "losses": ["gram"], "size": 16, "iterations": [2]}
    file = tmp_path / "reference.yml"
    file.write_text(yaml.safe_dump({"encoder_sha256": bundled.sha256, "sweeps": {"few": fields}}))
    make_reference_runs(file, "bundled")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    reference = figures.reference("few", "..", seed=0, iterations=2)
    key, run = next(iter(reference.runs.items()))
    pictures = {"run": reference.picture(key), "style": reference.picture(key[0])}
    assert all(Path(picture.source).is_file() for picture in pictures.values())
    (link,) = soup(figures.picture_table({"row": pictures})).find_all("a")
    assert link["href"] == f"../notebooks/viewer.html{link_to(run.record)}"


def test_a_figure_says_what_made_its_runs_and_who_took_the_photographs(album: Album) -> None:
    panel = album.by_style("gram")
    assert panel is not None
    text = soup(panel.origin).get_text()
    records = [run.record for run in panel.runs]
    losses = [record.result.loss for record in records]
    for fact in (
        f"encoder bundled (sha256 {records[0].asked.encoder_sha256[:12]})",
        "16 x 16 pixels",
        "protocol fast (l-bfgs; theta 1e-05; budget 3 evaluations)",
        "seed 0",
        f"final loss {min(losses):.2g} to {max(losses):.2g}",
        "stopped by budget (4)",
        f"results version {RESULTS_VERSION}",
        "Photographs: coffee: Rachel Michetti",
    ):
        assert fact in text
    assert figures.credit_line(["bundled:strokes", "mine.jpg"]) == ""


def told(run: Run, *stages: str, loss: float = 0.0) -> Run:
    """The run, with other stages and another final loss in its record."""
    asked = run.record.asked
    warmups = tuple(WarmupStage(stage, 0.1, 0.1) for stage in stages)
    settings = msgspec.structs.replace(asked.protocol, warmups=warmups)
    record = msgspec.structs.replace(
        run.record,
        asked=msgspec.structs.replace(asked, protocol=settings),
        result=msgspec.structs.replace(run.record.result, loss=loss),
    )
    return dataclasses.replace(run, record=record)


def test_a_stronger_statistic_cannot_pass_for_n_moments(album: Album) -> None:
    """Whatever the protocol is called: the record's stages decide. A label may say it."""
    key = (STYLES[0], LAYERS[0], "moment-2")
    run = told(album.runs[key], "pre-activations", "moment-2 compressed")
    stronger = Album({key: run})
    with pytest.raises(InputError, match=r"cannot be shown as 'row / N = 2': .* told quantiles"):
        figures.panel({"row": {"N = 2": (stronger, key)}})
    with pytest.raises(InputError, match="quantiles"):
        figures.plot_panel(stronger, {"N = 2": run}, figures.curves({"N = 2": run}), "Curve")
    assert labels(stronger.by_loss(0, ["moment-2"]))[0] == ["style", "N = 2 + quantiles"]
    fair = Album({key: told(run, "moment-1", "moment-2 compressed")})
    assert labels(fair.by_loss(0, ["moment-2"]))[0] == ["style", "N = 2"]


@pytest.mark.parametrize(
    ("loss", "protocol", "expected"),
    [
        *((loss, name, ()) for loss in losses.LOSSES for name in PROTOCOLS if name != "quantiles"),
        ("moment-2", "quantiles", ()),
        ("moment-3", "quantiles", ("quantiles",)),
        ("moment-4", "quantiles", ("quantiles",)),
        ("moment-4", "n4-continued-compressed", ()),
        ("moment-4", "n4-all", ("quantiles",)),
        ("moment-4", "n4-behind-relu", ("quantiles",)),
        ("moment-4", "n4-shuffled", ("shuffled pixels",)),
        ("moment-3", ("moment-4 compressed",), ("moment-4 compressed",)),
        ("moment-4", ("gram whitened",), ("gram whitened",)),
        ("gram", ("moment-1",), ("moment-1",)),
    ],
)
def test_what_a_run_is_told_beyond_its_loss(
    loss: str, protocol: str | tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """Of the protocols for readers, only `quantiles` tells more, and only for N > 2."""
    noise, stages = "uniform", protocol
    if isinstance(protocol, str):
        known = KNOWN[protocol]
        noise, stages = known.noise, tuple(x.name for x in known.warmups_of(loss, "relu_1_1"))
    assert told_beyond(loss, noise, stages) == expected


def test_a_figure_says_what_its_runs_went_through(album: Album) -> None:
    key, other = ((STYLES[0], LAYERS[0], loss) for loss in ("gram", "moment-2"))
    runs = [album.runs[key], told(album.runs[other], "moment-1", "moment-2 compressed")]
    (said,) = texts(figures.paths(runs), ".path")
    assert said == (
        "Protocol fast, from uniform noise: Gram through Gram whitened; "
        "N = 2 through N = 1, then N = 2 compressed."
    )


@pytest.mark.parametrize(("loss", "said"), [(11.0, ["failed: loss 11"]), (9e-4, [])])
def test_failed_runs_are_marked(album: Album, loss: float, said: list[str]) -> None:
    """A hundred times theta is the bound; a cell without a run is left empty."""
    key = (STYLES[0], LAYERS[1], "moment-2")
    panel = Album({**album.runs, key: told(album.runs[key], loss=loss)}).by_loss(0, ["moment-2"])
    assert panel is not None
    assert [x for x in texts(panel.content, "td.failed") if x == "failed: loss 11"] == said
    runs = {other: run for other, run in album.runs.items() if other != key}
    panel = Album(runs).by_loss(0, LOSSES)
    assert panel is not None
    assert [len(row.find_all("img")) for row in soup(panel.content).select("tbody tr")] == [3, 2]


def test_a_change_is_the_difference_of_two_pictures(album: Album) -> None:
    before, after = ((STYLES[0], LAYERS[0], loss) for loss in LOSSES)
    data = album.change(before, after).source.removeprefix("data:image/png;base64,")
    with Image.open(BytesIO(base64.b64decode(data))) as picture:
        found = np.asarray(picture).astype(float)
    first, second = (album.runs[key].image.astype(float) for key in (before, after))
    np.testing.assert_allclose(found, np.clip(128 + (second - first).mean(2), 0, 255), atol=0.51)


def test_names_are_text_not_html() -> None:
    name = 'a & <i>"b"</i>'
    assert texts(figures.html_table(["<b>"], [[name, 1]]), "td") == [name, "1"]
    table = soup(figures.picture_table({name: {name: Picture(name, name, 1, 1)}}))
    assert [cell.get_text() for cell in table.find_all("th")] == [name, name]
    assert [(img["src"], img["alt"]) for img in table.find_all("img")] == [(name, name)]


def test_the_same_plot_gives_the_same_svg(album: Album) -> None:
    runs = {loss: album.runs[STYLES[0], LAYERS[0], loss] for loss in LOSSES}
    first, second = (figures.as_html(figures.curves(runs), "Curves") for _ in range(2))
    assert first == second
    (drawn,) = soup(first).find_all("svg")
    assert drawn["aria-label"] == "Curves"


def test_a_plot_has_no_ground_and_colours_that_a_page_can_change(album: Album) -> None:
    runs = {loss: album.runs[STYLES[0], LAYERS[0], loss] for loss in LOSSES}
    content = figures.as_html(figures.curves(runs), "Curves")
    colours = {colour for loss in LOSSES for colour in [COLOURS[loss], figures.INK]}
    for colour in colours:
        assert f"stroke: var(--plot-{colour[1:]}, {colour})" in content
    assert set(re.findall('#[0-9a-f]{6}(?=[;"])', content)) == set()  # all have a property
    (drawn,) = soup(content).find_all("svg")
    assert [path["style"] for path in drawn.select("[id$=patch_1] path, [id$=patch_2] path")] == [
        "fill: none",
        "fill: none",
    ]
    assert drawn.find("style") is None  # it would be for the whole page
    # What refers to an id finds it, and another plot has other ids.
    ids = {str(tag["id"]) for tag in drawn.select("[id]")}
    assert set(re.findall('(?:href="|url\\()#([^")]+)', content)) <= ids
    other = soup(figures.as_html(figures.curves(dict([*runs.items()][:1])), "Curve"))
    assert ids.isdisjoint(str(tag["id"]) for tag in other.select("[id]"))


def test_every_loss_has_a_title() -> None:
    assert list(TITLES) == list(losses.LOSSES)
