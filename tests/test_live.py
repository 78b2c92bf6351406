"""The live page in a browser: what a reader does with it, and what it says when that goes wrong."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from styleinv.images import to_uint8
from styleinv.live.choices import MOST_UPLOADS
from styleinv.live.recipe import read_recipe
from styleinv.runs import store
from tests.conftest import LivePage, refuse_others

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=120_000)  # for a busy machine
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def window(browser: "Browser", live: LivePage) -> Iterator["Page"]:
    """A window that must end without an error in its console or a question to another host."""
    with browser.new_context() as context:
        context.set_default_timeout(120_000)
        opened = context.new_page()
        problems = refuse_others(opened, live.origin)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("console", lambda said: said.type == "error" and problems.append(said.text))
        opened.goto(live.address)
        yield opened
        assert problems == []


@pytest.fixture
def page(window: "Page") -> Iterator["Page"]:
    """The page with nothing running, small pictures and an optimiser that takes its time."""
    expect(button(window, "Start")).to_be_enabled()
    window.set_viewport_size({"width": 1280, "height": 900})
    for choice in ("One run", "relu_1_1", "Gram"):
        pick(window, choice)
    window.get_by_label("Size in pixels").fill("32")
    window.get_by_label("Optimiser").select_option("chapter")
    window.get_by_label("Encoder").select_option("bundled")
    yield window
    for name in ("Stop", "Reset"):
        if button(window, name).is_enabled():
            button(window, name).click()
        expect(button(window, name)).to_be_disabled()


def pick(page: "Page", name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).check(force=True)


def button(page: "Page", name: str) -> "Locator":
    return page.get_by_role("button", name=name, exact=True)


def picture(page: "Page") -> "Locator":
    return page.get_by_role("img", name=re.compile("^Inversion of"))


def number(page: "Page", name: str) -> "Locator":
    return page.get_by_role("row", name=re.compile(f"^{name} ")).locator("td").first


def expect_message(page: "Page", text: str) -> None:
    expect(page.get_by_role("status")).to_have_text(re.compile(text))


def bring_too_many(page: "Page", folder: Path) -> None:
    """Of two more own images than are kept, the first two go; then the oldest is chosen."""
    for i in range(MOST_UPLOADS + 2):
        own = folder / f"own{i}.png"
        Image.new("RGB", (16, 16), (10 * i, 0, 0)).save(own)
        page.locator("input[type=file]").first.set_input_files(own)
        expect(page.get_by_role("radio", name=f"own{i}", exact=True)).to_be_checked()
    expect(page.get_by_role("radio", name=re.compile(r"^own\d+$"))).to_have_count(MOST_UPLOADS)
    for gone in ("own0", "own1"):
        expect(page.get_by_role("radio", name=gone, exact=True)).to_have_count(0)
    pick(page, "own2")


def test_the_oldest_of_many_own_images_goes(page: "Page", tmp_path: Path) -> None:
    bring_too_many(page, tmp_path)
    button(page, "Start").click()
    expect(page.get_by_text(re.compile("^own2 · encoder bundled"))).to_be_visible()


def test_an_own_image_from_upload_to_download(page: "Page", live: LivePage, tmp_path: Path) -> None:
    path = tmp_path / "a painting.png"
    noise = np.random.default_rng(0).integers(0, 256, (1700, 1700, 3), dtype="uint8")
    Image.fromarray(noise).save(path)
    assert path.stat().st_size > 2**23  # more than one piece
    page.locator("input[type=file]").set_input_files(path)
    expect(page.get_by_role("radio", name="a painting")).to_be_checked()
    button(page, "Start").click()
    expect(page.get_by_alt_text("a painting: relu_1_1, Gram, running")).to_be_visible()
    shown = ((picture(page), "src"), (page.locator(".viewer-curve path"), "d"))
    for element, name in shown:
        expect(element).not_to_have_attribute(name, str(element.get_attribute(name)))
    assert picture(page).evaluate("image => image.naturalWidth") == 32
    expect(number(page, "colour distance")).not_to_be_empty()

    button(page, "Pause").click()
    expect(button(page, "Resume")).to_be_enabled()
    button(page, "Resume").click()
    expect(button(page, "Pause")).to_be_enabled()
    button(page, "Stop").click()
    expect(page.get_by_text("ended: stopped", exact=True)).to_be_visible()
    button(page, "Save").click()
    expect_message(page, "^Saved with a record beside each picture in the folder out.$")
    (record,) = live.out.glob("a painting-*.json")
    run = store.read(record)
    assert run.was_stopped
    with page.expect_download() as download:
        page.get_by_role("link", name=record.with_suffix(".png").name).click()
    with Image.open(download.value.path()) as downloaded:
        assert (np.asarray(downloaded) == run.image).all()


def test_a_recipe_makes_the_run_again(page: "Page", painting: Path) -> None:
    page.locator("input[type=file]").set_input_files(painting)
    own = page.get_by_role("radio", name=painting.stem.replace("_", " "), exact=True)
    expect(own).to_be_checked()
    pick(page, "N = 1")
    page.get_by_label("Size in pixels").fill("16")
    page.get_by_label("Optimiser").select_option("fast")
    button(page, "Start").click()
    expect(page.get_by_text("ended: theta", exact=True)).to_be_visible()
    button(page, "Save").click()
    expect(page.get_by_role("link", name=".recipe.json")).to_be_visible()
    saved = {}
    for link in page.get_by_role("link", name=re.compile(r"\.(png|recipe\.json)$")).all():
        with page.expect_download() as download:
            link.click()
        saved[Path(link.inner_text()).suffix] = download.value.path()
    recipe = read_recipe(saved[".json"])
    (task,) = recipe.plan({})
    again = task.run()
    with Image.open(saved[".png"]) as picture:
        assert (np.asarray(picture) == to_uint8(again.image)).all()
    reached = recipe.runs[0].reached
    assert (reached.loss, reached.evaluations) == (again.loss, again.evaluations)
    assert painting.stem not in saved[".json"].read_text(encoding="utf-8")


def test_step_by_step(page: "Page") -> None:
    button(page, "Start").click()
    expect(picture(page)).to_be_visible()
    button(page, "Pause").click()
    expect(button(page, "Resume")).to_be_enabled()
    expect(page.get_by_text("paused", exact=True)).to_be_visible()
    before = int(number(page, "iterations").inner_text().replace(",", ""))
    for n in (1, 2):
        button(page, "Step").click()
        expect(number(page, "iterations")).to_have_text(f"{before + n:,}")
        expect(button(page, "Resume")).to_be_enabled()


def test_the_address_is_the_choice(page: "Page") -> None:
    pick(page, "relu_1_2")
    assert "&layer=relu_1_2&" in page.url
    button(page, "Copy link").click()
    expect_message(page, "link")


def test_beside_the_reference_run_of_the_same_cell(page: "Page") -> None:
    for choice in ("relu_2_1", "strokes"):
        pick(page, choice)
    page.get_by_label("Optimiser").select_option("fast")
    page.get_by_label("Encoder").select_option("random")
    page.get_by_label("Size in pixels").fill("128")
    button(page, "Start").click()
    expect(page.get_by_text("Dashed: the reference run of the same cell")).to_be_visible()
    expect(page.locator("path.live-reference")).to_have_count(1)


def test_two_runs_with_one_divider(page: "Page") -> None:
    pick(page, "Compare two")
    page.get_by_label("Against layer").select_option("relu_1_1")
    page.get_by_label("Against loss").select_option("moment-3")
    button(page, "Start").click()
    expect(picture(page)).to_have_count(1)
    button(page, "Next").click()
    expect(page.get_by_alt_text("relu_1_1, N = 3, running")).to_be_visible()
    expect(button(page, "Next")).to_be_disabled()
    expect(page.locator(".viewer-curve path")).to_have_count(2)
    assert page.locator("thead th").all_inner_texts() == ["Gram", "N = 3"]
    left, right = page.get_by_role("slider", name="Divider").all()
    left.focus()
    for key in ("Home", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert left.input_value() == right.input_value() == "4"


def test_a_file_that_is_no_picture_dropped_on_the_page(page: "Page") -> None:
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(["nothing"], "dropped.png"));
          document.querySelector(".live-stages").dispatchEvent(
            new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    expect_message(page, "^Image 'dropped.png' is a text, but must be one of PNG, JPEG, ")
    button(page, "Start").click()
    expect(picture(page)).to_be_visible()
    expect_message(page, "^$")


def test_what_cannot_be_run_is_said(page: "Page") -> None:
    page.get_by_label("Encoder").select_option("file")
    page.get_by_role("textbox", name="Weights file").fill("absent.safetensors")
    button(page, "Start").click()
    expect_message(page, "^Encoder 'absent.safetensors' is neither an existing")


def test_pairs_that_are_drawn_anew_are_for_adam(page: "Page") -> None:
    expect(page.get_by_label("Pairs")).to_be_hidden()
    page.get_by_label("Optimiser").select_option("fast")
    pick(page, "MMD")
    page.get_by_label("Pairs").select_option("random")
    expect(page.get_by_label("Optimiser")).to_have_value("chapter")
    page.get_by_label("Kernel width").fill("0.5")
    button(page, "Start").click()
    expect(page.get_by_alt_text("relu_1_1, MMD, random pairs, running")).to_be_visible()


def test_everything_by_keyboard(page: "Page") -> None:
    page.get_by_role("radio", name="relu_1_1").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="relu_1_2")).to_be_checked()
    for name, enabled in (("Start", "Stop"), ("Stop", "Save")):
        button(page, name).focus()
        page.keyboard.press("Enter")
        expect(button(page, enabled)).to_be_enabled()


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_everyone_can_use_it(page: "Page", theme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.base")
    button(page, "Start").click()
    expect(picture(page)).to_be_visible()
    button(page, "Stop").click()
    expect(button(page, "Save")).to_be_enabled()
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(100)
    page.evaluate(axe.AXE_SCRIPT)
    found = page.evaluate('axe.run(document, {resultTypes: ["violations"]})')["violations"]
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert picture(page).evaluate("image => image.clientWidth * devicePixelRatio") % 32 == 0
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 30)"
    assert is_dark == (theme == "dark")
