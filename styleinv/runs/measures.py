"""Measures of what a picture keeps of its style image.

Images are (H, W, 3), uint8, and compared in CIELAB (D65), where a distance of 2.3 is just
noticeable. Two pictures give most measures their scale: 1 is what *another sample* of the style
reaches, and 0 a named *null*. A painted style's other sample is painted with another seed; of a
photograph, those parts of itself serve that do not overlap. If a side is longer than 512 pixels,
only its central 512 pixels are measured.

`book/measures.md` shows each measure on pictures where the truth is known.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage
from numpy.typing import NDArray
from skimage.color import rgb2lab

from styleinv.images import BUNDLED, Pixels
from styleinv.runs.record import Measures
from styleinv.styles import paint

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

# Raise this when a measure gives another number than before (tests/test_golden.py fails then).
# Kept pictures are measured again by `make reference`.
VERSION = 4

LARGEST_SIDE = 512
DIRECTIONS = 32
GRID = 8
# The sides of the patches that are compared, in pixels. A larger side is seen more coarsely: at
# least eight values of each colour along a patch of 9 pixels and more.
SIDES = (5, 9, 17, 33, 49)
VALUES = 8
# Inversions carry a dither with a period of two or three pixels, which feature maps and readers
# hardly see. This blur, a Gaussian's deviation in pixels, keeps it from deciding.
BLUR = 1.5
# Every so many patches of one picture look for the nearest among at most so many of the other.
PATCHES, MOST_PATCHES = 512, 16384
# Another sample counts as nearer than the null by at least this share of the null's distance, so
# that sampling does not decide where the two hardly differ, as for large patches of small pictures.
LEAST_CONTRAST = 0.1
# Structure scores are cut off here, so that a style like its null weighs no more than others.
LOWEST, HIGHEST = -4.0, 2.0
# Artefacts: neighbourhoods of 3 x 3 squares of 2 x 2 pixels; the quantile of the other sample's
# distances that counts as found in the style; and the side of the smallest spot in these squares.
NEIGHBOURHOOD, USUAL, SMALLEST_SPOT = (2, 3), 0.99, 2
# The deviation of fine noise in a neighbourhood weighs so much more than the colour of a square.
NOISE_COUNTS = 1.5
# The side of the patches that tell a copy.
COPIED = 17
# The power that rounding to 8 bits leaves in the highest octave of L*.
ROUNDING = 0.01
# A picture of which artefacts cover less is clean: at most one of twenty clean samples has more.
CLEAN_AREA = 0.03


def measure(image: Pixels, style: Pixels, other: Pixels | None = None) -> Measures:
    """All measures of a picture against its style image, rounded to six digits.

    ======================  ====================================================================
    `structures`            structure kept at patch sides 5, 9, 17, 33 and 49, see `structures`
    `largest_kept`          the side up to which structure is kept, in pixels, see `largest_kept`
    `largest_to_style`      the same as a ratio to that of another sample of the style
    `colour_distance`       in CIELAB units, see `colour_distance`
    `colour`                the same from 0, that of uniform noise, to 1, see `colour`
    `noise`                 power of the highest octave over the style's in dB, see `noise`
    `artefact_excess`       how strange places are on average, in CIELAB units, see
                            `artefact_excess`; of all measures of artefacts nearest to eyes
    `artefacts`             number of artefacts per 10,000 pixels, see `artefact_mask`
    `artefact_area`         share of the picture that artefacts cover, from 0 to 1
    `artefact_grid`         the same for each field of an 8 x 8 grid, row by row, three decimals
    `psnr`, `ssim`          against the style image, in dB and from -1 to 1
    `psnr_of_pairs`         `psnr` with horizontal neighbours averaged, see `pairs_averaged`
    `in_place`              share of patches most like the style at their own place, see `in_place`
    ======================  ====================================================================

    Args:
        other: another sample of the style, see `other_sample`; None if there is none.
    """
    # Imported here because it imports scipy.stats, which takes a second.
    from skimage.metrics import structural_similarity

    image, style = _central(image), _central(style)
    known = _known(style, other)
    scores = structures(image, style, other)
    kept, distance = largest_kept(scores), colour_distance(image, style)
    excess = known.excess(image)
    mask = _mask(excess, image)
    _, count = scipy.ndimage.label(mask, np.ones((3, 3)))
    found = {
        "largest_kept": kept,
        "largest_to_style": kept / largest_kept(known.own_structures),
        "colour_distance": distance,
        "colour": colour(distance, style, other),
        "noise": noise(image, style),
        "artefact_excess": float(excess.mean()),
        "artefacts": 1e4 * count / mask.size,
        "artefact_area": float(mask.mean()),
        "psnr": psnr(image, style),
        "psnr_of_pairs": psnr(pairs_averaged(image), pairs_averaged(style)),
        "in_place": in_place(image, style),
        "ssim": float(structural_similarity(image, style, channel_axis=2)),
    }
    bands = np.array_split(mask, GRID)
    fields = [part.mean() for band in bands for part in np.array_split(band, GRID, axis=1)]
    # Six digits, so that the last bits of another machine make no difference.
    rounded = {name: float(f"{value:.6g}") for name, value in found.items()}
    return Measures(
        version=VERSION,
        structures=tuple(float(f"{score:.6g}") for score in scores),
        artefact_grid=tuple(round(float(share), 3) for share in fields),
        **rounded,
    )


@lru_cache(maxsize=4)
def other_sample(source: str, size: int) -> Pixels | None:
    """Another sample of a painted style, from another seed; None for any other style image."""
    if not source.startswith(BUNDLED):
        return None
    return (255 * paint(source.removeprefix(BUNDLED), size, seed=1)).round().astype(np.uint8)


# Structure ------------------------------------------------------------------------------------


def structures(image: Pixels, style: Pixels, other: Pixels | None = None) -> tuple[float, ...]:
    """How well the picture keeps the style's structure at each of `SIDES`: from -4 to 2.

    The score at side p is (d0 - d) / (d0 - d1), where d is the `patch_distance` of the picture and
    the style, d1 that of another sample and d0 that of the null, `random_phases` of the style. So
    it is 1 for a picture whose patches match as well as those of another sample, more for one made
    of pieces of the style itself, and 0 for one that has no structure beyond its power spectrum.
    d0 - d1 counts as at least 0.1 d0. The score of a side that the picture lacks is 0.
    """
    return _known(_central(style), other).structures(_central(image))


def largest_kept(scores: tuple[float, ...]) -> float:
    """The side up to which structure is kept, in pixels, from 1 to 49.

    log(largest_kept) is the integral of the score over the logarithm of the side, from 1 pixel on.
    The score, cut off to be from 0 to 1, is linear between the `SIDES`, and constant below them.
    So a picture that keeps all up to a side and nothing beyond measures about that side, and no
    threshold decides.
    """
    kept = np.clip((scores[0], *scores), 0, 1)
    return float(np.exp(np.trapezoid(kept, np.log((1, *SIDES)))))


def own_largest(style: Pixels, other: Pixels | None = None) -> float:
    """`largest_kept` of another sample of the style: how much of it this measure can tell."""
    return largest_kept(_known(_central(style), other).own_structures)


def patch_distance(one: Pixels, other: Pixels, side: int) -> float:
    """Mean distance of patches of each picture to the nearest of the other, per colour value.

    Both ways, as in Simakov et al. (2008), since a grey picture is near to everything. In CIELAB
    units, after a blur of 1.5 pixels; patches of 17 pixels and more are averaged over squares of
    2, 4 and 6 pixels.
    """
    return _patch_distance(*(_patches(_soft(_lab(picture)), side) for picture in (one, other)))


def random_phases(style: Pixels) -> Pixels:
    """A picture with the style's spectrum and correlations of colours, and random phases.

    See Galerne, Gousseau and Morel (2011): the same random angle is added to the phase of all
    colours.
    """
    noise = np.random.default_rng(0).random(style.shape[:2])
    turn = np.exp(1j * np.angle(np.fft.rfft2(noise)))
    turn[0, 0] = 1
    values = np.fft.irfft2(np.fft.rfft2(style, axes=(0, 1)) * turn[..., None], noise.shape, (0, 1))
    return np.asarray(values.clip(0, 255).round().astype(np.uint8))


@dataclass(frozen=True)
class _Patches:
    """Square patches of a picture, or of every so many places, and a selection that asks.

    Attributes:
        all: (n, values), float32.
        grid: the numbers of patches from top to bottom and from left to right.
        some: the rows of `all` that look for their nearest.
        apart: how many patches further the next one is that does not overlap.
    """

    all: Floats
    grid: tuple[int, int]
    some: NDArray[np.intp]
    apart: int

    @classmethod
    def of(cls, windows: Floats, width: int, most: int) -> "_Patches":
        """At most so many of the patches (rows, columns, values), which are `width` steps wide."""
        step = math.ceil(math.sqrt(windows.shape[0] * windows.shape[1] / most))
        windows = windows[::step, ::step]
        grid = windows.shape[0], windows.shape[1]
        count = grid[0] * grid[1]
        # The golden ratio spreads the selection evenly over the picture.
        spread = np.arange(min(PATCHES, count)) * (math.sqrt(5) - 1) / 2 % 1
        some = (spread * count).astype(np.intp)
        return cls(windows.reshape(count, -1), grid, some, math.ceil(width / step))

    def nearest_apart(self) -> Floats:
        """The distances of some patches to the nearest that does not overlap, if there is one."""
        rows, columns = np.unravel_index(np.arange(len(self.all)), self.grid)
        apart = [np.abs(x[self.some, None] - x) >= self.apart for x in (rows, columns)]
        found = _nearest(self.all[self.some], self.all, apart[0] | apart[1])
        return found[np.isfinite(found)]


def _patches(soft: Floats, side: int) -> _Patches:
    factor = max(1, side // VALUES)
    width = round(side / factor)
    return _Patches.of(_windows(soft, factor, width), width, MOST_PATCHES)


def _soft(lab: Floats) -> Floats:
    return np.asarray(scipy.ndimage.gaussian_filter(lab, (BLUR, BLUR, 0)))


def _windows(soft: Floats, factor: int, width: int) -> Floats:
    """All windows of `width` squares, each the mean of `factor` x `factor` pixels, float32."""
    height, breadth = (side // factor for side in soft.shape[:2])
    cut = soft[: height * factor, : breadth * factor]
    squares = cut.reshape(height, factor, breadth, factor, 3).mean(axis=(1, 3))
    # Around a middle grey, so that float32 loses nothing where distances are differences.
    centred = (squares - (50, 0, 0)).astype(np.float32)
    return np.lib.stride_tricks.sliding_window_view(centred, (width, width), axis=(0, 1))


def _neighbourhoods(pixels: Pixels, most: int) -> _Patches:
    """Windows around places, and how much more fine noise there is than usual in the picture.

    What the whole picture is covered with, as a dither, is no place that stands out.
    """
    factor, width = NEIGHBOURHOOD
    lab = _lab(pixels)
    soft = _soft(lab)
    windows = _windows(soft, factor, width)
    rows, columns = windows.shape[:2]
    side = factor * width
    power = scipy.ndimage.uniform_filter(np.square(lab - soft), (side, side, 1))
    fine = np.sqrt(np.maximum(power, 0))  # running sums may round to a little less than zero
    louder = np.maximum(fine - np.median(fine, axis=(0, 1)), 0)
    louder = louder[side // 2 :: factor, side // 2 :: factor][:rows, :columns].astype(np.float32)
    values = windows.reshape(rows, columns, -1), NOISE_COUNTS * louder
    return _Patches.of(np.concatenate(values, axis=2), width, most)


def _patch_distance(one: _Patches, other: _Patches) -> float:
    there = _nearest(one.all[one.some], other.all).mean()
    back = _nearest(other.all[other.some], one.all).mean()
    return float(there + back) / 2


def _nearest(asking: Floats, among: Floats, allowed: Mask | None = None) -> Floats:
    """The distance of each row to the nearest row of `among`, per value; inf where none may be."""
    lengths = np.square(among).sum(axis=1)
    found = np.empty(len(asking), np.float32)
    for rows in _chunks(len(asking)):
        squares = lengths - 2 * asking[rows] @ among.T
        if allowed is not None:
            squares[~allowed[rows]] = np.inf
        found[rows] = squares.min(axis=1)
    found += np.square(asking).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(found, 0) / asking.shape[1]))


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + PATCHES) for start in range(0, count, PATCHES))


# What depends on the style only ----------------------------------------------------------------


class _Known:
    """What the measures know of a style: distances of its other sample and of its nulls."""

    def __init__(self, style: Pixels, other: Pixels | None) -> None:
        soft = _soft(_lab(style))
        sides = [side for side in SIDES if side <= min(style.shape[:2])]
        self._patches = {side: _patches(soft, side) for side in sides}
        self._null = self._distances(random_phases(style))
        self._other = self._apart() if other is None else self._distances(other)
        self.own_structures = self._scores(self._other)
        self._around = _neighbourhoods(style, MOST_PATCHES)
        usual = self._around.nearest_apart() if other is None else self.strangeness(other)
        self._usual = np.quantile(usual, USUAL) if usual.size else np.inf
        self._colours = _colour_distances(style, other)

    def structures(self, image: Pixels) -> tuple[float, ...]:
        return self._scores(self._distances(image))

    def colour(self, distance: float) -> float:
        null, other = self._colours
        return (null - distance) / max(null - other, 1e-9)

    def strangeness(self, image: Pixels) -> Floats:
        """The distance of each neighbourhood to the nearest of the style."""
        around = _neighbourhoods(image, math.prod(image.shape))
        return _nearest(around.all, self._around.all).reshape(around.grid)

    def excess(self, image: Pixels) -> Floats:
        """How much stranger each neighbourhood is than is usual in another sample."""
        return np.asarray(np.maximum(self.strangeness(image) - self._usual, 0))

    def _distances(self, image: Pixels) -> dict[int, float]:
        soft = _soft(_lab(image))
        return {
            side: _patch_distance(_patches(soft, side), patches)
            for side, patches in self._patches.items()
        }

    def _apart(self) -> dict[int, float]:
        """The distances of patches to the nearest that does not overlap; a null's where none is."""
        found = dict(self._null)
        for side, patches in self._patches.items():
            if (nearest := patches.nearest_apart()).size:
                found[side] = float(nearest.mean())
        return found

    def _scores(self, distances: dict[int, float]) -> tuple[float, ...]:
        scores = dict.fromkeys(SIDES, 0.0)
        for side, distance in distances.items():
            null = self._null[side]
            contrast = max(null - self._other[side], LEAST_CONTRAST * null, 1e-3)
            scores[side] = float(np.clip((null - distance) / contrast, LOWEST, HIGHEST))
        return tuple(scores.values())


