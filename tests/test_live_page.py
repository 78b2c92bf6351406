"""The published live page in a browser: it computes by itself, and says what it cannot do."""

import base64
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from styleinv_book import live_page

from styleinv import invert, load_style
from styleinv.images import Pixels, to_uint8
from styleinv.live.recipe import read_recipe
from styleinv.styles import PAINTED
from tests import pictures
from tests.conftest import refuse_others
from tests.test_live import bring_too_many, button, number, pick, picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Request, Route

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=120_000)  # for a busy machine
pytestmark = pytest.mark.browser

# Counts the workers that are not terminated yet, as `workers`.
COUNT_WORKERS = """
window.workers = 0;
window.Worker = class extends Worker {
  constructor(...given) { super(...given); window.workers += 1; }
  terminate() { super.terminate(); window.workers -= 1; }
};
"""
ENGINE = re.compile(r"/engine\.js\?")
PROCESSORS = "Object.defineProperty(navigator, 'hardwareConcurrency', { get: () => %d })"
BYTES_OF = """async image => {
  const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
  return btoa(String.fromCharCode(...bytes));
}"""
DROP = """([name, size, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([size ? new Uint8Array(size) : text], name));
  document.querySelector(".live-stages").dispatchEvent(
    new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


@pytest.fixture
def context(browser: "Browser") -> Iterator["BrowserContext"]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as opened:
        opened.set_default_timeout(120_000)
        opened.add_init_script(COUNT_WORKERS)
        yield opened


@pytest.fixture
def page(context: "BrowserContext", live_address: str) -> Iterator["Page"]:
    """The page at a small size; it must end without an error or a question to another host."""
    opened, problems = watched(context, live_address)
    opened.goto(f"{live_address}#size=32")
    yield opened
    assert problems == []


def watched(context: "BrowserContext", own: str) -> tuple["Page", list[str]]:
    """A new page, and a list of what goes wrong in it."""
    page = context.new_page()
    problems = refuse_others(page, own.partition("/styleinv/")[0])
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda said: said.type == "error" and problems.append(said.text))
    return page, problems


def start(page: "Page", *choices: str) -> None:
    for choice in choices:
        pick(page, choice)
    button(page, "Start").click()


def expect_message(page: "Page", text: str) -> None:
    expect(page.locator("p[role=status]")).to_have_text(re.compile(text))


def expect_workers(page: "Page", count: int) -> None:
    """Wait for what is measured, which ends by itself."""
    page.wait_for_function(f"workers === {count}")


def shown(page: "Page", selector: str) -> Pixels:
    """The pixels of a picture on the page, as its file has them."""
    content = page.locator(selector).first.evaluate(BYTES_OF)
    return np.asarray(Image.open(BytesIO(base64.b64decode(content))).convert("RGB"))


def test_nothing_is_loaded_before_it_is_needed(
    context: "BrowserContext", live_address: str, published: Path
) -> None:
    """And an address changes with the file: it ends in the file's hash."""
    page, problems = watched(context, live_address)
    asked: list[str] = []
    hashes: dict[str, str] = {}

    def note(request: "Request") -> None:
        name, _, query = request.url.rpartition("/")[2].partition("?")
        asked.append(name)
        hashes[name] = query

    page.on("request", note)
    page.goto(live_address)
    expect(button(page, "Start")).to_be_enabled()
    assert asked == ["live.html", "page.css", "page.js"]
    start(page)
    expect(picture(page)).to_be_visible()
    assert sorted(x for x in asked[3:] if x.endswith(".js")) == ["engine.js", "strokes-64.js"]
    for name in ("page.css", "page.js", "engine.js"):
        content = (published.parents[1] / live_page.FOLDER / name).read_bytes()
        assert hashes[name] == hashlib.sha256(content).hexdigest()[:8]
    assert problems == []


def test_another_painting_has_another_address() -> None:
    style, other = ({"picture": picture} for picture in ("AAAA", "AAAB"))
    paintings = [style] * len(PAINTED)
    before = live_page._addresses(paintings)
    after = live_page._addresses([other, *paintings[1:]])
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {f"{next(iter(PAINTED))}-{size}" for size in live_page.SIZES}


