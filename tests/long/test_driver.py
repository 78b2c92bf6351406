"""The published live page under a reader who does not think: nothing leaks, nothing breaks.

`STYLEINV_DRIVER_MINUTES` says how long, `STYLEINV_DRIVER_SEED` which of all readers.
"""

import os
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.test_live import button
from tests.test_live_page import COUNT_WORKERS, DROP, PROCESSORS, as_png, painting, pick, watched

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

expect = pytest.importorskip("playwright.sync_api").expect
MINUTES = float(os.environ.get("STYLEINV_DRIVER_MINUTES", "1"))
SEED = int(os.environ.get("STYLEINV_DRIVER_SEED", "0"))
AT_ONCE = 3
# What a page may hold: 60 frames of each of four runs, the styles, and what is under way.
MOST_ADDRESSES = 300
MOST_HEAP = 80 * 2**20
# Counts the addresses of blobs that are not revoked yet, as `addresses`.
COUNT_ADDRESSES = """
window.addresses = 0;
for (const [name, change] of [["createObjectURL", 1], ["revokeObjectURL", -1]]) {
  const own = URL[name];
  URL[name] = (...given) => { window.addresses += change; return own.apply(URL, given); };
}
"""
CHOICES = (
    *("One run", "Compare two", "Four layers", "N = 1 to 4"),
    *("relu_1_1", "relu_1_2", "relu_2_1", "relu_2_2"),
    *("Gram", "N = 1", "N = 2", "N = 3", "N = 4", "MMD"),
    *("strokes", "dots", "marbling"),
)
BUTTONS = ("Start", "Start", "Pause", "Resume", "Step", "Next", "Stop", "Save", "Reset")


def press(page: "Page", name: str) -> None:
    """Press a button if it can be pressed at this moment."""
    page.evaluate(
        """name => [...document.querySelectorAll(".live button")]
          .find((one) => one.textContent === name && !one.disabled && !one.hidden)?.click()""",
        name,
    )


def choose(page: "Page", rng: random.Random) -> None:
    """Choose something that can be chosen at this moment; an upload makes the choices anew."""
    page.evaluate(
        """name => [...document.querySelectorAll(".live input[type=radio]:enabled")]
          .find((one) => one.parentElement.textContent === name)?.click()""",
        rng.choice(CHOICES),
    )


def upload(page: "Page", rng: random.Random) -> None:
    content = as_png(painting(rng.randrange(8, 300), rng.randrange(8, 300)))
    file = {"name": "own.png", "mimeType": "image/png", "buffer": content}
    page.locator("input[type=file]").first.set_input_files([file])  # type: ignore[list-item]


def change_numbers(page: "Page", rng: random.Random) -> None:
    page.get_by_label("Size in pixels").fill(rng.choice(["32", "64", "64", "33", ""]))
    page.get_by_label("Seed", exact=True).fill(str(rng.randrange(-1, 100)))
    page.get_by_label("Optimiser").select_option(rng.choice(["fast", "from-noise", "chapter"]))


def heap(page: "Page") -> int:
    """Bytes that the page's objects take after those that nobody holds are gone."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    found = session.send("Runtime.getHeapUsage")
    session.detach()
    return int(found["usedSize"])


@pytest.mark.browser
def test_nothing_leaks_and_nothing_breaks(browser: "Browser", live_address: str) -> None:
    rng = random.Random(SEED)
    actions: list[Callable[[], None]]
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(120_000)
        for script in (COUNT_WORKERS, COUNT_ADDRESSES, PROCESSORS % (AT_ONCE + 1)):
            context.add_init_script(script)
        page, problems = watched(context, live_address)
        page.goto(live_address)
        actions = [
            *[lambda: press(page, rng.choice(BUTTONS))] * 6,
            *[lambda: choose(page, rng)] * 4,
            lambda: upload(page, rng),
            lambda: page.evaluate(DROP, ["notes.png", 0, "no picture"]),
            lambda: change_numbers(page, rng),
            lambda: page.wait_for_timeout(rng.randrange(1000)),
        ]
        last = time.monotonic() + 60 * MINUTES
        while time.monotonic() < last:
            rng.choice(actions)()
            # Others may prepare an image and measure the device.
            assert page.evaluate("workers") <= AT_ONCE + 3, problems
            assert page.evaluate("addresses") <= MOST_ADDRESSES
        assert heap(page) < MOST_HEAP
        press(page, "Stop")
        expect(button(page, "Start")).to_be_enabled()
        page.wait_for_function("workers === 0")
        # And it still works.
        page.get_by_label("Size in pixels").fill("32")
        page.get_by_label("Seed", exact=True).fill("0")
        for choice in ("One run", "relu_1_1", "N = 1", "strokes"):
            pick(page, choice)
        button(page, "Start").click()
        expect(page.get_by_text("ended: theta", exact=True)).to_be_visible(timeout=120_000)
        assert problems == []
