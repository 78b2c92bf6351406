"""The live page in a browser: what a reader does with it, and what it says when that goes wrong."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from styleinv.runs import store
from styleinv.styles import paint
from tests.conftest import LivePage, refuse_others
from tests.test_pages import AXE

pytestmark = pytest.mark.browser
expect.set_options(timeout=30_000)  # beside other work, all is slow


@pytest.fixture(scope="module")
def window(browser: Browser, live: LivePage) -> Iterator[Page]:
    """A window that must end without an error in its console or a question to another host."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        opened = context.new_page()
        own = live.address.removesuffix("/")
        problems = refuse_others(opened, own)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on(
            "console",
            lambda said: problems.append(said.text) if said.type == "error" else None,
        )
        opened.goto(live.address)
        yield opened
        assert problems == []


@pytest.fixture
def page(window: Page) -> Iterator[Page]:
    """The page with nothing running, small pictures and an optimiser that takes its time."""
    expect(button(window, "Start")).to_be_enabled()
    pick(window, "One run")
    pick(window, "relu_1_1")
    pick(window, "Gram")
    window.get_by_label("Size in pixels").fill("32")
    window.get_by_label("Optimiser").select_option("chapter")
    window.get_by_label("Encoder").select_option("bundled")
    yield window
    if button(window, "Stop").is_enabled():
        button(window, "Stop").click()
    expect(button(window, "Start")).to_be_enabled()
    if button(window, "Reset").is_enabled():
        button(window, "Reset").click()
    expect(button(window, "Reset")).to_be_disabled()


def pick(page: Page, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).check(force=True)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def picture(page: Page) -> Locator:
    return page.get_by_role("img", name=re.compile("^Inversion of"))


def number(page: Page, name: str) -> str:
    return page.locator("tr", has_text=re.compile(f"^{name}")).locator("td").first.inner_text()


def message(page: Page) -> Locator:
    return page.get_by_role("status")


def upload(page: Page, path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)


