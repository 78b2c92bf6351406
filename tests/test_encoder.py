"""The encoder: its arithmetic, its sources, its layouts, and what it refuses."""

import contextlib
import io
import json
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.signal import correlate2d
from torch import Tensor

from styleinv import LAYERS, InputError, encoder, load_encoder
from styleinv.encoder import IMAGENET_MEAN, IMAGENET_STD
from tests.conftest import ROOT

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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_are_rounded_to_float32(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    """The fingerprint is that of the rounded weights, in whatever type they are stored."""
    state = {name: tensor.to(dtype) for name, tensor in adain_state().items()}
    save_file(state, tmp_path / "as_given.safetensors")
    save_file({name: t.float() for name, t in state.items()}, tmp_path / "rounded.safetensors")
    given, rounded = (
        load_encoder(tmp_path / f"{name}.safetensors") for name in ("as_given", "rounded")
    )
    assert given.dtype == torch.float32
    assert given.sha256 == rounded.sha256
    torch.save({k: torch.nn.Parameter(t) for k, t in state.items()}, tmp_path / "learned.pth")
    learned = load_encoder(tmp_path / "learned.pth")
    assert learned.sha256 == given.sha256
    assert not any(tensor.requires_grad for tensor in learned.state_dict(keep_vars=True).values())


def test_a_damaged_installation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "bundled.safetensors"
    monkeypatch.setattr(encoder, "BUNDLED_WEIGHTS", damaged)
    intact = (ROOT / "styleinv" / "weights" / "bundled.safetensors").read_bytes()
    damaged.write_bytes(intact)
    assert load_encoder("bundled").sha256 == encoder.BUNDLED_SHA256
    for content in (intact[:-2] + bytes([intact[-2] ^ 1]) + intact[-1:], intact[:-1], b""):
        damaged.write_bytes(content)
        with pytest.raises(InputError, match=r"missing or damaged .*; install styleinv again"):
            load_encoder("bundled")
    damaged.unlink()
    with pytest.raises(InputError, match="missing or damaged"):
        load_encoder("bundled")


class Payload:
    """Unpickled with care for nothing, this creates a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return (Path.touch, (self.target,))


def bare_pickle(payload: Payload, path: Path) -> None:
    path.write_bytes(pickle.dumps({"features.0.weight": payload}, protocol=2))


def legacy_format(payload: Payload, path: Path) -> None:
    torch.save({"features.0.weight": payload}, path, _use_new_zipfile_serialization=False)


def zip_format(payload: Payload, path: Path) -> None:
    torch.save({"features.0.weight": payload}, path)


def tar_format(payload: Payload, path: Path) -> None:
    """PyTorch's first: an archive of pickles."""
    content = pickle.dumps(payload, protocol=2)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("write", [bare_pickle, legacy_format, zip_format, tar_format])
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, write: Callable[[Payload, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the environment tells PyTorch to run it."""
    write(Payload(tmp_path / "ran"), tmp_path / "evil.pth")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputError, match=r"cannot be read as a \.pth file of plain tensors"):
        load_encoder(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    with contextlib.suppress(Exception):  # careless, to see that the payload is one
        torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "ran").exists()


def changed(**tensors: object) -> dict[str, object]:
    """torchvision's layout with other things under some of its names."""
    return torchvision_state() | {name.replace("_", "."): value for name, value in tensors.items()}


def without(*names: str) -> State:
    return {name: value for name, value in torchvision_state().items() if name not in names}


def infinite(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    bias = torch.zeros(64, dtype=dtype)
    bias[17] = value
    return bias


FLOATS = r"must be one of torch\.float32, .*, but is"


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({}, "none of the known key layouts"),
        ({"conv.weight": torch.zeros(1)}, r"layouts: torchvision \(features\.0, .*; AdaIN \(0, 2"),
        ({0: torch.zeros(1), (1, 2): 3}, "none of the known key layouts"),
        ({"module." + name: t for name, t in torchvision_state().items()}, "none of the known"),
        ({"state_dict": torchvision_state()}, "one level below, under 'state_dict': save that"),
        ({"epoch": 3, "model": torchvision_state()}, "one level below, under 'model'"),
        (without("features.5.bias"), r"lacks features\.5\.bias of the nearest .*, torchvision$"),
        (
            without("features.0.weight", "features.7.bias"),
            r"lacks features\.0\.weight, features\.7\.bias of the nearest",
        ),
        (
            {name: t for name, t in adain_state().items() if name[:2] != "12"},
            r"lacks 12\.weight, 12\.bias of the nearest key layout, AdaIN$",
        ),
        (
            changed(features_2_weight=torch.zeros(64, 3, 3, 3)),
            r"'features\.2\.weight' must have shape \(64, 64, 3, 3\), but is \(64, 3, 3, 3\)$",
        ),
        (changed(features_0_weight=torch.zeros(1).expand(10**12)), r"but is \(1000000000000,\)$"),
        (changed(features_0_bias=torch.zeros(64, dtype=torch.int64)), f"{FLOATS} torch.int64"),
        (changed(features_0_bias=torch.zeros(64, dtype=torch.bool)), f"{FLOATS} torch.bool"),
        (changed(features_0_bias=torch.zeros(64) + 1j), f"{FLOATS} torch.complex64"),
        (
            changed(features_0_bias=torch.zeros(64).to(torch.float8_e5m2)),
            f"{FLOATS} torch.float8_e5m2",
        ),
        (changed(features_0_bias="zero"), f"{FLOATS} str"),
        (changed(features_0_bias=None), f"{FLOATS} NoneType"),
        (changed(features_0_bias=torch.zeros(64).to_sparse()), "must be stored value by value"),
        (changed(features_0_bias=torch.zeros(64, device="meta")), "must be stored value by value"),
        (changed(features_0_bias=infinite(float("nan"))), "'features.0.bias' holds NaN"),
        (changed(features_0_bias=infinite(float("-inf"))), "NaN or infinity"),
        (changed(features_0_bias=infinite(1e39, torch.float64)), "does as float32"),
        ([torch.zeros(1)], "no state dict of named tensors"),
        (torch.nn.Linear(2, 2), "of plain tensors"),
        (changed(features_0_bias=np.zeros(64)), "of plain tensors"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_refuses_wrong_weights(tmp_path: Path, state: object, match: str) -> None:
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.raises(InputError, match=rf"^encoder '.*vgg\.pth'.*{match}"):
        load_encoder(tmp_path / "vgg.pth")


def test_what_else_a_file_holds_does_not_matter(tmp_path: Path) -> None:
    rest = {"classifier.6.bias": torch.full((1000,), float("nan")), "note": "text", 7: None}
    torch.save(torchvision_state() | rest, tmp_path / "more.pth")
    torch.save(torchvision_state(), tmp_path / "bare.pth")
    more, bare = (load_encoder(tmp_path / name) for name in ("more.pth", "bare.pth"))
    assert more.sha256 == bare.sha256


@pytest.mark.parametrize(
    ("shape", "end", "claimed"),
    [
        ([10**6, 250_000], 10**12, None),  # a tensor of 1 TB in a file of 1 kB
        ([64, 3, 3, 3], 64 * 27 * 4, 10**12),  # a header of 1 TB
        ([2**62, 2**62], 64, None),  # more elements than can be counted
    ],
)
def test_absurd_sizes_in_a_header_are_refused(
    tmp_path: Path, shape: list[int], end: int, claimed: int | None
) -> None:
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
    header = json.dumps({"features.0.weight": entry}).encode()
    content = struct.pack("<Q", claimed or len(header)) + header + bytes(1000)
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read as a \.safetensors file"):
        load_encoder(tmp_path / "a.safetensors")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_storage_that_claims_more_than_the_file_has_is_refused(
    tmp_path: Path, zipped: bool
) -> None:
    torch.save(torchvision_state(), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "a.pth").read_bytes()
    count, claimed = (struct.pack("<i", number) for number in (128 * 128 * 9, 2**31 - 1))
    assert b"J" + count in content
    (tmp_path / "a.pth").write_bytes(content.replace(b"J" + count, b"J" + claimed))
    with pytest.raises(InputError, match=r"cannot be read as a \.pth file"):
        load_encoder(tmp_path / "a.pth")


@given(fraction=st.floats(0, 1, exclude_max=True), suffix=st.sampled_from([".pth", ".safetensors"]))
@settings(max_examples=20, deadline=None)
def test_truncated_files_are_refused(
    tmp_path_factory: pytest.TempPathFactory, fraction: float, suffix: str
) -> None:
    path = tmp_path_factory.mktemp("truncated") / f"vgg{suffix}"
    (torch.save if suffix == ".pth" else save_file)(torchvision_state(), path)
    os.truncate(path, int(fraction * path.stat().st_size))
    with pytest.raises(InputError, match=f"cannot be read as a {suffix} file"):
        load_encoder(path)


def test_refuses_what_is_no_weights_file(tmp_path: Path) -> None:
    """No name, folder or absent file is taken for another encoder."""
    (tmp_path / "folder.pth").mkdir()
    absent = ("vgg-19", "Bundled", "", "bundled.safetensors", "a\0b.pth", 300 * "x" + ".pth")
    for source in (*absent, tmp_path / "vgg19.pth", tmp_path / "folder.pth"):
        with pytest.raises(
            InputError, match=r"neither an existing .* one of: bundled, vgg19, rand"
        ):
            load_encoder(source)
    for name in ("a.safetensors", "a.pth", "a.txt"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(InputError, match=r"encoder '.*a"):
            load_encoder(tmp_path / name)


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, "0", True, None])
def test_refuses_seeds_that_are_none(seed: object) -> None:
    with pytest.raises(InputError, match=r"seed is .*, but must be a whole number from 0 to"):
        load_encoder("random", seed=seed)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e5m2, "float32"])
def test_refuses_other_types_of_features(dtype: object) -> None:
    with pytest.raises(InputError, match=r"dtype is .*, but must be one of: torch\.float32, "):
        load_encoder("bundled", dtype=dtype)


def test_refuses_an_unknown_layer_and_an_absent_device(
    bundled: encoder.Encoder, images: Tensor
) -> None:
    with pytest.raises(InputError, match=r"layer is 'relu_9_9'.*relu_1_1"):
        bundled(images, "relu_9_9")
    absent = "cuda:99" if torch.cuda.is_available() else "cuda"
    for device in (absent, "quantum", "meta"):
        with pytest.raises(InputError, match=f"device is '{device}'"):
            load_encoder("bundled", device=device)
