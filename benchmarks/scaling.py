"""The same small sweep in one process and on worker processes of this machine, side by side.

`python benchmarks/scaling.py`: a few minutes, best on a machine that has nothing else to do. The
workers are there when the clock starts. The record, which the book's page on many runs shows, lands
in `results/scaling.json`.
"""

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from ways import compared, made_with, take_turns

from styleinv.encoder import load_encoder
from styleinv.files import write_text
from styleinv.runs.cluster import local_cluster
from styleinv.runs.sweeps import HERE, Execution, make_runs, plan_sweep

RECORD = Path(__file__).parents[1] / "results" / "scaling.json"
STYLE = "bundled:strokes"
LAYER = "relu_2_1"
LOSS = "gram"
SIZE = 64
SEEDS = 8
EVALUATIONS = 60  # too few for theta, so that all runs take the same time
ROUNDS = 3
WORKERS = (1, 2)


def main() -> None:
    """Measure, print, keep."""
    torch.set_num_threads(1)
    made = made_with()  # before the measurements, which are the load themselves
    with ExitStack() as opened:
        places = {"one process": HERE}
        for workers in WORKERS:
            cluster = opened.enter_context(local_cluster(workers, threads=1))
            places[f"workers: {workers}"] = Execution(cluster=cluster)
        ways = {name: lambda place=place: sweep_seconds(place) for name, place in places.items()}
        seconds = take_turns(ways, ROUNDS)
    found = compared(seconds, "one process", "seconds")
    for name, way in found.items():
        taken, times = way["seconds"], way["times"]
        print(
            f"{name:12} {taken['median']:6.2f} s ({taken['low']:.2f}-{taken['high']:.2f})  "
            f"{times['median']:.2f} times as fast ({times['low']:.2f}-{times['high']:.2f})"
        )
    record = {
        **made,
        "style": STYLE,
        "layer": LAYER,
        "loss": LOSS,
        "size": SIZE,
        "runs": SEEDS,
        "evaluations": EVALUATIONS,
        "rounds": ROUNDS,
        "ways": found,
    }
    write_text(RECORD, json.dumps(record, indent=1) + "\n")


def sweep_seconds(execution: Execution) -> float:
    """Wall time of the sweep in a new folder, whose runs all come to their budget's end."""
    tasks = plan_sweep(
        [STYLE],
        layers=[LAYER],
        losses=[LOSS],
        encoder=load_encoder("bundled"),
        seeds=range(SEEDS),
        size=SIZE,
        iterations=[EVALUATIONS],
    )
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        runs = make_runs(tasks, folder, execution=execution)
        taken = time.perf_counter() - started
    assert {run.record.result.stop_reason for run in runs.values()} == {"budget"}
    return taken


if __name__ == "__main__":
    main()
