"""Where the Gram matrix cannot be matched, and what stops a descent before that.

`python benchmarks/floor.py [ENCODER ...]`, by default the bundled encoder. Three things are
measured: how far descents get, by size and layer; the singular values of the Jacobian of the Gram
matrix with respect to the pixel values, at the end of some of them; and where exact Gauss-Newton
steps, which are far too expensive for use, lead from there. Pictures, to look at, lie in
_build/floor. The record, which the book's page on L-BFGS shows, lands in results/floor.json; what
it has is not made again.
An hour or two on one core for each encoder.
"""

import copy
import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.color import rgb2lab
from torch import Tensor
from ways import made_with

from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.files import write_text
from styleinv.images import Pixels, save_png, to_uint8
from styleinv.inversion import Inversion, Task, plan
from styleinv.losses import gram_matrix
from styleinv.optim import Iterate
from styleinv.protocol import PROTOCOLS, Protocol
from styleinv.runs.measures import colour_distance, psnr

PICTURES = Path(__file__).parents[1] / "_build" / "floor"
RECORD = Path(__file__).parents[1] / "results" / "floor.json"
STYLES = ("bundled:strokes", "skimage:coffee")
SIZES = (64, 32, 16, 128, 48, 96)
# The protocols are compared at this size, the others are left to the one that gets further.
COMPARED_SIZE = 64
# A descent ends where its later half has divided the loss by less than this.
LEAST_GAIN, EVALUATIONS = 1.25, 1000
# The picture is measured whenever so many times more evaluations have been made.
SPACING = 1.25
# Size and layer of the Jacobians. Each pair has fewer, and more, pixel values than constraints.
JACOBIANS = ((16, "relu_1_2"), (32, "relu_1_2"), (32, "relu_2_1"))
# Times the largest squared singular value.
DAMPINGS = tuple(10.0**power for power in range(-12, 2))
# Pixel values this far apart touch no common feature; they are changed together, by so little.
TILE, CHANGE = 16, 1e-8
# How many singular values the record keeps.
KEPT = 60


def descents(encoders: list[Encoder]) -> Iterator[Task]:
    """All descents, those that the page needs most first."""
    for size in SIZES:
        names = ("from-noise", "fast") if size == COMPARED_SIZE else ("fast",)
        for encoder in encoders:
            for style in STYLES:
                for layer in LAYERS:
                    yield from (cell(style, size, layer, encoder, name) for name in names)


def cell(style: str, size: int, layer: str, encoder: Encoder, protocol: str) -> Task:
    """An inversion of the Gram matrix that ends where it gains little."""
    long: Protocol = dataclasses.replace(
        PROTOCOLS[protocol].limited_to(EVALUATIONS), least_gains={"gram": LEAST_GAIN}
    )
    return plan(style, layer=layer, encoder=encoder, size=size, protocol=long)


def name_of(task: Task) -> str:
    size, own = task.style.shape[1], task.protocol.name
    return f"{task.encoder.name} {task.style_name} {size} {task.layer} {own}"


def descend(task: Task) -> tuple[Inversion, dict[str, Any]]:
    """Run a descent and look at its picture now and then."""
    style = to_uint8(task.style)
    looks: list[dict[str, float]] = []

    def look(iterate: Iterate) -> None:
        if not looks or iterate.evaluations >= SPACING * looks[-1]["evaluations"]:
            picture = to_uint8(iterate.image)
            looks.append(
                {
                    "evaluations": iterate.evaluations,
                    "loss": iterate.loss,
                    "noise": noise_level(picture) - noise_level(style),
                    "colour_distance": colour_distance(picture, style),
                }
            )

    inversion = task.run(look)
    channels = task.encoder(inversion.image[None], task.layer).shape[1]
    found = {
        "encoder": task.encoder.name,
        "style": task.source,
        "size": task.style.shape[1],
        "layer": task.layer,
        "protocol": task.protocol.name,
        "loss": inversion.loss,
        "evaluations": inversion.evaluations,
        "stop_reason": inversion.stop_reason,
        "values": task.style.numel(),
        "constraints": channels * (channels + 1) // 2,
        "free": int(free_values(inversion.image).sum()),
        "psnr": psnr(to_uint8(inversion.image), style),
        "trace": [(point.evaluations, point.loss) for point in inversion.trace],
        "looks": looks,
    }
    return inversion, found


def noise_level(pixels: Pixels) -> float:
    """Standard deviation of the pixel noise in L*: median(abs(d)) / 0.6745 (Donoho 1994).

    For each block ((a, b), (c, e)) of 2 x 2 pixels, d = (a - b - c + e) / 2 is the coefficient of
    the finest diagonal Haar wavelet, on which edges and gradients have little effect.
    """
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    x = rgb2lab(pixels[:height, :width])[..., 0]
    diagonal = (x[::2, ::2] - x[::2, 1::2] - x[1::2, ::2] + x[1::2, 1::2]) / 2
    return float(np.median(np.abs(diagonal)) / 0.6745)


def free_values(image: Tensor) -> Tensor:
    """Which pixel values lie between their bounds: (3, H, W) -> (3 H W)."""
    return ((image > 0) & (image < 1)).flatten()


