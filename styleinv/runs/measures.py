"""What an inverted image keeps of its style image, as numbers.

Images are (H, W, 3) of 0 to 255; colours are compared in CIELAB (D65), in which a distance of 2.3
is just noticeable. Of an image with more than 1024 pixels on a side, the central part is measured.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.spatial
from numpy.typing import NDArray
from skimage.color import rgb2lab

from styleinv.images import Pixels

Floats = NDArray[np.float64]

# Raise this when a measure gives another number than before (tests/test_golden.py notices).
VERSION = 1

LARGEST_SIDE = 1024
DIRECTIONS = 32
# A colour this far from all of the style's is another one; a narrower spot is an edge, or noise.
FOREIGN, SMALLEST_SPOT = 15.0, 3
# With less of its variance left without the noise, a picture is noise.
LEAST_SIGNAL = 0.05
GRID = 8


def measure(image: Pixels, style: Pixels) -> dict[str, Any]:
    """Every metric of an image that was made from `style`, as plain JSON values.

    ======================  ====================================================================
    `structure_size`        see `structure_size`, in pixels
    `size_to_style`         the same over the style's
    `colour_distance`       see `colour_distance`
    `noise`                 see `noise_level`, less the style's
    `artefacts`             see `artefact_mask`: how many, per 10,000 pixels
    `artefact_area`         the share of the picture that they cover
    `artefact_grid`         the same in each field of an 8 x 8 grid, row by row
    `psnr`, `ssim`          against the style image, in dB and from -1 to 1
    `psnr_of_pairs`         `psnr` with horizontal neighbours averaged, see `pairs_averaged`
    ======================  ====================================================================
    """
    # Not above: it imports scipy.stats, a second that every command would wait for.
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
    fields = [part.mean() for band in np.array_split(mask, GRID) for part in _columns(band)]
    return {
        **{name: _rounded(value) for name, value in found.items()},
        "artefact_grid": [round(float(share), 3) for share in fields],
    }


def structure_size(pixels: Pixels) -> float:
    """The distance in pixels over which the autocorrelation of the lightness falls to one half.

    c(r) = <x(p) x(p + d)>, averaged over all d of length r, where x is L* less its mean; without
    wrapping around. The result is where c(r) = v / 2. The variance v is that of the picture without
    its pixel noise: the larger of c(0) less the noise (`noise_level` squared) and 2 c(1) - c(2),
    where a line through the next two values begins. 0.5, the least, is white noise.

    Of the measures tried on the painted styles with their structure swept (spectral centroid,
    crossings of 1/e and 0.2, integral length, length of the gradient), this one kept the order
    best: large masses of light and dark do not enter the upper half of the curve. Colour is left
    out because inversions carry a dither of it, with a period of about three pixels, that feature
    maps and readers hardly see and that would hide all structure.
    """
    x = _lab(_central(pixels))[..., 0]
    c = _autocovariance(x - x.mean())
    if c[0] <= 1e-9:  # one colour: no structure that would end
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
    """c of (H, W), by distance in whole pixels up to half a side."""
    height, width = x.shape
    shape = [scipy.fft.next_fast_len(2 * side, real=True) for side in (height, width)]
    power, ones = (np.square(np.abs(scipy.fft.rfft2(y, shape))) for y in (x, np.ones_like(x)))
    products, overlap = scipy.fft.irfft2(power, shape), scipy.fft.irfft2(ones, shape)
    rows, columns = (scipy.fft.fftfreq(side, 1 / side) for side in shape)
    radius = np.rint(np.hypot(rows[:, None], columns)).astype(int)
    near = radius <= min(height, width) // 2
    # Every offset counts alike, whatever the number of pixel pairs that it leaves.
    values = products[near] / np.rint(overlap[near])
    return np.asarray(np.bincount(radius[near], values) / np.bincount(radius[near]))


def colour_distance(image: Pixels, style: Pixels) -> float:
    """Sliced Wasserstein-1 distance between the colours of two images, in CIELAB units.

    The mean over 32 evenly spread directions of the distance between the sorted projections (Rabin
    et al. 2011); where the colours lie is not looked at. If all colours move by a distance, it is
    half of that.

    Args:
        image, style: of the same size.
    """
    directions = _directions()
    ours, theirs = (
        np.sort(_lab(_central(x)).reshape(-1, 3) @ directions, axis=0) for x in (image, style)
    )
    return float(np.abs(ours - theirs).mean())


def noise_level(pixels: Pixels) -> float:
    """Standard deviation of the pixel noise in L*: median(abs(d)) / 0.6745 (Donoho 1994).

    d = (a - b - c + e) / 2 of each block ((a, b), (c, e)) of 2 x 2 pixels is the finest Haar
    wavelet on the diagonal, which edges and slopes hardly touch.
    """
    return float(np.sqrt(_noise_variance(_lab(_central(pixels))[..., 0])))


def _noise_variance(x: Floats) -> float:
    height, width = (side // 2 * 2 for side in x.shape)
    blocks = x[:height, :width].reshape(height // 2, 2, width // 2, 2)
    diagonal = (
        blocks[:, 0, :, 0] - blocks[:, 0, :, 1] - blocks[:, 1, :, 0] + blocks[:, 1, :, 1]
    ) / 2
    return float(np.square(np.median(np.abs(diagonal)) / 0.6745))


def artefact_mask(image: Pixels, style: Pixels) -> NDArray[np.bool_]:
    """Where an image has spots of a colour that its style has nowhere; (H, W).

    Noise is taken off with a 3 x 3 median. A pixel is foreign if its colour is farther than 15
    CIELAB units from that of every pixel of the style. Foreign pixels that touch make an artefact,
    where they cover squares of 3 x 3 or more: edges, where colours mix, are thinner.
    """
    smooth = scipy.ndimage.median_filter(_lab(image), size=(3, 3, 1), mode="nearest")
    palette = np.unique(style.reshape(-1, 3), axis=0)
    tree = scipy.spatial.KDTree(_lab(palette[None])[0])
    distance, _ = tree.query(smooth.reshape(-1, 3), distance_upper_bound=FOREIGN)
    foreign = np.isinf(distance).reshape(image.shape[:2])
    return np.asarray(
        scipy.ndimage.binary_opening(foreign, np.ones((SMALLEST_SPOT, SMALLEST_SPOT)))
    )


def psnr(image: Pixels | Floats, style: Pixels | Floats) -> float:
    """Peak signal to noise ratio in dB; 100 for images that are the same."""
    error = np.mean(np.square(np.subtract(image, style, dtype=np.float64)))
    return float(10 * np.log10(255**2 / error)) if error > 0 else 100.0


def pairs_averaged(pixels: Pixels) -> Floats:
    """Each pixel pair (2j - 1, 2j) of a row replaced by its mean: (H, W // 2, 3).

    The linear-time MMD lets the two swap places, which their mean does not see.
    """
    even = pixels.shape[1] // 2 * 2
    return np.asarray((pixels[:, 0:even:2].astype(float) + pixels[:, 1:even:2]) / 2)


def first_below(trace: Sequence[Mapping[str, Any]], loss: float) -> Mapping[str, Any] | None:
    """The first point of a record's trace with a lower exact loss; None if there is none."""
    return next((point for point in trace if point["loss"] < loss), None)


def _lab(pixels: NDArray[Any]) -> Floats:
    return np.asarray(rgb2lab(pixels), dtype=np.float64)


def _central(pixels: Pixels) -> Pixels:
    height, width = pixels.shape[:2]
    top, left = (max(0, (side - LARGEST_SIDE) // 2) for side in (height, width))
    return pixels[top : top + LARGEST_SIDE, left : left + LARGEST_SIDE]


def _columns(band: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    return np.array_split(band, GRID, axis=1)


@functools.cache
def _directions() -> Floats:
    """Evenly spread over the half sphere, as columns: a Fibonacci lattice."""
    k = np.arange(DIRECTIONS) + 0.5
    height, angle = k / DIRECTIONS, np.pi * (1 + np.sqrt(5)) * k
    radius = np.sqrt(1 - height**2)
    return np.stack((radius * np.cos(angle), radius * np.sin(angle), height))


def _rounded(value: float) -> float:
    """Six digits: what another machine's last bits do not change."""
    return float(f"{value:.6g}")
