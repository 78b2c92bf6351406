"""The player, the editor of feature maps and the questions: what they show, in a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axe_playwright_python.base import AXE_SCRIPT
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page
from styleinv_book import figures, interactive
from styleinv_book.figures import Picture

from styleinv import InputError
from styleinv.encoder import Encoder
from styleinv.losses import GramLoss, MMDLoss, MomentLoss
from styleinv.runs.sweeps import sweep
from tests.conftest import ROOT, refuse_others

STOPS = (1, 2, 9)
STYLE = np.array([[[5, 1], [0, 0], [0, 0]], [[5, 3], [3, 0], [0, 1]]])
NOISE = np.array([[[1, 2], [2, 1], [0, 0]], [[0, 1], [2, 1], [2, 0]]])
STYLE_SHEETS, SCRIPTS = ("styleinv.css", "interactive.css"), ("styleinv.js", "interactive.js")


def picture(grey: int) -> Picture:
    return figures.embedded(np.full((16, 16), grey, np.uint8), f"made by {grey}")


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory, bundled: Encoder) -> figures.Panel:
    """Two losses, each stopped at `STOPS`, with a player."""
    folder = tmp_path_factory.mktemp("runs")
    asked: dict[str, Any] = {"layers": ["relu_1_1"], "encoder": bundled, "size": 16}
    albums = {
        stop: figures.Album(
            sweep(
                ["bundled:strokes"],
                folder=folder,
                losses=["gram", "moment-2"],
                iterations=stop,
                **asked,
            )
        )
        for stop in STOPS
    }
    cells: figures.Cells = {
        loss: {
            str(stop): (album, ("bundled:strokes", "relu_1_1", loss))
            for stop, album in albums.items()
        }
        for loss in ("gram", "moment-2")
    }
    return interactive.played(figures.panel(cells), STOPS)


QUESTION = interactive.prediction(
    "guess", "Which?", picture(0), {f"N = {n}": picture(40 * n) for n in (2, 1, 3)}, "N = 1", "So."
)


def in_style(name: str) -> str:
    return (ROOT / "book/style" / name).read_text()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, panel: figures.Panel) -> str:
    """A file with all three, and the style sheet and the script of the book."""
    file: Path = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Interaction</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f"<style>{''.join(map(in_style, STYLE_SHEETS))}</style>"
        f"<main><h1>Interaction</h1><div>{panel.content}</div>"
        f"{interactive.toy_maps(STYLE, NOISE)}{QUESTION}</main>"
        f"<script>{''.join(map(in_style, SCRIPTS))}</script>"
    )
    return file.as_uri()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page on a phone; it asks nobody for anything and throws nothing."""
    with browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True) as context:
        opened = context.new_page()
        errors: list[str] = []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        refused = refuse_others(opened, address)
        opened.goto(address)
        yield opened
        assert errors == refused == []


def losses_of(panel: figures.Panel) -> list[list[float]]:
    values = [run.record.result.loss for run in panel.runs]
    return [values[: len(STOPS)], values[len(STOPS) :]]


def shown(page: Page) -> tuple[str, list[float]]:
    """The slider's value as it is read out, and the losses below the pictures."""
    said = page.locator(".player input").get_attribute("aria-valuetext")
    texts = page.locator(".player-loss").all_inner_texts()
    assert said is not None
    assert [text for text in texts if text not in said] == []
    return said.partition(";")[0], [float(text.removeprefix("loss ")) for text in texts]


