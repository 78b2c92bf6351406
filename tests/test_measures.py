"""The measures on images where the truth is known."""

import msgspec
import numpy as np
import pytest
import scipy.ndimage
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab

from styleinv.images import Pixels
from styleinv.runs import measures
from styleinv.styles import PAINTED, paint

STRUCTURES = (3, 4, 6, 8, 11, 16, 22, 32)


def painted(name: str, size: int = 96, **options: object) -> Pixels:
    return (255 * paint(name, size, **options)).round().astype(np.uint8)


def noise(size: int = 96, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3)).astype(np.uint8)


def with_noise(pixels: Pixels, sigma: float) -> Pixels:
    added = np.random.default_rng(2).normal(0, sigma, pixels.shape)
    return (pixels + added).clip(0, 255).round().astype(np.uint8)


def dithered(pixels: Pixels) -> Pixels:
    """With fine noise, stronger in colour than in lightness, and none of it coarse."""
    noise = np.random.default_rng(4).normal(0, 1, pixels.shape)
    fine = noise - scipy.ndimage.gaussian_filter(noise, (1.2, 1.2, 0))
    rgb = lab2rgb(rgb2lab(pixels) + fine / fine.std() * (9, 25, 25))
    return (255 * rgb).round().astype(np.uint8)


def shuffled(pixels: Pixels) -> Pixels:
    flat = np.random.default_rng(1).permutation(pixels.reshape(-1, 3))
    return np.ascontiguousarray(flat.reshape(pixels.shape))


class TestStructureSize:
    @pytest.mark.parametrize("name", PAINTED)
    def test_keeps_the_order_of_the_painted_structures(self, name: str) -> None:
        """Eight sizes, the mean of two seeds each; a single picture holds few of the largest."""
        measured = [
            np.mean(
                [measures.structure_size(painted(name, 256, structure=s, seed=k)) for k in (0, 1)]
            )
            for s in STRUCTURES
        ]
        assert scipy.stats.spearmanr(STRUCTURES, measured).statistic >= 0.95

    # Colours that no screen has are cut off.
    @pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
    @pytest.mark.parametrize("name", PAINTED)
    def test_sees_the_structure_through_noise(self, name: str) -> None:
        """White noise of half the deviation of the colours, or a dither of colour as ours have."""
        for structure in (8, 16):
            clean = painted(name, 192, structure=structure)
            expected = measures.structure_size(clean)
            for noisy in (with_noise(clean, 30), dithered(clean)):
                assert measures.structure_size(noisy) == pytest.approx(expected, rel=0.2)

    def test_is_half_the_length_of_a_cosine(self) -> None:
        """cos(2 pi x / p) has the autocorrelation J0(2 pi r / p) in the plane's mean."""
        x = np.arange(256)
        wave = 128 + 100 * np.cos(2 * np.pi * x / 32)
        pixels = np.repeat(np.tile(wave, (256, 1))[..., None], 3, axis=2).astype(np.uint8)
        half = scipy.optimize.brentq(lambda r: scipy.special.j0(2 * np.pi * r / 32) - 0.5, 1, 10)
        assert measures.structure_size(pixels) == pytest.approx(half, rel=0.03)

    def test_grows_with_the_picture_and_with_blur_and_ends_with_the_order(self) -> None:
        picture = painted("strokes")
        size = measures.structure_size(picture)
        doubled = np.kron(picture, np.ones((2, 2, 1), np.uint8))
        assert measures.structure_size(doubled) == pytest.approx(2 * size, rel=0.1)
        blurred = [scipy.ndimage.gaussian_filter(picture, (s, s, 0)) for s in (1, 2, 4)]
        assert np.all(np.diff([size, *map(measures.structure_size, blurred)]) > 0)
        for white in (shuffled(picture), noise()):
            assert measures.structure_size(white) == pytest.approx(0.5, abs=0.02)

    def test_one_colour_has_no_structure_that_ends(self) -> None:
        assert measures.structure_size(np.full((40, 30, 3), 7, np.uint8)) == 30


