"""Measures of what a picture keeps of its style image.

Images are (H, W, 3), uint8. Colours are compared in CIELAB (D65), where a distance of 2.3 is just
noticeable. If a side is longer than 1024 pixels, only its central 1024 pixels are measured.
"""

from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.spatial
from numpy.typing import NDArray
from skimage.color import rgb2lab

from styleinv.images import Pixels
from styleinv.runs.record import Measures

Floats = NDArray[np.float64]

# Raise this when a measure gives another number than before (tests/test_golden.py fails then).
# Kept pictures are measured again by `make reference`.
VERSION = 1

LARGEST_SIDE = 1024
DIRECTIONS = 32
# A colour is foreign if its distance to every colour of the style is larger than this.
FOREIGN = 15.0
# The side of a square in pixels. Foreign spots that it does not fit into are edges or noise.
SMALLEST_SPOT = 3
# A picture is noise if removing its noise leaves less than this share of its variance.
LEAST_SIGNAL = 0.05
GRID = 8


def measure(image: Pixels, style: Pixels) -> Measures:
    """All measures of a picture against its style image, rounded to six digits.

    ======================  ====================================================================
    `structure_size`        of the picture, in pixels, see `structure_size`
    `size_to_style`         ratio of the picture's structure size to the style's
    `colour_distance`       in CIELAB units, see `colour_distance`
    `noise`                 the picture's `noise_level` minus the style's, in L*
    `artefacts`             number of artefacts per 10,000 pixels, see `artefact_mask`
    `artefact_area`         share of the picture that artefacts cover, from 0 to 1
    `artefact_grid`         the same for each field of an 8 x 8 grid, row by row, three decimals
    `psnr`, `ssim`          against the style image, in dB and from -1 to 1
    `psnr_of_pairs`         `psnr` with horizontal neighbours averaged, see `pairs_averaged`
    ======================  ====================================================================
    """
    # Imported here because it imports scipy.stats, which takes a second.
    from skimage.metrics import structural_similarity

    image, style = _central(image), _central(style)
    mask = artefact_mask(image, style)
    _, count = scipy.ndimage.label(mask, np.ones((3, 3)))
    size, style_size = structure_size(image), structure_size(style)
    found = {
        "structure_size": size,
        "size_to_style": size / style_size,
        "colour_distance": colour_distance(image, style),
        "noise": noise_level(image) - noise_level(style),
        "artefacts": 1e4 * count / mask.size,
        "artefact_area": float(mask.mean()),
        "psnr": psnr(image, style),
        "psnr_of_pairs": psnr(pairs_averaged(image), pairs_averaged(style)),
        "ssim": float(structural_similarity(image, style, channel_axis=2)),
    }
    bands = np.array_split(mask, GRID)
    fields = [part.mean() for band in bands for part in np.array_split(band, GRID, axis=1)]
    # Six digits, so that the last bits of another machine make no difference.
    rounded = {name: float(f"{value:.6g}") for name, value in found.items()}
    grid = tuple(round(float(share), 3) for share in fields)
    return Measures(version=VERSION, artefact_grid=grid, **rounded)


def structure_size(pixels: Pixels) -> float:
    """The distance in pixels at which the autocorrelation of the lightness falls to one half.

    The autocovariance is c(r) = <x(p) x(p + d)>, averaged over all offsets d of length r without
    wrapping around, where x is L* minus its mean. The result is the r at which c(r) = v / 2. Here v
    is the variance of the picture without its pixel noise: the larger of c(0) minus the variance of
    the noise (`noise_level` squared) and 2 c(1) - c(2), which extrapolates c(1) and c(2) to r = 0.
    The smallest result is 0.5, for white noise.

    We painted the bundled styles with structures of eight sizes and compared measures by how well
    they keep the order of the sizes: spectral centroid, crossings of 1/e and 0.2, integral length,
    length of the gradient, and this one, which was best. Large areas of light and dark do not
    affect the upper half of the curve. Colour is left out: inversions carry a dither of colour with
    a period of about three pixels, which feature maps and readers hardly see, and which would hide
    all structure.
    """
    x = _lab(_central(pixels))[..., 0]
    c = _autocovariance(x - x.mean())
    if c[0] <= 1e-9:  # a single colour has a structure as large as the picture
        return float(min(x.shape))
    variance = min(c[0], max(c[0] - _noise_variance(x), 2 * c[1] - c[2]))
    if variance < LEAST_SIGNAL * c[0]:
        return 0.5
    rho = np.concatenate(([1.0], c[1:] / variance))
    below = np.flatnonzero(rho < 0.5)
    if not len(below):
        return float(len(rho))
    k = int(below[0])
    return float(max(0.5, k - 1 + (rho[k - 1] - 0.5) / (rho[k - 1] - rho[k])))


