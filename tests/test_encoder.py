"""The encoder: its arithmetic, its sources, its layouts, and what it refuses."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from scipy.signal import correlate2d
from torch import Tensor

from styleinv import LAYERS, InputError, encoder, load_encoder
from styleinv.encoder import IMAGENET_MEAN, IMAGENET_STD

State = dict[str, Tensor]


def random_state(keys: tuple[str, ...], with_input: bool) -> State:
    generator = torch.Generator().manual_seed(5)
    shapes = [(64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3)]
    if with_input:
        shapes.insert(0, (3, 3, 1, 1))
    state = {}
    for key, shape in zip(keys, shapes, strict=True):
        state[f"{key}.weight"] = 0.1 * torch.randn(shape, generator=generator)
        state[f"{key}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return state


def torchvision_state() -> State:
    return random_state(("features.0", "features.2", "features.5", "features.7"), False)


def adain_state() -> State:
    return random_state(("0", "2", "5", "9", "12"), True)


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(2, 3, 17, 22, generator=generator)


def test_shapes(bundled: encoder.Encoder, images: Tensor) -> None:
    expected = [(64, 17, 22), (64, 17, 22), (128, 8, 11), (128, 8, 11)]
    for layer, shape in zip(LAYERS, expected, strict=True):
        assert bundled(images, layer).shape == (2, *shape)
    assert sum(p.numel() for p in bundled.parameters()) == 260_160


def test_is_frozen_and_differentiable_in_the_images(
    bundled: encoder.Encoder, images: Tensor
) -> None:
    images.requires_grad_()
    bundled(images, "relu_2_2").sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in bundled.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-3)])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("layout", ["torchvision", "adain"])
def test_agrees_with_a_plain_network_in_float64(
    tmp_path: Path, images: Tensor, layout: str, layer: str, dtype: torch.dtype, tolerance: float
) -> None:
    """Features and gradient, against padding, convolution and ReLU left to autograd."""
    state = torchvision_state() if layout == "torchvision" else adain_state()
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    found = encoder.load_encoder(path, dtype=dtype)
    plain = encoder.load_encoder(path, dtype=torch.float64)

    def plain_features(x: Tensor) -> Tensor:
        x = F.conv2d(x, plain.input_weight, plain.input_bias)
        for index in range(LAYERS.index(layer) + 1):
            if index == 2:
                x = F.max_pool2d(x, 2, ceil_mode=plain.layout.ceil_pool)
            mode = "constant" if plain.layout.padding == "zeros" else plain.layout.padding
            conv = plain.convs[index]
            x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), conv.weight, conv.bias).relu()
        return x

    ours, theirs = images.to(dtype).requires_grad_(), images.double().requires_grad_()
    features, expected = found(ours, layer), plain_features(theirs)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).sin().view_as(expected)
    (gradient,) = torch.autograd.grad(features, ours, weights.to(dtype))
    (expected_gradient,) = torch.autograd.grad(expected, theirs, weights)
    assert ((features - expected).norm() / expected.norm()).item() < tolerance
    assert ((gradient - expected_gradient).norm() / expected_gradient.norm()).item() < tolerance
    assert torch.equal(found.pre_activations(ours, layer).relu(), features)


def test_torchvision_layout_is_torchvisions_network(tmp_path: Path, images: Tensor) -> None:
    """The same weights in torchvision's own VGG-19, its documented normalisation in front."""
    torch.manual_seed(0)
    network = torchvision.models.vgg19(weights=None)
    torch.save(network.state_dict(), tmp_path / "vgg.pth")
    ours = load_encoder(tmp_path / "vgg.pth")
    normalised = torchvision.transforms.functional.normalize(images, IMAGENET_MEAN, IMAGENET_STD)
    for layer, depth in zip(LAYERS, (2, 4, 7, 9), strict=True):
        with torch.no_grad():
            expected = network.features[:depth](normalised)
        torch.testing.assert_close(ours(images, layer), expected)


def test_adain_layout_is_adains_network(tmp_path: Path, images: Tensor) -> None:
    """AdaIN's published network, written out: 1x1 convolution, reflect padding, ceiling pool."""
    state = adain_state()
    torch.save(state, tmp_path / "vgg_normalised.pth")

    def conv(x: Tensor, key: str) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, state[f"{key}.weight"], state[f"{key}.bias"]).relu()

    x = F.conv2d(images, state["0.weight"], state["0.bias"])
    x = conv(conv(x, "2"), "5")
    x = conv(conv(F.max_pool2d(x, 2, ceil_mode=True), "9"), "12")
    torch.testing.assert_close(load_encoder(tmp_path / "vgg_normalised.pth")(images, "relu_2_2"), x)


def test_first_layer_agrees_with_scipy(tmp_path: Path, images: Tensor) -> None:
    state = torchvision_state()
    save_file(state, tmp_path / "vgg.safetensors")
    features = load_encoder(tmp_path / "vgg.safetensors", dtype=torch.float64)(
        images.double(), "relu_1_1"
    )
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    pixels = (images[0].double().numpy() - mean[:, None, None]) / std[:, None, None]
    kernel = state["features.0.weight"][11].double().numpy()
    expected = sum(correlate2d(pixels[i], kernel[i], mode="same") for i in range(3))
    expected = np.maximum(expected + state["features.0.bias"][11].item(), 0)
    # The normalisation is held in float32.
    np.testing.assert_allclose(features[0, 11].numpy(), expected, atol=1e-6)


