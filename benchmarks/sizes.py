"""What an inversion costs by size, layer and loss, on the CPU: seconds and peak memory.

`python benchmarks/sizes.py`: as long as `--minutes` allow, on a machine that has nothing else to
do. Every cell is a process of its own, which runs `fast` with checkpoints, as `styleinv invert`
does. It ends at `LEVEL`, or after `SECONDS`, but not before the L-BFGS history is full. MMD is a
signed sum, whose loss has no level to reach: its goal is the budget of `fast`.

Every measurement lands in `_build/sizes/` and is not made again: a killed run loses one. What is
there is collected in `results/sizes.json`.
"""

import argparse
import itertools
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ways import made_with, today, write_record

from styleinv import LAYERS
from styleinv.files import write_text
from styleinv.inversion import plan
from styleinv.optim import Iterate
from styleinv.protocol import FAST

ROOT = Path(__file__).parents[1]
WORK = ROOT / "_build" / "sizes"
RECORD = ROOT / "results" / "sizes.json"

STYLE = "bundled:strokes"
SIZES = (64, 128, 256, 512, 1024)
LOSSES = ("gram", "moment-4", "mmd")
LEVEL = 1e-3
SECONDS = 60
# As many as fill the history, and some of the line search.
EVALUATIONS = FAST.memory + 10
# An evaluation costs so many times as much at the next size.
GROWTH = 4

Found = dict[str, Any]


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Measure inversions by size.")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing longer")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--record", type=Path, default=RECORD)
    asked = parser.parse_args(words)
    made = made_with()  # before the measurements, which are the load
    folder = WORK / f"threads-{made['threads']}"
    ends = time.monotonic() + 60 * asked.minutes
    cells = [
        {"size": size, "layer": layer, "loss": loss}
        for size, layer, loss in itertools.product(SIZES, LAYERS, LOSSES)
    ]
    found: list[Found] = []
    for cell in cells:
        path = folder / ("-".join(str(value) for value in cell.values()) + ".json")
        left = ends - time.monotonic()
        if not path.exists() and cell["size"] in asked.sizes and expected(cell, found) < left:
            keep(path, cell)
        if path.exists():
            found.append(json.loads(path.read_text(encoding="utf-8")))
    settings = {"style": STYLE, "level": LEVEL, "seconds": SECONDS}
    summary = {
        "left_out": len(cells) - len(found),
        "dates": sorted({cell["date"] for cell in found}),
        "cells": found,
    }
    write_record(asked.record, {**made, **settings, **summary})


def expected(cell: Found, found: Sequence[Found]) -> float:
    """Seconds that a cell may take, going by the same at the next smaller size."""
    sizes = {one["size"]: one["process_seconds"] for one in found if same_but_size(cell, one)}
    return max((GROWTH * s for size, s in sizes.items() if 2 * size == cell["size"]), default=0)


def same_but_size(one: Found, other: Found) -> bool:
    return one["layer"] == other["layer"] and one["loss"] == other["loss"]


def keep(path: Path, cell: Found) -> None:
    """Measure in a new process, and write what it prints."""
    command = [sys.executable, __file__, "--cell", *(str(value) for value in cell.values())]
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    made = {"date": today(), "process_seconds": time.monotonic() - started}
    found = {**cell, **json.loads(done.stdout), **made}
    write_text(path, json.dumps(found) + "\n")
    print(*cell.values(), *(f"{name} {value}" for name, value in found.items()), flush=True)


def measure(size: int, layer: str, loss: str) -> Found:
    """One cell, in a process that does nothing else."""
    task = plan(STYLE, size=size, layer=layer, loss=loss, encoder="bundled")
    seen: list[tuple[float, int]] = []  # seconds and evaluations at each iteration
    reached: list[tuple[float, int]] = []

    def see(iterate: Iterate) -> bool:
        seen.append((iterate.seconds, iterate.evaluations))
        if loss != "mmd" and iterate.loss <= LEVEL and not reached:
            reached.append(seen[-1])
        is_over = bool(reached) or iterate.seconds > SECONDS
        return is_over and iterate.evaluations >= EVALUATIONS

    with tempfile.TemporaryDirectory() as folder:
        result = task.run(see, task.checkpoint(Path(folder) / "run.checkpoint"))
    if loss == "mmd" and result.stop_reason != "stopped":
        reached.append((result.seconds, result.evaluations))
    (started, first), (ended, last) = seen[0], seen[-1]
    seconds, evaluations = reached[0] if reached else (None, None)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "goal_seconds": seconds,
        "goal_evaluations": evaluations,
        "evaluations": result.evaluations,
        "evaluation_seconds": (ended - started) / (last - first),
        "loss_reached": result.loss,
        "stop_reason": result.stop_reason,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        "estimated_bytes": task.needed_memory(),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cell"]:
        size, layer, loss = sys.argv[2:]
        print(json.dumps(measure(int(size), layer, loss)))
    else:
        main(sys.argv[1:])
