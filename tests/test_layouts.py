"""Files of weights: what is read, whatever it is called, and what is refused, in which words."""

import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from styleinv import LAYERS, InputError, load_encoder
from styleinv.encoder import Encoder
from styleinv.layouts import ADAIN, GATYS, TORCHVISION, Layout, imagenet_normalisation
from tests.conftest import Trap, state_of

PLAIN = state_of(TORCHVISION)


def behind(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in PLAIN.items()}


@pytest.mark.parametrize(
    "state",
    [
        PLAIN,
        {name.removeprefix("features."): tensor for name, tensor in PLAIN.items()},
        behind("module."),
        {name.replace("features.", "features.module."): t for name, t in PLAIN.items()},
        behind("vgg."),
        behind("_orig_mod."),
        {"epoch": 3, "state_dict": behind("module."), "optimizer": {"state": {0: {}}}},
        {"model": PLAIN},
        {"checkpoint": {"net": behind("encoder.")}},
        PLAIN | behind("average."),
        {name: tensor.requires_grad_() for name, tensor in state_of(TORCHVISION).items()},
        {name: tensor.to(memory_format=torch.contiguous_format) for name, tensor in PLAIN.items()},
    ],
    ids=lambda state: type(state).__name__,
)
@pytest.mark.filterwarnings("error")
def test_names_may_stand_behind_others(tmp_path: Path, state: dict[str, object]) -> None:
    torch.save(state, tmp_path / "vgg.pth")
    assert load_encoder(tmp_path / "vgg.pth").sha256 == Encoder("x", TORCHVISION, PLAIN).sha256


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


def caffe_features(x: Tensor, layer: str) -> Tensor:
    """Caffe's network as jcjohnson and Gatys published it for PyTorch, written out."""
    state = {name: tensor.double() for name, tensor in state_of(GATYS).items()}
    red, green, blue = (255 * x).unbind(1)
    mean = torch.tensor([103.939, 116.779, 123.68]).double()
    x = torch.stack((blue, green, red), dim=1) - mean[:, None, None]
    for key in ("conv1_1", "conv1_2", "conv2_1", "conv2_2")[: LAYERS.index(layer) + 1]:
        if key == "conv2_1":
            x = F.max_pool2d(x, 2)
        x = F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=1).relu()
    return x


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(
    ("layout", "published"),
    [(TORCHVISION, torchvision_features), (ADAIN, adain_features), (GATYS, caffe_features)],
)
def test_agrees_with_the_published_network_in_float64(
    tmp_path: Path,
    images: Tensor,
    layout: Layout,
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


@pytest.mark.parametrize("name", ["a.pth", "A.PTH", "a.pt", "a.pth.tar", "a.ckpt", "a.bin", "a"])
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_a_file_is_known_by_its_content(
    tmp_path: Path, name: str, save: Callable[[dict[str, Tensor], Path], object]
) -> None:
    (tmp_path / "to").mkdir()
    save(PLAIN, tmp_path / "to" / name)
    (tmp_path / name).symlink_to(tmp_path / "to" / name)
    assert load_encoder(tmp_path / name).sha256 == Encoder("x", TORCHVISION, PLAIN).sha256


@pytest.mark.parametrize(
    ("number", "other"), [(19, None), (16, "13 .* VGG-16"), (13, "10 .* VGG-13")]
)
def test_a_smaller_vgg_is_named(tmp_path: Path, number: int, other: str | None) -> None:
    with torch.device("meta"):
        network = getattr(torchvision.models, f"vgg{number}")(weights=None)
    state = {
        name: torch.zeros(tensor.shape) for name, tensor in network.features.state_dict().items()
    }
    bare = {name.removeprefix("features."): tensor for name, tensor in PLAIN.items()}
    torch.save(state | bare, tmp_path / "vgg.pth")
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        load_encoder(tmp_path / "vgg.pth")
    said = [str(note.message) for note in notes]
    assert bool(said) == (other is not None)
    assert all(re.search(f"has the {other}, not VGG-19's", sentence) for sentence in said)


def torchscript(path: Path) -> None:
    torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)).save(path)


def other_archive(path: Path) -> None:
    with ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "text")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>Quota exceeded</html>", "is a web page"),
        (b'{"message": "Not Found"}', "is a text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "is an HDF5 file, as Keras writes"),
        (b"\x08\x08\x12\x07pytorch" + bytes(90), "is an ONNX model"),
        (b"\x04\0\0\0\x01\0\0\0" + bytes(90), "is a file of Torch 7"),
        (b"\n\x14VGG_ILSVRC_19_layers" + bytes(90), "is a Caffe model"),
        (b"\x1f\x8b\x08" + bytes(90), "is compressed and must be unpacked"),
        (b"\x93NUMPY\x01\0" + bytes(90), "is a NumPy array"),
        (b"\x89PNG\r\n\x1a\n" + bytes(90), "is a picture"),
        (bytes(90), "is of another kind"),
        (torchscript, "is a TorchScript program"),
        (other_archive, "is a zip archive of another kind"),
        (lambda path: torch.save(torch.zeros(3), path), "holds a Tensor"),
        (lambda path: torch.save((3, PLAIN), path), "holds a tuple"),
        (
            lambda path: torch.save(torch.nn.ReLU(), path),
            r"holds Python objects \(torch\.nn\.modules\.activation\.ReLU\), which are not read",
        ),
        (
            lambda path: torch.save({name: t.numpy() for name, t in PLAIN.items()}, path),
            r"holds Python objects \(numpy.*_reconstruct\), which are not read",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning")
def test_says_what_a_file_is(
    tmp_path: Path, name: str, content: bytes | Callable[[Path], None], says: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else content(path)
    with pytest.raises(
        InputError, match=rf"'{path}' must be a \.safetensors or \.pth .*but {says}"
    ):
        load_encoder(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if the environment tells PyTorch to run it."""
    state = {"features.0.weight": Trap(tmp_path / "ran")}
    torch.save(state, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(InputError, match=r"holds Python objects \(\w+\), which"):
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
        (
            {0: torch.zeros(1)},
            r"known are, behind any prefix: torchvision \(features\.0, .*; AdaIN \(0, 2",
        ),
        (
            {name: t for name, t in state_of(ADAIN).items() if name[:2] != "12"},
            r"lacks 12\.weight, 12\.bias of the nearest key layout, AdaIN;",
        ),
        (changed(torch.zeros(1).expand(10**12)), rf"{DENSE} .*\(1000000000000,\)"),
        (changed(bias(0, torch.int64)), f"{DENSE} .* torch.int64"),
        (changed(None), f"{DENSE} NoneType"),
        (changed(bias(0).to_sparse()), f"{DENSE} torch.sparse_coo"),
        (changed(bias(0).to("meta")), f"{DENSE} torch.strided on meta"),
        (changed(bias(float("nan"))), "'features.0.bias' holds NaN"),
        (changed(bias(1e39, torch.float64)), "infinity, or does as float32"),
        ([torch.zeros(1)], "but holds a list"),
        (
            {f"{at}.{name}": t for at in "ab" for name, t in state_of(TORCHVISION).items()},
            r"holds several networks, at 'a\.features\.', 'b\.features\.': keep only one",
        ),
        (
            {name: torch.zeros(1) for name in ("features.0.weight", "features.1.running_mean")},
            r"batch normalisation \(such as vgg19_bn\)",
        ),
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
    with pytest.raises(InputError, match=r"must be a \.safetensors or \.pth file .*, but is"):
        load_encoder(path)
