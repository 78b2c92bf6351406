"""What an inversion costs on this machine, side by side in one run.

Each row is a way to spend one evaluation of loss and gradient (Gram matrix, bundled encoder): the
convolutions alone, an iteration of Adam, an evaluation within SciPy's L-BFGS-B, and the same with
OpenBLAS's threads left as they are, which is what styleinv avoids. The ways take turns, so that a
noisy machine disturbs all of them alike; printed are median and range over the rounds, and the
ratio to Adam.
"""

import dataclasses
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch

import styleinv
from styleinv import optim
from styleinv.invert import plan
from styleinv.protocol import PROTOCOLS

SIZE = 128
ROUNDS = 7
EVALUATIONS = 20
RESULTS = Path(__file__).parents[1] / "_build" / "bench.json"


def convolutions_alone(encoder: styleinv.Encoder, layer: str) -> float:
    """Seconds per forward pass and gradient with respect to the image, no loss and no optimiser."""
    image = torch.rand(1, 3, SIZE, SIZE, requires_grad=True)
    ones = torch.ones_like(encoder(image, layer))
    started = time.perf_counter()
    for _ in range(EVALUATIONS):
        torch.autograd.grad(encoder(image, layer), image, ones)
    return (time.perf_counter() - started) / EVALUATIONS


def inversion(encoder: styleinv.Encoder, layer: str, protocol: str) -> float:
    """Seconds per evaluation of a short inversion that theta does not stop."""
    endless = dataclasses.replace(PROTOCOLS[protocol].limited_to(EVALUATIONS), theta=0.0)
    task = plan("bundled:strokes", layer=layer, encoder=encoder, protocol=endless, size=SIZE)
    result = task.run()
    return result.seconds / result.evaluations


def with_free_openblas(encoder: styleinv.Encoder, layer: str) -> float:
    """L-BFGS-B as it is without the limit on OpenBLAS's threads."""
    free = mock.Mock()
    free.return_value.select.return_value.limit = lambda limits: nullcontext()
    with mock.patch.object(optim, "ThreadpoolController", free):
        return inversion(encoder, layer, "fast")


def main() -> None:
    """Print the table and keep it in `_build/bench.json`."""
    encoder = styleinv.load_encoder("bundled")
    ways: dict[str, Callable[[str], float]] = {
        "convolutions alone": lambda layer: convolutions_alone(encoder, layer),
        "Adam, per iteration": lambda layer: inversion(encoder, layer, "chapter"),
        "L-BFGS-B, per evaluation": lambda layer: inversion(encoder, layer, "fast"),
        "L-BFGS-B, OpenBLAS free": lambda layer: with_free_openblas(encoder, layer),
    }
    rows = []
    print(f"{SIZE} x {SIZE}, {torch.get_num_threads()} threads, {ROUNDS} rounds of {EVALUATIONS}")
    print(
        f"{'layer':10} {'way':26} {'ms median':>10} {'(range)':>16} {'x Adam':>8} {'(range)':>14}"
    )
    for layer in styleinv.LAYERS:
        for way in ways.values():
            way(layer)  # warm up
        rounds = [{name: way(layer) for name, way in ways.items()} for _ in range(ROUNDS)]
        for name in ways:
            times = [1000 * times[name] for times in rounds]
            ratios = [times[name] / times["Adam, per iteration"] for times in rounds]
            rows.append({"layer": layer, "way": name, "milliseconds": times, "to_adam": ratios})
            print(
                f"{layer:10} {name:26} {statistics.median(times):10.1f} "
                f"{f'({min(times):.1f}-{max(times):.1f})':>16} {statistics.median(ratios):8.2f} "
                f"{f'({min(ratios):.2f}-{max(ratios):.2f})':>14}",
                flush=True,
            )
    record = {
        "size": SIZE,
        "evaluations": EVALUATIONS,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "rows": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(f"kept in {RESULTS}")


if __name__ == "__main__":
    main()
