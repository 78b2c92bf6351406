"""VGG-19 up to its fourth convolution, and where its weights come from.

The chapter inverts the four layers `LAYERS`: two 3x3 convolutions 3-64-64, a 2x2 max-pool,
two 3x3 convolutions 64-128-128, each followed by a ReLU. Nothing behind `relu_2_2` is ever
needed, so nothing behind it is ever loaded: 260,160 parameters, 1 MB in float32.

Sources of weights (`load_encoder`):

* ``bundled``: ships inside the package, trained by ``training/train_encoder.py``;
* ``vgg19``: torchvision's ``VGG19_Weights.IMAGENET1K_V1``, downloaded once, on request;
* ``random``: He-initialised and seeded, the control of Ustyuzhaninov et al. (2017);
* a path to a ``.safetensors`` file or a ``.pth`` state dict in one of `LAYOUTS`.
"""

import hashlib
import math
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from styleinv.errors import InputError, one_of, whole_number
from styleinv.files import write_atomically
from styleinv.fused import FrozenConvolution, Padding
from styleinv.styles import LARGEST_SEED

LAYERS = ("relu_1_1", "relu_1_2", "relu_2_1", "relu_2_2")
SOURCES = ("bundled", "vgg19", "random")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

BUNDLED_WEIGHTS = Path(__file__).parent / "weights" / "bundled.safetensors"

# The first eight hex digits of the file's SHA-256 are part of its published name.
VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
VGG19_HASH_PREFIX = "dcbb9e9d"

# ImageNet's channel means and standard deviations, which torchvision's VGG-19 was trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CONV_SHAPES = ((64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3))


@dataclass(frozen=True)
class Layout:
    """How a weights file names its tensors, and what its network does between them.

    `input_key` names a 1x1 convolution on the RGB image; without one, the image is normalised
    with ImageNet's mean and standard deviation. `ceil_pool` says how an odd side is halved.
    """

    name: str
    input_key: str | None
    conv_keys: tuple[str, str, str, str]
    padding: Padding
    ceil_pool: bool

    @property
    def kernels(self) -> dict[str, tuple[int, int, int, int]]:
        """The shape of each convolution's kernels, by its key."""
        kernels = dict(zip(self.conv_keys, _CONV_SHAPES, strict=True))
        return kernels if self.input_key is None else {self.input_key: (3, 3, 1, 1)} | kernels

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that a file must hold, by its name."""
        return {
            f"{key}.{part}": shape
            for key, kernel in self.kernels.items()
            for part, shape in (("weight", kernel), ("bias", kernel[:1]))
        }


_FEATURES = ("features.0", "features.2", "features.5", "features.7")
_NUMBERED = ("2", "5", "9", "12")
_NAMED = ("conv_1_1", "conv_1_2", "conv_2_1", "conv_2_2")

TORCHVISION = Layout("torchvision", None, _FEATURES, padding="zeros", ceil_pool=False)
ADAIN = Layout("AdaIN", "0", _NUMBERED, padding="reflect", ceil_pool=True)
ADAIN_NAMED = Layout("AdaIN, named", "conv_rgb_to_bgr", _NAMED, padding="reflect", ceil_pool=True)
STYLEINV = Layout("styleinv", "input", _NAMED, padding="reflect", ceil_pool=False)
LAYOUTS = (TORCHVISION, ADAIN, ADAIN_NAMED, STYLEINV)


class Encoder(nn.Module):
    """Frozen VGG-19 features of one layer, computed in one truncated pass.

    `encoder(images, layer)` takes images (B, 3, H, W) in [0, 1] and a layer of `LAYERS`, and
    returns the feature maps (B, C, h, w) behind that layer's ReLU, differentiable with respect
    to the images. All values are non-negative. C is 64 at `relu_1_*` and 128 at `relu_2_*`, where
    h and w are half of H and W, rounded as the layout says.

    Attributes:
        name: the source as a person would say it.
        layout: what the network does between its convolutions.
        sha256: fingerprint of the weights as float32 and of the structure, independent of the file
            they came from and of the type it holds them in.
    """

    input_weight: Tensor
    input_bias: Tensor

    def __init__(self, name: str, layout: Layout, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.name = name
        self.layout = layout
        input_weight, input_bias = _weight_and_bias(state, layout.input_key)
        self.register_buffer("input_weight", input_weight.clone())
        self.register_buffer("input_bias", input_bias.clone())
        self.convs = nn.ModuleList(
            FrozenConvolution(*_weight_and_bias(state, key), layout.padding)
            for key in layout.conv_keys
        )
        self.eval()
        # On a CPU the convolutions run about 1.5 times as fast in this layout.
        self.to(memory_format=torch.channels_last)
        self.sha256 = self._fingerprint()

    @property
    def device(self) -> torch.device:
        return self.input_weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.input_weight.dtype

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.layout.padding} {self.layout.ceil_pool}".encode())
        for tensor in self.state_dict().values():
            digest.update(tensor.numpy().astype("<f4").tobytes())
        return digest.hexdigest()

    def forward(self, images: Tensor, layer: str, rectify_last: bool = True) -> Tensor:
        """Compute the features of `layer`, see `Encoder`."""
        depth = LAYERS.index(one_of("layer", layer, LAYERS))
        x = F.conv2d(images, self.input_weight, self.input_bias)
        for index, conv in enumerate(self.convs[: depth + 1]):
            if index == 2:
                x = F.max_pool2d(x, 2, ceil_mode=self.layout.ceil_pool)
            x = conv(x, rectify=rectify_last or index < depth)
        return x

    def pre_activations(self, images: Tensor, layer: str) -> Tensor:
        """Compute the input of the layer's ReLU, whose output the features are.

        A feature map that is zero everywhere passes no gradient on; its pre-activations do.
        """
        return self.forward(images, layer, rectify_last=False)


def _weight_and_bias(state: Mapping[str, Tensor], key: str | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution `key`, or of ImageNet's normalisation if it is None."""
    if key is None:
        return imagenet_normalisation()
    return state[f"{key}.weight"], state[f"{key}.bias"]


