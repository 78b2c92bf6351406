"""Compare what two encoders' statistics keep of a style: the yardstick for the bundled encoder.

    python training/compare_encoders.py vgg19-normalised bundled --out FOLDER

Every style is inverted with both encoders through Gram and N = 1 to 4 at the four layers, 64 x 64
pixels, protocol `fast` with at most 100 evaluations. Three numbers are taken of each picture, all
the better the smaller they are. Inversions carry a dither with a period of two or three pixels,
which feature maps and readers hardly see; the first two are therefore those of pictures blurred by
a Gaussian of 1.5 pixels:

* `colour`: `styleinv.runs.measures.colour_distance` to the style, in CIELAB units;
* `lost`: lost structure. Let d be the mean distance of patches (9 x 9 pixels, CIELAB) of the
  picture to the nearest patch of the style, and of the style to the nearest of the picture: both
  ways, as in Simakov et al. (2008), since a grey picture is near to everything. `lost` is
  (d - d1) / (d0 - d1), where d1 is that of a mosaic of 16 x 16 blocks of the style at random
  places, and d0 that of a picture with the style's spectrum and random phases. So 0 is a picture
  made of pieces of the style, and 1 one that has no structure beyond its spectrum;
* `loss`: the last loss as a share of the first one.

The rule, stated before a new encoder was judged by it: in each of the 20 cells of layer and loss,
the median over the styles of the second encoder's `colour` and of its `lost` is at most 1.3 times
that of the first one. `ratios` are these quotients, and `within` counts the cells that keep to it.
The blur and the two ways were chosen on pictures of VGG-19 and of the encoder that was there
before: without them the numbers contradicted the eye.

Writes `FOLDER/comparison.json` and `FOLDER/comparison.png`: below each other, the pictures of the
first and the second encoder; from left to right the style, then Gram and N = 1 to 4 at relu_1_1, at
relu_1_2 and so on. What an encoder's pictures measured is kept in FOLDER and not computed again.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
from PIL import Image

import styleinv
from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.images import Pixels, load_style, to_uint8
from styleinv.runs.measures import BLUR, colour_distance, patch_distance, random_phases

STYLES = (
    *(f"bundled:{name}" for name in ("strokes", "dots", "mosaic")),
    *(f"bundled:{name}" for name in ("woodcut", "rectangles", "marbling")),
    *(f"skimage:{name}" for name in ("immunohistochemistry", "coffee", "retina")),
    *(f"skimage:{name}" for name in ("chelsea", "astronaut", "gravel")),
)
LOSSES = ("gram", "moment-1", "moment-2", "moment-3", "moment-4")
MEASURES = ("colour", "lost", "loss")
SIZE, EVALUATIONS = 64, 100
PATCH, BLOCK = 9, 16
TOLERANCE = 1.3


def blurred(pixels: Pixels) -> Pixels:
    soft: Pixels = scipy.ndimage.gaussian_filter(pixels, (BLUR, BLUR, 0))
    return soft


def blocks(style: Pixels) -> Pixels:
    """A mosaic of square blocks of the style, each from a random place."""
    rng = np.random.default_rng(0)
    picture = np.empty_like(style)
    for y in range(0, SIZE, BLOCK):
        for x in range(0, SIZE, BLOCK):
            top, left = rng.integers(0, SIZE - BLOCK + 1, 2)
            cut = style[top : top + BLOCK, left : left + BLOCK]
            picture[y : y + BLOCK, x : x + BLOCK] = cut
    return picture


def invert_all(encoder: Encoder, styles: tuple[str, ...]) -> tuple[dict[str, Any], Pixels]:
    """What the pictures of all styles, layers and losses measure, and the pictures in rows."""
    found: dict[str, Any] = {}
    rows = []
    for name in styles:
        style = to_uint8(load_style(name, SIZE))
        bottom, top = (
            patch_distance(make(style), style, PATCH) for make in (blocks, random_phases)
        )
        row = [style]
        for layer in LAYERS:
            for loss in LOSSES:
                asked = {"layer": layer, "loss": loss, "size": SIZE, "iterations": EVALUATIONS}
                result = styleinv.invert(name, encoder=encoder, **asked)
                picture = to_uint8(result.image)
                row.append(picture)
                lost = (patch_distance(picture, style, PATCH) - bottom) / (top - bottom)
                colour = colour_distance(blurred(picture), blurred(style))
                numbers = colour, lost, result.loss / result.trace[0].loss
                cell = found.setdefault(f"{layer} {loss}", {})
                cell[name] = dict(zip(MEASURES, numbers, strict=True))
        rows.append(np.hstack(row))
    return found, np.stack(rows)


def measured(encoder: Encoder, styles: tuple[str, ...], out: Path) -> tuple[dict[str, Any], Pixels]:
    """`invert_all`, kept in `out`."""
    stem = out / f"{encoder.sha256[:12]}-{len(styles)}"
    if not stem.with_suffix(".json").exists():
        found, rows = invert_all(encoder, styles)
        Image.fromarray(np.vstack(rows)).save(stem.with_suffix(".png"))
        stem.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    with Image.open(stem.with_suffix(".png")) as kept:
        rows = np.stack(np.vsplit(np.asarray(kept), len(styles)))
    return json.loads(stem.with_suffix(".json").read_text(encoding="utf-8")), rows


def medians(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {
        cell: {m: statistics.median(row[m] for row in of_styles.values()) for m in MEASURES}
        for cell, of_styles in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("encoders", nargs=2, help="the encoder to be like, and the one to judge")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--styles", nargs="+", default=STYLES)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    encoders = [load_encoder(name) for name in args.encoders]
    results = [measured(encoder, tuple(args.styles), args.out) for encoder in encoders]
    first, second = (medians(found) for found, _ in results)
    ratios = {cell: {m: second[cell][m] / first[cell][m] for m in MEASURES} for cell in first}
    kept = {m: sum(cell[m] <= TOLERANCE for cell in ratios.values()) for m in MEASURES[:2]}
    content = {
        "encoders": {encoder.name: encoder.sha256 for encoder in encoders},
        "styles": list(args.styles),
        "medians": [first, second],
        "ratios": ratios,
        "within": kept,
        "cells": len(ratios),
    }
    text = json.dumps(content, indent=1) + "\n"
    (args.out / "comparison.json").write_text(text, encoding="utf-8")
    sheet = np.concatenate([rows for _, rows in results], axis=1)
    Image.fromarray(np.vstack(sheet)).save(args.out / "comparison.png")
    print(f"{'':20} {'colour':>16} {'lost structure':>16} {'loss, share':>18}")
    for cell in first:
        pairs = (f"{first[cell][m]:8.3g} {second[cell][m]:8.3g}" for m in MEASURES)
        print(f"{cell:20}", *pairs)
    print(f"within {TOLERANCE}: {kept} of {len(ratios)} cells")


if __name__ == "__main__":
    main()