def _autocovariance(x: Floats) -> Floats:
    """The autocovariance of (H, W) at distances of whole pixels, up to half of the shorter side."""
    height, width = x.shape
    shape = [scipy.fft.next_fast_len(2 * side, real=True) for side in (height, width)]
    power, ones = (np.square(np.abs(scipy.fft.rfft2(y, shape))) for y in (x, np.ones_like(x)))
    products, overlap = scipy.fft.irfft2(power, shape), scipy.fft.irfft2(ones, shape)
    rows, columns = (scipy.fft.fftfreq(side, 1 / side) for side in shape)
    radius = np.rint(np.hypot(rows[:, None], columns)).astype(int)
    near = radius <= min(height, width) // 2
    # Every offset has the same weight, however many pairs of pixels it has.
    values = products[near] / np.rint(overlap[near])
    return np.asarray(np.bincount(radius[near], values) / np.bincount(radius[near]))


def colour_distance(image: Pixels, style: Pixels) -> float:
    """Sliced Wasserstein-1 distance between the colours of two images of the same size.

    It is the mean over 32 evenly spread directions of the distance between the sorted projections,
    in CIELAB units (Rabin et al. 2011). Positions of the colours have no effect. If all colours
    move by the same vector, the result is half of its length.
    """
    ours, theirs = (
        np.sort(_lab(_central(x)).reshape(-1, 3) @ _directions(), axis=0) for x in (image, style)
    )
    return float(np.abs(ours - theirs).mean())


def noise_level(pixels: Pixels) -> float:
    """Standard deviation of the pixel noise in L*: median(abs(d)) / 0.6745 (Donoho 1994).

    For each block ((a, b), (c, e)) of 2 x 2 pixels, d = (a - b - c + e) / 2 is the coefficient of
    the finest diagonal Haar wavelet, on which edges and gradients have little effect.
    """
    return float(np.sqrt(_noise_variance(_lab(_central(pixels))[..., 0])))


def _noise_variance(x: Floats) -> float:
    height, width = (side // 2 * 2 for side in x.shape)
    even = x[:height, :width]
    diagonal = (even[::2, ::2] - even[::2, 1::2] - even[1::2, ::2] + even[1::2, 1::2]) / 2
    return float(np.square(np.median(np.abs(diagonal)) / 0.6745))


def artefact_mask(image: Pixels, style: Pixels) -> NDArray[np.bool_]:
    """Where a picture has spots of a colour that its style has nowhere: (H, W).

    A 3 x 3 median removes noise first. A pixel is foreign if its distance to the colour of every
    pixel of the style is more than 15 CIELAB units. Foreign pixels are part of an artefact if they
    cover a square of 3 x 3 pixels: edges, where colours mix, are thinner.
    """
    smooth = scipy.ndimage.median_filter(_lab(image), size=(3, 3, 1), mode="nearest")
    palette = np.unique(style.reshape(-1, 3), axis=0)
    tree = scipy.spatial.KDTree(_lab(palette[None])[0])
    distance, _ = tree.query(smooth.reshape(-1, 3), distance_upper_bound=FOREIGN)
    foreign = np.isinf(distance).reshape(image.shape[:2])
    spot = np.ones((SMALLEST_SPOT, SMALLEST_SPOT))
    return np.asarray(scipy.ndimage.binary_opening(foreign, spot))


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


def _lab(pixels: NDArray[Any]) -> Floats:
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
