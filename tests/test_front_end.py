"""The live page's front end alone, over a model that the test plays."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from styleinv import __version__
from styleinv.live import widget
from styleinv.live.choices import CHOICE, OPTIONS
from styleinv.live.recipe import read_recipe
from tests.conftest import refuse_others, served, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=60_000)
pytestmark = pytest.mark.browser

SIZE = 16
# A model with anywidget's interface that keeps what it is told and shows what a test gives it.
HARNESS = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Live</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="style.css">
<main><h1>Live</h1><div id="root"></div></main><script type="module">
import front from './front.js';
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const values = await (await fetch('values.json')).json();
for (const style of values.styles) style.picture = bytes(style.picture);
const listeners = {};
window.sent = [];
const model = {
  get: (name) => values[name],
  set: (name, value) => { values[name] = value; },
  save_changes: () => {},
  on: (event, listener) => (listeners[event] ??= new Set()).add(listener),
  off: (event, listener) => listeners[event].delete(listener),
  send: (content, _, buffers) => window.sent.push({ ...content, buffers: buffers?.length }),
};
window.show = (state, pictures) => {
  window.last = state;
  for (const [name, picture] of Object.entries(pictures)) values[name] = bytes(picture);
  values.state = state;
  for (const listener of listeners['change:state']) listener();
};
// What the model answers to an upload.
window.offer = (value, picture) => {
  values.styles = [{ value, label: value, picture: bytes(picture) }, ...values.styles];
  for (const listener of listeners['change:styles']) listener();
};
front.initialize({ model });
window.again = () => {
  window.leave = front.render({ model, el: document.getElementById('root') });
};
again();
</script></html>"""


def png(level: int) -> str:
    """A grey picture, as a PNG file in base64."""
    file = BytesIO()
    Image.new("RGB", (SIZE, SIZE), (level, level, level)).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


IDLE = {"batch": 0, "phase": "idle", "runs": [], "asked": None, "message": "", "bad": False}
IDLE |= {"saved": [], "tick": 0}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("front")
    names = {"bundled:strokes": "strokes", "bundled:dots": "dots", "/home/me/own.png": "own.png"}
    tiles = [{"value": v, "label": label, "picture": png(90)} for v, label in names.items()]
    options = {**OPTIONS, "largest_upload": 1000, "engine": widget.ENGINE, "address": True}
    values = {"options": options, "styles": tiles, "choice": CHOICE, "state": IDLE}
    (folder / "index.html").write_text(HARNESS, encoding="utf-8")
    (folder / "front.js").write_text(widget.FRONT_END, encoding="utf-8")
    (folder / "style.css").write_text(widget.STYLE_SHEET, encoding="utf-8")
    (folder / "values.json").write_text(json.dumps(values), encoding="utf-8")
    with served(folder) as origin:
        yield origin


@pytest.fixture
def page(browser: "Browser", address: str) -> Iterator["Page"]:
    with browser.new_context(permissions=["clipboard-read", "clipboard-write"]) as context:
        opened = context.new_page()
        problems = refuse_others(opened, address)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        visit(opened, f"{address}/index.html?token=secret")
        yield opened
        assert problems == []


def visit(page: "Page", address: str) -> None:
    page.goto("about:blank")
    page.goto(address)
    expect(button(page, "Start")).to_be_enabled()


def button(page: "Page", name: str) -> "Locator":
    return page.get_by_role("button", name=name, exact=True)


def sent(page: "Page", wish: str) -> list[dict[str, Any]]:
    return [one for one in page.evaluate("sent") if one["do"] == wish]


def run(points: list[tuple[int, float]], **changed: Any) -> dict[str, Any]:
    """A run of a state, whose picture is of its last point."""
    named = {"layer": "relu_2_1", "loss": "gram", "title": "relu_2_1, Gram", "short": "Gram"}
    shown = {"style": "strokes", "status": "running", "colour": "var(--ink)", "numbers": {}}
    rest = {"phase": "running", "stop": None, "theta": 1e-5, "reference": None, "provenance": ""}
    return {**named, **shown, **rest, "points": points, "pictured": points[-1], **changed}


