"""`fast` beside other programs that invert an image, in one process and on the same threads.

`python benchmarks/peers.py`: as long as `--minutes` allow. In every cell (size, layer, loss) all
methods start from the same noise and descend the same loss of the same encoder, one after the
other. Again and again a clock stops while the chapter's loss of the picture, clamped to [0, 1], is
computed: what counts is when that loss first falls below each of `LEVELS`. A rival is given
`PATIENCE` times as long as `fast` took; where it does not get there, its ratio is a lower bound.

Setting up is in the time of `fast` and in nobody else's. The rivals evaluate the loss by styleinv's
code, so that ratios compare methods alone. The exceptions are the released algorithm, and plenoptic
with a plain model: what somebody has who writes the model by PyTorch's manual.

Every measurement lands in `_build/peers/` and is not made again: a killed run loses one. What is
there is collected in `results/peers.json`. Without plenoptic, the others still race.
"""

import argparse
import dataclasses
import importlib.metadata
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from released import ReleasedAlgorithm, plain_convolutions
from torch import Tensor, nn
from ways import made_with, spread, today, write_record

import styleinv
from styleinv import fused, losses
from styleinv.encoder import Encoder
from styleinv.files import write_text
from styleinv.inversion import Task, noise_image, plan
from styleinv.losses import GramLoss, make_loss, standardise
from styleinv.machine import reuse_freed_memory
from styleinv.protocol import FAST, MOST_ITERATIONS, SCIPY, UNBOUNDED, Protocol

ROOT = Path(__file__).parents[1]
WORK = ROOT / "_build" / "peers"
RECORD = ROOT / "results" / "peers.json"

STYLE = "bundled:strokes"
SIZES = (64, 128, 256)
LOSSES = ("gram", "moment-2", "moment-3")
LEVELS = (1e-2, 1e-3, 1e-4)
ROUNDS = 3
OURS = "fast"
# `fast` is given up after so many seconds.
OUR_SECONDS = 120
# The picture is looked at each time the clock has gone so much further.
SPACING = 1.05
# The record has a curve's points where the loss has fallen so much further, of these cells.
FALL = 0.8
CURVES_OF = "relu_2_1"

Found = dict[str, Any]


class Watch:
    """A clock that stands still while it looks at a picture, and says when a method is done."""

    def __init__(self, exact: Callable[[Tensor], float], limit: float) -> None:
        self.exact, self.limit = exact, limit
        self.started = math.nan
        self.points: list[tuple[float, float]] = []

    def start(self) -> None:
        self.started = time.perf_counter()

    def see(self, image: Tensor) -> bool:
        """Look at the picture if it is time, off the clock. Nothing is done before the start."""
        seen = time.perf_counter()
        seconds = seen - self.started
        if math.isnan(seconds) or (self.points and seconds < SPACING * self.points[-1][0]):
            return False
        loss = self.exact(image)
        self.points.append((seconds, loss))
        self.started += time.perf_counter() - seen
        return seconds > self.limit or not loss > LEVELS[-1]

    def seconds_to(self, level: float) -> float | None:
        return next((rounded(seconds) for seconds, loss in self.points if loss <= level), None)

    def curve(self) -> list[tuple[float, float]]:
        """Where the best loss so far has fallen, thinned out, and where it stood in the end."""
        thin = self.points[:1]
        for seconds, loss in self.points[1:]:
            if loss < FALL * thin[-1][1]:
                thin.append((seconds, loss))
        thin.append((self.points[-1][0], min(loss for _, loss in self.points)))
        return [(rounded(seconds), rounded(loss)) for seconds, loss in thin]


def rounded(value: float) -> float:
    """As the record has measured values."""
    return float(f"{value:.4g}")


