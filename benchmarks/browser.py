"""The engine of the published page in Chromium beside the module with one thread, for one loss.

`python benchmarks/browser.py`: a few minutes, on a machine that has nothing else to do. Both invert
a painted style through the Gram matrix, by turns. Counted are evaluations of loss and gradient per
second, by size and layer, and the seconds from Start to a share of the first loss.
"""

import argparse
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import styleinv_book.engine as engine
import torch
from playwright.sync_api import Browser, Page, sync_playwright
from ways import made_with, spread, take_turns, write_record

from styleinv import LAYERS
from styleinv.images import load_style
from styleinv.inversion import plan
from styleinv.optim import Iterate

RECORD = Path(__file__).parents[1] / "results" / "browser.json"
STYLE, LOSS = "bundled:strokes", "gram"
SIZES = (64, 96, 128)
EVALUATIONS = 12
ROUNDS = 5
# Where readers begin, and what is timed there: shares of the first loss.
FIRST = {"size": 64, "layer": "relu_2_1"}
SHARES = (0.1, 1e-3)
# What the page is to reach.
WANTED = {
    "evaluations per second at 96 px, relu_2_2": 5,
    "seconds to 0.1 of the first loss": 2,
    "seconds to 0.001 of the first loss": 15,
}

LOAD = """({ program, wasm, weights }) => new Promise((resolve, reject) => {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
  window.worker = new Worker(URL.createObjectURL(new Blob([program])));
  worker.onmessage = ({ data }) => (data.do === "ready" ? resolve() : reject(data.message));
  worker.postMessage({ do: "load", wasm: bytes(wasm), weights: bytes(weights) });
})"""

# Run until the budget or a share of the first loss; what the page hears, and when.
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


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Measure the engine in the browser.")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--record", type=Path, default=RECORD)
    asked = parser.parse_args(words)
    torch.set_num_threads(1)
    made = made_with()  # before the measurements, which are the load
    with opened() as (browser, page):
        cells = [(size, layer) for size in asked.sizes for layer in LAYERS]
        rates = [rate(page, size, layer, asked.rounds) for size, layer in cells]
        waits = [wait(page, share, asked.rounds) for share in asked.shares]
        made["chromium"] = browser.version
    settings = {"style": STYLE, "loss": LOSS, "rounds": asked.rounds, "wanted": WANTED}
    write_record(asked.record, {**made, **settings, "first": FIRST, "rates": rates, "waits": waits})


@contextmanager
def opened() -> Iterator[tuple[Browser, Page]]:
    """A headless Chromium, and an empty page of it with the engine in a worker."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
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
        yield browser, page
        browser.close()


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
    """Seconds from Start to this share of the first loss, where readers begin."""

    def browser() -> float:
        last = in_browser(page, FIRST["size"], FIRST["layer"], share=share)[-1]
        return last["after"]

    def python() -> float:
        losses: list[float] = []

        def is_there(iterate: Iterate) -> bool:
            losses.append(iterate.loss)
            return iterate.loss <= share * losses[0]

        return plan(STYLE, loss=LOSS, **FIRST).run(is_there).seconds

    return {"share": share, **beside(browser, python, rounds, f"s to {share:g} of the first loss")}


def beside(
    browser: Callable[[], float], python: Callable[[], float], rounds: int, unit: str
) -> dict[str, Any]:
    """Median and range of what both return, by turns, and of the browser's over Python's."""
    found = take_turns({"browser": browser, "python": python}, rounds)
    ratios = [a / b for a, b in zip(found["browser"], found["python"], strict=True)]
    row = {**{name: spread(values) for name, values in found.items()}, "ratio": spread(ratios)}
    told = (f"{row[name]['median']:.2f}" for name in ("browser", "python", "ratio"))
    print(*told, f"({min(ratios):.2f}-{max(ratios):.2f})", unit, flush=True)
    return row


if __name__ == "__main__":
    main(sys.argv[1:])