def show(
    page: "Page", *runs: dict[str, Any], levels: Sequence[int | None] = (0,), **changed: Any
) -> None:
    """Let the model have a new state, and a new picture of this grey for each run but `None`."""
    asked = {"style": "bundled:strokes", "protocol": "fast", "size": SIZE, "seed": 3}
    asked["encoder"] = "bundled"
    state = {**IDLE, "batch": 1, "phase": "running", "runs": runs, "asked": asked, **changed}
    new = {f"picture_{i}": png(level) for i, level in enumerate(levels) if level is not None}
    page.evaluate("([s, p]) => show(s, p)", [state, {"style_picture": png(200), **new}])


def pictures(page: "Page") -> "Locator":
    return page.get_by_role("img", name=re.compile("^Inversion of"))


def levels(page: "Page") -> list[int]:
    """The grey of each picture, as it is drawn."""
    return list(
        pictures(page).evaluate_all(
            """images => Promise.all(images.map(async (image) => {
              await image.decode();
              const context = new OffscreenCanvas(1, 1).getContext('2d');
              context.drawImage(image, 0, 0);
              return context.getImageData(0, 0, 1, 1).data[0];
            }))"""
        )
    )


# --- Back through the iterates ------------------------------------------------------------------


def test_back_through_the_iterates_and_live_again(page: "Page") -> None:
    points = [(n, 1 / n) for n in range(1, 6)]
    slider = page.get_by_role("slider", name="Iterate")
    for n in range(1, 6):
        show(page, run(points[:n]), levels=[n])
        expect(slider).to_be_visible(visible=n > 1)
    assert levels(page) == [5]
    expect(slider).to_have_attribute("aria-valuetext", "live")
    expect(page.locator(".viewer-curve .live-at")).to_have_count(0)
    slider.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert levels(page) == [2]
    expect(slider).to_have_attribute("aria-valuetext", "after 2 evaluations")
    expect(page.get_by_text("after 2 evaluations, loss 0.500")).to_be_visible()
    circle = page.locator(".viewer-curve circle.live-at")
    assert abs(drawn_evaluation(page, circle) - 2) < 0.1
    # A new picture does not take the reader away from the old one.
    show(page, run([*points, (6, 0.1)]), levels=[6])
    assert levels(page) == [2]
    page.keyboard.press("End")
    assert levels(page) == [6]
    expect(slider).to_have_attribute("aria-valuetext", "live")
    show(page, run([*points, (6, 0.1), (7, 0.1)]), levels=[7])
    assert levels(page) == [7]
    # Another start begins anew.
    page.keyboard.press("Home")
    assert levels(page) == [1]
    show(page, run([(1, 1.0)]), levels=[50], batch=2)
    assert levels(page) == [50]
    expect(slider).to_be_hidden()


def drawn_evaluation(page: "Page", circle: "Locator") -> float:
    """The evaluation at which a circle is, by the ends of the logarithmic axis from 1 to 10."""
    ticks = {
        text: float(page.locator(f".viewer-curve text:text-is('{text}')").get_attribute("x") or 0)
        for text in ("1", "10")
    }
    share = (float(circle.get_attribute("cx") or 0) - ticks["1"]) / (ticks["10"] - ticks["1"])
    return float(10**share)