class Race:
    """What all methods of a cell share: style, encoder, loss, noise."""

    def __init__(self, encoder: Encoder, size: int, layer: str, loss: str) -> None:
        self.task = plan(STYLE, size=size, layer=layer, loss=loss, encoder=encoder)
        self.style = self.task.style[None]
        self.noise = noise_image(self.style, FAST, self.task.seed)
        with torch.no_grad():
            self.criterion = make_loss(loss, encoder(self.style, layer))

    @torch.no_grad()
    def exact(self, image: Tensor) -> float:
        """The chapter's loss of a picture, clamped to [0, 1]."""
        pixels = image.detach().view_as(self.noise).clamp(0, 1)
        return self.criterion(self.task.encoder(pixels, self.task.layer)).item()


Method = Callable[[Race, Watch], None]


def run_task(task: Task, watch: Watch) -> None:
    watch.start()
    task.run(lambda iterate: watch.see(iterate.image))


def fast(race: Race, watch: Watch) -> None:
    """`fast` as it is, with its warm-ups and budgets."""
    run_task(race.task, watch)


def by_protocol(protocol: Protocol) -> Method:
    """A rival that styleinv has a protocol for, which only the watch ends."""
    endless = dataclasses.replace(protocol.limited_to(MOST_ITERATIONS), theta=-math.inf)
    return lambda race, watch: run_task(dataclasses.replace(race.task, protocol=endless), watch)


def released(race: Race, watch: Watch) -> None:
    task = race.task
    algorithm = ReleasedAlgorithm(task.encoder, task.style, race.noise, task.layer, task.loss)
    watch.start()
    while not watch.see(algorithm.image):
        algorithm.step()


class Representation(nn.Module):
    """A picture's statistic, scaled so that the mean squared difference of two is the exact loss.

    The entries of G / (h w), whose mean over c^2 is equation 1.2; or sqrt(N psi_i) M_i, whose mean
    over N c is equation 1.5. `plain` computes it by PyTorch's own modules and the plain formulas.
    """

    def __init__(self, race: Race, plain: bool) -> None:
        super().__init__()
        self.criterion = race.criterion
        self.formulas = losses if plain else fused
        layer = race.task.layer
        vgg = partial(race.task.encoder, layer=layer)
        self.encode = plain_vgg(race.task.encoder, layer) if plain else vgg

    def forward(self, image: Tensor) -> Tensor:
        criterion, features = self.criterion, self.encode(image)
        if isinstance(criterion, GramLoss):
            return self.formulas.gram_matrix(features)
        central = self.formulas.central_moments(features, criterion.n_moments)
        scale = (criterion.n_moments * criterion.psi).sqrt()
        return scale[:, None] * standardise(central, features[0, 0].numel())


def plain_vgg(encoder: Encoder, layer: str) -> nn.Sequential:
    """The encoder up to a layer, as a reader of PyTorch's manual would write it."""
    first, *convs = plain_convolutions(encoder)
    modules: list[nn.Module] = [first]
    for index, conv in enumerate(convs[: styleinv.LAYERS.index(layer) + 1]):
        if index == 2:
            modules.append(nn.MaxPool2d(2, ceil_mode=encoder.layout.ceil_pool))
        modules += [conv, nn.ReLU()]
    return nn.Sequential(*modules)


class _Over(Exception):
    """Leaves plenoptic's loop."""


def metamer(plain: bool = False, **setup: Any) -> Method:
    """plenoptic's `Metamer`. Its penalty, which keeps the pixels in [0, 1], sees every picture."""

    def run(race: Race, watch: Watch) -> None:
        import plenoptic

        def penalty(image: Tensor) -> Tensor:
            if watch.see(image):
                raise _Over
            return plenoptic.regularize.penalize_range(image)

        model = Representation(race, plain).eval()
        synthesis = plenoptic.Metamer(race.style, model, penalty_function=penalty)
        synthesis.setup(initial_image=race.noise, **setup)
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            redirect_stderr(nowhere),
        ):  # its progress bar
            watch.start()
            with suppress(_Over):
                synthesis.synthesize(max_iter=sys.maxsize, stop_criterion=0)

    return run