def test_fingerprint_is_that_of_the_weights_not_of_the_file(tmp_path: Path) -> None:
    state = torchvision_state()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    a, b = load_encoder(tmp_path / "a.safetensors"), load_encoder(tmp_path / "b.pth")
    assert a.sha256 == b.sha256
    state["features.7.bias"][0] += 1e-3
    save_file(state, tmp_path / "c.safetensors")
    assert load_encoder(tmp_path / "c.safetensors").sha256 != a.sha256


def test_random_is_seeded_and_keeps_the_variance() -> None:
    one, same, other = (load_encoder("random", seed=seed) for seed in (1, 1, 2))
    assert one.sha256 == same.sha256 != other.sha256
    weight = one.convs[3].weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)


def test_real_weights_are_activation_normalised(real_weights: Path) -> None:
    """Gatys' normalisation: a mean activation near 1 over natural images, in every layer."""
    vgg = load_encoder(real_weights)
    assert vgg.layout.name == "AdaIN, named"
    import skimage.data

    picture = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1)[None] / 255
    for layer in LAYERS:
        assert 0.3 < vgg(picture, layer).mean().item() < 3


class TestDownload:
    """torchvision's file cannot be had everywhere; a file of its layout stands in for it."""

    @pytest.fixture
    def served(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        state = torchvision_state() | {"classifier.6.bias": torch.zeros(1000)}
        torch.save(state, tmp_path / "served.pth")
        digest = hashlib.sha256((tmp_path / "served.pth").read_bytes()).hexdigest()
        monkeypatch.setattr(encoder, "VGG19_URL", (tmp_path / "served.pth").as_uri())
        monkeypatch.setattr(encoder, "VGG19_HASH_PREFIX", digest[:8])
        monkeypatch.setattr(
            encoder.platformdirs, "user_cache_dir", lambda _: str(tmp_path / "cache")
        )
        return tmp_path

    def test_keeps_only_what_is_needed(self, served: Path) -> None:
        first = load_encoder("vgg19")
        (kept,) = (served / "cache").iterdir()
        assert kept.stat().st_size < 1_100_000
        (served / "served.pth").unlink()
        assert load_encoder("vgg19").sha256 == first.sha256

    def test_refuses_a_wrong_hash(self, served: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(encoder, "VGG19_HASH_PREFIX", "00000000")
        with pytest.raises(InputError, match="SHA-256"):
            load_encoder("vgg19")
        assert not list((served / "cache").iterdir())

    def test_a_cache_that_cannot_be_made(self, served: Path) -> None:
        (served / "cache").write_text("a file where the folder should be")
        with pytest.raises(InputError, match="cannot be made"):
            load_encoder("vgg19")

    def test_unreachable_names_the_alternatives(self, served: Path) -> None:
        (served / "served.pth").unlink()
        with pytest.raises(InputError, match="'bundled', 'random' or the path"):
            load_encoder("vgg19")


class _Payload:
    """Unpickled with care for nothing, this creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return (Path.touch, (self.target,))


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    with (tmp_path / "evil.pth").open("wb") as file:
        pickle.dump({"features.0.weight": _Payload(tmp_path / "ran")}, file, protocol=2)
    with pytest.raises(InputError, match="plain tensors"):
        load_encoder(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def _damaged(change: Callable[[State], object]) -> State:
    state = torchvision_state()
    change(state)
    return state


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"conv.weight": torch.zeros(1)}, "none of the known key layouts"),
        (_damaged(lambda s: s.pop("features.5.bias")), r"'features.5.bias' .* missing"),
        (_damaged(lambda s: s.update({"features.2.weight": torch.zeros(64, 3, 3, 3)})), "shape"),
        (_damaged(lambda s: s["features.7.weight"].fill_(float("nan"))), "NaN"),
    ],
)
def test_refuses_damaged_weights(tmp_path: Path, state: State, match: str) -> None:
    save_file(state, tmp_path / "vgg.safetensors")
    with pytest.raises(InputError, match=match):
        load_encoder(tmp_path / "vgg.safetensors")


def test_refuses_what_is_no_weights_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bundled, vgg19, random"):
        load_encoder("vgg-19")
    for name in ("a.safetensors", "a.pth", "a.txt"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(InputError, match=r"encoder '.*a"):
            load_encoder(tmp_path / name)


def test_refuses_an_unknown_layer_and_an_absent_device(
    bundled: encoder.Encoder, images: Tensor
) -> None:
    with pytest.raises(InputError, match=r"layer is 'relu_9_9'.*relu_1_1"):
        bundled(images, "relu_9_9")
    absent = "cuda:99" if torch.cuda.is_available() else "cuda"
    for device in (absent, "quantum", "meta"):
        with pytest.raises(InputError, match=f"device is '{device}'"):
            load_encoder("bundled", device=device)
