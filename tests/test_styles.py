"""The painted styles: seeded, with the structure size and the palette they claim."""

import numpy as np
import pytest

from styleinv import InputError
from styleinv.styles import PAINTED, PHOTOGRAPHS, paint, photograph


def gradient_length(image: np.ndarray) -> float:
    """Standard deviation of the lightness over its mean gradient: a length in pixels."""
    grey = image.mean(axis=2)
    return float(grey.std() / np.hypot(*np.gradient(grey)).mean())


@pytest.mark.parametrize("name", PAINTED)
class TestStyle:
    def test_is_deterministic_and_seeded(self, name: str) -> None:
        picture = paint(name, 48)
        assert picture.shape == (48, 48, 3)
        assert picture.dtype == np.float32
        assert 0 <= picture.min() < picture.max() <= 1
        assert np.array_equal(picture, paint(name, 48, seed=0))
        assert not np.array_equal(picture, paint(name, 48, seed=1))

    def test_structure_is_a_length(self, name: str) -> None:
        """Over a sweep of `structure` the measured length keeps the order."""
        measured = [
            np.mean([gradient_length(paint(name, 128, structure=s, seed=seed)) for seed in (0, 1)])
            for s in (4, 8, 16, 32)
        ]
        assert measured == sorted(set(measured))

    def test_colours_are_the_palettes(self, name: str) -> None:
        """Most pixels lie near a palette colour, and each colour has its share."""
        palette = np.array([list(bytes.fromhex(c[1:])) for c in PAINTED[name].palette]) / 255
        pixels = paint(name, 128).reshape(-1, 1, 3)
        distance = np.linalg.norm(pixels - palette, axis=2)
        assert np.median(distance.min(axis=1)) < 0.1
        shares = np.bincount(distance.argmin(axis=1), minlength=len(palette)) / len(pixels)
        assert shares.min() > 0.02

    def test_palette_changes_the_colours_only(self, name: str) -> None:
        """With a grey palette of the same length, the picture is grey."""
        greys = [f"#{v:02x}{v:02x}{v:02x}" for v in np.linspace(20, 230, 6).astype(int)]
        grey = paint(name, 48, palette=greys[: len(PAINTED[name].palette)])
        assert np.ptp(grey, axis=2).max() < 1e-6


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_at_hand(name: str) -> None:
    picture = photograph(name)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert min(picture.shape[:2]) >= 256


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": 8}, "size is 8"),
        ({"structure": 1}, "structure is 1, but"),
        ({"palette": ["#000000"]}, "at least 2"),
        ({"palette": ["#000000", "blue"]}, "'blue'"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_refuses(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        paint("mosaic", **{"size": 64, **arguments})
