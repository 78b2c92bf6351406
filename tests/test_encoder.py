"""The encoder: its arithmetic, its sources, its layouts, and what it refuses."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from styleinv import LAYERS, InputError, encoder, load_encoder
from styleinv.encoder import ADAIN, TORCHVISION, imagenet_normalisation
from tests.conftest import ROOT, Trap


def state_of(layout: encoder.Layout) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: 0.1 * torch.randn(shape, generator=generator) for name, shape in layout.shapes.items()
    }


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(2, 3, 17, 22, generator=generator)


def test_shapes(bundled: encoder.Encoder, images: Tensor) -> None:
    expected = [(64, 17, 22), (64, 17, 22), (128, 8, 11), (128, 8, 11)]
    for layer, shape in zip(LAYERS, expected, strict=True):
        assert bundled(images, layer).shape == (2, *shape)
    assert sum(p.numel() for p in bundled.parameters()) == 260_160
    assert not any(p.requires_grad for p in bundled.parameters())


def torchvision_features(x: Tensor, layer: str) -> Tensor:
    """torchvision's own network behind the normalisation."""
    depth = dict(zip(LAYERS, (2, 4, 7, 9), strict=True))[layer]
    with torch.device("meta"):  # the weights come from elsewhere
        network = torchvision.models.vgg19(weights=None).features[:depth]
    state = {
        name.removeprefix("features."): t.double() for name, t in state_of(TORCHVISION).items()
    }
    network.load_state_dict(state, strict=False, assign=True)
    return network(F.conv2d(x, *(part.double() for part in imagenet_normalisation())))


def adain_features(x: Tensor, layer: str) -> Tensor:
    """AdaIN's published network, written out: 1x1 convolution, reflect padding, ceiling pool."""
    state = {name: tensor.double() for name, tensor in state_of(ADAIN).items()}
    x = F.conv2d(x, state["0.weight"], state["0.bias"])
    for key in ("2", "5", "9", "12")[: LAYERS.index(layer) + 1]:
        if key == "9":
            x = F.max_pool2d(x, 2, ceil_mode=True)
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        x = F.conv2d(padded, state[f"{key}.weight"], state[f"{key}.bias"]).relu()
    return x


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("layout", "published"), [(TORCHVISION, torchvision_features), (ADAIN, adain_features)]
)
def test_agrees_with_the_published_network_in_float64(
    tmp_path: Path,
    images: Tensor,
    layout: encoder.Layout,
    published: Callable[[Tensor, str], Tensor],
    layer: str,
) -> None:
    """Features, and their gradient as autograd finds it."""
    torch.save(state_of(layout), tmp_path / "vgg.pth")
    vgg = load_encoder(tmp_path / "vgg.pth", dtype=torch.float64)
    x = images.double().requires_grad_()
    features, expected = vgg(x, layer), published(x, layer)
    weights = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).sin().view_as(expected)
    ours, theirs = (torch.autograd.grad(maps, x, weights)[0] for maps in (features, expected))
    assert ((features - expected).norm() / expected.norm()).item() < 1e-12
    assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-12
    assert torch.equal(vgg(x, layer, rectified=False).relu(), features)


def test_the_normalisation_is_torchvisions(images: Tensor) -> None:
    published = torchvision.models.VGG19_Weights.IMAGENET1K_V1.transforms()
    expected = torchvision.transforms.functional.normalize(images, published.mean, published.std)
    torch.testing.assert_close(F.conv2d(images, *imagenet_normalisation()), expected)


def test_random_is_seeded_and_keeps_the_variance() -> None:
    one, same, other = (load_encoder("random", seed=seed) for seed in (1, 1, 2))
    assert one.sha256 == same.sha256 != other.sha256
    weight = one.convs[3].weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.01)


def test_bundled_has_the_weights_that_its_card_describes(bundled: encoder.Encoder) -> None:
    card = json.loads((ROOT / "styleinv" / "weights" / "bundled.json").read_text())
    assert bundled.sha256 == card["sha256"]


def test_real_weights_are_activation_normalised(real_weights: Path) -> None:
    """Gatys' normalisation: a mean activation near 1 over natural images, in every layer."""
    vgg = load_encoder(real_weights)
    assert vgg.layout.name == "AdaIN, named"
    import skimage.data

    picture = torch.from_numpy(skimage.data.coffee()).permute(2, 0, 1)[None] / 255
    for layer in LAYERS:
        assert 0.3 < vgg(picture, layer).mean().item() < 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_rounded_to_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """The fingerprint is that of the rounded weights, however they are stored."""
    state = {name: tensor.to(dtype) for name, tensor in state_of(ADAIN).items()}
    save_file(state, tmp_path / "given.safetensors")
    save_file({name: t.float() for name, t in state.items()}, tmp_path / "rounded.safetensors")
    learned = {name: torch.nn.Parameter(tensor) for name, tensor in state.items()}
    rest = {"classifier.6.bias": torch.full((1000,), float("nan")), "note": "text", 7: None}
    torch.save(learned | rest, tmp_path / "learned.pth")
    names = ("given.safetensors", "rounded.safetensors", "learned.pth")
    given, rounded, learned_too = (load_encoder(tmp_path / name) for name in names)
    assert given.dtype == torch.float32
    assert given.sha256 == rounded.sha256 == learned_too.sha256
    kept = learned_too.state_dict(keep_vars=True).values()
    assert not any(tensor.requires_grad for tensor in kept)