def test_one_slider_for_all_runs(page: "Page") -> None:
    first, second = [(1, 1.0), (10, 0.5), (100, 0.1)], [(4, 1.0), (40, 0.2)]
    waits = run([(0, 0.0)], short="N = 3") | {"phase": "waiting", "points": [], "pictured": None}
    for n in (1, 2, 3):
        show(page, run(first[:n]), waits, levels=[10 * n, None])
    for n in (1, 2):
        show(page, run(first), run(second[:n], short="N = 3"), levels=[None, 100 * n])
    assert levels(page) == [30, 200]
    slider = page.get_by_role("slider", name="Iterate")
    found = []
    for place in range(5):  # after 1, 4, 10, 40 and 100 evaluations
        slider.fill(str(place))
        found.append(levels(page))
    assert found == [[10, 100], [10, 100], [20, 100], [20, 200], [30, 200]]


def test_frames_are_few_and_evenly_spaced(page: "Page") -> None:
    kept = page.evaluate(
        """async () => {
          const source = await (await fetch('front.js')).text();
          const { thin, mostFrames } = await import(URL.createObjectURL(
            new Blob([source, 'export { thin, mostFrames };'], { type: 'text/javascript' })));
          const frames = [];
          for (let n = 1; n <= 3000; n += 1) { frames.push({ evaluations: n }); thin(frames, 60); }
          return { evaluations: frames.map((frame) => frame.evaluations),
            most: [mostFrames(1000, 1), mostFrames(2 ** 20, 4), mostFrames(2 ** 26, 4)] };
        }"""
    )
    evaluations = np.array(kept["evaluations"])
    assert (len(evaluations), evaluations[0], evaluations[-1]) == (60, 1, 3000)
    gaps = np.diff(np.log(evaluations))
    assert gaps[evaluations[1:] > 30].max() < 4 * np.log(3000) / 60
    assert kept["most"] == [60, 16, 2]  # 64 MB altogether


# --- Step ---------------------------------------------------------------------------------------


def test_step_is_for_runs_that_go_on_or_wait(page: "Page") -> None:
    step = button(page, "Step")
    expect(step).to_be_disabled()
    for phase in ("running", "paused"):
        show(page, run([(1, 1.0)]), phase=phase)
        step.click()
    assert sent(page, "step") == [{"do": "step", "buffers": 0}] * 2
    for phase in ("loading", "ended"):
        show(page, run([(1, 1.0)]), phase=phase)
        expect(step).to_be_disabled()


# --- The address --------------------------------------------------------------------------------


def choose(page: "Page", name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).check(force=True)


def message(page: "Page") -> str:
    return page.get_by_role("status").inner_text()


def test_a_link_leads_to_the_same_choice(page: "Page", address: str) -> None:
    assert page.evaluate("location.hash") == ""
    for name in ("dots", "Compare two", "relu_1_2", "N = 4"):
        choose(page, name)
    page.get_by_label("Against loss").select_option("mmd")
    for label, value in (("Kernel width", "0.25"), ("Size in pixels", "96"), ("Seed", "7")):
        page.get_by_label(label).fill(value)
        page.get_by_label(label).blur()
    expected = (
        "#style=bundled:dots&show=compare&layer=relu_1_2&loss=moment-4&other_layer=relu_2_1"
        "&other_loss=mmd&pairing=adjacent&alpha=0.25&protocol=fast&size=96&seed=7&encoder=bundled"
    )
    assert page.evaluate("location.hash") == expected
    button(page, "Copy link").click()
    wait_for(lambda: message(page) == "The link is copied.")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == f"{address}/index.html{expected}"  # without the token
    visit(page, link)
    button(page, "Start").click()
    (start,) = sent(page, "start")
    changed = {"style": "bundled:dots", "show": "compare", "layer": "relu_1_2", "size": 96}
    changed |= {"loss": "moment-4", "other_loss": "mmd", "alpha": 0.25, "seed": 7}
    assert start["choice"] == {**CHOICE, **changed}


def test_a_link_does_not_name_files(page: "Page") -> None:
    choose(page, "own.png")
    page.get_by_label("Encoder").select_option("file")
    hash_ = page.evaluate("location.hash")
    assert hash_.startswith("#show=one&")
    assert not re.search("style|encoder|own", hash_)
    button(page, "Copy link").click()
    wait_for(lambda: message(page).startswith("The link is copied. Your own image is not in it"))