# plenoptic's manual recommends these settings. No tolerance is to stop it before the clock does.
LBFGS = {
    "optimizer": torch.optim.LBFGS,
    "optimizer_kwargs": {
        "max_iter": 10,
        "max_eval": 10,
        "history_size": 100,
        "line_search_fn": "strong_wolfe",
        "lr": 1,
        "tolerance_grad": 0,
        "tolerance_change": 0,
    },
}
PLENOPTIC: dict[str, Method] = {
    "plenoptic, L-BFGS": metamer(**LBFGS),
    "plenoptic, L-BFGS, plain model": metamer(plain=True, **LBFGS),
    "plenoptic, Adam": metamer(),  # as it comes
}
OTHERS: dict[str, Method] = {
    "SciPy's L-BFGS-B": by_protocol(SCIPY),
    "PyTorch's L-BFGS": by_protocol(UNBOUNDED),
    "the released algorithm": released,
}
RIVALS = PLENOPTIC | OTHERS
# A rival may take so many times as long as `fast`: it was to be ten times as fast as plenoptic.
PATIENCE = {**dict.fromkeys(PLENOPTIC, 12), **dict.fromkeys(OTHERS, 6)}


def plenoptic_version() -> str | None:
    """The version that is installed, or None, having said what to do."""
    try:
        return importlib.metadata.version("plenoptic")
    except importlib.metadata.PackageNotFoundError:
        print("plenoptic is left out; to have it in the race: pip install 'plenoptic>=2'")
        return None


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Race `fast` against its peers.")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing longer")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--record", type=Path, default=RECORD)
    asked = parser.parse_args(words)
    version = plenoptic_version()
    methods = {**(PLENOPTIC if version else {}), **OTHERS}
    made = {**made_with(), "plenoptic": version}  # before the measurements, which are the load
    folder = WORK / f"plenoptic-{version}-threads-{made['threads']}"
    ends = time.perf_counter() + 60 * asked.minutes
    encoder = styleinv.load_encoder("bundled")
    for cell in in_order(asked.sizes, asked.rounds):
        path = folder / ("-".join(str(value) for value in cell.values()) + ".json")
        left = ends - time.perf_counter()
        if left > 0 and not path.exists():
            found = measure(encoder, cell, methods, left)
            if found is not None:
                write_text(path, json.dumps(found) + "\n")
    rounds = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*"))]
    write_record(asked.record, {**made, **collect(rounds)})


def in_order(sizes: Sequence[int], rounds: int) -> list[Found]:
    """What is quick comes first, and a round of every size before the second of any."""
    return [
        {"size": size, "layer": layer, "loss": loss, "round": number}
        for number, size in itertools.product(range(1, rounds + 1), sizes)
        for layer, loss in itertools.product(styleinv.LAYERS, LOSSES)
    ]


def measure(
    encoder: Encoder, cell: Found, methods: dict[str, Method], seconds: float
) -> Found | None:
    """A round of a cell: all methods in turn. None if that could take longer than the seconds."""
    race = Race(encoder, cell["size"], cell["layer"], cell["loss"])
    with reuse_freed_memory():
        for method in (fast, *methods.values()):
            method(race, Watch(race.exact, 0))  # what is new to a process is slow
        own = Watch(race.exact, OUR_SECONDS)
        fast(race, own)
        reached = [own.seconds_to(level) or 0 for level in LEVELS]
        limits = {name: max(own.points[-1][0], PATIENCE[name] * max(reached)) for name in methods}
        if (longest := sum(limits.values())) > seconds:
            print(f"left out: {cell}, which could take {longest:.0f} s more", flush=True)
            return None
        watches = {OURS: own}
        for name, method in methods.items():
            watches[name] = Watch(race.exact, limits[name])
            method(race, watches[name])
    found = {name: outcome(watch) for name, watch in watches.items()}
    print(f"{datetime.now(UTC):%H:%M:%S}", *cell.values(), flush=True)
    for name, way in found.items():
        print(f"    {name:24}", *way["seconds"], f"of {way['limit']:.1f} s", flush=True)
    with_curves = cell["layer"] == CURVES_OF and cell["round"] == 1
    curves = {name: watch.curve() for name, watch in watches.items()} if with_curves else {}
    return {**cell, "date": today(), "methods": found, "curves": curves}


