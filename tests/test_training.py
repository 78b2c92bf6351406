"""The script that made the bundled encoder: it runs on any folder of images and does as it says."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import train_encoder
from PIL import Image
from torch import Tensor

from styleinv import load_encoder
from styleinv.encoder import Encoder


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def covariance(points: Tensor) -> Tensor:
    return points.T @ points / len(points)


def test_trains_on_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images/apples").mkdir(parents=True)
    for number in range(4):
        picture = Image.effect_noise((40, 36), 50).convert("RGB")
        picture.save(tmp_path / f"images/apples/{number}.png")
    folders = ["--data", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    options = ["--images=3", "--patches=300", "--rounds=1"]
    monkeypatch.setattr(sys, "argv", ["train_encoder.py", *folders, *options])
    train_encoder.main()
    card = json.loads((tmp_path / "out" / "bundled.json").read_text())
    assert (card["images"], card["patches"]) == (3, 300)
    assert card["sha256"] == load_encoder(tmp_path / "out" / "bundled.safetensors").sha256


def test_the_encoder_that_ships_is_the_one_that_was_compared(bundled: Encoder) -> None:
    found = json.loads(Path(train_encoder.__file__).with_name("comparison.json").read_text())
    assert found["encoders"]["bundled"] == bundled.sha256


def test_whitening_makes_the_covariance_the_identity(draw: torch.Generator) -> None:
    points = torch.randn(500, 4, generator=draw) @ torch.randn(4, 4, generator=draw)
    matrix = train_encoder.whitening(points, torch.zeros_like(points), ridge=0)
    torch.testing.assert_close(covariance(points @ matrix.T), torch.eye(4), rtol=0, atol=1e-3)


def test_whitening_does_not_answer_to_noise(draw: torch.Generator) -> None:
    """A direction with much noise and little else comes out small; the other one does not."""
    points = torch.randn(500, 2, generator=draw) * torch.tensor([1.0, 0.1])
    noise = torch.randn(500, 2, generator=draw) * torch.tensor([0.0, 1.0])
    matrix = train_encoder.whitening(points, noise, ridge=0.01)
    of_signal, of_noise = matrix.norm(dim=0)
    assert of_signal == pytest.approx(1, abs=0.1)
    assert of_noise < 0.15


def test_prototypes_are_the_directions_of_the_points(draw: torch.Generator) -> None:
    truth = torch.eye(3)
    points = truth.repeat(200, 1) * (1 + torch.rand(600, 1, generator=draw))
    points += 0.05 * torch.randn(600, 3, generator=draw)
    found = train_encoder.prototypes(points, 3, 20, draw)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert (found @ truth).amax(dim=0).min() > 0.99


def test_channels_are_scaled_and_as_often_active_as_asked(draw: torch.Generator) -> None:
    """Over a convolution of all places, of which the patches are a sample."""
    layer = train_encoder.Layer(2, 16, active=0.3, ridge=0.01)
    clean = torch.rand(20, 2, 16, 16, generator=draw)
    noisy = train_encoder.add_noise(clean, 0.05, draw)
    weight, bias = train_encoder.learn(layer, clean, noisy, 5000, 2, draw)
    maps = F.relu(F.conv2d(train_encoder.pad(clean), weight, bias))
    active = (maps > 0).float().mean(dim=(0, 2, 3))
    torch.testing.assert_close(active, torch.full((16,), 0.3), rtol=0, atol=0.03)
    torch.testing.assert_close(maps.mean(dim=(0, 2, 3)), torch.ones(16), rtol=0.1, atol=0)
