"""What is measured side by side: ways to spend an iteration, and what bounds them."""

import copy
import dataclasses
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import torch
import torch.nn.functional as F
from released import ReleasedAlgorithm
from torch import Tensor

import styleinv
from styleinv import baselines, optim
from styleinv.files import write_text
from styleinv.inversion import Task, noise_image
from styleinv.losses import make_loss
from styleinv.protocol import CHAPTER, CHAPTER_ITERATIONS, FAST, RELEASED, SCIPY

T = TypeVar("T")
# Table 1.1's columns.
LOSSES = tuple(CHAPTER_ITERATIONS)
CHANNELS = ((3, 64), (64, 64), (64, 128), (128, 128))
ENDLESS = {"adam": CHAPTER, "l-bfgs": FAST, "l-bfgs-b": SCIPY}


def made_with() -> dict[str, Any]:
    """When, on what machine and with what software something is measured, for its record."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "styleinv": styleinv.__version__,
    }


def today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def processor_name() -> str:
    """What Linux calls the processor; elsewhere, what Python does."""
    known = Path("/proc/cpuinfo")
    text = known.read_text(encoding="utf-8") if known.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor()


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, each measurement on a line of its own."""

    def written(value: Any) -> str:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n  " + ",\n  ".join(json.dumps(item) for item in value) + "\n ]"
        return json.dumps(value)

    fields = [f"{json.dumps(name)}: {written(value)}" for name, value in record.items()]
    write_text(path, "{\n " + ",\n ".join(fields) + "\n}\n")
    print(f"kept in {path}")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range of repeated measurements."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def compared(found: Mapping[str, Sequence[float]], first: str, unit: str) -> dict[str, Any]:
    """Per way: what it took, by the name of its unit, and how many times as fast as `first` it is.

    Ratios are between measurements of the same round.
    """
    return {
        name: {
            unit: spread(values),
            "times": spread([a / b for a, b in zip(found[first], values, strict=True)]),
        }
        for name, values in found.items()
    }


def take_turns(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each way returns, per round; the ways take turns, after one warm-up of each.

    A noisy machine disturbs all of them alike.
    """
    for way in ways.values():
        way()
    found: dict[str, list[T]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def seconds_per_call(function: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - started) / repeats


def convolutions_alone(
    size: int, layer: str, dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    """The layer's convolutions and their gradients with respect to the input, and nothing else.

    The gradient of a convolution is a convolution of the same size with channels swapped.
    """

    def image(channels: int, side: int) -> Tensor:
        drawn = torch.rand(1, channels, side, side, dtype=dtype)
        return drawn.contiguous(memory_format=torch.channels_last)

    def kernels(into: int, out_of: int) -> Tensor:
        drawn = torch.rand(into, out_of, 3, 3, dtype=dtype)
        return drawn.contiguous(memory_format=torch.channels_last)

    pairs = []
    for index in range(styleinv.LAYERS.index(layer) + 1):
        side = size if index < 2 else size // 2
        inner, outer = CHANNELS[index]
        pairs.append((image(inner, side), kernels(outer, inner)))
        pairs.append((image(outer, side), kernels(inner, outer)))

    def run() -> None:
        with torch.no_grad():
            for features, weight in pairs:
                F.conv2d(features, weight, padding=1)

    return run


def gflop(size: int, layer: str) -> float:
    """Multiply-adds, counted as two, of `convolutions_alone`."""
    total = 0
    for index in range(styleinv.LAYERS.index(layer) + 1):
        side = size if index < 2 else size // 2
        total += 2 * 2 * 9 * CHANNELS[index][0] * CHANNELS[index][1] * side * side
    return total / 1e9


def ceilings(rounds: int = 5) -> dict[str, float]:
    """What this machine can do at most: convolutions in both precisions, memory traffic."""
    single = convolutions_alone(256, "relu_1_2", torch.float32)
    half = convolutions_alone(256, "relu_1_2", torch.bfloat16)
    source = torch.rand(64 * 2**20)
    target = torch.empty_like(source)
    seconds = take_turns(
        {
            "float32": lambda: seconds_per_call(single, 2),
            "bfloat16": lambda: seconds_per_call(half, 2),
            "copy": lambda: seconds_per_call(lambda: target.copy_(source), 2),
        },
        rounds,
    )
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    work = gflop(256, "relu_1_2")
    return {
        "float32_gflop_per_s": work / middle["float32"],
        "bfloat16_gflop_per_s": work / middle["bfloat16"],
        "memory_gb_per_s": 2 * source.numel() * source.element_size() / 1e9 / middle["copy"],
    }


def iteration(task: Task, method: str, iterations: int) -> float:
    """Seconds per iteration (Adam) or evaluation of a run that theta does not stop.

    Taken from the trace, without the start: loading the style, its statistic, the first evaluation.
    """
    endless = dataclasses.replace(
        ENDLESS[method].limited_to(iterations + 1),
        theta=-float("inf"),
        without_theta=(),
        warmups={},
    )
    trace = dataclasses.replace(task, protocol=endless).run().trace
    first, last = trace[1], trace[-1]
    return (last.seconds - first.seconds) / (last.evaluations - first.evaluations)


def released_iteration(task: Task, iterations: int) -> float:
    """Seconds per iteration of the released algorithm on the same image, layer and loss."""
    style = task.style[None]
    noise = noise_image(style, RELEASED, 13)
    algorithm = ReleasedAlgorithm(task.encoder, task.style, noise, task.layer, task.loss)
    algorithm.step()
    return seconds_per_call(algorithm.step, iterations)


@contextmanager
def blas_as_it_comes() -> Iterator[None]:
    """SciPy's L-BFGS-B with OpenBLAS's threads left alone, as whoever calls SciPy gets it."""
    free = mock.Mock()
    free.return_value.select.return_value.limit = lambda limits: nullcontext()
    with mock.patch.object(baselines, "ThreadpoolController", free):
        yield


def in_bfloat16(task: Task, evaluations: int) -> dict[str, Any]:
    """`fast` with the encoder in bfloat16 and the rest in float32, beside all in float32.

    Losses are the exact ones in float32. `gradient_error` is relative, at the noise image.
    """
    half = copy.deepcopy(task.encoder).to(torch.bfloat16)
    style = task.style[None]
    with torch.no_grad():
        criterion = make_loss(task.loss, task.encoder(style, task.layer))
        half_criterion = make_loss(task.loss, half(style.bfloat16(), task.layer).float())

    def single(image: Tensor) -> tuple[Tensor, Tensor]:
        loss = criterion(task.encoder(image, task.layer))
        return loss, loss

    def mixed(image: Tensor) -> tuple[Tensor, Tensor]:
        loss = half_criterion(half(image.bfloat16(), task.layer).float())
        with torch.no_grad():
            return loss, single(image)[0]

    noise = noise_image(style, FAST, task.seed).requires_grad_()
    gradients = [torch.autograd.grad(way(noise)[0], noise)[0] for way in (single, mixed)]
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    found: dict[str, Any] = {"gradient_error": error.item()}
    for name, objective in (("float32", single), ("bfloat16", mixed)):
        result = optim.minimise(
            [optim.Stage(name, objective)],
            noise.detach(),
            FAST,
            optim.Monitor(evaluations, FAST.theta),
        )
        found[name] = {
            "final_loss": result.loss,
            "evaluations": result.evaluations,
            "stop_reason": result.stop_reason,
        }
    return found