def _colour_distances(style: Pixels, other: Pixels | None) -> tuple[float, float]:
    """The `colour_distance` of uniform noise, the null, and of another sample of the style."""
    null = np.random.default_rng(0).integers(0, 256, style.shape).astype(np.uint8)
    if other is not None:
        return colour_distance(null, style), colour_distance(other, style)
    # The two samples are the black and the white squares of a chessboard.
    rows, columns = (np.arange(side) * GRID // side for side in style.shape[:2])
    black = (rows[:, None] + columns) % 2 == 0
    colours = _soft(_lab(style))
    return colour_distance(null, style), _between_colours(colours[black], colours[~black])


# A picture that a cache can look up: its bytes, and its shape.
_Key = tuple[bytes, tuple[int, ...]]


def _known(style: Pixels, other: Pixels | None) -> _Known:
    return _known_by(_key(style), None if other is None else _key(_central(other)))


@lru_cache(maxsize=4)
def _known_by(style: _Key, other: _Key | None) -> _Known:
    return _Known(_picture(style), None if other is None else _picture(other))


def _key(pixels: Pixels) -> _Key:
    return pixels.tobytes(), pixels.shape


def _picture(key: _Key) -> Pixels:
    content, shape = key
    return np.frombuffer(content, np.uint8).reshape(shape)


# Artefacts -------------------------------------------------------------------------------------


def artefact_excess(image: Pixels, style: Pixels, other: Pixels | None = None) -> float:
    """How far places are from all that the style has, beyond what is usual: 0 or more.

    The neighbourhood of a place is the square of 6 pixels around it, blurred as for
    `patch_distance` and averaged over squares of two pixels, together with the deviation of what
    the blur has taken away, as far as it is more than the median of the picture. With d its
    distance to the nearest of the style and u the distance that 99% of those of another sample of
    the style do not exceed, the result is the mean of max(d - u, 0), in CIELAB units.

    Unlike an area, it still tells pictures apart in which hardly any place is like the style.
    """
    return float(_known(_central(style), other).excess(_central(image)).mean())


def artefact_mask(image: Pixels, style: Pixels, other: Pixels | None = None) -> Mask:
    """Where a picture has what its style has nowhere: (H, W).

    There the distance in `artefact_excess` is larger than usual, all over a square of at least
    4 x 4 pixels.
    """
    image = _central(image)
    return _mask(_known(_central(style), other).excess(image), image)


def _mask(excess: Floats, image: Pixels) -> Mask:
    """The pixels whose neighbourhoods exceed what is usual, less the smallest spots."""
    spots = scipy.ndimage.binary_opening(excess > 0, np.ones((SMALLEST_SPOT, SMALLEST_SPOT)))
    factor, width = NEIGHBOURHOOD
    rows, columns = (
        # The neighbourhood around each pixel; at the rim, the nearest that is whole.
        np.clip(np.arange(side) // factor - width // 2, 0, count - 1)
        for side, count in zip(image.shape[:2], spots.shape, strict=True)
    )
    return np.asarray(spots[rows[:, None], columns])


# Colour, noise and reconstruction ---------------------------------------------------------------


def colour_distance(image: Pixels, style: Pixels) -> float:
    """Sliced Wasserstein-1 distance between the colours of two images.

    It is the mean over 32 evenly spread directions of the distance between the sorted projections,
    in CIELAB units (Rabin et al. 2011), after a blur of 1.5 pixels: eyes see the mean of a dither,
    not its colours. Where a colour lies has no effect beyond that. If all colours move by the same
    vector, the result is half of its length.
    """
    return _between_colours(*(_soft(_lab(_central(x))) for x in (image, style)))


def _between_colours(*colours: Floats) -> float:
    """The sliced distance of two sets of colours, each (..., 3)."""
    ours, theirs = (np.sort(x.reshape(-1, 3) @ _directions(), axis=0) for x in colours)
    count = min(len(ours), len(theirs))
    ours, theirs = (x[np.arange(count) * len(x) // count] for x in (ours, theirs))
    return float(np.abs(ours - theirs).mean())


def colour(distance: float, style: Pixels, other: Pixels | None = None) -> float:
    """A `colour_distance` to the style on the scale from uniform noise in RGB to another sample.

    0 is that of a picture whose pixels are uniform noise, as the start of an inversion is, and 1
    that of another sample of the style. Closer colours are above 1.
    """
    return _known(_central(style), other).colour(distance)


def noise(image: Pixels, style: Pixels) -> float:
    """How much power a picture has in the highest octave of L* beyond its style, in dB.

    10 log10(P(image) / P(style)), where P is the power of the frequencies of which one component
    is above half of the largest, after a Hann window. Equal power is 0, and negative values are
    smoother than the style.
    """
    ours, theirs = (_finest_power(_lab(_central(x))[..., 0]) for x in (image, style))
    return float(10 * np.log10((ours + ROUNDING) / (theirs + ROUNDING)))


def _finest_power(x: Floats) -> float:
    """The variance that the highest octave of (H, W) has."""
    window = np.outer(*(np.hanning(side + 2)[1:-1] for side in x.shape))
    power = np.square(np.abs(scipy.fft.fft2((x - x.mean()) * window)))
    rows, columns = (np.abs(scipy.fft.fftfreq(side)) > 0.25 for side in x.shape)
    finest = power[rows[:, None] | columns].sum() / x.size
    return float(finest / np.square(window).sum())


def psnr(image: Pixels | Floats, style: Pixels | Floats) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / MSE), or 100 for equal images."""
    error = np.mean(np.square(np.subtract(image, style, dtype=np.float64)))
    return float(10 * np.log10(255**2 / error)) if error > 0 else 100.0


def pairs_averaged(pixels: Pixels) -> Floats:
    """The mean of each pair of pixels (2j - 1, 2j) of a row: (H, W // 2, 3).

    The linear-time MMD does not change if the two swap places, and nor does their mean.
    """
    even = pixels.shape[1] // 2 * 2
    return np.asarray((pixels[:, 0:even:2].astype(float) + pixels[:, 1:even:2]) / 2)


def in_place(image: Pixels, style: Pixels) -> float:
    """The share of places at which the picture is a copy of the style image, from 0 to 1.

    A patch of 17 pixels is compared with the style image at its own place and at eight others: a
    third or two thirds of the height and of the width further on, around the rim. It counts if it
    correlates best with its own place (CIELAB after the blur, less the patch's mean), so that a
    pale or noisy copy is one, too. A copy reaches about 0.9, another sample of the style 1/9.
    """
    ours, theirs = (_soft(_lab(_central(x))) for x in (image, style))

    def mean(x: Floats) -> Floats:
        return np.asarray(scipy.ndimage.uniform_filter(x, COPIED, mode="wrap", axes=(0, 1)))

    means = mean(ours), mean(theirs)
    variance = mean((theirs**2).sum(axis=2)) - (means[1] ** 2).sum(axis=2)
    deviation = np.sqrt(variance.clip(1))  # at least 1, where the style image is flat
    height, width = ours.shape[:2]
    scores = []
    for move in [(height * i // 3, width * j // 3) for i in range(3) for j in range(3)]:
        there, centre, spread = (np.roll(x, move, (0, 1)) for x in (theirs, means[1], deviation))
        covariance = mean((ours * there).sum(axis=2)) - (means[0] * centre).sum(axis=2)
        scores.append(covariance / spread)
    return float((np.argmax(scores, axis=0) == 0).mean())


def _lab(pixels: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(rgb2lab(pixels), dtype=np.float64)


def _central(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    top, left = (max(0, (side - LARGEST_SIDE) // 2) for side in (height, width))
    return pixels[top : top + LARGEST_SIDE, left : left + LARGEST_SIDE]


def _directions() -> Floats:
    """Unit vectors spread evenly over a half sphere by a Fibonacci lattice: (3, 32)."""
    k = np.arange(DIRECTIONS) + 0.5
    height, angle = k / DIRECTIONS, np.pi * (1 + np.sqrt(5)) * k
    radius = np.sqrt(1 - height**2)
    return np.stack((radius * np.cos(angle), radius * np.sin(angle), height))