def test_a_run_from_start_to_its_picture(page: "Page") -> None:
    start(page, "relu_1_1", "N = 1")
    expect(page.get_by_text("ended: theta", exact=True)).to_be_visible()
    assert float(number(page, "loss").inner_text()) < 1e-5
    style = to_uint8(load_style("bundled:strokes", 32))
    assert (shown(page, ".viewer-left") == style).all()
    made = shown(page, ".viewer-stage img")
    expect_workers(page, 0)
    button(page, "Save").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="strokes-relu_1_1-moment-1-32-seed0.png").click()
    assert (np.asarray(Image.open(download.value.path()).convert("RGB")) == made).all()
    with page.expect_download() as download:
        page.get_by_role("link", name=".recipe.json").click()
    (task,) = read_recipe(download.value.path()).plan({})
    asked = task.source, task.layer, task.loss, task.style.shape, task.seed
    assert asked == ("bundled:strokes", "relu_1_1", "moment-1", (3, 32, 32), 0)
    # Python ends nearby from the same noise, and far away from another.
    near, far = (
        invert("bundled:strokes", layer="relu_1_1", loss="moment-1", size=32, seed=seed).image
        for seed in (0, 1)
    )
    assert np.abs(made - to_uint8(near).astype(float)).mean() < 15
    assert np.abs(made - to_uint8(far).astype(float)).mean() > 30


def test_pause_step_resume_stop(page: "Page") -> None:
    page.get_by_label("Optimiser").select_option("chapter")
    start(page, "relu_1_1", "Gram")
    for element, name in ((picture(page), "src"), (page.locator(".viewer-curve path"), "d")):
        expect(element).to_be_visible()
        expect(element).not_to_have_attribute(name, str(element.get_attribute(name)))
    button(page, "Pause").click()
    expect(button(page, "Resume")).to_be_enabled()
    page.wait_for_timeout(3000)  # Chromium makes PNG files when it is idle
    evaluations = number(page, "evaluations")
    held = int(evaluations.inner_text().replace(",", ""))
    page.wait_for_timeout(300)
    assert int(evaluations.inner_text().replace(",", "")) == held
    button(page, "Step").click()
    expect(evaluations).to_have_text(f"{held + 1:,}")
    expect(button(page, "Resume")).to_be_enabled()
    button(page, "Resume").click()
    expect(button(page, "Pause")).to_be_enabled()
    button(page, "Stop").click()
    expect(page.get_by_text("ended: stopped", exact=True)).to_be_visible()
    expect_workers(page, 0)
    button(page, "Reset").click()
    expect(picture(page)).to_have_count(0)


@pytest.mark.parametrize(("processors", "at_once"), [(8, 4), (1, 1)])
def test_several_runs_at_once(
    context: "BrowserContext", live_address: str, processors: int, at_once: int
) -> None:
    context.add_init_script(PROCESSORS % processors)
    page, problems = watched(context, live_address)
    page.goto(live_address)
    page.get_by_label("Optimiser").select_option("chapter")
    start(page, "Four layers")
    expect(picture(page)).to_have_count(at_once)
    expect_workers(page, at_once)
    heads = page.locator("thead th").all_inner_texts()
    assert heads == ["relu_1_1", "relu_1_2", "relu_2_1", "relu_2_2"]
    if at_once == 1:
        button(page, "Next").click()
        expect(page.get_by_alt_text("relu_1_2, Gram, running")).to_be_visible()
        assert page.get_by_text("ended: stopped", exact=True).count() == 1
    button(page, "Stop").click()
    expect(button(page, "Start")).to_be_enabled()
    expect_workers(page, 0)
    assert problems == []


