"""What section 1.3 computes, on pictures and runs that are made up."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from styleinv_book.pages import training


def picture(pixels: np.ndarray[Any, Any]) -> Any:
    record = SimpleNamespace(asked=SimpleNamespace(loss="gram"))
    return SimpleNamespace(image=pixels.astype(np.uint8), record=record)


def waves(phase: float = 0.0) -> np.ndarray[Any, Any]:
    """Vertical waves, 32 pixels long, between 78 and 178."""
    line = 128 + 50 * np.sin(2 * np.pi * np.arange(64) / 32 + phase)
    return np.broadcast_to(line[None, :, None], (64, 64, 3))


def test_another_colour_leaves_pictures_alike() -> None:
    found = training.likeness(picture(waves()), picture(waves() + np.array([40, 0, -40])))
    assert found.correlation == pytest.approx(1, abs=1e-3)
    # 20 log10(255 / root mean square of (40, 0, 40))
    assert found.psnr == pytest.approx(20 * np.log10(255 / np.sqrt(3200 / 3)), abs=0.1)


def test_the_same_waves_elsewhere_are_not_alike() -> None:
    assert training.likeness(picture(waves()), picture(waves(np.pi))).correlation < -0.99
    assert abs(training.likeness(picture(waves()), picture(waves(np.pi / 2))).correlation) < 0.1
