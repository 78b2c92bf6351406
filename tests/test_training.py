"""The script that made the bundled encoder: it runs on any folder of images, and folds exactly."""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import train_encoder
from PIL import Image

from styleinv import LAYERS, load_encoder
from styleinv.encoder import Encoder
from styleinv.layouts import STYLEINV


def test_trains_on_a_folder_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("train/apples", "train/pears", "test/apples", "test/pears"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(4):
            Image.effect_noise((40, 36), 50).convert("RGB").save(
                tmp_path / folder / f"{number}.png"
            )
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["train_encoder.py", *arguments, "--epochs=1", "--batch=4"])
    train_encoder.main()
    card = json.loads((tmp_path / "out" / "bundled.json").read_text())
    assert card["classes"] == ["apples", "pears"]
    assert card["sha256"] == load_encoder(tmp_path / "out" / "bundled.safetensors").sha256


def test_folding_and_rescaling_keep_the_function() -> None:
    """Against the trunk with its batch normalisation, channel by channel up to a factor."""
    torch.manual_seed(0)
    model = train_encoder.TwoTasks(2)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    model(train_encoder.normalise(images))  # running statistics that are not 0 and 1
    model.eval()
    folded = train_encoder.fold(model)
    rescaled = Encoder("rescaled", STYLEINV, train_encoder.normalise_activations(folded, images))
    plain = Encoder("folded", STYLEINV, folded)
    x = train_encoder.normalise(images)
    for index, layer in enumerate(LAYERS):
        with torch.no_grad():
            if index == 2:
                x = F.max_pool2d(x, 2)
            x = F.relu(model.trunk[index](x))
        torch.testing.assert_close(plain(images / 255, layer), x, rtol=1e-3, atol=1e-4)
        ours = rescaled(images / 255, layer)
        mean = x.mean(dim=(0, 2, 3))
        alive = (mean > 0).float()
        torch.testing.assert_close(ours.mean(dim=(0, 2, 3)), alive, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours * mean[None, :, None, None], x, rtol=1e-3, atol=1e-4)
