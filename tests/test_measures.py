"""The measures on images where the truth is known; `benchmarks/measures.py` has many more."""

import msgspec
import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import lab2rgb, rgb2lab

from styleinv.images import Pixels, load_style, to_uint8
from styleinv.runs import measures
from styleinv.styles import PAINTED, paint


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


def mosaic(style: Pixels, piece: int) -> Pixels:
    """Square pieces of the style from random places."""
    rng = np.random.default_rng(0)
    found = np.empty_like(style)
    for top, left in np.ndindex(*(side // piece for side in style.shape[:2])):
        y, x = rng.integers(0, len(style) - piece + 1, 2)
        field = np.s_[top * piece : (top + 1) * piece, left * piece : (left + 1) * piece]
        found[field] = style[y : y + piece, x : x + piece]
    return found


class TestStructure:
    @pytest.mark.parametrize("source", ["bundled:marbling", "skimage:coffee"])
    # Colours that no screen has are cut off.
    @pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
    def test_mosaics_measure_the_size_of_their_pieces(self, source: str) -> None:
        style, other = to_uint8(load_style(source, 96)), measures.other_sample(source, 96)

        def kept(picture: Pixels) -> float:
            return measures.largest_kept(measures.structures(picture, style, other))

        found = [kept(mosaic(style, piece)) for piece in (4, 8, 16, 32)]
        assert np.all(np.diff(np.log(found)) > 0.2)
        assert found[2:] == pytest.approx((16, 32), rel=0.5)
        assert found[1] < kept(dithered(mosaic(style, 16))) < 1.2 * found[2]
        assert kept(noise()) < 1.5

    def test_another_sample_has_all_and_random_phases_nothing(self) -> None:
        style, other = painted("mosaic"), measures.other_sample("bundled:mosaic", 96)
        assert measures.structures(other, style, other)[:3] == pytest.approx((1, 1, 1))
        assert measures.structures(measures.random_phases(style), style, other) == (0,) * 5
        assert measures.own_largest(style, other) > 17

    def test_patch_distance_is_that_of_the_definition(self) -> None:
        one, two = painted("strokes", 24), painted("dots", 24)
        rows = [
            np.lib.stride_tricks.sliding_window_view(
                scipy.ndimage.gaussian_filter(rgb2lab(x), (1.5, 1.5, 0)), (5, 5), axis=(0, 1)
            ).reshape(-1, 75)
            for x in (one, two)
        ]
        distances = scipy.spatial.distance.cdist(*rows) / np.sqrt(75)
        expected = (distances.min(axis=0).mean() + distances.min(axis=1).mean()) / 2
        # Every patch asks at least once, and a few of them twice.
        assert measures.patch_distance(one, two, 5) == pytest.approx(expected, rel=0.01)

    def test_random_phases_keep_the_spectrum_only(self) -> None:
        style = (100 + painted("marbling", 64) // 5).astype(np.uint8)  # nothing is cut off
        spectra = [np.fft.fft2(x, axes=(0, 1)) for x in (style, measures.random_phases(style))]
        before, after = (np.abs(x) for x in spectra)
        assert after == pytest.approx(before, rel=0.05, abs=150)  # of rounding
        assert np.corrcoef(style.ravel(), measures.random_phases(style).ravel())[0, 1] < 0.3

    def test_largest_kept_is_where_a_sharp_cut_off_lies(self) -> None:
        assert measures.largest_kept((2, 2, 1, 1, 1)) == pytest.approx(49)
        assert measures.largest_kept((-1, 0, -1, 0, 0)) == 1
        assert 9 < measures.largest_kept((1, 1, 0, 0, 0)) < 17


class TestColourDistance:
    def test_does_not_see_where_the_colours_lie(self) -> None:
        picture = painted("mosaic")
        turned = np.ascontiguousarray(np.rot90(picture))
        assert measures.colour_distance(turned, picture) == pytest.approx(0, abs=1e-9)

    def test_sees_the_mean_of_a_dither(self) -> None:
        """A chessboard of single pixels, black and white, is a grey of L* = 50."""
        board = (np.indices((32, 32)).sum(axis=0) % 2 * 255)[..., None].repeat(3, axis=2)
        grey, white = (np.full((32, 32, 3), value, np.uint8) for value in (119, 255))
        dither = board.astype(np.uint8)
        assert measures.colour_distance(dither, grey) < 0.5
        assert measures.colour_distance(dither, white) == pytest.approx(25, abs=1)

    def test_is_scipys_distance_of_the_projections(self) -> None:
        ours, theirs = painted("dots", 48), painted("woodcut", 48)
        blurred = (scipy.ndimage.gaussian_filter(rgb2lab(x), (1.5, 1.5, 0)) for x in (ours, theirs))
        a, b = (x.reshape(-1, 3) for x in blurred)
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
        coarse = np.random.default_rng(0).uniform((40, -15, -15), (60, 15, 15), (8, 8, 3))
        lab = coarse.repeat(4, axis=0).repeat(4, axis=1)
        before, after = ((255 * lab2rgb(x)).round().astype(np.uint8) for x in (lab, lab + shift))
        expected = np.linalg.norm(shift) / 2
        assert measures.colour_distance(after, before) == pytest.approx(expected, rel=0.1, abs=0.15)

    def test_scale_ends_at_noise_and_at_another_sample(self) -> None:
        style, other = painted("dots", 48), measures.other_sample("bundled:dots", 48)
        assert measures.measure(other, style, other).colour == 1
        assert measures.measure(noise(48, seed=5), style, other).colour == pytest.approx(0, abs=0.2)


def test_noise_is_the_gain_in_the_highest_octave() -> None:
    """White noise of four times the deviation has 12 dB more; slow waves have no part in it."""
    rng = np.random.default_rng(3)
    wave = 8 * np.cos(np.arange(128) * 2 * np.pi / 16)
    grain = rng.normal(0, 3, (128, 128))
    pictures = [128 + wave + factor * grain for factor in (1, 4)]
    fine, coarse = (np.repeat(x.round()[..., None], 3, 2).astype(np.uint8) for x in pictures)
    assert measures.noise(coarse, fine) == pytest.approx(20 * np.log10(4), abs=0.2)
    assert measures.noise(fine, coarse) == pytest.approx(-20 * np.log10(4), abs=0.2)
    assert measures.noise(fine, fine) == 0


class TestArtefacts:
    # Colours that no screen has are cut off.
    @pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
    def test_noise_and_dither_of_a_clean_sample_are_none(self) -> None:
        """At most a quarter of what other seeds of all styles show is more than clean."""
        areas = []
        for name in PAINTED:
            style, other, clean = (painted(name, 64, seed=seed) for seed in (0, 1, 2))
            for picture in (style, clean, dithered(clean), with_noise(clean, 20)):
                areas.append(measures.artefact_mask(picture, style, other).mean())
        assert areas[::4] == [0] * len(PAINTED)
        assert np.mean(np.array(areas) < measures.CLEAN_AREA) > 0.75

    @pytest.mark.parametrize("count", [1, 4])
    @pytest.mark.parametrize("plain", [False, True])
    def test_finds_planted_squares(self, count: int, plain: bool) -> None:
        style, other = painted("woodcut", 120), measures.other_sample("bundled:woodcut", 120)
        patch = np.full((24, 24, 3), (255, 0, 255), np.uint8) if plain else noise(24)
        spotted, planted = style.copy(), np.zeros((120, 120), bool)
        for k in range(count):
            field = np.s_[10 + 60 * (k // 2) :, 10 + 60 * (k % 2) :]
            spotted[field][:24, :24], planted[field][:24, :24] = patch, True
        found = measures.measure(spotted, style, other)
        assert found.artefacts == pytest.approx(1e4 * count / 120**2, rel=1e-5)
        assert found.artefact_area == pytest.approx(planted.mean(), rel=0.9)
        assert found.artefact_area > measures.CLEAN_AREA
        mask = measures.artefact_mask(spotted, style, other)
        assert not mask[~scipy.ndimage.binary_dilation(planted, iterations=8)].any()
        assert np.mean(found.artefact_grid) == pytest.approx(found.artefact_area, abs=1e-3)

    def test_excess_is_that_of_the_definition(self) -> None:
        style, other, picture = (
            painted(x, 30, seed=k) for k, x in enumerate(("dots", "dots", "mosaic"))
        )

        def around(pixels: Pixels) -> measures.Floats:
            lab = rgb2lab(pixels)
            soft = np.stack([scipy.ndimage.gaussian_filter(lab[..., c], 1.5) for c in range(3)], 2)
            fine = np.zeros((30, 30, 3))
            for y, x in np.ndindex(30, 30):
                # Around the middle of six pixels; at the rim, the picture is mirrored.
                rows, columns = (np.arange(i - 3, i + 3) for i in (y, x))
                rows, columns = (
                    np.where(i < 0, -1 - i, np.where(i > 29, 59 - i, i)) for i in (rows, columns)
                )
                fine[y, x] = np.sqrt(np.mean((lab - soft)[rows][:, columns] ** 2, axis=(0, 1)))
            louder = np.maximum(fine - np.median(fine.reshape(-1, 3), axis=0), 0)
            found = []
            for y, x in np.ndindex(13, 13):
                window = soft[2 * y : 2 * y + 6, 2 * x : 2 * x + 6]
                squares = window.reshape(3, 2, 3, 2, 3).mean(axis=(1, 3)).ravel()
                found.append([*squares, *1.5 * louder[2 * y + 3, 2 * x + 3]])
            return np.array(found)

        ours, theirs, others = (around(x) for x in (picture, style, other))
        usual, strange = (
            scipy.spatial.distance.cdist(x, theirs).min(axis=1) / np.sqrt(30)
            for x in (others, ours)
        )
        expected = np.mean(np.maximum(strange - np.quantile(usual, 0.99), 0))
        assert expected > 0.2
        assert measures.artefact_excess(picture, style, other) == pytest.approx(expected, rel=1e-4)

    def test_excess_tells_pictures_apart_that_are_strange_all_over(self) -> None:
        """Where the area is the same, the stranger colours have more."""
        style, other = painted("woodcut"), measures.other_sample("bundled:woodcut", 96)
        pictures = [np.full_like(style, colour) for colour in ((90, 160, 90), (0, 255, 0))]
        areas, excess = zip(
            *(
                (x.artefact_area, x.artefact_excess)
                for x in (measures.measure(p, style, other) for p in pictures)
            ),
            strict=True,
        )
        assert areas == (1, 1)
        assert 0 < 1.5 * excess[0] < excess[1]


class TestReconstruction:
    def test_of_the_same_picture_is_perfect(self) -> None:
        found = measures.measure(painted("marbling"), painted("marbling"))
        assert (found.psnr, found.psnr_of_pairs, found.ssim) == (100, 100, 1)
        assert (found.colour_distance, found.artefact_area, found.noise) == (0, 0, 0)
        assert found.structures[0] > 1

    def test_psnr_is_its_formula_and_pairs_may_swap(self) -> None:
        style, other = painted("marbling"), noise()
        error = np.mean((style.astype(float) - other) ** 2)
        assert measures.psnr(other, style) == pytest.approx(10 * np.log10(255**2 / error))
        swapped = style.reshape(96, 48, 2, 3)[:, :, ::-1].reshape(style.shape)
        found = measures.measure(np.ascontiguousarray(swapped), style)
        assert found.psnr_of_pairs == 100 > found.psnr

    def test_tells_a_copy_from_another_sample(self) -> None:
        """Also a pale and noisy copy, and one of half of the picture."""
        style, other = painted("mosaic", 120), measures.other_sample("bundled:mosaic", 120)
        pale = (0.3 * style + 0.7 * noise(120)).round().astype(np.uint8)
        half = np.hstack((style[:, :60], np.roll(style, 50, 0)[:, 60:]))
        found = [measures.in_place(x, style) for x in (style, pale, half, other)]
        assert found == pytest.approx([1, 1, 0.5 + 0.5 / 9, 1 / 9], abs=0.1)


@pytest.mark.parametrize("shape", [(16, 16), (16, 60), (17, 33), (20, 600)])
def test_measures_every_shape(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = measures.measure(picture, picture[::-1])
    assert len(found.artefact_grid) == 64
    assert all(np.isfinite(value).all() for value in msgspec.structs.astuple(found))


def test_one_colour_has_no_structure_to_keep() -> None:
    plain = np.full((40, 30, 3), 7, np.uint8)
    found = measures.measure(plain, plain)
    assert (found.structures, found.largest_kept, found.largest_to_style) == ((0,) * 5, 1, 1)
    assert (found.colour, found.artefacts) == (1, 0)


def test_other_samples_are_painted() -> None:
    other = measures.other_sample("bundled:dots", 32)
    assert other is not None
    assert (other == painted("dots", 32, seed=1)).all()
    assert measures.other_sample("skimage:coffee", 32) is None
