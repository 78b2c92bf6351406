"""The whole record that the book's page on performance quotes: `make bench-full`.

Takes hours on two cores. Every measurement lands in `_build/bench-full/`, in a folder of the
encoder, and is not made again, so that a killed run is taken up by starting it again; after a
change of the code that is measured, empty that folder. What is there is collected in
`results/performance.json` at the end, each with its date and the version of its results.

Adam's way is long, and what it does (iterations, loss) does not depend on the machine's load: the
part `adam` walks it once, the part `time` measures what one of its iterations costs, beside the
other methods. Leave the machine alone while `time` runs; `adam` and `n4` do not mind company.
"""

import argparse
import dataclasses
import itertools
import json
import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from ways import (
    LOSSES,
    blas_as_it_comes,
    ceilings,
    convolutions_alone,
    gflop,
    in_bfloat16,
    iteration,
    released_iteration,
    seconds_per_call,
    spread,
    take_turns,
    today,
)

import styleinv
from styleinv import LAYERS
from styleinv.files import write_text
from styleinv.images import short_name
from styleinv.inversion import RESULTS_VERSION, Task, plan
from styleinv.protocol import CHAPTER, FAST, FROM_NOISE, QUANTILES_FIRST, SCIPY, Protocol

ROOT = Path(__file__).parents[1]
WORK = ROOT / "_build" / "bench-full"
RECORD = ROOT / "results" / "performance.json"

SIZE = 256
ROUNDS = 3
ADAM_ITERATIONS = 20_000
RACE_LOSSES = ("gram", "moment-1", "moment-2", "moment-3")
RACE_GRAM = 5000
SCIPY_EVALUATIONS = 400
PAIRS = (10, 20, 40, 80)
N4_SEEDS = (0, 1, 2)
N4_SIZE = 128
N4_STYLES = ("skimage:immunohistochemistry", "skimage:coffee")

CHAPTER_20_000 = CHAPTER.limited_to(ADAM_ITERATIONS)
N4_WAYS = {x.name: x for x in (QUANTILES_FIRST, FROM_NOISE)}

Found = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the record of the page on performance.")
    parser.add_argument("parts", nargs="*", help="adam, n4, time, collect (default: all)")
    parser.add_argument("--encoder", default="bundled", help="as for `styleinv invert`")
    parser.add_argument(
        "--styles",
        nargs="+",
        default=["bundled:strokes", "bundled:mosaic", "skimage:coffee"],
        help="at least three style images",
    )
    arguments = parser.parse_args()
    if len(arguments.styles) < 3:
        parser.error("argument --styles: three style images at least are needed")
    bench = Bench(arguments.encoder, arguments.styles)
    parts = {"adam": bench.adam, "n4": bench.n4, "time": bench.time, "collect": bench.collect}
    unknown = set(arguments.parts) - set(parts)
    if unknown:
        parser.error(f"unknown part {sorted(unknown)[0]!r}; allowed are: {', '.join(parts)}")
    for part in arguments.parts or parts:
        parts[part]()


