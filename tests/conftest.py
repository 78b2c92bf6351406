"""What the tests share: small encoders, small styles, and real weights where they are at hand."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from styleinv.encoder import Encoder, load_encoder

ROOT = Path(__file__).parents[1]
REAL_WEIGHTS = Path(
    os.environ.get(
        "STYLEINV_VGG19",
        ROOT.parent / "shared" / "weights" / "vgg19_normalised_relu_2_2.safetensors",
    )
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def features(generator: torch.Generator) -> Tensor:
    """Feature maps as a ReLU leaves them: non-negative, some zeros, float64."""
    return torch.randn(1, 5, 6, 7, generator=generator, dtype=torch.float64).relu()


@pytest.fixture
def other_features(generator: torch.Generator, features: Tensor) -> Tensor:
    """Different values than `features`, which share the generator and come first."""
    return (torch.randn(1, 5, 6, 7, generator=generator, dtype=torch.float64) + 0.3).relu()


@pytest.fixture(scope="session")
def bundled() -> Encoder:
    return load_encoder("bundled")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    if not REAL_WEIGHTS.is_file():
        pytest.skip("no real VGG-19 weights at hand (set STYLEINV_VGG19 to a file of them)")
    return REAL_WEIGHTS
