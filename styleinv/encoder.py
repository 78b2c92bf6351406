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
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from styleinv.errors import InputError, one_of, whole_number
from styleinv.fused import FrozenConvolution, Padding
from styleinv.styles import LARGEST_SEED

LAYERS = ("relu_1_1", "relu_1_2", "relu_2_1", "relu_2_2")
SOURCES = ("bundled", "vgg19", "random")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

BUNDLED_WEIGHTS = Path(__file__).parent / "weights" / "bundled.safetensors"

# The digits in the name begin the file's SHA-256. PyTorch compares them with what it downloads.
VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"

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
        name: the source's name, for people to read.
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

    def forward(self, images: Tensor, layer: str, rectified: bool = True) -> Tensor:
        """Compute the features of `layer`, see `Encoder`, or the inputs of its ReLU.

        A feature map that is zero everywhere passes no gradient on; the input of its ReLU does.
        """
        depth = LAYERS.index(one_of("layer", layer, LAYERS))
        x = F.conv2d(images, self.input_weight, self.input_bias)
        for index, conv in enumerate(self.convs[: depth + 1]):
            if index == 2:
                x = F.max_pool2d(x, 2, ceil_mode=self.layout.ceil_pool)
            x = conv(x, rectify=rectified or index < depth)
        return x


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
            call has downloaded to PyTorch's hub folder, or else downloads it there.
        device: where the features are computed; there is no silent fallback.
        dtype: type of weights and features, one of `FLOATS`.
        seed: seed of ``"random"``, 0 to 2**63 - 1; the other sources ignore it.

    Raises:
        InputError: the source is unknown, unreachable, damaged, or the device is absent.
    """
    target = _usable_device(device)
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
    state = {
        name: math.sqrt(2 / math.prod(shape[1:])) * torch.randn(shape, generator=generator)
        if name.endswith("weight")
        else torch.zeros(shape)
        for name, shape in TORCHVISION.shapes.items()
    }
    return Encoder(f"random (seed {seed})", TORCHVISION, state)


def _vgg19() -> Encoder:
    """torchvision's VGG-19, from PyTorch's hub folder, to which it is downloaded if missing."""
    try:
        with redirect_stdout(sys.stderr):  # PyTorch prints that it downloads
            state = torch.hub.load_state_dict_from_url(
                VGG19_URL, progress=sys.stderr.isatty(), check_hash=True, weights_only=True
            )
    except Exception as error:  # the network, the disk or a damaged file can raise anything
        raise InputError(
            f"encoder 'vgg19' cannot be downloaded from {VGG19_URL} to {torch.hub.get_dir()!r}, or "
            f"read from there: {error}; 'bundled', 'random' and the path of a weights file need "
            "no download"
        ) from error
    return _from_state("vgg19", "vgg19", state)


# Weights files --------------------------------------------------------------------------------


def _from_file(path: Path, name: str) -> Encoder:
    """Read an encoder from a weights file, which may hold anything but code."""
    if path.suffix not in (".safetensors", ".pth", ".pt") or not os.path.isfile(path):
        raise InputError(
            f"encoder {str(path)!r} is neither an existing .safetensors, .pth or .pt file nor one "
            f"of: {', '.join(SOURCES)}"
        )
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:  # weights_only: a pickle may hold code, which is never run
            state = dict(torch.load(path, map_location="cpu", weights_only=True).items())
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"encoder {str(path)!r} cannot be read as a {path.suffix} file of plain tensors by name"
        ) from error
    return _from_state(name, str(path), state)


def _from_state(name: str, source: str, state: Mapping[Any, Any]) -> Encoder:
    """Build an encoder from the tensors of a layout, checked and in float32."""
    layout = max(LAYOUTS, key=lambda layout: len(layout.shapes.keys() & state.keys()))
    missing = [key for key in layout.shapes if key not in state]
    if missing:
        known = "; ".join(f"{layout.name} ({_listed(layout.kernels)})" for layout in LAYOUTS)
        raise InputError(
            f"encoder {source!r} lacks {_listed(missing)} of the nearest key layout, "
            f"{layout.name}, at its top level; known are: {known}"
        )
    tensors = {
        key: _in_float32(f"encoder {source!r}: tensor {key!r}", state[key], shape)
        for key, shape in layout.shapes.items()
    }
    return Encoder(name, layout, tensors)


def _in_float32(subject: str, tensor: Any, shape: tuple[int, ...]) -> Tensor:
    """Round a dense tensor of this shape and a type of `FLOATS` to float32; refuse others."""
    found = type(tensor).__name__
    if isinstance(tensor, Tensor):
        found = f"{tensor.layout} on {tensor.device} of shape {tuple(tensor.shape)}, {tensor.dtype}"
    allowed = f"torch.strided on cpu of shape {shape}"
    if found not in [f"{allowed}, {dtype}" for dtype in FLOATS]:
        raise InputError(
            f"{subject} must be {allowed}, of a type of {_listed(FLOATS)}, but is {found}"
        )
    # A number that is finite in float64 may overflow in float32.
    single: Tensor = tensor.detach().float().contiguous()
    if not torch.isfinite(single).all():
        raise InputError(f"{subject} holds NaN or infinity, or does as float32")
    return single


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