def outcome(watch: Watch) -> Found:
    """Seconds to each level, None where it was not reached within the limit."""
    return {"limit": rounded(watch.limit), "seconds": [watch.seconds_to(level) for level in LEVELS]}


def collect(rounds: Sequence[Found]) -> Found:
    """Rounds of cells -> medians, ranges and ratios of each cell, and their means over cells."""
    cells: dict[tuple[int, str, str], list[Found]] = {}
    for found in rounds:
        key = found["size"], found["layer"], found["loss"]
        cells.setdefault(key, []).append(found["methods"])
    rows = [
        {"size": size, "layer": layer, "loss": loss, "rounds": len(found), **row(found)}
        for (size, layer, loss), found in sorted(cells.items())
    ]
    wanted = len(in_order(SIZES, ROUNDS))
    return {
        "style": STYLE,
        "levels": LEVELS,
        "patience": PATIENCE,
        "rounds": len(rounds),
        "left_out": wanted - len(rounds),
        "dates": sorted({found["date"] for found in rounds}),
        "cells": rows,
        "means": means(rows),
        "curves": [
            {name: found[name] for name in ("size", "layer", "loss", "curves")}
            for found in rounds
            if found["curves"]
        ],
    }


def means(rows: Sequence[Found]) -> list[Found]:
    """Ratios over the cells of each size and level, and of all sizes and levels (None)."""
    found = []
    for rival, size, level in itertools.product(RIVALS, (*SIZES, None), (*LEVELS, None)):
        ratios = [
            of_level
            for one in rows
            if rival in one["ratios"] and size in (None, one["size"])
            for at, of_level in zip(LEVELS, one["ratios"][rival], strict=True)
            if level in (None, at) and of_level is not None
        ]
        if ratios:
            found.append({"rival": rival, "size": size, "level": level, **mean_ratio(ratios)})
    return found


def row(rounds: Sequence[Found]) -> Found:
    """Of one cell: the seconds of each method and its ratios to `fast`, a value for each level."""
    numbers = range(len(LEVELS))
    return {
        "seconds": {
            name: [seconds([one[name]["seconds"][i] for one in rounds]) for i in numbers]
            for name in rounds[0]
        },
        "ratios": {
            name: [ratio(rounds, name, i) for i in numbers] for name in rounds[0] if name != OURS
        },
    }


def seconds(values: Sequence[float | None]) -> dict[str, float] | None:
    """Median and range where the level was reached in every round."""
    reached = [value for value in values if value is not None]
    return spread(reached) if len(reached) == len(values) else None


def ratio(rounds: Sequence[Found], rival: str, level: int) -> Found | None:
    """Seconds of a rival over those of `fast`, None where `fast` did not get there.

    A rival that did not get there counts with its limit, and the ratio is `at_least` that.
    """
    ours = [found[OURS]["seconds"][level] for found in rounds]
    if None in ours:
        return None
    theirs = [found[rival]["seconds"][level] for found in rounds]
    limits = [found[rival]["limit"] for found in rounds]
    taken = [limit if value is None else value for value, limit in zip(theirs, limits, strict=True)]
    return {
        **spread([value / own for value, own in zip(taken, ours, strict=True)]),
        "at_least": None in theirs,
    }


def mean_ratio(ratios: Sequence[Found]) -> Found:
    """Geometric mean, least and largest of cells' median ratios; bounds count as if reached."""
    medians = [found["median"] for found in ratios]
    return {
        "mean": statistics.geometric_mean(medians),
        "least": min(medians),
        "most": max(medians),
        "cells": len(medians),
        "bounds": sum(found["at_least"] for found in ratios),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