@pytest.fixture(scope="module")
def own_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of more than one piece of an upload: noise does not compress."""
    path = tmp_path_factory.mktemp("own") / "a painting.png"
    pixels = paint("marbling", 700)
    noise = np.random.default_rng(0).normal(0, 0.05, pixels.shape)
    Image.fromarray((255 * (pixels + noise).clip(0, 1)).astype("uint8")).save(path)
    assert path.stat().st_size > 2**20
    return path


def test_the_readers_own_painting(page: Page, own_image: Path, live: LivePage) -> None:
    upload(page, own_image)
    expect(page.get_by_role("radio", name="a painting")).to_be_checked()
    button(page, "Start").click()
    expect(picture(page)).to_have_attribute(
        "alt", re.compile("a painting: relu_1_1, Gram, running")
    )
    before = (
        picture(page).get_attribute("src"),
        page.locator(".viewer-curve path").get_attribute("d"),
    )
    expect(picture(page)).not_to_have_attribute("src", str(before[0]))
    expect(page.locator(".viewer-curve path")).not_to_have_attribute("d", str(before[1]))
    assert picture(page).evaluate("image => image.naturalWidth") == 32
    assert float(number(page, "iterations/s")) > 0
    assert number(page, "time left").startswith("≤ ")
    expect(page.locator("tr", has_text="colour distance").locator("td")).not_to_be_empty()
    expect(page.get_by_text("No reference run has the same style")).to_be_visible()

    button(page, "Pause").click()
    expect(button(page, "Resume")).to_be_enabled()
    held = number(page, "iterations")
    page.wait_for_timeout(600)
    assert number(page, "iterations") == held
    button(page, "Resume").click()
    expect(page.locator("tr", has_text="iterations").locator("td").first).not_to_have_text(held)

    button(page, "Stop").click()
    expect(button(page, "Save")).to_be_enabled()
    expect(page.get_by_text("stopped", exact=True)).to_be_visible()
    button(page, "Save").click()
    expect(message(page)).to_have_text("Saved with its record in the folder out.")
    (record,) = live.out.glob("a painting-*.json")
    assert store.read(record).record["result"]["stop_reason"] == "stopped"
    with page.expect_download() as download:
        page.get_by_role("link", name=record.with_suffix(".png").name).click()
    with Image.open(download.value.path()) as downloaded:
        assert (np.asarray(downloaded) == store.read(record).image).all()


def test_beside_the_reference_run_of_the_same_cell(page: Page) -> None:
    pick(page, "relu_2_1")
    pick(page, "strokes")
    page.get_by_label("Optimiser").select_option("fast")
    page.get_by_label("Encoder").select_option("random")
    page.get_by_label("Size in pixels").fill("128")
    button(page, "Start").click()
    expect(page.get_by_text("Dashed: the reference run of the same cell")).to_be_visible()
    expect(page.locator("path.live-reference")).to_have_count(1)


def test_two_runs_side_by_side(page: Page) -> None:
    pick(page, "Compare two")
    page.get_by_label("Against layer").select_option("relu_1_1")
    page.get_by_label("Against loss").select_option("moment-3")
    button(page, "Start").click()
    expect(picture(page)).to_have_count(1)
    button(page, "Next").click()
    expect(picture(page)).to_have_count(2)
    expect(page.get_by_alt_text("relu_1_1, N = 3, running")).to_be_visible()
    expect(page.locator(".viewer-curve path")).to_have_count(2)
    left, right = page.get_by_role("slider").all()
    left.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert left.input_value() == right.input_value() == "4"
    assert right.get_attribute("aria-valuetext") == "4 % style"
    places = [line.bounding_box() for line in page.locator(".viewer-line").all()]
    stages = [stage.bounding_box() for stage in page.locator(".viewer-stage").all()]
    offsets = [line["x"] - stage["x"] for line, stage in zip(places, stages, strict=True)]
    assert offsets[0] == pytest.approx(offsets[1], abs=0.5)
    button(page, "Stop").click()
    button(page, "Save").click()
    expect(message(page)).to_have_text("Saved with their records in the folder out.")


def test_four_layers_one_after_another(page: Page) -> None:
    pick(page, "Four layers")
    button(page, "Start").click()
    for layer in ("relu_1_1", "relu_1_2", "relu_2_1"):
        expect(page.get_by_alt_text(f"{layer}, Gram, running")).to_be_visible()
        button(page, "Next").click()
    expect(page.get_by_alt_text("relu_2_2, Gram, running")).to_be_visible()
    expect(button(page, "Next")).to_be_disabled()
    assert page.locator("thead th").all_inner_texts() == [
        "relu_1_1",
        "relu_1_2",
        "relu_2_1",
        "relu_2_2",
    ]


def test_a_text_file_is_no_picture(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no picture at all")
    upload(page, path)
    expect(message(page)).to_have_text(
        "Image 'notes.png' is in no format that can be read (PNG, JPEG, WEBP, TIFF, GIF, BMP, "
        "PPM, AVIF, JPEG2000, ICO, TGA), or damaged."
    )
    assert (
        page.locator("input[name$=style]").count()
        == page.locator("input[name$=style] + span img").count()
    )
    button(page, "Start").click()
    expect(picture(page)).to_be_visible()
    expect(message(page)).to_have_text("")


def test_a_file_dropped_on_the_page(page: Page, own_image: Path) -> None:
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File(["nothing"], "dropped.png"));
          document.querySelector(".live-stages").dispatchEvent(
            new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    expect(message(page)).to_have_text(re.compile("^Image 'dropped.png' is in no format"))


def test_what_cannot_be_run_is_said(page: Page) -> None:
    page.get_by_label("Encoder").select_option("file")
    page.get_by_role("textbox", name="Weights file").fill("absent.safetensors")
    button(page, "Start").click()
    expect(message(page)).to_have_text(
        re.compile("^Encoder 'absent.safetensors' is neither an existing weights file nor one of")
    )
    page.get_by_label("Encoder").select_option("bundled")
    page.get_by_label("Size in pixels").fill("")
    button(page, "Start").click()
    expect(message(page)).to_have_text(re.compile("^Size is None, but must be a whole number"))
    page.get_by_label("Size in pixels").fill("4096")
    pick(page, "MMD, whole vectors")
    button(page, "Start").click()
    expect(message(page)).to_have_text(
        re.compile(
            r"^Size 4096 .* needs about 427.8 GB of memory, but .* GB are free; .* fits is \d+"
        )
    )


def test_pairs_that_are_drawn_anew_are_for_adam(page: Page) -> None:
    expect(page.get_by_label("Pairs")).to_be_hidden()
    page.get_by_label("Optimiser").select_option("fast")
    pick(page, "MMD")
    page.get_by_label("Pairs").select_option("random")
    expect(page.get_by_label("Optimiser")).to_have_value("chapter")
    page.get_by_label("Kernel width").fill("0.5")
    button(page, "Start").click()
    expect(page.get_by_alt_text("relu_1_1, MMD, random pairs, running")).to_be_visible()


def test_everything_by_keyboard(page: Page) -> None:
    page.get_by_role("radio", name="relu_1_1").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="relu_1_2")).to_be_checked()
    button(page, "Start").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_alt_text("relu_1_2, Gram, running")).to_be_visible()
    button(page, "Stop").focus()
    page.keyboard.press("Enter")
    expect(button(page, "Save")).to_be_enabled()


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 360)])
def test_everyone_can_use_it(page: Page, theme: str, width: int) -> None:
    button(page, "Start").click()
    expect(picture(page)).to_be_visible()
    button(page, "Stop").click()
    expect(button(page, "Save")).to_be_enabled()
    page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(100)
    page.evaluate(AXE_SCRIPT)
    found = [
        f"{rule['id']}: {node['html'][:150]} ({node['failureSummary']})"
        for rule in page.evaluate(AXE)
        for node in rule["nodes"]
    ]
    assert found == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = picture(page).evaluate("image => image.clientWidth * devicePixelRatio")
    assert shown % 32 == 0
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 30)"}[theme]
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})