def test_two_statistics_side_by_side(page: "Page") -> None:
    page.get_by_role("radio", name="Compare two").check(force=True)
    page.get_by_label("Against layer").select_option("relu_1_1")
    page.get_by_label("Against loss").select_option("mmd")
    page.get_by_label("Kernel width").fill("0")
    start(page, "relu_1_1", "N = 2")
    expect_message(page, "^Alpha is 0, but must be greater than 0.$")
    page.get_by_label("Kernel width").fill("0.5")
    button(page, "Start").click()
    expect(page.get_by_text("ended: budget", exact=True)).to_be_visible()
    assert page.locator("thead th").all_inner_texts() == ["N = 2", "MMD"]
    expect(page.locator(".viewer-curve path")).to_have_count(2)


def painting(width: int, height: int, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, len(mode)), dtype="uint8")
    grown = coarse.repeat(8, 0).repeat(8, 1)[:height, :width]
    return Image.fromarray(grown ^ rng.integers(0, 32, grown.shape, dtype="uint8"), mode)


def turned(image: Image.Image) -> bytes:
    """As a camera that was held upright keeps it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = BytesIO()
    image.save(file, "png", exif=exif)
    return file.getvalue()


def as_png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "png")
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:.*(enlarged|transparent)")
@pytest.mark.parametrize(
    ("content", "most"),
    [
        (as_png(painting(301, 500)), 0),
        (as_png(painting(501, 300)), 0),
        (as_png(painting(19, 33)), 0),
        (as_png(painting(64, 32)), 0),
        (turned(painting(301, 500)), 0),
        (as_png(painting(120, 90, "RGBA")), 1),  # transparent parts are rounded in another order
    ],
    ids=["tall", "wide", "small", "fits", "turned", "transparent"],
)
def test_an_own_image_is_prepared_as_in_python(
    page: "Page", tmp_path: Path, content: bytes, most: int
) -> None:
    path = tmp_path / "my_painting.png"
    path.write_bytes(content)
    page.locator("input[type=file]").first.set_input_files(path)
    expect(page.get_by_role("radio", name="my painting")).to_be_checked()
    start(page, "relu_1_1")
    expect(picture(page)).to_be_visible()
    expected = to_uint8(load_style(path, 32)).astype(int)
    assert np.abs(shown(page, ".viewer-left") - expected).max() <= most


def test_an_upload_leaves_the_other_choices(page: "Page") -> None:
    held: list[Route] = []
    page.route(ENGINE, lambda route: held.append(route))
    own = {"name": "own.png", "mimeType": "image/png", "buffer": as_png(painting(64, 64))}
    with page.expect_request(ENGINE):
        page.locator("input[type=file]").first.set_input_files([own])  # type: ignore[list-item]
    pick(page, "relu_1_2")
    held[0].continue_()
    expect(page.get_by_role("radio", name="own", exact=True)).to_be_checked()
    expect(page.get_by_role("radio", name="relu_1_2")).to_be_checked()


def test_the_oldest_of_many_own_images_goes(page: "Page", tmp_path: Path) -> None:
    bring_too_many(page, tmp_path)
    start(page, "relu_1_1")
    expect(picture(page)).to_be_visible()


@pytest.mark.parametrize(
    ("name", "size", "text", "said"),
    [
        ("notes.png", 0, "nothing", "^Image 'notes.png' is none that this browser can read, such"),
        ("empty.png", 0, "", "^Image 'empty.png' is none that this browser can read"),
        ("large.png", 65 * 2**20, "", "^File 'large.png' has 65 MB, but must have at most 64.$"),
    ],
)
def test_what_is_no_image_is_said(page: "Page", name: str, size: int, text: str, said: str) -> None:
    page.evaluate(DROP, [name, size, text])
    expect_message(page, said)
    expect_workers(page, 0)
    start(page, "relu_1_1")
    expect(picture(page)).to_be_visible()
    expect_message(page, "^$")


def test_an_image_of_nothing_is_refused(page: "Page", tmp_path: Path) -> None:
    path = tmp_path / "glass.png"
    Image.new("RGBA", (40, 40)).save(path)
    page.locator("input[type=file]").first.set_input_files(path)
    expect_message(page, "^Image 'glass.png' is transparent everywhere, so that there is nothing")


def test_an_image_of_few_pixels_is_refused(page: "Page", tmp_path: Path) -> None:
    path = tmp_path / "icon.png"
    path.write_bytes(as_png(painting(15, 40)))
    page.locator("input[type=file]").first.set_input_files(path)
    expect_message(page, "^Image 'icon.png' has 15 x 40 pixels, but each side must have 16 or more")


@pytest.mark.parametrize(
    ("label", "value", "said"),
    [
        ("Size in pixels", "100", "^Size is 100, but must be one of 32, 64, "),
        ("Seed", "-1", "^Seed is -1, but must be a whole number from 0 to "),
        ("Seed", "", "^Seed is no number, but must be a whole number from 0 to "),
    ],
)
def test_numbers_that_cannot_be(page: "Page", label: str, value: str, said: str) -> None:
    page.get_by_label(label, exact=True).fill(value)
    button(page, "Start").click()
    expect_message(page, said)


def altered(**parts: str) -> Callable[["Route"], None]:
    """An answer to a request for engine.js, with other parts."""

    def answer(route: "Route") -> None:
        begin, _, content = route.fetch().text().partition(" = ")
        other = json.loads(content.rstrip(";\n")) | parts
        route.fulfill(body=f"{begin} = {json.dumps(other)};", content_type="text/javascript")

    return answer


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"wasm": "AAAA"}, "^This browser refuses the computation's WebAssembly"),
        (
            {"program": "onmessage = () => { throw new Error('no memory'); };"},
            r"^The computation broke off \(.*no memory\).$",
        ),
        (
            {"program": "onmessage = () => postMessage({ do: 'failed', message: 'too large' });"},
            "^Too large.$",
        ),
    ],
    ids=["refused", "crashed", "failed"],
)
def test_an_engine_that_fails_is_said(page: "Page", parts: dict[str, str], said: str) -> None:
    page.route(ENGINE, altered(**parts))
    start(page)
    expect_message(page, said)
    expect(page.get_by_text("failed", exact=True)).to_be_visible()
    expect(button(page, "Start")).to_be_enabled()
    expect_workers(page, 0)


def test_what_is_not_loaded_yet_is_not_skipped(
    context: "BrowserContext", live_address: str
) -> None:
    context.add_init_script(PROCESSORS % 1)
    page, problems = watched(context, live_address)
    held: list[Route] = []
    page.route(ENGINE, lambda route: held.append(route))
    page.goto(live_address)
    page.get_by_label("Size in pixels").fill("32")
    start(page, "Compare two", "relu_1_1", "N = 1")
    button(page, "Next").click()
    held[0].continue_()
    expect(page.get_by_text("ended: theta", exact=True)).to_be_visible()
    button(page, "Stop").click()
    expect_workers(page, 0)
    assert problems == []


SLOW = """
onmessage = ({ data: { do: wish } }) => {
  if (wish === "load") postMessage({ do: "ready" });
  if (wish !== "start") return;
  for (const evaluations of [1, 2, 3]) postMessage({ do: "iterate", evaluations, iterations: 1,
    loss: 1, phase: "gram", seconds: 2 * evaluations, pixels: new Uint8ClampedArray(4 * 64 * 64) });
};
"""


def test_a_slow_device_is_told_to_take_fewer_pixels(page: "Page") -> None:
    page.route(ENGINE, altered(program=SLOW))
    page.get_by_label("Size in pixels").fill("64")
    start(page)
    expect_message(page, "^100 evaluations take about 3:20 min on this device; a smaller size is")


def test_a_file_that_cannot_be_loaded_is_asked_for_again(
    context: "BrowserContext", live_address: str
) -> None:
    page, problems = watched(context, live_address)
    page.route(ENGINE, lambda route: route.abort())
    page.goto(live_address)
    start(page)
    expect_message(page, r"^The file engine.js of this page cannot be loaded; try again when the")
    page.unroute(ENGINE)
    start(page)
    expect(picture(page)).to_be_visible()
    assert len(problems) == 1
    assert "ERR_FAILED" in problems[0]


MEASURED = """
onmessage = ({ data: { do: wish } }) => {
  if (wish === "load") postMessage({ do: "ready" });
  if (wish === "measure") postMessage({ do: "measured", seconds: %s });
};
"""


@pytest.mark.parametrize(
    ("seconds", "most", "said"),
    [
        (0.05, 192, "where 100 evaluations at relu_2_2 take this device about 45 s."),
        (0.2, 96, "because 100 evaluations at relu_2_2 take this device more than a minute"),
        (9, 32, "because 100 evaluations at relu_2_2 take this device more than a minute"),
    ],
)
def test_sizes_that_this_device_can_do_are_offered(
    page: "Page", seconds: float, most: int, said: str
) -> None:
    """Evaluations take as many times longer as there are more pixels than 64 x 64."""
    page.route(ENGINE, altered(program=MEASURED % seconds))
    size = page.get_by_label("Size in pixels")
    described = page.locator(f"[id='{size.get_attribute('aria-describedby')}']")
    expect(described).to_have_text(re.compile("^Up to 192 pixels, or fewer if this device is slow"))
    size.click()
    expect(described).to_have_text(re.compile(f"^Up to {most} pixels, {re.escape(said)}"))
    offered = page.locator("datalist option").evaluate_all("all => all.map(({ value }) => +value)")
    assert offered == [one for one in live_page.SIZES if one <= most]
    assert size.get_attribute("max") == str(most)
    expect(described).to_contain_text("Sizes: 32, 64, 96, 128, 160 or 192; larger ones")
    # One who asks for more gets it, by typing or by a link.
    for ask in (lambda: size.fill("192"), lambda: page.evaluate("location.hash = 'size=192'")):
        size.fill("32")
        size.blur()
        ask()
        expect(size).to_have_value("192")
        button(page, "Start").click()
        expect(page.get_by_text("192 x 192 pixels")).to_be_visible()
        expect_message(page, "^$")
        button(page, "Stop").click()
    expect_workers(page, 0)


def test_this_device_is_measured_at_the_first_act(page: "Page") -> None:
    note = page.locator(".live-size")
    pick(page, "relu_1_2")
    expect(note).to_have_text(
        re.compile("^Up to [0-9]+ pixels, .*100 evaluations at relu_2_2 take")
    )
    expect_workers(page, 0)


def animation(kind: str, count: int) -> bytes:
    frames = [painting(40, 40).rotate(90 * turn) for turn in range(count)]
    file = BytesIO()
    frames[0].save(file, kind, save_all=count > 1, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:.*(transparent|frames|converted)")
@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (as_png(painting(40, 40)), []),
        (as_png(painting(40, 40, "RGBA")), ["transparent"]),
        *((animation(kind, 3), ["frames"]) for kind in ("gif", "png", "webp")),
        *((animation(kind, 1), []) for kind in ("gif", "png", "webp")),
    ],
    ids=["plain", "alpha", "gif", "apng", "webp", "still-gif", "still-png", "still-webp"],
)
def test_what_is_done_to_an_own_image_is_said_as_in_python(
    page: "Page", tmp_path: Path, content: bytes, notes: list[str]
) -> None:
    path = tmp_path / "Own.png"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_style(path, 32)
    said = [f"{warning.message}.".replace(f"{tmp_path}/", "") for warning in caught]
    assert [word for word in ("transparent", "frames") if word in "".join(said)] == notes
    page.locator("input[type=file]").first.set_input_files(path)
    expect(page.get_by_role("radio", name="Own", exact=True)).to_be_checked()
    expect_message(page, f"^{re.escape(' '.join(said))}$")


def test_notes_stay_during_a_run(page: "Page", tmp_path: Path) -> None:
    path = tmp_path / "Own.png"
    icc = pictures.rgb_icc(pictures.P3_D50)
    painting(40, 30).save(path, icc_profile=icc)
    page.locator("input[type=file]").first.set_input_files(path)
    expect(page.get_by_role("radio", name="Own", exact=True)).to_be_checked()
    before = "Own.png: 25% of it, left and right, is cut off. "
    before += "Own.png: its colours are converted to sRGB."
    expect_message(page, f"^{re.escape(before)}$")
    start(page, "relu_1_1", "N = 1")
    enlarged = " Own.png: its shorter side of 30 pixels is enlarged to 32."
    expect_message(page, f"^{re.escape(before + enlarged)}$")


def test_from_a_folder(context: "BrowserContext", published: Path) -> None:
    place = published.as_uri()
    page, problems = watched(context, place)
    page.goto(place)
    own = {"name": "own.png", "mimeType": "image/png", "buffer": as_png(painting(64, 64))}
    page.locator("input[type=file]").first.set_input_files([own])  # type: ignore[list-item]
    expect(page.get_by_role("radio", name="own", exact=True)).to_be_checked()
    start(page, "relu_1_1", "N = 1")
    expect(page.get_by_text("ended: theta", exact=True)).to_be_visible()
    assert problems == []


def test_without_javascript_a_figure_remains(browser: "Browser", live_address: str) -> None:
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(live_address)
        expect(page.get_by_text("A finished run")).to_be_visible()
        expect(page.get_by_text("it needs JavaScript and a browser")).to_be_visible()


def test_an_old_browser_keeps_the_figure(context: "BrowserContext", live_address: str) -> None:
    context.add_init_script("delete window.OffscreenCanvas")
    page, problems = watched(context, live_address)
    page.goto(live_address)
    expect(page.get_by_text("it needs JavaScript and a browser")).to_be_visible()
    assert problems == []


def test_a_link_starts_a_run(context: "BrowserContext", live_address: str) -> None:
    page, problems = watched(context, live_address)
    page.goto(f"{live_address}#style=bundled:dots&layer=relu_1_1&loss=moment-1&size=32&start=1")
    expect(page.get_by_text("ended: theta", exact=True)).to_be_visible()
    style = to_uint8(load_style("bundled:dots", 32))
    assert (shown(page, ".viewer-left") == style).all()
    # Back to the noise that it began with.
    last = picture(page).get_attribute("src")
    page.get_by_role("slider", name="Iterate").focus()
    page.keyboard.press("Home")
    expect(picture(page)).not_to_have_attribute("src", str(last))
    assert problems == []


def test_on_a_phone_a_link_leads_to_the_picture(browser: "Browser", live_address: str) -> None:
    with browser.new_context(
        viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    ) as context:
        page, problems = watched(context, live_address)
        page.goto(f"{live_address}#style=bundled:dots&size=32&start=1")
        expect(page.locator(".live-stages figure")).to_be_in_viewport(ratio=0.99)
        expect(picture(page)).to_be_in_viewport(ratio=0.99)
        assert problems == []


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_everyone_can_use_it(browser: "Browser", live_address: str, theme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.base")
    with browser.new_context(
        viewport={"width": width, "height": 844},
        has_touch=width < 500,
        is_mobile=width < 500,
        color_scheme=theme,  # type: ignore[arg-type]
    ) as context:
        page, problems = watched(context, live_address)
        page.goto(live_address)
        press = button(page, "Start")
        if width < 500:
            press.tap()
        else:
            press.click()
        expect(picture(page)).to_be_visible()
        button(page, "Stop").click()
        expect(page.get_by_text("ended: stopped", exact=True)).to_be_visible()
        page.evaluate(axe.AXE_SCRIPT)
        found = page.evaluate('axe.run(document, {resultTypes: ["violations"]})')["violations"]
        assert [rule for rule in found if rule["impact"] in ("serious", "critical")] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert problems == []


@pytest.mark.filterwarnings("ignore:.*(enlarged|transparent)")
def test_the_readers_styles_of_a_build_are_offered(painting: Path) -> None:
    fragment = live_page.fragment([str(painting), "bundled:dots"], instead="", seed=3)
    (found,) = re.findall(r'class="live-given">(.*?)</script>', fragment)
    given = json.loads(found)
    assert given["choice"] == {"style": painting.name, "seed": 3}
    (own,) = given["styles"]
    pixels = np.asarray(Image.open(BytesIO(base64.b64decode(own["content"]))))
    assert (pixels == to_uint8(load_style(painting, live_page.SIZES[-1]))).all()
    assert str(painting.parent) not in fragment