class Bench:
    """The measurements over one encoder and three style images."""

    def __init__(self, source: str, styles: Sequence[str]) -> None:
        self.source = source
        self.encoder = styleinv.load_encoder(source)
        self.styles = list(styles[:3])
        self.folder = WORK / self.encoder.sha256[:12]

    def adam(self) -> None:
        """Adam at the chapter's settings: where it passes theta, or its loss after 20,000."""
        for cell in self._race_cells():
            self._adam(cell)

    def n4(self) -> None:
        """N = 4 by `quantiles`, and with the same budget from noise."""
        for seed, way in itertools.product(N4_SEEDS, N4_WAYS):
            for style, layer in itertools.product([*self.styles, *N4_STYLES], LAYERS):
                cell = self._cell(style, N4_SIZE, layer, "moment-4") | {"way": way, "seed": seed}
                self._keep(
                    "n4", cell, lambda cell: _outcome(self._task(cell, N4_WAYS[cell["way"]]))
                )

    def time(self) -> None:
        """Everything that has to be measured side by side on a quiet machine."""
        self._keep("ceilings", {}, lambda cell: _machine() | ceilings())
        first = self.styles[0]
        for layer, loss in itertools.product(LAYERS, LOSSES):
            self._keep("iteration", self._cell(first, SIZE, layer, loss), self._iteration)
        for cell in self._race_cells():
            if self._path("adam", cell).exists():  # else there is nothing to race against yet
                self._keep("race", cell, self._race)
        for layer, loss in itertools.product(LAYERS, LOSSES):
            cell = self._cell(first, N4_SIZE, layer, loss)
            self._keep("whole", cell, lambda cell: _outcome(self._task(cell, FAST)))
        for layer, loss in itertools.product(LAYERS, ("gram", "moment-1", "moment-2")):
            self._keep("pairs", self._cell(first, 64, layer, loss), self._pairs)
        for size, layer, loss in itertools.product((64, SIZE), LAYERS, ("gram", "moment-2")):
            self._keep("evaluation", self._cell(first, size, layer, loss), self._evaluation)
        for cell in self._race_cells():
            if cell["size"] == 64:
                self._keep("scipy", cell, self._against_scipy)
        for layer, loss in itertools.product(LAYERS, ("gram", "moment-2")):
            cell = self._cell(first, 64, layer, loss)
            self._keep("bfloat16", cell, lambda cell: in_bfloat16(self._task(cell, FAST), 500))

    def collect(self) -> None:
        """Everything found so far, in the record that the book reads."""
        record: Found = {
            "encoder": self.encoder.name,
            "encoder_sha256": self.encoder.sha256,
            "size": SIZE,
            "adam_iterations": ADAM_ITERATIONS,
            "race_cells": len(self._race_cells()),
            "race_gram": RACE_GRAM,
            "scipy_evaluations": SCIPY_EVALUATIONS,
            "n4_size": N4_SIZE,
        }
        for part in sorted(self.folder.iterdir()):
            record[part.name] = [
                json.loads(file.read_text(encoding="utf-8")) for file in sorted(part.iterdir())
            ]
        text = json.dumps(record, indent=1) + "\n"
        write_text(RECORD, text)
        print(f"collected in {RECORD}")

    def _adam(self, cell: Found) -> Found:
        return self._keep("adam", cell, lambda cell: _outcome(self._task(cell, CHAPTER_20_000)))

    def _iteration(self, cell: Found) -> Found:
        """One iteration, four ways, in turns."""
        task = self._task(cell, CHAPTER)
        alone = {
            dtype: convolutions_alone(SIZE, task.layer, getattr(torch, dtype))
            for dtype in ("float32", "bfloat16")
        }
        seconds = take_turns(
            {
                "released": lambda: released_iteration(task, 2),
                "adam": lambda: iteration(task, "adam", 4),
                "convolutions": lambda: seconds_per_call(alone["float32"], 3),
                "convolutions in bfloat16": lambda: seconds_per_call(alone["bfloat16"], 3),
            },
            ROUNDS,
        )
        ratios = {
            f"{name} / {other}": [a / b for a, b in zip(seconds[name], seconds[other], strict=True)]
            for name, other in (("released", "adam"), ("adam", "convolutions"))
        }
        return {
            "seconds": {name: spread(values) for name, values in seconds.items()},
            "ratios": {name: spread(values) for name, values in ratios.items()},
            "gflop": gflop(SIZE, task.layer),
        }

    def _race(self, cell: Found) -> Found:
        """`fast` to theta, or to where Adam stood after 20,000 iterations if that is higher."""
        adam = self._adam(cell)
        target = max(FAST.theta, adam["final_loss"])
        # The Gram matrix may take as long as it needs: the question is when, not whether.
        protocol = FAST.limited_to(RACE_GRAM) if cell["loss"] == "gram" else FAST
        reached = _outcome(self._task(cell, dataclasses.replace(protocol, theta=target)))
        each = take_turns(
            {"adam": lambda: iteration(self._task(cell, CHAPTER), "adam", 60)}, rounds=3
        )["adam"]
        return {
            "target": target,
            "adam_iterations": adam["iterations"],
            "adam_seconds": adam["iterations"] * spread(each)["median"],
            "adam_iteration": spread(each),
            "fast": reached,
        }

    def _against_scipy(self, cell: Found) -> Found:
        """The same method family, from the same noise to the same theta, without warm-ups."""
        ours = FROM_NOISE.limited_to(SCIPY_EVALUATIONS)
        theirs = SCIPY.limited_to(SCIPY_EVALUATIONS)
        return {
            "ours": _outcome(self._task(cell, ours)),
            "scipy": _outcome(self._task(cell, theirs)),
        }

    def _pairs(self, cell: Found) -> Found:
        """`fast` with fewer and with more pairs in its memory."""
        return {
            str(pairs): _outcome(self._task(cell, dataclasses.replace(FAST, memory=pairs)))
            for pairs in PAIRS
        }

    def _evaluation(self, cell: Found) -> Found:
        """One evaluation within our L-BFGS and within SciPy's, in turns."""
        task = self._task(cell, FAST)
        # Long enough for the threads that the way before has left waiting to fall asleep.
        evaluations = 60 if cell["size"] == 64 else 12

        def as_it_comes() -> float:
            with blas_as_it_comes():
                return iteration(task, "l-bfgs-b", evaluations)

        seconds = take_turns(
            {
                "ours": lambda: iteration(task, "l-bfgs", evaluations),
                "scipy": lambda: iteration(task, "l-bfgs-b", evaluations),
                "scipy as it comes": as_it_comes,
            },
            rounds=3,
        )
        return {name: spread(values) for name, values in seconds.items()}

    def _race_cells(self) -> list[Found]:
        """Three images at 64 x 64, one at 128 x 128."""
        images = [(style, 64) for style in self.styles] + [(self.styles[0], 128)]
        return [
            self._cell(style, size, layer, loss)
            for style, size in images
            for layer, loss in itertools.product(LAYERS, RACE_LOSSES)
        ]

    def _cell(self, style: str, size: int, layer: str, loss: str) -> Found:
        return {"style": style, "size": size, "layer": layer, "loss": loss}

    def _task(self, cell: Found, protocol: Protocol) -> Task:
        return plan(
            cell["style"],
            size=cell["size"],
            layer=cell["layer"],
            loss=cell["loss"],
            seed=cell.get("seed", 0),
            protocol=protocol,
            encoder=self.encoder,
        )

    def _path(self, part: str, cell: Found) -> Path:
        name = "-".join(str(value) for value in _shown(cell).values()) or part
        return self.folder / part / f"{name}.json"

    def _keep(self, part: str, cell: Found, measure: Callable[[Found], Found]) -> Found:
        """The measurement in the work folder, made and written first if it is not there."""
        path, shown = self._path(part, cell), _shown(cell)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = {"date": today(), "results": RESULTS_VERSION}
            text = json.dumps(shown | measure(cell) | made, indent=1) + "\n"
            write_text(path, text)
            print(f"{datetime.now(UTC):%H:%M:%S} {part} {path.stem}", flush=True)
        found: Found = json.loads(path.read_text(encoding="utf-8"))
        return found


def _shown(cell: Found) -> Found:
    """The cell as the record has it: the style's name, not its path."""
    return {**cell, "style": short_name(cell["style"])} if cell else {}


def _outcome(task: Task) -> Found:
    """A whole run: where it ended, and what it took."""
    result = task.run()
    return {
        "final_loss": result.loss,
        "iterations": result.iterations,
        "evaluations": result.evaluations,
        "stop_reason": result.stop_reason,
        "seconds": result.seconds,
    }


def _machine() -> Found:
    return {
        "processor": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "styleinv": styleinv.__version__,
    }


if __name__ == "__main__":
    main()