def test_start_in_the_address(page: "Page", address: str) -> None:
    visit(page, f"{address}/index.html#loss=moment-2&start=1")
    (start,) = sent(page, "start")
    assert start["choice"]["loss"] == "moment-2"


BAD_PARTS = (
    "style=/home/me/own.png",
    "style=bundled:absent",
    "layer=relu_9_1",
    "size=8",
    "size=1e9",
    "size=",
    "seed=-1",
    "alpha=0",
    "alpha=Infinity",
    "encoder=file",
    "encoder=/etc/passwd",
    "weights=x",
    "__proto__=x",
    "start=yes",
)
TO_ADDRESS = """hash => new Promise((done) => {
  addEventListener('hashchange', done, { once: true });
  location.hash = hash;
})"""


def test_what_an_address_may_not_say(page: "Page") -> None:
    for number, bad in enumerate(BAD_PARTS):
        page.evaluate(TO_ADDRESS, f"loss=moment-2&seed={number}&{bad}&start=1")
        said = "Ignored in the address, because this page has no such choice: "
        assert message(page) == f"{said}{bad}."
        assert sent(page, "start") == []
    button(page, "Start").click()
    (start,) = sent(page, "start")
    assert start["choice"] == {**CHOICE, "loss": "moment-2", "seed": number}
    assert message(page) == ""


def test_a_heading_in_the_address_is_no_choice(page: "Page", address: str) -> None:
    visit(page, f"{address}/index.html#root")
    assert message(page) == ""


# --- Save ---------------------------------------------------------------------------------------


def test_the_recipe_of_a_comparison(page: "Page") -> None:
    ended = {"phase": "ended", "status": "ended: theta", "stop": "theta"}
    first = run([(1, 1.0), (30, 9e-6)], **ended)
    failed = run([(1, 1.0)], phase="failed")
    last = run([(1, 0.5), (40, 0.25)], **ended | {"loss": "mmd", "alpha": 0.2, "stop": "budget"})
    names = ["a.png", "b.png"]
    runs = (first, failed, last)
    show(page, *runs, levels=[10, 20, 30], phase="ended")
    asked = {"style": None, "protocol": "fast", "size": SIZE, "seed": 3, "encoder": "bundled"}
    show(page, *runs, levels=[], phase="ended", asked=asked, saved=names)
    file = download(page, "a.recipe.json")
    assert [task.loss for task in read_recipe(file).plan({})] == ["gram", "mmd"]
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "format": 1,
        "made_with": {"engine": "python", "version": __version__},
        **asked,
        "style": {"png": png(200)},
        "runs": [
            {
                "layer": "relu_2_1",
                "loss": "gram",
                "reached": {"loss": 9e-6, "evaluations": 30, "stop": "theta"},
            },
            {
                "layer": "relu_2_1",
                "loss": "mmd",
                "alpha": 0.2,
                "reached": {"loss": 0.25, "evaluations": 40, "stop": "budget"},
            },
        ],
    }
    assert page.locator(".live-saved code").inner_text() == "styleinv invert --recipe FILE"
    assert download(page, "b.png").read_bytes() == base64.b64decode(png(30))


def download(page: "Page", name: str) -> Path:
    with page.expect_download() as started:
        page.get_by_role("link", name=name).click()
    assert started.value.suggested_filename == name
    return started.value.path()


# --- The reader's own image ---------------------------------------------------------------------

# What an event of the clipboard or of the mouse brings.
BRINGS = """([target, kind, name, key]) => {
  const data = new DataTransfer();
  if (name) data.items.add(new File(['abc'], name, { type: 'image/png' }));
  const init = { [key]: data, bubbles: true, cancelable: true };
  const event = kind === 'paste' ? new ClipboardEvent(kind, init) : new DragEvent(kind, init);
  return document.querySelector(target).dispatchEvent(event);
}"""