class TestColourDistance:
    def test_does_not_see_where_the_colours_lie(self) -> None:
        picture = painted("mosaic")
        assert measures.colour_distance(shuffled(picture), picture) == 0

    def test_is_scipys_distance_of_the_projections(self) -> None:
        ours, theirs = painted("dots", 48), painted("woodcut", 48)
        a, b = (rgb2lab(x).reshape(-1, 3) for x in (ours, theirs))
        k = np.arange(32) + 0.5
        polar, azimuth = np.arccos(k / 32), np.pi * (1 + 5**0.5) * k
        lattice = [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
        expected = np.mean(
            [scipy.stats.wasserstein_distance(a @ d, b @ d) for d in np.transpose(lattice)]
        )
        assert measures.colour_distance(ours, theirs) == pytest.approx(expected, rel=1e-5)

    @settings(max_examples=20, deadline=None)
    @given(st.tuples(*[st.floats(-8, 8)] * 3))
    def test_moved_colours_are_half_as_far_as_they_moved(self, shift: tuple[float, ...]) -> None:
        lab = np.random.default_rng(0).uniform((40, -15, -15), (60, 15, 15), (32, 32, 3))
        before, after = ((255 * lab2rgb(x)).round().astype(np.uint8) for x in (lab, lab + shift))
        expected = np.linalg.norm(shift) / 2
        assert measures.colour_distance(after, before) == pytest.approx(expected, rel=0.1, abs=0.15)


@pytest.mark.parametrize("name", ["rectangles", "mosaic", "marbling"])
def test_noise_level_is_that_of_the_noise_added(name: str) -> None:
    grey = painted(name, 256, structure=16).mean(axis=2)
    grey = 60 + grey / 2  # away from black and white, where noise would be cut off
    rng = np.random.default_rng(3)
    clean = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
    assert measures.noise_level(clean) < 1
    for sigma in (4, 8, 16):
        noisy = (grey + rng.normal(0, sigma, grey.shape)).clip(0, 255)
        pixels = np.repeat(noisy[..., None], 3, axis=2).astype(np.uint8)
        expected = np.std(rgb2lab(pixels)[..., 0] - rgb2lab(clean)[..., 0])
        assert measures.noise_level(pixels) == pytest.approx(expected, rel=0.2)


class TestArtefacts:
    @pytest.mark.parametrize("name", PAINTED)
    def test_another_picture_of_the_same_style_has_none(self, name: str) -> None:
        """Painted from another seed, also with noise or blurred."""
        style, other = painted(name, 128), painted(name, 128, seed=1)
        blurred = scipy.ndimage.gaussian_filter(other, (1, 1, 0))
        assert not measures.artefact_mask(style, style).any()
        for picture in (other, blurred, with_noise(other, 12), with_noise(other, 25)):
            assert measures.artefact_mask(picture, style).mean() < 0.003

    @pytest.mark.parametrize("count", [1, 4, 9])
    @pytest.mark.parametrize("radius", [4, 8])
    def test_finds_planted_spots(self, count: int, radius: int) -> None:
        style = painted("woodcut", 120)
        y, x = np.mgrid[:120, :120]
        spots = np.zeros((120, 120), bool)
        for k in range(count):
            row, column = 20 + 40 * (k // 3), 20 + 40 * (k % 3)
            spots |= (y - row) ** 2 + (x - column) ** 2 <= radius**2
        spotted = np.where(spots[..., None], np.uint8([255, 0, 255]), style)
        found = measures.measure(spotted, style)
        assert found.artefacts == pytest.approx(1e4 * count / 120**2, rel=1e-5)
        assert found.artefact_area == pytest.approx(spots.mean(), rel=0.2)
        assert np.mean(found.artefact_grid) == pytest.approx(found.artefact_area, abs=1e-3)
        assert np.count_nonzero(found.artefact_grid) >= count

    def test_single_pixels_are_noise(self) -> None:
        style = painted("woodcut")
        speckled = style.copy()
        speckled[::7, ::7] = (255, 0, 255)
        assert not measures.artefact_mask(speckled, style).any()


class TestReconstruction:
    def test_of_the_same_picture_is_perfect(self) -> None:
        found = measures.measure(painted("marbling"), painted("marbling"))
        assert (found.psnr, found.psnr_of_pairs, found.ssim) == (100, 100, 1)
        assert (found.colour_distance, found.size_to_style, found.noise) == (0, 1, 0)

    def test_psnr_is_its_formula_and_pairs_may_swap(self) -> None:
        style, other = painted("marbling"), noise()
        error = np.mean((style.astype(float) - other) ** 2)
        assert measures.psnr(other, style) == pytest.approx(10 * np.log10(255**2 / error))
        swapped = style.reshape(96, 48, 2, 3)[:, :, ::-1].reshape(style.shape)
        found = measures.measure(np.ascontiguousarray(swapped), style)
        assert found.psnr_of_pairs == 100 > found.psnr


@pytest.mark.parametrize("shape", [(16, 16), (16, 60), (17, 33), (20, 1500)])
def test_measures_every_shape(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = measures.measure(picture, picture[::-1])
    assert len(found.artefact_grid) == 64
    assert all(np.isfinite(value).all() for value in msgspec.structs.astuple(found))
