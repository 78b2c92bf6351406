"""What another running program costs an inversion, for several ways in which OpenMP may wait.

`python benchmarks/busy.py [NAME=VALUE ...]`: some minutes, on a machine that has nothing else to
do. Each argument is a way: an environment variable and its value. By default, these are the way of
OpenMP itself, the one that styleinv sets, and one without any waiting. Each way has a process of
its own; they take turns, first alone, then beside a program that keeps one processor busy. The
record lands in `results/busy.json`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ways import made_with, spread, take_turns

from styleinv.files import write_text
from styleinv.inversion import plan
from styleinv.machine import SHORT_WAIT, WAIT_VARIABLES

RECORD = Path(__file__).parents[1] / "results" / "busy.json"
LAYER, LOSS = "relu_2_2", "gram"
# Evaluations by size: too few for theta, and about a second each.
EVALUATIONS = {64: 60, 128: 20, 256: 6}
PAIRS = 10
# What OpenMP does unless told: GNU's waits 300,000 turns while there are no more threads than
# processors.
OPENMPS = "OpenMP's"
WAYS: dict[str, dict[str, str]] = {
    OPENMPS: {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},
    "styleinv's": SHORT_WAIT,
    "none": {"OMP_WAIT_POLICY": "PASSIVE"},
}
BUSY = "while True: pass"


def main(words: Sequence[str]) -> None:
    """Measure, print, keep."""
    ways = {word: dict([word.split("=", 1)]) for word in words} or WAYS
    made = made_with()  # before the measurements, which are the load themselves
    with ExitStack() as opened:
        runs = {name: opened.enter_context(Inversions(way)) for name, way in ways.items()}
        rows = [row for size in EVALUATIONS for row in one_size(size, runs)]
    record = {
        **made,
        "cell": f"bundled:strokes {LAYER} {LOSS}",
        "evaluations": EVALUATIONS,
        "pairs": PAIRS,
        "ways": ways,
        "rows": rows,
    }
    write_text(RECORD, json.dumps(record, indent=1) + "\n")
    print(f"kept in {RECORD}")


class Inversions:
    """A process that makes the same inversions again and again, with a way to wait."""

    def __init__(self, way: dict[str, str]) -> None:
        own = {name: value for name, value in os.environ.items() if name not in WAIT_VARIABLES}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--inversions"],
            env={**own, **way},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def __enter__(self) -> "Inversions":
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def seconds(self, size: int) -> float:
        """Make one inversion."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{size}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def answer() -> None:
    """Make an inversion of the size in each line of the input, and print its seconds."""
    for line in sys.stdin:
        size = int(line)
        task = plan(
            "bundled:strokes", layer=LAYER, loss=LOSS, size=size, iterations=EVALUATIONS[size]
        )
        print(task.run().seconds, flush=True)


def one_size(size: int, runs: dict[str, Inversions]) -> list[dict[str, Any]]:
    """A row for each way: seconds alone and beside a busy program, and their ratios."""

    def alone(run: Inversions) -> Callable[[], float]:
        return lambda: run.seconds(size)

    def beside(run: Inversions) -> Callable[[], float]:
        def measured() -> float:
            with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:
                try:
                    return run.seconds(size)
                finally:
                    busy.kill()

        return measured

    turns = {(name, True): alone(run) for name, run in runs.items()}
    turns |= {(name, False): beside(run) for name, run in runs.items()}
    seconds = take_turns(turns, PAIRS)
    rows = []
    first = seconds[next(iter(runs)), True]
    for name in runs:
        own, other = seconds[name, True], seconds[name, False]
        row = {
            "size": size,
            "way": name,
            "alone": spread(own),
            "beside": spread(other),
            "beside_to_alone": spread([b / a for a, b in zip(own, other, strict=True)]),
            "alone_to_first": spread([b / a for a, b in zip(first, own, strict=True)]),
        }
        print(f"{size:4} px  {name:22}", *(written(key, row[key]) for key in list(row)[2:]))
        rows.append(row)
    return rows


def written(name: str, found: dict[str, float]) -> str:
    return f"{name} {found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})"


if __name__ == "__main__":
    if sys.argv[1:] == ["--inversions"]:
        answer()
    else:
        main(sys.argv[1:])
