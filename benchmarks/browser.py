"""The engine of the published page in Chromium beside the module with one thread, for one loss.

`python benchmarks/browser.py`: some three minutes, on a machine that has nothing else to do. Both
invert a painted style through the Gram matrix, by turns. Counted are evaluations of loss and
gradient per second, by size and layer, and the seconds from Start to a share of the first loss.
Then the published page itself inverts, and keys are pressed: how soon does it answer? The numbers
go to `results/browser.json`, which the book shows. `make bench` measures one round, for
`_build/browser.json`.

`--only recipes` measures no speed: the page inverts and saves recipes, Python makes their runs
again, and the two ends are compared. This replaces `recipes` in the record and keeps the rest.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import styleinv_book.engine as engine
import torch
from msgspec.structs import replace
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from scipy.ndimage import gaussian_filter
from styleinv_book import live_page
from ways import made_with, spread, take_turns, write_record

from styleinv import LAYERS
from styleinv.files import write_text
from styleinv.images import Pixels, load_style, to_uint8
from styleinv.inversion import plan
from styleinv.live.recipe import read_recipe
from styleinv.optim import Iterate

RECORD = Path(__file__).parents[1] / "results" / "browser.json"
STYLE, LOSS = "bundled:strokes", "gram"
SIZES = (64, 96, 128)
EVALUATIONS = 12
ROUNDS = 3
# Where readers begin, and what is timed there: shares of the first loss.
FIRST = {"size": 64, "layer": "relu_2_1"}
SHARES = (0.1, 1e-3)
# The run of the page that has to answer keys, and for how long they are pressed.
BUSY = {"size": 96, "layer": "relu_2_2"}
SECONDS = 10
# What the page inverts for recipes, as its address says it.
RECIPES = (
    {"show": "layers", "style": "bundled:strokes", "loss": "gram", "protocol": "fast"},
    {"show": "moments", "style": "bundled:dots", "layer": "relu_1_2", "protocol": "fast"},
    {"style": "bundled:marbling", "loss": "gram", "other_loss": "mmd", "protocol": "fast"},
    {
        "style": "bundled:strokes",
        "loss": "gram",
        "other_loss": "moment-2",
        "protocol": "from-noise",
    },
    {
        "style": "bundled:dots",
        "layer": "relu_1_1",
        "other_layer": "relu_1_1",
        "loss": "moment-1",
        "other_loss": "moment-2",
        "protocol": "chapter",
        "size": 32,  # the chapter's Adam takes thousands of evaluations
    },
)
# What they have in common, if they do not say otherwise.
RECIPE = {"show": "compare", "layer": "relu_2_1", "other_layer": "relu_2_1", "size": 64}
BLUR = 2.0  # standard deviation in pixels, before two pictures are correlated
# What the page is to reach.
WANTED = {
    "evaluations per second at 96 px, relu_2_2": 5,
    "seconds to 0.1 of the first loss": 2,
    "seconds to 0.001 of the first loss": 15,
    "milliseconds from a key to the next frame": 100,
}

LOAD = """({ program, wasm, weights }) => new Promise((resolve, reject) => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  window.worker = new Worker(URL.createObjectURL(new Blob([program])));
  worker.onmessage = ({ data }) => (data.do === "ready" ? resolve() : reject(data.message));
  worker.postMessage({ do: "load", wasm: bytes(wasm), weights: bytes(weights) });
})"""

# Run until the end or a share of the first loss; what the page hears, and when.
RUN = """({ style, share, ...asked }) => new Promise((resolve, reject) => {
  const began = performance.now();
  const heard = [];
  worker.onmessage = ({ data }) => {
    if (data.do === "failed") reject(data.message);
    const { evaluations, loss, seconds, done } = data;
    heard.push({ evaluations, loss, seconds, after: (performance.now() - began) / 1000 });
    if (done === null && loss > share * heard[0].loss) return;
    worker.postMessage({ do: "stop" });
    resolve(heard);
  };
  worker.postMessage({ do: "start", id: 0, ...asked, style: new Float32Array(style) });
})"""

# Keep, for each key, the milliseconds from the press to the frame that comes after its handlers.
HEAR_KEYS = """() => {
  window.delays = [];
  const { port1, port2 } = new MessageChannel();
  let waiting = [];
  port1.onmessage = () => {
    for (const pressed of waiting) delays.push(performance.now() - pressed);
    waiting = [];
  };
  addEventListener("keydown", ({ timeStamp }) => {
    waiting.push(timeStamp);
    requestAnimationFrame(() => port2.postMessage(null));
  });
}"""


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Measure the engine in the browser.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="in which keys are pressed")
    parser.add_argument("--only", choices=["recipes"], help="compare ends, measure no speed")
    parser.add_argument("--record", type=Path, default=RECORD)
    asked = parser.parse_args(words)
    if chromium() is None:
        print("The engine in the browser is not measured: this machine has no Chromium.")
        return
    torch.set_num_threads(1)
    if asked.only == "recipes":
        update_record(asked.record, {"recipes": recipes()})
        return
    made = made_with()  # before the measurements, which are the load
    with opened() as browser:
        page = with_engine(browser)
        cells = [(size, layer) for size in asked.sizes for layer in LAYERS]
        rates = [rate(page, size, layer, asked.rounds) for size, layer in cells]
        waits = [wait(page, share, asked.rounds) for share in asked.shares]
        page.close()
        found = {"rates": rates, "waits": waits, "answers": answers(browser, asked.seconds)}
        made["chromium"] = browser.version
    settings = {"style": STYLE, "loss": LOSS, "rounds": asked.rounds, "wanted": WANTED}
    update_record(asked.record, {**made, **settings, "first": FIRST, **found})


def update_record(record: Path, found: Mapping[str, Any]) -> None:
    """Replace in a record what was found; what another part of this script has found stays."""
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    write_record(record, {**known, **found})


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def opened() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


def with_engine(browser: Browser) -> Page:
    """An empty page with the engine in a worker."""
    page = browser.new_page()
    page.set_default_timeout(0)
    page.evaluate(
        LOAD,
        {
            "program": engine.worker_script(),
            "wasm": b64encode(engine.KERNEL.read_bytes()).decode(),
            "weights": b64encode(engine.weights()).decode(),
        },
    )
    return page


def in_browser(page: Page, size: int, layer: str, **limits: float) -> list[dict[str, float]]:
    style = load_style(STYLE, size=size).flatten().tolist()
    asked = {"height": size, "width": size, "layer": layer, "loss": LOSS, "share": 0, **limits}
    heard: list[dict[str, float]] = page.evaluate(RUN, {"style": style, **asked})
    return heard


def rate(page: Page, size: int, layer: str, rounds: int) -> dict[str, Any]:
    """Evaluations per second in the browser and in Python, and their ratio."""
    task = plan(STYLE, size=size, layer=layer, loss=LOSS, iterations=EVALUATIONS)

    def browser() -> float:
        last = in_browser(page, size, layer, budget=EVALUATIONS)[-1]
        return last["evaluations"] / last["seconds"]

    def python() -> float:
        done = task.run()
        return done.evaluations / done.seconds

    return {"size": size, "layer": layer, **beside(browser, python, rounds, "evaluations per s")}


def wait(page: Page, share: float, rounds: int) -> dict[str, Any]:
    """Seconds from Start to this share of the first loss, where readers begin.

    A run that ends before it is there has no seconds.
    """

    def browser() -> float | None:
        heard = in_browser(page, FIRST["size"], FIRST["layer"], share=share)
        return heard[-1]["after"] if is_reached([one["loss"] for one in heard], share) else None

    def python() -> float | None:
        losses: list[float] = []

        def is_there(iterate: Iterate) -> bool:
            losses.append(iterate.loss)
            return is_reached(losses, share)

        seconds = plan(STYLE, loss=LOSS, **FIRST).run(is_there).seconds
        return seconds if is_reached(losses, share) else None

    return {"share": share, **beside(browser, python, rounds, f"s to {share:g} of the first loss")}


def is_reached(losses: Sequence[float], share: float) -> bool:
    return losses[-1] <= share * losses[0]


def beside(
    browser: Callable[[], float | None],
    python: Callable[[], float | None],
    rounds: int,
    unit: str,
) -> dict[str, Any]:
    """Median and range of what both return, by turns, and of the browser's over Python's.

    None for one that returned None in any round, and for the ratio with it.
    """
    found = take_turns({"browser": browser, "python": python}, rounds)
    pairs = zip(found["browser"], found["python"], strict=True)
    found["ratio"] = [a / b if a and b else None for a, b in pairs]
    row = {name: spread_if_all(values) for name, values in found.items()}
    print(*(f"{name} {told(values)}," for name, values in row.items()), unit, flush=True)
    return row


def spread_if_all(values: Sequence[float | None]) -> dict[str, float] | None:
    measured = [value for value in values if value is not None]
    return spread(measured) if len(measured) == len(values) else None


def told(values: dict[str, float] | None) -> str:
    if values is None:
        return "not reached"
    return f"{values['median']:.2f} ({values['low']:.2f}-{values['high']:.2f})"


def answers(browser: Browser, seconds: float) -> dict[str, Any]:
    """Milliseconds from a key to the page's next frame, while the page inverts.

    Raises:
        RuntimeError: the run ended before the seconds had passed.
    """
    with tempfile.TemporaryDirectory() as name:
        page = published(browser, Path(name), {"style": STYLE, "loss": LOSS, **BUSY})
        page.get_by_role("button", name="Pause", exact=True).wait_for()
        page.locator(".viewer-stage img").first.wait_for()
        page.evaluate(HEAR_KEYS)
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            page.keyboard.press("Shift")
            page.wait_for_timeout(20)
        delays = page.evaluate("delays")
        if not page.get_by_role("button", name="Pause", exact=True).is_enabled():
            raise RuntimeError(f"the page's run ended within {seconds} seconds; let it take longer")
    row = {"keys": len(delays), "milliseconds": spread(delays)}
    print(f"{told(row['milliseconds'])} ms from {row['keys']} keys to the next frame", flush=True)
    return {**BUSY, "seconds": seconds, **row}


def published(browser: Browser, folder: Path, choice: Mapping[str, Any]) -> Page:
    """The live page as in the book, from a folder, with a run that its address asks for."""
    live_page.write(folder / live_page.FOLDER)
    path = folder / "notebooks" / "live.html"
    write_text(path, f"<!doctype html><body>{live_page.fragment([STYLE], instead='')}</body>")
    page = browser.new_page()
    page.set_default_timeout(0)
    page.goto(f"{path.as_uri()}#{urlencode({**choice, 'start': 1}, safe=':')}")
    return page


def recipes() -> dict[str, Any]:
    """How close the page and Python end, for each recipe."""
    made = made_with()
    with opened() as browser:
        rows = [row for choice in RECIPES for row in agreement(browser, {**RECIPE, **choice})]
        made["chromium"] = browser.version
    return {**made, "blur": BLUR, "runs": rows}


def agreement(browser: Browser, choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where the page's runs end, and where `styleinv.live.recipe` ends with the saved recipe.

    `ratio` is the page's final loss over Python's, `correlation` that of the two pictures, and
    `another seed` that of Python's picture and Python's from other noise.
    """
    with tempfile.TemporaryDirectory() as name:
        page = published(browser, Path(name), choice)
        page.locator(".live-save:enabled").click()
        links = page.locator(".live-saved a")
        links.last.wait_for()
        *pictures, kept = [downloaded(page, link, Path(name)) for link in links.all()]
        page.close()
        recipe = read_recipe(kept)
        tasks = recipe.plan({})
        others = replace(recipe, seed=recipe.seed + 1).plan({})
        rows = []
        for picture, run, task, other in zip(pictures, recipe.runs, tasks, others, strict=True):
            own, reached = pixels_of(picture), run.reached
            python, elsewhere = task.run(), other.run()
            again = to_uint8(python.image)
            rows.append(
                {
                    "style": recipe.style,
                    "layer": run.layer,
                    "loss": run.loss,
                    "protocol": recipe.protocol,
                    "size": recipe.size,
                    "page": [reached.loss, reached.evaluations, reached.stop],
                    "python": [python.loss, python.evaluations, python.stop_reason],
                    "ratio": reached.loss / python.loss,
                    "correlation": correlation(own, again),
                    "another seed": correlation(again, to_uint8(elsewhere.image)),
                }
            )
            print(rows[-1], flush=True)
    return rows


def downloaded(page: Page, link: Locator, folder: Path) -> Path:
    with page.expect_download() as started:
        link.click()
    path = folder / started.value.suggested_filename
    started.value.save_as(path)
    return path


def pixels_of(picture: Path) -> Pixels:
    with Image.open(picture) as opened_picture:
        return np.asarray(opened_picture.convert("RGB"))


def correlation(one: Pixels, other: Pixels) -> float:
    """Pearson's, of two pictures (H, W, 3) after a small blur."""
    blurred = (
        gaussian_filter(pixels.astype(float), (BLUR, BLUR, 0)).ravel() for pixels in (one, other)
    )
    return float(np.corrcoef(*blurred)[0, 1])


if __name__ == "__main__":
    main(sys.argv[1:])