def imagenet_normalisation() -> tuple[Tensor, Tensor]:
    """(x - mean) / std per channel as weight (3, 3, 1, 1) and bias (3,) of a 1x1 convolution."""
    std = torch.tensor(IMAGENET_STD)
    return torch.diag(1 / std)[:, :, None, None], -torch.tensor(IMAGENET_MEAN) / std


def load_encoder(
    source: str | Path = "bundled",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Encoder:
    """Load the encoder from one of `SOURCES` or from a weights file.

    Args:
        source: ``"bundled"``, ``"vgg19"``, ``"random"``, or the path of a ``.safetensors`` file or
            a ``.pth``/``.pt`` state dict. A file's weights may be of any type of `FLOATS` and are
            rounded to float32. ``"vgg19"`` takes the file of 548 MB that torchvision or an earlier
            call has downloaded to PyTorch's hub folder, or else downloads it there. The 1 MB that
            is needed of it is kept beside it, for later calls.
        device: where the features are computed; never changed silently.
        dtype: type of weights and features, one of `FLOATS`.
        seed: seed of ``"random"``, 0 to 2**63 - 1; the other sources ignore it.

    Raises:
        InputError: the source is unknown, unreachable, damaged, or the device is absent.
    """
    target = _usable_device(device)
    if dtype not in FLOATS:
        raise InputError(f"dtype is {dtype!r}, but must be one of: {_listed(FLOATS)}")
    if source == "bundled":
        encoder = _from_file(BUNDLED_WEIGHTS, source)
    elif source == "vgg19":
        encoder = _vgg19()
    elif source == "random":
        encoder = _random(seed)
    else:
        encoder = _from_file(Path(source), Path(source).stem)
    return encoder.to(device=target, dtype=dtype)


def _usable_device(device: str | torch.device) -> torch.device:
    """The device asked for, or an `InputError` if this machine lacks it: no silent fallback."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device is {str(device)!r}, but this machine's PyTorch cannot use it; "
            "allowed are 'cpu' and, where present, 'cuda' or 'mps'"
        ) from error


# Sources --------------------------------------------------------------------------------------


def _random(seed: int) -> Encoder:
    """He et al. (2015): weights ~ N(0, 2 / fan_in), biases zero; ReLUs keep the variance."""
    generator = torch.Generator().manual_seed(whole_number("seed", seed, 0, LARGEST_SEED))
    state = {}
    for key, shape in zip(TORCHVISION.conv_keys, _CONV_SHAPES, strict=True):
        scale = math.sqrt(2 / math.prod(shape[1:]))
        state[f"{key}.weight"] = scale * torch.randn(shape, generator=generator)
        state[f"{key}.bias"] = torch.zeros(shape[0])
    return Encoder(f"random (seed {seed})", TORCHVISION, state)


def _vgg19() -> Encoder:
    """torchvision's VGG-19, from the file of all its layers or from what was cut from it before."""
    whole = Path(torch.hub.get_dir(), "checkpoints", VGG19_URL.rpartition("/")[2])
    cut = whole.with_name(f"{whole.stem}-relu_2_2.safetensors")
    try:
        if cut.is_file():
            return _from_file(cut, "vgg19")
        if not whole.is_file():
            _download_vgg19(whole)
        layout, tensors = _read_weights(whole)
        with suppress(InputError):  # the folder may belong to somebody else, who filled it
            write_atomically(cut, lambda part: part.write_bytes(save(tensors)))
        return Encoder("vgg19", layout, tensors)
    except InputError as error:
        raise InputError(
            f"encoder 'vgg19': {error}; 'bundled', 'random' and the path of a weights file need "
            "no download"
        ) from error


def _download_vgg19(target: Path) -> None:
    """Download the file to `target`, which appears whole and with the right hash, or not at all."""
    print(f"Downloading {VGG19_URL} (548 MB, once)", file=sys.stderr)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not `load_state_dict_from_url`, which prints to the standard output.
        torch.hub.download_url_to_file(
            VGG19_URL, str(target), VGG19_HASH_PREFIX, progress=sys.stderr.isatty()
        )
    except (OSError, HTTPException, RuntimeError) as error:
        reason = getattr(error, "reason", error)  # urllib wraps an error in another
        raise InputError(
            f"{VGG19_URL} cannot be downloaded to {str(target.parent)!r}: {reason}"
        ) from error


# Weights files --------------------------------------------------------------------------------


def _from_file(path: Path, name: str) -> Encoder:
    return Encoder(name, *_read_weights(path))


def _read_weights(path: Path) -> tuple[Layout, dict[str, Tensor]]:
    """Read the layout of a weights file, and the tensors that the encoder needs, in float32."""
    state = _read_state(path)
    layout = _recognise(path, state)
    return layout, {
        name: _in_float32(f"encoder {str(path)!r}: tensor {name!r}", state[name], shape)
        for name, shape in layout.shapes.items()
    }


def _read_state(path: Path) -> Mapping[Any, Any]:
    """Read what a weights file holds, by name: it may be anything but code."""
    if path.suffix not in (".safetensors", ".pth", ".pt") or not os.path.isfile(path):
        raise InputError(
            f"encoder {str(path)!r} is neither an existing .safetensors, .pth or .pt file nor one "
            f"of: {', '.join(SOURCES)}"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # weights_only: a pickle may hold code, which is never run.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"encoder {str(path)!r} cannot be read as a {path.suffix} file of plain tensors"
        ) from error
    if not isinstance(state, Mapping):
        raise InputError(f"encoder {str(path)!r} holds no state dict of named tensors")
    return state


def _recognise(path: Path, state: Mapping[Any, Any]) -> Layout:
    """Find the layout whose tensors are all in `state`."""
    layout = max(LAYOUTS, key=lambda layout: len(layout.shapes.keys() & state.keys()))
    missing = [name for name in layout.shapes if name not in state]
    if not missing:
        return layout
    if len(missing) < len(layout.shapes):
        raise InputError(
            f"encoder {str(path)!r} lacks {_listed(missing)} of the nearest key layout, "
            f"{layout.name}"
        )
    for key, value in state.items():
        if isinstance(value, Mapping):
            raise InputError(
                f"encoder {str(path)!r} must hold its tensors by name, but holds them one level "
                f"below, under {key!r}: save that part alone"
            )
    known = "; ".join(f"{layout.name} ({', '.join(layout.kernels)})" for layout in LAYOUTS)
    raise InputError(f"encoder {str(path)!r} has none of the known key layouts: {known}")


def _in_float32(subject: str, tensor: Any, shape: tuple[int, ...]) -> Tensor:
    if not isinstance(tensor, Tensor) or tensor.dtype not in FLOATS:
        found = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputError(f"{subject} must be one of {_listed(FLOATS)}, but is {found}")
    if tuple(tensor.shape) != shape:
        raise InputError(f"{subject} must have shape {shape}, but is {tuple(tensor.shape)}")
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise InputError(f"{subject} must be stored value by value")
    # What is finite in float64 may not be in float32.
    single = tensor.detach().float().contiguous()
    if not torch.isfinite(single).all():
        raise InputError(f"{subject} holds NaN or infinity, or does as float32")
    return single


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