@pytest.mark.browser
def test_player_goes_through_the_figures_own_pictures(page: Page, panel: figures.Panel) -> None:
    sources = [
        [image["src"] for image in row.select("img")]
        for row in BeautifulSoup(panel.content, "html.parser").select("tbody tr")
    ]
    slider = page.locator(".player input")
    slider.focus()
    for key, stop in (("End", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        plural = "" if STOPS[stop] == 1 else "s"
        assert shown(page)[0] == f"{STOPS[stop]} evaluation{plural}"
        losses = [row[stop] for row in losses_of(panel)]
        assert shown(page)[1] == pytest.approx(losses, rel=0.05)
        visible = page.locator(".player-frames img:visible")
        found = [image.get_attribute("src") for image in visible.all()]
        assert found == [row[stop] for row in sources]
        assert page.locator("table.pictures img.played").count() == len(sources)


@pytest.mark.browser
def test_player_snaps_to_a_stop_where_it_is_tapped(page: Page) -> None:
    """On a log scale, the second of 1, 2 and 9 evaluations is at 0.32."""
    slider = page.locator(".player input")
    box = slider.bounding_box()
    assert box is not None
    for share, expected in ((0.02, "1 evaluation"), (0.4, "2 evaluations"), (0.9, "9 evaluations")):
        slider.tap(position={"x": share * box["width"], "y": box["height"] / 2})
        assert shown(page)[0] == expected


@pytest.mark.browser
def test_player_plays_only_when_asked_and_stops_at_the_end(page: Page) -> None:
    page.clock.install()
    page.reload()
    page.clock.run_for(10_000)
    assert shown(page)[0] == "9 evaluations"
    button = page.get_by_role("button", name="Play")
    button.click()
    assert shown(page)[0] == "1 evaluation"
    page.get_by_role("button", name="Pause").click()
    page.clock.run_for(10_000)
    assert shown(page)[0] == "1 evaluation"
    button.click()
    page.clock.run_for(10_000)
    assert shown(page)[0] == "9 evaluations"
    assert button.is_visible()


def maps_of(page: Page) -> tuple[np.ndarray, np.ndarray]:
    """The style's and the noise's maps as the page shows them."""
    texts = page.locator(".toy-pair span").all_inner_texts()
    style, noise = np.array(texts, dtype=float).reshape(2, *STYLE.shape)
    return style, noise


def numbers_of(page: Page) -> dict[str, float]:
    cells = page.locator(".toy [data-of]")
    found = cells.evaluate_all("cells => cells.map(c => [c.dataset.of, c.dataset.value])")
    return {name: float(value) for name, value in found}


def expected(style: np.ndarray, noise: np.ndarray) -> dict[str, float]:
    """The same by styleinv's losses, and by NumPy."""
    s, n = (torch.tensor(maps)[None].double() for maps in (style, noise))
    found = {"gram": GramLoss(s)(n), "mmd": MMDLoss(s)(n)}
    found |= {f"moment-{order}": MomentLoss(s, order)(n) for order in (1, 2, 3, 4)}
    for name, maps in (("s", style), ("n", noise)):
        rows = maps.reshape(len(maps), -1)
        gram = rows @ rows.T
        found |= {f"G {name} {i} {j}": gram[i, j] for i, j in ((0, 0), (0, 1), (1, 1))}
        for j, row in enumerate(rows):
            deviation = np.sqrt(row.var(ddof=1) + 1e-5)
            z = (row - row.mean()) / deviation
            moments = (row.mean(), deviation, (z**3).mean(), (z**4).mean())
            found |= {f"M {name} {i} {j}": value for i, value in enumerate(moments)}
    (x, x2), (y, y2) = ((maps[..., 0], maps[..., 1]) for maps in (style, noise))
    k = [np.exp(-((a - b) ** 2) / 10) for a, b in ((x, x2), (y, y2), (x, y2), (x2, y))]
    for (j, row), value in np.ndenumerate(k[0] + k[1] - k[2] - k[3]):
        found[f"h {j} {row}"] = value
    return {name: float(value) for name, value in found.items()}


def set_by_keys(page: Page, label: str, key: str, times: int = 1) -> None:
    page.get_by_label(label).focus()
    for _ in range(times):
        page.keyboard.press(key)


@pytest.mark.browser
def test_numbers_of_edited_maps_are_those_of_styleinv(page: Page) -> None:
    np.testing.assert_array_equal(maps_of(page), (STYLE, NOISE))
    assert numbers_of(page) == pytest.approx(expected(STYLE, NOISE), rel=1e-12, abs=1e-12)

    set_by_keys(page, "F1 of the noise, row 1, column 2", "ArrowRight", 5)
    edited = NOISE.copy()
    edited[0, 0, 1] = 7
    np.testing.assert_array_equal(maps_of(page), (STYLE, edited))
    assert numbers_of(page) == pytest.approx(expected(STYLE, edited), rel=1e-12, abs=1e-12)

    # One high position among low ones less: negative skewness, which needs the rule for psi.
    style = STYLE.copy()
    for j in (1, 2):
        for row in (1, 2, 3):
            for column in (1, 2):
                value = 0 if (row, column) == (2, 1) else 9 - j
                set_by_keys(page, f"F{j} of the style, row {row}, column {column}", str(value))
                style[j - 1, row - 1, column - 1] = value
    np.testing.assert_array_equal(maps_of(page), (style, edited))
    found = numbers_of(page)
    assert found["M s 2 0"] < -1
    assert found == pytest.approx(expected(style, edited), rel=1e-12, abs=1e-12)

    # A map that is the same everywhere has no deviation but the floor's.
    for row in (1, 2, 3):
        for column in (1, 2):
            set_by_keys(page, f"F2 of the noise, row {row}, column {column}", "0")
    edited[1] = 0
    assert numbers_of(page) == pytest.approx(expected(style, edited), rel=1e-12, abs=1e-12)


@pytest.mark.browser
def test_shuffled_places_change_the_mmd_alone(page: Page) -> None:
    before = numbers_of(page)
    page.get_by_role("button", name="Shuffle together").click()
    after = numbers_of(page)
    _, noise = maps_of(page)
    assert not np.array_equal(noise, NOISE)
    vectors = [sorted(map(tuple, maps.reshape(2, -1).T.tolist())) for maps in (noise, NOISE)]
    assert vectors[0] == vectors[1]
    kept = [name for name in before if not name.startswith(("h ", "mmd"))]
    assert {x: after[x] for x in kept} == pytest.approx({x: before[x] for x in kept})
    assert page.locator(".toy-said").inner_text() in (
        "Changed: MMD. The same: Gram matrix, moments.",
        "The same: Gram matrix, moments, MMD.",  # places may be exchanged within a pair
    )


@pytest.mark.browser
def test_maps_shuffled_apart_keep_their_moments(page: Page) -> None:
    before = numbers_of(page)
    page.get_by_role("button", name="Shuffle apart").click()
    after = numbers_of(page)
    style, noise = maps_of(page)
    assert not np.array_equal(noise, NOISE)
    np.testing.assert_array_equal(
        np.sort(noise.reshape(2, -1), axis=1), np.sort(NOISE.reshape(2, -1), axis=1)
    )
    kept = [name for name in before if name.startswith(("M ", "moment-"))]
    assert {x: after[x] for x in kept} == pytest.approx({x: before[x] for x in kept})
    assert after == pytest.approx(expected(style, noise), rel=1e-12, abs=1e-12)


@pytest.mark.browser
def test_what_changed_is_marked_and_said(page: Page) -> None:
    said, changed = page.locator(".toy-said"), page.locator(".toy .changed")
    assert (said.inner_text(), changed.count()) == ("", 0)
    # As long as one value is moved, changes count from where it was.
    set_by_keys(page, "F1 of the noise, row 1, column 1", "ArrowRight", 2)
    names = set(changed.evaluate_all("cells => cells.map(c => c.dataset.of)"))
    assert said.inner_text() == "Changed: Gram matrix, moments, MMD."
    assert {"G n 0 0", "M n 0 0", "h 0 0", "gram", "moment-1", "mmd"} <= names
    assert {"G s 0 0", "G n 1 1", "M n 0 1", "M s 0 0", "h 0 1", "h 1 0"}.isdisjoint(names)
    set_by_keys(page, "F1 of the noise, row 1, column 1", "ArrowLeft", 2)
    assert said.inner_text() == "The same: Gram matrix, moments, MMD."

    page.get_by_role("button", name="Noise = style").click()
    np.testing.assert_array_equal(maps_of(page), (STYLE, STYLE))
    losses = ("gram", "moment-1", "moment-2", "moment-3", "moment-4", "mmd")
    assert {numbers_of(page)[name] for name in losses} == {0}
    page.get_by_role("button", name="Reset").click()
    np.testing.assert_array_equal(maps_of(page), (STYLE, NOISE))


@pytest.mark.browser
def test_a_value_is_dragged(page: Page) -> None:
    cell = page.get_by_label("F2 of the noise, row 3, column 2")
    cell.scroll_into_view_if_needed()
    box = cell.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 4, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 1, middle, steps=5)
    page.mouse.up()
    edited = NOISE.copy()
    edited[1, 2, 1] = 9
    np.testing.assert_array_equal(maps_of(page), (STYLE, edited))


@pytest.mark.browser
@pytest.mark.parametrize("scripts", [True, False])
def test_a_question_is_answered_when_its_fold_opens(
    browser: Browser, address: str, scripts: bool
) -> None:
    """By keyboard alone, and without a script."""
    with browser.new_context(java_script_enabled=scripts) as context:
        page = context.new_page()
        page.goto(address)
        revealed = page.locator(".revealed:visible")
        texts = page.locator(".prediction .hit:visible, .prediction .miss:visible")
        page.locator(".prediction input").first.focus()
        page.keyboard.press("Space")
        assert (revealed.count(), texts.count()) == (0, 0)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.get_by_text("So.").is_visible()
        assert revealed.all_inner_texts() == [": N = 2", ": N = 1", ": N = 3"]
        assert texts.all_inner_texts() == ["You picked another one."]
        page.locator("input[value=B]").check()
        assert texts.all_inner_texts() == ["You picked it."]


def test_a_question_does_not_give_its_answer_away() -> None:
    soup = BeautifulSoup(QUESTION, "html.parser")
    alts = [image["alt"] for image in soup.select("label img")]
    assert alts == ["picture A", "picture B", "picture C"]
    assert soup.select("label a") == []
    assert soup.select_one("details p strong").get_text() == "B."  # type: ignore[union-attr]


@pytest.mark.browser
def test_without_a_script_the_figure_stays_and_nothing_dead_shows(
    browser: Browser, address: str
) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(address)
        assert page.locator("table.pictures img:visible").count() == 2 * len(STOPS)
        assert not page.locator(".player, .toy").first.is_visible()
        assert page.locator("button:visible, input[type=range]:visible").count() == 0


@pytest.mark.browser
@pytest.mark.parametrize("open_folds", [False, True])
def test_it_fits_a_phone_and_axe_finds_nothing(page: Page, open_folds: bool) -> None:
    if open_folds:
        page.get_by_text("Answer").click()
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)"
    )
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_bad_input_is_refused(panel: figures.Panel) -> None:
    with pytest.raises(InputError, match=r"6 runs, but must have one for each of the stops"):
        interactive.played(panel, [1, 2, 3, 4])
    with pytest.raises(InputError, match=r"noise has shape \(2, 2, 2\)"):
        interactive.toy_maps(STYLE, NOISE[:, 1:])
    with pytest.raises(InputError, match=r"style must hold whole numbers from 0 to 9"):
        interactive.toy_maps(2 * STYLE, NOISE)
    with pytest.raises(InputError, match=r"right is 'N = 3', but must be one of N = 1, N = 2"):
        interactive.prediction(
            "guess", "Which?", picture(0), {f"N = {n}": picture(n) for n in (1, 2)}, "N = 3", ""
        )