class TestVgg19:
    """A small file of torchvision's layout, at another address, stands in for the real one."""

    @pytest.fixture
    def published(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The file where it is published, under a name with the beginning of its SHA-256."""
        torch.save(state_of(TORCHVISION) | {"classifier.6.bias": torch.zeros(10)}, tmp_path / "a")
        prefix = hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()[:8]
        file = (tmp_path / "a").rename(tmp_path / f"vgg19-{prefix}.pth")
        monkeypatch.setattr(encoder, "VGG19_URL", file.as_uri())
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
        return file

    def test_is_downloaded_once(self, published: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first = load_encoder("vgg19")
        assert first.sha256 == encoder.Encoder("plain", TORCHVISION, state_of(TORCHVISION)).sha256
        printed, said = capsys.readouterr()
        assert printed == ""
        assert said.startswith(f'Downloading: "{published.as_uri()}" to ')
        published.unlink()
        assert load_encoder("vgg19").sha256 == first.sha256
        assert capsys.readouterr() == ("", "")

    def test_refuses_what_is_damaged_or_absent(self, published: Path, tmp_path: Path) -> None:
        published.write_bytes(published.read_bytes()[:-1])
        with pytest.raises(InputError, match=r"^encoder 'vgg19' cannot be .* invalid hash"):
            load_encoder("vgg19")
        published.unlink()
        with pytest.raises(InputError, match=r"No such file .*; 'bundled', 'random' and the path"):
            load_encoder("vgg19")
        assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the environment tells PyTorch to run it."""
    state = {"features.0.weight": Trap(tmp_path / "ran")}
    torch.save(state, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputError, match=r"cannot be read as a \.pth file of plain tensors"):
        load_encoder(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def changed(bias: object) -> dict[str, object]:
    """torchvision's layout with another thing in place of its first bias."""
    return state_of(TORCHVISION) | {"features.0.bias": bias}


def bias(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full((64,), value, dtype=dtype)


DENSE = r"must be torch\.strided on cpu of shape \(64,\), of a type of torch\.float32, .*, but is"


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({0: torch.zeros(1)}, r"known are: torchvision \(features\.0, .*; AdaIN \(0, 2"),
        ({"model": state_of(TORCHVISION)}, r"lacks features\.0\.weight, .* its top level"),
        (
            {name: t for name, t in state_of(ADAIN).items() if name[:2] != "12"},
            r"lacks 12\.weight, 12\.bias of the nearest key layout, AdaIN, at",
        ),
        (changed(torch.zeros(1).expand(10**12)), rf"{DENSE} .*\(1000000000000,\)"),
        (changed(bias(0, torch.int64)), f"{DENSE} .* torch.int64"),
        (changed(None), f"{DENSE} NoneType"),
        (changed(bias(0).to_sparse()), f"{DENSE} torch.sparse_coo"),
        (changed(bias(0).to("meta")), f"{DENSE} torch.strided on meta"),
        (changed(bias(float("nan"))), "'features.0.bias' holds NaN"),
        (changed(bias(1e39, torch.float64)), "infinity, or does as float32"),
        ([torch.zeros(1)], "of plain tensors by name"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_refuses_wrong_weights(tmp_path: Path, state: object, match: str) -> None:
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(InputError, match=rf"^encoder '.*vgg\.pth'.*{match}"):
        load_encoder(tmp_path / "vgg.pth")


@given(fraction=st.floats(0, 1, exclude_max=True), suffix=st.sampled_from([".pth", ".safetensors"]))
@settings(max_examples=20, deadline=None)
def test_truncated_files_are_refused(
    tmp_path_factory: pytest.TempPathFactory, fraction: float, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("truncated") / f"vgg{suffix}"
    (torch.save if suffix == ".pth" else save_file)(state_of(TORCHVISION), path)
    os.truncate(path, int(fraction * path.stat().st_size))
    with pytest.raises(InputError, match=f"cannot be read as a {suffix} file"):
        load_encoder(path)


@pytest.mark.parametrize("source", ["vgg-19", "", "a\0b.pth", 300 * "x" + ".pth", "tests", "a.txt"])
def test_refuses_what_is_no_weights_file(source: str) -> None:
    """No name, folder or absent file is taken for another encoder."""
    with pytest.raises(InputError, match=r"neither an existing .* one of: bundled, vgg19, random"):
        load_encoder(source)


def test_refuses_other_options(bundled: encoder.Encoder, images: Tensor) -> None:
    with pytest.raises(InputError, match="seed is -1, but must be a whole number from 0 to"):
        load_encoder("random", seed=-1)
    with pytest.raises(InputError, match="device is 'cuda:99', but this machine's PyTorch"):
        load_encoder("bundled", device="cuda:99")
    with pytest.raises(InputError, match=r"layer is 'relu_9_9'.*relu_1_1"):
        bundled(images, "relu_9_9")
