"""What a GPU is good for here, and as many of the chapter's runs as it can make: `device.sh`.

First, in about two minutes, and kept in `_build/device/device.json` as it comes:

* `agreement`: how far the losses of runs side by side on the GPU are from those of each alone on
  the processor, with full float32 and with TF32; and whether theta ends a run at the same
  iteration and image, however often the host looks;
* `speed`: milliseconds of an iteration of Adam, by layer, size and number of pictures.

Then the runs of `results/chapter.yml` in `_build/device/runs`, for as long as there is time: small
pictures first, since those come to an end, and of these the losses that verdicts wait for. What is
not finished has a checkpoint there, from which the next call goes on.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from styleinv import __version__, adam, isolation
from styleinv.batch import Batch
from styleinv.encoder import LAYERS, NORMALISED_NAME, NORMALISED_SHA256, Encoder, load_encoder
from styleinv.errors import InputError
from styleinv.files import write_text
from styleinv.inversion import Inversion, Task, plan
from styleinv.optim import Iterate
from styleinv.protocol import CHAPTER, CHAPTER_ITERATIONS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "_build" / "device"
CHAPTER_RUNS = ROOT / "results" / "chapter.yml"
STYLE = "bundled:strokes"
LOSSES = tuple(CHAPTER_ITERATIONS)
# What verdicts wait for, before the others.
FIRST = ("gram", "moment-2", "moment-3", "moment-4")
TF32 = {"cudnn.conv.fp32_precision": "tf32", "cuda.matmul.fp32_precision": "tf32"}


@dataclass(frozen=True)
class Amount:
    """How much is measured, and what of the chapter's runs is replaced in a rehearsal."""

    speed_sizes: tuple[int, ...] = (128, 256)
    together: tuple[int, ...] = (1, 8, 24, 48)
    last_look: int = 64  # a power of 2, as the looks are
    speed_seconds: float = 90.0
    agreement_size: int = 64
    iterations: int = 200
    chapter: Mapping[str, Any] = field(default_factory=dict)
    batch: int | None = None