def upper(matrices: Tensor) -> Tensor:
    """The entries on and above the diagonal, those above it times sqrt(2): (..., C, C) -> (..., K).

    The sum of their squares is that of all entries of a symmetric matrix.
    """
    i, j = torch.triu_indices(*matrices.shape[-2:])
    return matrices[..., i, j] * torch.where(i == j, 1, math.sqrt(2)).to(matrices)


def residuals(encoder: Encoder, layer: str, image: Tensor, target: Tensor) -> Tensor:
    """Whose squares add up to the Gram loss: (c (c + 1) / 2)."""
    return upper(gram_matrix(encoder(image[None], layer)) - target) / len(target)


def jacobian(encoder: Encoder, layer: str, image: Tensor) -> Tensor:
    """d(residuals) / d(pixel values) at an image (3, H, W), in float64: (3 H W, c (c + 1) / 2).

    The encoder is piecewise linear, so that small differences are exact up to rounding. One
    pass through it serves a pixel value of each tile: a change reaches features within less than
    half a tile, and only those.
    """
    features = encoder(image[None], layer)[0]
    channels, height, width = features.shape
    tile = TILE * height // image.shape[1]
    rows = torch.empty(*image.shape, channels * (channels + 1) // 2, dtype=torch.float64)

    def tiled(maps: Tensor) -> Tensor:  # (C, h, w) -> (tiles down, tiles across, C, positions)
        split = maps.unflatten(2, (-1, tile)).unflatten(1, (-1, tile))
        return split.permute(1, 3, 0, 2, 4).flatten(3)

    for colour, y, x in np.ndindex(3, TILE, TILE):
        changed = image.clone()
        changed[colour, y::TILE, x::TILE] += CHANGE
        difference = (encoder(changed[None], layer)[0] - features) / CHANGE
        # The changed values come to lie in the middle of their tiles.
        shift = [tile // 2 - at * tile // TILE for at in (y, x)]
        here, there = (tiled(maps.roll(shift, dims=(1, 2))) for maps in (features, difference))
        half = here @ there.mT / (height * width * channels)
        rows[colour, y::TILE, x::TILE] = upper(half + half.mT)
    return rows.flatten(0, 2)


@torch.no_grad()
def look_around(inversion: Inversion) -> dict[str, Any]:
    """Singular values of the Jacobian where a descent has ended, and where exact steps lead.

    A Gauss-Newton step d of the free values minimises norm(r + J d)^2 + damping norm(d)^2
    (Levenberg 1944), by a Cholesky decomposition in float64. For each damping: how far it moves the
    values (root mean square), the loss norm(r + J d)^2 that it promises, and the loss of the
    image, with its values clamped. Were the encoder linear, and without bounds, they would agree
    for small steps.
    """
    task = inversion.task
    encoder = copy.deepcopy(task.encoder).to(torch.float64)
    target = gram_matrix(encoder(task.style.double()[None], task.layer))
    image = inversion.image.double()
    residual = residuals(encoder, task.layer, image, target)
    free = free_values(image)
    rows = jacobian(encoder, task.layer, image)[free]
    has_more_values = len(rows) > rows.shape[1]
    square = rows.T @ rows if has_more_values else rows @ rows.T
    right = residual if has_more_values else rows @ residual
    singular = torch.linalg.eigvalsh(square).clamp_min(0).sqrt().flip(0)
    steps = []
    for damping in DAMPINGS:
        damped = square + damping * singular[0] ** 2 * torch.eye(len(square)).to(square)
        solution = torch.cholesky_solve(right[:, None], torch.linalg.cholesky(damped))[:, 0]
        step = -(rows @ solution if has_more_values else solution)
        moved = image.flatten().index_add(0, free.nonzero()[:, 0], step).clamp(0, 1)
        then = residuals(encoder, task.layer, moved.view_as(image), target)
        steps.append(
            {
                "damping": damping,
                "rms": step.square().mean().sqrt().item(),
                "promised": (residual + step @ rows).square().sum().item(),
                "loss": then.square().sum().item(),
            }
        )
    ranks = torch.linspace(0, len(singular) - 1, KEPT).round().int().unique()
    return {
        "ranks": (ranks + 1).tolist(),
        "singular_values": singular[ranks].tolist(),
        "steps": steps,
    }


def keep(found: dict[str, dict[str, Any]]) -> None:
    """Write the record: what is found, and what made it."""
    record = {**made_with(), "least_gain": LEAST_GAIN, "most": EVALUATIONS, "descents": found}
    write_text(RECORD, json.dumps(record, indent=1) + "\n")


def main(sources: list[str]) -> None:
    """Measure what the record lacks."""
    torch.set_num_threads(1)
    PICTURES.mkdir(parents=True, exist_ok=True)
    found = json.loads(RECORD.read_text(encoding="utf-8"))["descents"] if RECORD.exists() else {}
    for task in descents([load_encoder(source) for source in sources]):
        name, size = name_of(task), task.style.shape[1]
        if name in found:
            continue
        inversion, found[name] = descend(task)
        is_looked_into = (size, task.layer) in JACOBIANS and task.source == STYLES[0]
        if is_looked_into:
            found[name] |= look_around(inversion)
        save_png(inversion.image, PICTURES / f"{name}.png")
        keep(found)
        own = found[name]
        print(
            f"{name}: {own['loss']:.1e} after {own['evaluations']} ({own['stop_reason']})",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:] or ["bundled"])