def test_an_image_that_is_pasted(page: "Page") -> None:
    brought = ["body", "paste", "image.png", "clipboardData"]
    page.evaluate(BRINGS, brought)
    page.wait_for_function("sent.some((wish) => wish.do === 'upload')")
    (upload,) = sent(page, "upload")
    assert (upload["name"], upload["size"], upload["buffers"]) == ("image.png", 3, 1)
    # A text is for the field that has the focus.
    assert page.evaluate(BRINGS, ["input[type=number]", "paste", "", "clipboardData"])
    page.evaluate("leave()")
    page.evaluate(BRINGS, brought)
    assert len(sent(page, "upload")) == 1


def bring_image(page: "Page") -> None:
    page.evaluate("sent.length = 0")
    page.evaluate(BRINGS, ["body", "paste", "own.png", "clipboardData"])
    page.wait_for_function("sent.some((wish) => wish.do === 'upload')")


def started(page: "Page") -> dict[str, Any]:
    """The choice that Start sends."""
    button(page, "Start").click()
    found: dict[str, Any] = sent(page, "start")[-1]["choice"]
    return found


def test_an_upload_chooses_a_style_and_nothing_else(page: "Page") -> None:
    bring_image(page)
    choose(page, "relu_1_2")
    page.get_by_label("Seed", exact=True).fill("5")
    page.evaluate("([v, p]) => offer(v, p)", ["upload:0", png(50)])
    expect(page.get_by_role("radio", name="upload:0")).to_be_checked()
    assert started(page) == {**CHOICE, "style": "upload:0", "layer": "relu_1_2", "seed": 5}


def test_a_style_chosen_during_an_upload_stays(page: "Page") -> None:
    bring_image(page)
    choose(page, "dots")
    page.get_by_role("radio", name="dots").focus()
    page.evaluate("([v, p]) => offer(v, p)", ["upload:0", png(50)])
    dots = page.get_by_role("radio", name="dots")
    expect(dots).to_be_checked()
    expect(dots).to_be_focused()
    assert started(page)["style"] == "bundled:dots"
    # The next one is chosen again.
    bring_image(page)
    page.evaluate("([v, p]) => offer(v, p)", ["upload:1", png(60)])
    assert started(page)["style"] == "upload:1"


def test_another_view_of_the_page_begins_with_the_last_choice(page: "Page") -> None:
    choose(page, "relu_1_2")
    page.evaluate("history.replaceState(null, '', location.pathname); again()")
    expect(page.get_by_role("radio", name="relu_1_2")).to_be_checked()


def test_what_is_saved_late_is_not_offered(page: "Page") -> None:
    """The recipe of one's own image is encoded while the next answer may come."""
    ended = run([(1, 1.0)], phase="ended", status="ended: theta", stop="theta")
    asked = {"style": None, "protocol": "fast", "size": SIZE, "seed": 3, "encoder": "bundled"}
    show(page, ended, phase="ended", asked=asked)
    page.evaluate(
        """() => {
          const state = last;
          show({ ...state, saved: ['a.png'] }, {});
          show({ ...state, saved: [] }, {});
        }"""
    )
    page.wait_for_timeout(300)
    expect(page.get_by_role("link", name="a.png")).to_have_count(0)


def test_what_is_dropped_without_a_file(page: "Page") -> None:
    page.evaluate(BRINGS, [".live-stages", "drop", "", "dataTransfer"])
    assert message(page).startswith("What was dropped is no file")
    assert sent(page, "upload") == []


def test_a_phone_offers_its_camera(browser: "Browser", address: str) -> None:
    with browser.new_context(
        viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True
    ) as context:
        page = context.new_page()
        visit(page, f"{address}/index.html")
        camera = page.get_by_label("Camera")
        assert camera.get_attribute("capture") == "environment"
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
