"""The engine in the browser against the module: noise, losses, gradients, descents, messages."""

import base64
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import styleinv_book.engine as engine
import torch
from torch import Tensor

import styleinv
from styleinv.encoder import Encoder, load_encoder
from styleinv.images import load_style, to_uint8
from styleinv.inversion import noise_image, plan
from styleinv.losses import MomentLoss, StyleLoss, WhitenedGramLoss, make_loss
from styleinv.protocol import PROTOCOLS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

# What the tests need beside the engine: bytes pass between the languages as base64.
HELPERS = """
const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const floatsOf = (text) => new Float32Array(bytesOf(text).buffer);
const textOf = (values) => {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
};
const asked = ({ style, ...others }) => ({ ...others, style: floatsOf(style) });
"""
STAGES = {
    "gram whitened": WhitenedGramLoss,
    "moment-3 compressed": lambda maps: MomentLoss(maps, 3, compressed=True),
    "moment-4 compressed": lambda maps: MomentLoss(maps, 4, compressed=True),
}
INVERT = """async (given) => {
  const inversion = engine.invert(asked(given));
  const reports = [];
  while (reports.at(-1)?.done == null) reports.push(inversion.step());
  return [reports, textOf(inversion.pixels())];
}"""


@pytest.fixture(scope="module")
def page(browser: "Browser") -> Iterator["Page"]:
    """An empty page with the engine."""
    opened = browser.new_page()
    opened.add_script_tag(content=f"{engine.engine_script()}\n{HELPERS}")
    opened.evaluate(
        """async ({ wasm, weights }) => {
          const parts = { wasm: bytesOf(wasm).buffer, weights: bytesOf(weights).buffer };
          window.engine = await createEngine(parts);
        }""",
        parts(),
    )
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def exact() -> Encoder:
    return load_encoder("bundled", dtype=torch.float64)


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def parts() -> dict[str, str]:
    """What the engine is made of, beside its scripts."""
    return {"wasm": in_base64(engine.KERNEL.read_bytes()), "weights": in_base64(engine.weights())}


def floats(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").copy())


def image_of(style: Tensor) -> dict[str, Any]:
    """A style image (3, H, W) as the engine takes it."""
    _, height, width = style.shape
    return {"style": in_base64(style.numpy().tobytes()), "height": height, "width": width}


def stage(name: str, maps: Tensor) -> StyleLoss:
    return STAGES[name](maps) if name in STAGES else make_loss(name, maps)


def errors(
    page: "Page", exact: Encoder, style: Tensor, image: Tensor, layer: str, name: str
) -> Any:
    """Relative errors of the engine's loss and image gradient; the reference is float64."""
    pixels = image[None].double().requires_grad_()
    value = stage(name, exact(style[None].double(), layer))(exact(pixels, layer))
    (gradient,) = torch.autograd.grad(value, pixels)
    given = {**image_of(style), "image": image_of(image)["style"], "layer": layer, "loss": name}
    loss, found = page.evaluate(
        """(given) => {
          const image = floatsOf(given.image);
          const { loss, gradient } = engine.evaluate({ ...asked(given), image });
          return [loss, textOf(gradient)];
        }""",
        given,
    )
    off = (floats(found).double() - gradient.flatten()).norm() / gradient.norm()
    return abs(loss / value.item() - 1), off.item()


def inverted(page: "Page", style: Tensor, **asked: Any) -> tuple[list[dict[str, Any]], np.ndarray]:
    """What each step of an inversion reports, and the last picture, (H, W, 4)."""
    reports, pixels = page.evaluate(INVERT, {**image_of(style), **asked})
    bytes_of = np.frombuffer(base64.b64decode(pixels), np.uint8)
    return reports, bytes_of.reshape(*style.shape[1:], 4)


@pytest.mark.parametrize("seed", [0, 13, 2**32 + 5])
def test_noise_is_pytorchs_bit_for_bit(page: "Page", seed: int) -> None:
    like = torch.zeros(1, 3, 20, 31)
    found = floats(page.evaluate("(seed) => textOf(uniformNoise(seed, 1860))", seed))
    assert torch.equal(found, noise_image(like, PROTOCOLS["fast"], seed).flatten())


@pytest.mark.parametrize(
    ("layer", "name"),
    list(zip(itertools.cycle(styleinv.LAYERS), (*engine.LOSSES, *STAGES), strict=False)),
)
def test_losses_and_gradients(
    page: "Page", exact: Encoder, layer: str, name: str, generator: torch.Generator
) -> None:
    """An odd number of positions, rows that no tile divides, and the reader's kind of picture."""
    style = load_style("bundled:strokes", size=38)[:, :35, :37]
    image = torch.rand(style.shape, generator=generator)
    loss, gradient = errors(page, exact, style, image, layer, name)
    assert loss < 1e-4
    assert gradient < 1e-4


@pytest.mark.parametrize(
    ("protocol", "loss"), [("from-noise", "moment-2"), ("fast", "gram"), ("chapter", "mmd")]
)
def test_descents_agree_with_the_modules(page: "Page", protocol: str, loss: str) -> None:
    """16 evaluations from the same noise: as many iterations, the same loss and picture."""
    style, layer = load_style("bundled:dots", size=24), "relu_1_2"
    asked = {"layer": layer, "loss": loss, "protocol": protocol, "seed": 3}
    reports, pixels = inverted(page, style, **asked, budget=16, theta=None)
    wanted = plan(style, **asked, iterations=16).run()
    last = reports[-1]
    assert last["done"] == wanted.stop_reason == "budget"
    assert (last["evaluations"], last["iterations"]) == (wanted.evaluations, wanted.iterations)
    assert last["loss"] == pytest.approx(wanted.loss, rel=0.02)
    assert np.abs(pixels[..., :3].astype(int) - to_uint8(wanted.image)).mean() < 0.5
    assert (pixels[..., 3] == 255).all()


def test_theta_ends_a_run(page: "Page") -> None:
    style = load_style("bundled:dots", size=16)
    reports, _ = inverted(page, style, layer="relu_1_1", loss="moment-1", seed=0)
    assert reports[-1]["done"] == "theta"
    assert reports[-1]["loss"] < PROTOCOLS["fast"].theta <= reports[-2]["loss"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"layer": "relu_3_1"}, 'layer is "relu_3_1", but must be one of: relu_1_1, relu_1_2'),
        ({"loss": "mmd-random"}, 'loss is "mmd-random", but must be one of: gram, moment-1'),
        ({"protocol": "scipy"}, 'protocol is "scipy", but must be one of: fast, from-noise'),
        ({"height": 15}, "has 16 x 15 pixels, but each side must have 16 to"),
        ({"height": 17}, "has 768 numbers, which do not fit 16 x 17 pixels"),
    ],
)
def test_what_is_wrong_is_said(page: "Page", wrong: dict[str, Any], said: str) -> None:
    style = load_style("bundled:dots", size=16)
    given = {**image_of(style), "layer": "relu_1_1", "loss": "gram", **wrong}
    sentence = page.evaluate(
        """(given) => {
          try { engine.invert(asked(given)); } catch (error) { return error.message; }
        }""",
        given,
    )
    assert said in sentence


