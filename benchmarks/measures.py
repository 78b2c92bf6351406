"""What the measures say of pictures where the truth is known.

`python benchmarks/measures.py [STYLE ...]`, by default all painted styles and photographs, at 128
pixels. No encoder is needed. Of each style:

* mosaics of square pieces cut from it at random places: `largest_kept` must keep the order of their
  sides (Spearman's rank correlation);
* pictures painted like it, with structures that are smaller or larger: `largest_kept` must fall
  with each further step from the style's own;
* clean samples (painted from other seeds; mirrored, turned or another crop of a photograph), and
  the same with a square of noise, of another style, or of speckle as failed descents show it:
  `artefact_excess` must tell them apart (area under the ROC curve), and `artefact_area` call few
  clean ones unclean;
* its colours moved by known amounts: `colour_distance` must rise and `colour` fall;
* white noise added: `noise` must rise.

The record lands in results/measures.json; styles that it has are not measured again. Five minutes.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from skimage.color import lab2rgb, rgb2lab
from ways import made_with

from styleinv.files import write_text
from styleinv.images import BUNDLED, STYLE_NAMES, Pixels, load_style, to_uint8
from styleinv.runs import measures
from styleinv.styles import PAINTED, SMALLEST_STRUCTURE, paint, photograph

RECORD = Path(__file__).parents[1] / "results" / "measures.json"
SIZE = 128
PIECES = (4, 6, 8, 12, 16, 24, 32, 48)
MOSAICS = 2
# Factors of the painted structure, on either side.
STEPS = (1.0, 1.4, 2.0, 2.8)
CLEAN = 5
# The sides of what is planted, in pixels: 2% and 5% of the picture.
PLANTED = (18, 28)
SHIFTS = (1, 2, 4, 8, 16, 32)
SIGMAS = (2, 4, 8, 16, 32)


def mosaic(style: Pixels, piece: int, seed: int = 0) -> Pixels:
    """Square pieces of the style, each from a random place."""
    rng = np.random.default_rng(seed)
    across = len(style) // piece + 2
    places = rng.integers(0, len(style) - piece + 1, (across, across, 2))
    rows = [
        np.hstack([style[top : top + piece, left : left + piece] for top, left in row])
        for row in places
    ]
    top, left = rng.integers(0, piece, 2)
    return np.vstack(rows)[top : top + len(style), left : left + len(style)]


def painted(name: str, **options: Any) -> Pixels:
    return (255 * paint(name, SIZE, **options)).round().astype(np.uint8)


def clean_samples(source: str, style: Pixels) -> list[Pixels]:
    """Other samples of a style, none of them the one that the measures know."""
    name = source.partition(":")[2]
    if source.startswith(BUNDLED):
        return [painted(name, seed=12 + k) for k in range(CLEAN)]
    whole = photograph(name)
    moved = [crop(whole, place) for place in (0.25, 0.75)]
    return [style[:, ::-1], style[::-1], style[::-1, ::-1], *moved]


def crop(whole: Pixels, place: float) -> Pixels:
    """A square crop at a share of the way along the longer side, nine tenths of the shorter."""
    side = int(0.9 * min(whole.shape[:2]))
    top, left = (int(place * (length - side)) for length in whole.shape[:2])
    return to_uint8(load_style(np.ascontiguousarray(whole[top:, left:][:side, :side]), SIZE))


def noise(picture: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    return rng.integers(0, 256, picture.shape).astype(np.uint8)


def foreign(picture: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    return other


def speckle(picture: Pixels, other: Pixels, rng: np.random.Generator) -> Pixels:
    """Three of ten pixels take one of the eight pure colours."""
    pure = 255 * rng.integers(0, 2, picture.shape)
    return np.where(rng.random(picture.shape[:2])[..., None] < 0.3, pure, picture).astype(np.uint8)


KINDS: dict[str, Callable[[Pixels, Pixels, np.random.Generator], Pixels]] = {
    "noise": noise,
    "another style": foreign,
    "speckle": speckle,
}


def planted(picture: Pixels, patch: Pixels, side: int, rng: np.random.Generator) -> Pixels:
    """The picture with a square of the patch at a random place."""
    top, left = rng.integers(0, SIZE - side + 1, 2)
    field = np.s_[top : top + side, left : left + side]
    found = picture.copy()
    found[field] = patch[field]
    return found


def shifted(style: Pixels, amount: float) -> Pixels:
    """All colours moved by so many CIELAB units towards green and yellow."""
    lab = rgb2lab(style) + np.array((0, -0.6, 0.8)) * amount
    return (255 * lab2rgb(lab)).round().astype(np.uint8)


def noisy(style: Pixels, sigma: float) -> Pixels:
    added = np.random.default_rng(0).normal(0, sigma, (*style.shape[:2], 1))
    return (style + added).clip(0, 255).round().astype(np.uint8)


def validate(source: str) -> dict[str, Any]:
    """All numbers of a style."""
    style, other = to_uint8(load_style(source, SIZE)), measures.other_sample(source, SIZE)
    following = STYLE_NAMES[(STYLE_NAMES.index(source) + 1) % len(STYLE_NAMES)]
    stranger = to_uint8(load_style(following, SIZE))

    def kept(picture: Pixels) -> float:
        return round(measures.largest_kept(measures.structures(picture, style, other)), 3)

    def area(picture: Pixels) -> float:
        return round(float(measures.artefact_mask(picture, style, other).mean()), 4)

    def excess(picture: Pixels) -> float:
        return round(measures.artefact_excess(picture, style, other), 4)

    def colours(picture: Pixels) -> tuple[float, float]:
        distance = measures.colour_distance(picture, style)
        return round(distance, 3), round(measures.colour(distance, style, other), 3)

    clean, rng = clean_samples(source, style), np.random.default_rng(0)
    found: dict[str, Any] = {
        "own": round(measures.own_largest(style, other), 3),
        "mosaics": [
            [kept(mosaic(style, piece, seed)) for seed in range(MOSAICS)] for piece in PIECES
        ],
        "clean": [excess(picture) for picture in clean],
        "clean_areas": [area(picture) for picture in clean],
        "planted": {
            kind: [
                [excess(planted(x, make(x, stranger, rng), side, rng)) for x in clean]
                for side in PLANTED
            ]
            for kind, make in KINDS.items()
        },
        "shifted": [colours(shifted(style, amount)) for amount in SHIFTS],
        "noisy": [round(measures.noise(noisy(style, sigma), style), 3) for sigma in SIGMAS],
    }
    name = source.partition(":")[2]
    if source.startswith(BUNDLED):
        own = PAINTED[name].structure
        factors = [x for step in STEPS for x in (step, 1 / step) if x * own >= SMALLEST_STRUCTURE]
        factors = sorted(set(factors))
        swept = [
            [kept(painted(name, structure=factor * own, seed=seed)) for seed in (2, 3)]
            for factor in factors
        ]
        found |= {"factors": factors, "painted": swept}
    return found


def main(sources: list[str]) -> None:
    kept = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    if kept.get("version") != measures.VERSION:
        kept = {"version": measures.VERSION, "size": SIZE, "pieces": PIECES, "styles": {}}
        kept |= {"steps": STEPS, "planted": PLANTED, "shifts": SHIFTS, "sigmas": SIGMAS}
    for source in sources or STYLE_NAMES:
        if source not in kept["styles"]:
            kept["styles"][source] = validate(source)
            write_text(RECORD, json.dumps(made_with() | kept, indent=1) + "\n")
            print(source, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