IN_SMALL = Amount((16,), (1, 3), 4, 60.0, 16, 40, {"size": 16, "iterations": (6,)}, batch=4)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, then make runs until the time is up."""
    parser = argparse.ArgumentParser(description="Measure a GPU, then make the chapter's runs.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--encoder", default="bundled", help="as for `styleinv invert`")
    parser.add_argument("--seconds", type=float, default=840.0, help="for all of it")
    parser.add_argument("--rehearse", action="store_true", help="in small, on the processor")
    arguments = parser.parse_args(words)
    ends = time.monotonic() + arguments.seconds
    folder = FOLDER / "rehearsal" if arguments.rehearse else FOLDER
    amount = IN_SMALL if arguments.rehearse else Amount()
    encoder = load_encoder(
        arguments.encoder, device="cpu" if arguments.rehearse else arguments.device
    )
    if encoder.sha256 == NORMALISED_SHA256:  # whatever the file is called here
        encoder = encoder.named(NORMALISED_NAME)
    measure(encoder, arguments.encoder, amount, folder / "device.json")
    make_chapter(encoder, folder / "runs", ends, amount)


def measure(encoder: Encoder, source: str, amount: Amount, record: Path) -> None:
    """Agreement, then speed; kept after every row."""
    is_cuda = encoder.device.type == "cuda"
    name = torch.cuda.get_device_name(encoder.device) if is_cuda else "the processor"
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": name,
        "torch": str(torch.__version__),
        "styleinv": __version__,
        "amount": asdict(amount),
        "agreement": [],
        "speed": [],
    }
    on_processor = load_encoder(source)
    began = time.monotonic()
    for layer in (LAYERS[0], LAYERS[-1]):
        found["agreement"] += agreement(encoder, on_processor, layer, amount)
        keep(found, record)
    for size, layer in itertools.product(amount.speed_sizes, LAYERS):
        for many in amount.together:
            if time.monotonic() - began < amount.speed_seconds:
                found["speed"].append(speed(encoder, size, layer, many, amount.last_look))
                keep(found, record)


def keep(found: Mapping[str, Any], record: Path) -> None:
    """Write what has been found so far, and print the newest row."""
    record.parent.mkdir(parents=True, exist_ok=True)
    write_text(record, json.dumps(found, indent=1) + "\n")
    line(str((found["speed"] or found["agreement"])[-1]))


def agreement(
    encoder: Encoder, on_processor: Encoder, layer: str, amount: Amount
) -> list[dict[str, Any]]:
    """Of each loss: the largest relative differences along a run, and where theta ends it."""
    size, iterations = amount.agreement_size, amount.iterations
    tasks = endless(encoder, size, layer, len(LOSSES), iterations)
    there = side_by_side(tasks)
    with changed(isolation._BACKENDS, TF32):
        rounded = side_by_side(tasks)
    here = [task.run() for task in endless(on_processor, size, layer, len(LOSSES), iterations)]
    return [
        {
            "layer": layer,
            "loss": task.loss,
            "float32": difference(float32, alone),
            "tf32": difference(tf32, alone),
            **ends_by_theta(task, float32),
        }
        for task, float32, tf32, alone in zip(tasks, there, rounded, here, strict=True)
    ]


def difference(one: Inversion, other: Inversion) -> float:
    """The largest relative difference of losses at the same iteration."""
    pairs = zip(one.trace, other.trace, strict=True)
    return max(abs(a.loss - b.loss) / abs(b.loss) for a, b in pairs)


def ends_by_theta(task: Task, endless_run: Inversion) -> dict[str, Any]:
    """Where theta ends a run that is looked at after each iteration, and one that is not."""
    middle = endless_run.trace[len(endless_run.trace) * 3 // 4].loss
    stopping = replace(task, protocol=replace(task.protocol, theta=middle))
    runs = []
    for every in (1, 32):
        with changed(adam.LOOK_EVERY, {task.encoder.device.type: every}):
            runs.append(stopping.run())
    same = torch.equal(runs[0].image, runs[1].image)
    return {"theta_at": [run.iterations for run in runs], "theta_same_image": same}


def speed(encoder: Encoder, size: int, layer: str, many: int, last: int) -> dict[str, Any]:
    """Milliseconds of an iteration of so many pictures, from the look before the last one on."""
    is_cuda = encoder.device.type == "cuda"
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(encoder.device)
    looks: dict[int, float] = {}

    def look(iterate: Iterate) -> bool:
        looks.setdefault(iterate.iteration, time.perf_counter())
        return iterate.iteration >= last

    side_by_side(endless(encoder, size, layer, many, 10 * last), look)
    peak = torch.cuda.max_memory_allocated(encoder.device) if is_cuda else None
    ms = 1000 * (looks[last] - looks[last // 2]) / (last - last // 2)
    return {
        "size": size,
        "layer": layer,
        "together": many,
        "ms": ms,
        "ms_per_picture": ms / many,
        "bytes": peak,
    }


def endless(encoder: Encoder, size: int, layer: str, many: int, iterations: int) -> list[Task]:
    """Runs of all losses that only their budget ends."""
    asked: dict[str, Any] = {"size": size, "layer": layer, "encoder": encoder}
    asked["protocol"] = replace(CHAPTER.limited_to(iterations), theta=-math.inf)
    losses = itertools.islice(itertools.cycle(LOSSES), many)
    return [plan(STYLE, loss=loss, seed=seed, **asked) for seed, loss in enumerate(losses)]


def side_by_side(tasks: Sequence[Task], look: Any = None) -> list[Inversion]:
    """All of them as one batch."""
    batch, found = Batch(), dict[int, Inversion]()
    for number, task in enumerate(tasks):
        batch.enter(number, task, look)
    while len(batch):
        found |= batch.run()
    return [found[number] for number in range(len(tasks))]


@contextmanager
def changed(settings: dict[str, Any], values: Mapping[str, Any]) -> Iterator[None]:
    """Other values of some settings for a while."""
    before = dict(settings)
    settings.update(values)
    try:
        yield
    finally:
        settings.clear()
        settings.update(before)


def line(text: str) -> None:
    print(text, flush=True)


def make_chapter(encoder: Encoder, folder: Path, ends: float, amount: Amount) -> None:
    """The chapter's runs, a folder per sweep, until the time is up."""
    import msgspec  # which the measurements do without

    from styleinv.protocol import PROTOCOLS
    from styleinv.runs.reference import GRID, read_reference
    from styleinv.runs.sweeps import Execution, make_runs, plan_sweep

    reference = read_reference(CHAPTER_RUNS)
    if not amount.chapter and encoder.sha256 != reference.encoder_sha256:
        raise InputError("encoder is not the one of the chapter's runs: they are not made")
    entries = [
        (name, msgspec.structs.replace(entry, **amount.chapter))
        for name, entry in reference.sweeps.items()
    ]
    entries.sort(key=lambda named: (named[1].size, -len(named[1].styles)))
    execution = Execution(stop=lambda: time.monotonic() > ends, batch=amount.batch)
    for is_first, (name, entry) in itertools.product((True, False), entries):
        losses = tuple(loss for loss in entry.losses if (loss in FIRST) == is_first)
        grid = {field: getattr(entry, field) for field in GRID} | {"losses": losses}
        tasks = plan_sweep(**grid, encoder=encoder, protocol=PROTOCOLS[entry.protocol])
        line(f"{name}: {', '.join(losses)}")
        make_runs(tasks, folder / name, report=line, execution=execution)


if __name__ == "__main__":
    main()