@pytest.mark.parametrize("loss", ["gram", "moment-2", "mmd"])
def test_a_loss_that_is_not_finite_ends_the_run(page: "Page", loss: str) -> None:
    style = load_style("bundled:dots", size=16).index_fill_(2, torch.tensor([3]), torch.nan)
    given = {**image_of(style), "layer": "relu_2_1", "loss": loss}
    sentence = page.evaluate(
        """(given) => {
          try { engine.invert(asked(given)).step(); } catch (error) { return error.message; }
        }""",
        given,
    )
    assert sentence == "The loss of the noise image is NaN, so there is nothing to descend."


# A worker made of a Blob, which keeps what it says; `heard` waits for an answer.
WORKER = """({ source, wasm, weights }) => {
  window.worker = new Worker(URL.createObjectURL(new Blob([source])));
  window.answers = [];
  worker.onmessage = ({ data }) => answers.push(data);
  window.heard = async (isIt) => {
    while (!answers.some(isIt)) await new Promise((resolve) => setTimeout(resolve, 5));
    return answers.find(isIt);
  };
  worker.postMessage({ do: "load", wasm: bytesOf(wasm).buffer, weights: bytesOf(weights).buffer });
}"""


@pytest.fixture
def worker(page: "Page") -> Iterator["Page"]:
    """The page with a worker that has loaded the engine."""
    page.evaluate(WORKER, {"source": engine.worker_script(), **parts()})
    assert page.evaluate("heard((answer) => answer.do === 'ready')")
    yield page
    page.evaluate("worker.terminate()")


def start(page: "Page", **asked: Any) -> None:
    style = image_of(load_style("bundled:dots", size=16))
    given = {"layer": "relu_1_1", "loss": "gram", "seed": 0, "theta": None, **style, **asked}
    page.evaluate("(given) => worker.postMessage({ do: 'start', ...asked(given) })", given)


def send(page: "Page", wish: str) -> None:
    page.evaluate("(wish) => worker.postMessage({ do: wish })", wish)


def test_the_worker_tells_of_a_run_to_its_end(worker: "Page") -> None:
    start(worker, id=7, budget=40)
    last = worker.evaluate("heard((answer) => answer.done != null)")
    assert (last["do"], last["id"], last["done"], last["evaluations"]) == (
        "iterate",
        7,
        "budget",
        40,
    )
    assert len(last["pixels"]) == 16 * 16 * 4


def test_the_worker_pauses_steps_resumes_and_stops(worker: "Page") -> None:
    start(worker, id=1, budget=10**6)
    worker.evaluate("heard((answer) => answer.do === 'iterate')")
    for wish in ("pause", "step", "step", "step"):
        send(worker, wish)
    counts = worker.evaluate(
        """async () => {
          const paused = () => answers.slice(-3).map((answer) => answer.evaluations);
          await heard(() => paused()[0] + 1 === paused()[1] && paused()[1] + 1 === paused()[2]);
          await new Promise((resolve) => setTimeout(resolve, 300));
          return paused();
        }"""
    )
    assert counts == [counts[0], counts[0] + 1, counts[0] + 2]
    send(worker, "resume")
    later = worker.evaluate(f"heard((answer) => answer.evaluations > {counts[2]})")
    assert later["done"] is None
    send(worker, "stop")
    start(worker, id=2, budget=1)
    worker.evaluate("heard((answer) => answer.id === 2)")
    worker.evaluate("answers.length = 0")
    start(worker, id=3, budget=1)
    worker.evaluate("heard((answer) => answer.id === 3)")
    assert worker.evaluate("answers.map((answer) => answer.id)") == [3]


def test_the_worker_says_what_fails_and_goes_on(worker: "Page") -> None:
    start(worker, id=4, loss="histogram")
    failed = worker.evaluate("heard((answer) => answer.do === 'failed')")
    assert failed["id"] == 4
    assert failed["message"].startswith('loss is "histogram", but must be one of')
    start(worker, id=5, budget=2)
    assert worker.evaluate("heard((answer) => answer.id === 5)")["do"] == "iterate"
