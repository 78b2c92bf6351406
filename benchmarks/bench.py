"""What an inversion costs on this machine, side by side in one run, in a few minutes: `make bench`.

First this machine's ceilings and the live page's first picture; then, per layer and loss, one
iteration of each method, the methods taking turns; then a race of three methods over one cell,
drawn in `_build/bench.png`. The numbers go to `_build/bench.json`. The record that the book quotes
is made by `benchmarks/full.py`.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from ways import (
    blas_as_it_comes,
    ceilings,
    convolutions_alone,
    iteration,
    released_iteration,
    seconds_per_call,
    spread,
    take_turns,
)

import styleinv
from styleinv.inversion import Task, plan
from styleinv.protocol import CHAPTER, FAST, SCIPY

SIZE = 128
CELLS = tuple(itertools.product(styleinv.LAYERS, ("gram", "moment-4", "mmd")))
ROUNDS = 5
RACE = {
    "fast": FAST,
    "SciPy's L-BFGS-B": SCIPY.limited_to(500),
    "Adam, 3000 iterations": CHAPTER.limited_to(3000),
}
FIRST_PICTURE = 3  # seconds
BUILD = Path(__file__).parents[1] / "_build"


def main() -> None:
    """Print the table, keep it, draw the race."""
    BUILD.mkdir(exist_ok=True)
    encoder = styleinv.load_encoder("bundled")
    limits = ceilings(ROUNDS)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; at most "
        f"{limits['float32_gflop_per_s']:.0f} GFLOP/s (float32) and "
        f"{limits['bfloat16_gflop_per_s']:.0f} GFLOP/s (bfloat16) in convolutions, "
        f"{limits['memory_gb_per_s']:.0f} GB/s of memory"
    )
    print(f"{SIZE} x {SIZE}, bundled encoder, median of {ROUNDS} rounds (range)")
    first = spread(first_pictures())
    print(
        f"live page: {first['median']:.2f} s ({first['low']:.2f}-{first['high']:.2f}) from Start "
        f"to a picture with a tenth of the loss (relu_2_1, Gram); at most {FIRST_PICTURE} s wanted"
    )
    rows = []
    for layer, loss in CELLS:
        task = plan("bundled:strokes", layer=layer, loss=loss, size=SIZE, encoder=encoder)
        rows.append({"layer": layer, "loss": loss, "ways": one_iteration(task)})
    race = run_race(encoder)
    found = {
        "ceilings": limits,
        "size": SIZE,
        "first_picture": first,
        "rows": rows,
        "race": race,
    }
    (BUILD / "bench.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"kept in {BUILD / 'bench.json'}, drawn in {BUILD / 'bench.png'}")


def first_pictures() -> list[float]:
    """What `first_picture.py` measures, in a process of its own, as the live page has."""
    command = [sys.executable, Path(__file__).with_name("first_picture.py"), SIZE, ROUNDS]
    finished = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    return [float(seconds) for seconds in finished.stdout.split()]


def one_iteration(task: Task) -> dict[str, Any]:
    """Milliseconds per iteration or evaluation, and the ratio to an iteration of our Adam."""
    convolutions = convolutions_alone(SIZE, task.layer)

    def scipy_as_it_comes() -> float:
        with blas_as_it_comes():
            return iteration(task, "l-bfgs-b", 8)

    seconds = take_turns(
        {
            "Adam": lambda: iteration(task, "adam", 8),
            "the released algorithm": lambda: released_iteration(task, 4),
            "convolutions alone": lambda: seconds_per_call(convolutions, 4),
            "projected L-BFGS": lambda: iteration(task, "l-bfgs", 8),
            "SciPy's L-BFGS-B": lambda: iteration(task, "l-bfgs-b", 8),
            "the same, BLAS as it comes": scipy_as_it_comes,
        },
        ROUNDS,
    )
    found = {}
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds["Adam"], strict=True)]
        found[name] = {"milliseconds": spread([1000 * v for v in values]), "ratio": spread(ratios)}
        ms, ratio = found[name]["milliseconds"], found[name]["ratio"]
        print(
            f"{task.layer} {task.loss:9} {name:27} {ms['median']:7.2f} ms "
            f"({ms['low']:.2f}-{ms['high']:.2f})  {ratio['median']:5.2f} x Adam "
            f"({ratio['low']:.2f}-{ratio['high']:.2f})",
            flush=True,
        )
    return found


def run_race(encoder: styleinv.Encoder) -> list[dict[str, Any]]:
    """Loss over time from the same noise: relu_2_1, N = 3."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 2), layout="constrained")
    lines, pictures = axes
    lanes, found = [], []
    for name, protocol in RACE.items():
        result = styleinv.invert(
            "bundled:strokes", loss="moment-3", size=SIZE, encoder=encoder, protocol=protocol
        )
        points = [(point.seconds, point.loss) for point in result.trace]
        lines.plot(*zip(*points, strict=True), label=name)
        lanes.append(result.image)
        print(
            f"race: {name}: loss {result.loss:.2g} after {result.evaluations} evaluations, "
            f"{result.seconds:.1f} s, {result.stop_reason}"
        )
        found.append({"method": name, "trace": points, "stop_reason": result.stop_reason})
    lines.axhline(FAST.theta, color="grey", linestyle=":", label="theta")
    lines.set(xscale="log", yscale="log", xlabel="seconds", ylabel="exact loss")
    lines.set_title(f"strokes, relu_2_1, N = 3, {SIZE} x {SIZE}, seed 0")
    lines.legend()
    pictures.imshow(torch.cat(lanes, dim=2).permute(1, 2, 0).numpy(), interpolation="nearest")
    pictures.set_title("fast, SciPy's L-BFGS-B, Adam")
    pictures.axis("off")
    figure.savefig(BUILD / "bench.png", dpi=120)
    return found


if __name__ == "__main__":
    main()
