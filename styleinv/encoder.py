"""VGG-19 up to its fourth convolution, and where its weights come from.

The chapter inverts the four layers `LAYERS`: two 3x3 convolutions 3-64-64, a 2x2 max-pool,
two 3x3 convolutions 64-128-128, each followed by a ReLU. Nothing behind `relu_2_2` is ever
needed, so nothing behind it is ever loaded: 260,160 parameters, 1 MB in float32.

Sources of weights (`load_encoder`):

* ``bundled``: ships inside the package, trained by ``training/train_encoder.py``;
* ``vgg19``: torchvision's ``VGG19_Weights.IMAGENET1K_V1``, downloaded once on request;
* ``random``: He-initialised and seeded, the control of Ustyuzhaninov et al. (2017);
* a path to a ``.safetensors`` file or a ``.pth`` state dict in one of `LAYOUTS`.
"""

import hashlib
import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import platformdirs
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from styleinv.download import download
from styleinv.errors import InputError, one_of, whole_number
from styleinv.files import write_atomically
from styleinv.fused import Padding, convolve
from styleinv.runs.locks import alone
from styleinv.styles import LARGEST_SEED

LAYERS = ("relu_1_1", "relu_1_2", "relu_2_1", "relu_2_2")
SOURCES = ("bundled", "vgg19", "random")
DEVICES = ("cpu", "cuda", "mps")
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

BUNDLED_WEIGHTS = Path(__file__).parent / "weights" / "bundled.safetensors"
BUNDLED_SHA256 = "cf86d1a8212dabb8e6854f19b605d1525f014d69eb6c2cb4c76e0cf5be0b0bc7"

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
    def keys(self) -> tuple[str, ...]:
        return self.conv_keys if self.input_key is None else (self.input_key, *self.conv_keys)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor that is needed, by its name."""
        kernels = _CONV_SHAPES if self.input_key is None else ((3, 3, 1, 1), *_CONV_SHAPES)
        return {
            f"{key}.{part}": shape
            for key, kernel in zip(self.keys, kernels, strict=True)
            for part, shape in (("weight", kernel), ("bias", kernel[:1]))
        }


_NAMED = ("conv_1_1", "conv_1_2", "conv_2_1", "conv_2_2")
LAYOUTS = (
    Layout(
        "torchvision",
        None,
        ("features.0", "features.2", "features.5", "features.7"),
        padding="zeros",
        ceil_pool=False,
    ),
    Layout("AdaIN", "0", ("2", "5", "9", "12"), padding="reflect", ceil_pool=True),
    Layout("AdaIN, named", "conv_rgb_to_bgr", _NAMED, padding="reflect", ceil_pool=True),
    Layout("styleinv", "input", _NAMED, padding="reflect", ceil_pool=False),
)
TORCHVISION = LAYOUTS[0]
STYLEINV = LAYOUTS[3]


class Encoder(nn.Module):
    """Frozen VGG-19 features of one layer, computed in one truncated pass.

    `encoder(images, layer)` takes images (B, 3, H, W) in [0, 1] and a layer of `LAYERS`, and
    returns the feature maps (B, C, h, w) behind that layer's ReLU, differentiable with respect
    to the images. All values are non-negative.

    Attributes:
        name: the source as a person would say it.
        sha256: fingerprint of the weights as float32 and of the structure, independent of the file
            they came from and of the type it holds them in.
    """

    input_weight: Tensor
    input_bias: Tensor

    def __init__(self, name: str, layout: Layout, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.name = name
        self.layout = layout
        if layout.input_key is None:
            input_weight, input_bias = imagenet_normalisation()
        else:
            input_weight = state[f"{layout.input_key}.weight"]
            input_bias = state[f"{layout.input_key}.bias"]
        self.register_buffer("input_weight", input_weight.clone())
        self.register_buffer("input_bias", input_bias.clone())
        convs = [
            nn.Conv2d(shape[1], shape[0], 3, padding=1, padding_mode=layout.padding)
            for shape in _CONV_SHAPES
        ]
        for conv, key in zip(convs, layout.conv_keys, strict=True):
            names = ("weight", "bias")
            conv.load_state_dict({name: state[f"{key}.{name}"] for name in names})
        self.convs = nn.ModuleList(convs)
        self.requires_grad_(False)
        self.eval()
        # On a CPU the convolutions run about 1.5 times as fast in this layout.
        self.to(memory_format=torch.channels_last)
        self.sha256 = self._fingerprint()
        # The gradient of a convolution is a convolution with the flipped, transposed kernels.
        for index, conv in enumerate(convs):
            flipped = conv.weight.detach().flip(2, 3).transpose(0, 1)
            flipped = flipped.contiguous(memory_format=torch.channels_last)
            self.register_buffer(f"flipped_{index}", flipped, persistent=False)

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

    def forward(self, images: Tensor, layer: str) -> Tensor:
        return self._truncated_pass(images, layer, rectify_last=True)

    def pre_activations(self, images: Tensor, layer: str) -> Tensor:
        """What the layer's ReLU is given: as the features, but without that last ReLU.

        A feature map that is zero everywhere passes no gradient on; its pre-activations do.
        """
        return self._truncated_pass(images, layer, rectify_last=False)

    def _truncated_pass(self, images: Tensor, layer: str, rectify_last: bool) -> Tensor:
        depth = LAYERS.index(one_of("layer", layer, LAYERS))
        x = F.conv2d(images, self.input_weight, self.input_bias)
        for index in range(depth + 1):
            if index == 2:
                x = F.max_pool2d(x, 2, ceil_mode=self.layout.ceil_pool)
            conv, flipped = cast(nn.Conv2d, self.convs[index]), getattr(self, f"flipped_{index}")
            rectify = index < depth or rectify_last
            bias = cast(Tensor, conv.bias)
            x = convolve(x, conv.weight, bias, flipped, self.layout.padding, rectify)
        return x


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
            a ``.pth``/``.pt`` state dict. ``"vgg19"`` downloads 548 MB the first time and keeps
            the 1 MB that is needed in the user's cache folder; interrupted, it goes on the next
            time. A file's weights may be of any type of `FLOATS` and are rounded to float32.
        device: where the features are computed; never changed silently.
        dtype: type of weights and features, one of `FLOATS`.
        seed: seed of ``"random"``, 0 to 2**63 - 1; the other sources ignore it.

    Raises:
        InputError: the source is unknown, unreachable, damaged, or the device is absent.
    """
    target = checked_device(device)
    if dtype not in FLOATS:
        raise InputError(f"dtype is {dtype!r}, but must be one of: {_listed(FLOATS)}")
    if source == "bundled":
        encoder = _bundled()
    elif source == "vgg19":
        encoder = _from_file(_cached_vgg19(), name="vgg19")
    elif source == "random":
        encoder = _random(seed)
    else:
        path = Path(source)
        encoder = _from_file(path, name=path.stem)
    return encoder.to(device=target, dtype=dtype)


def checked_device(device: str | torch.device) -> torch.device:
    """The device asked for, or an `InputError` if this machine lacks it: no silent fallback."""
    try:
        wanted = torch.device(device)
        one_of("device", wanted.type, DEVICES)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, InputError) as error:
        raise InputError(
            f"device is {str(device)!r}, but this machine's PyTorch cannot use it; "
            "allowed are 'cpu' and, where present, 'cuda' or 'mps'"
        ) from error
    return wanted


def _bundled() -> Encoder:
    with suppress(InputError):
        encoder = _from_file(BUNDLED_WEIGHTS, name="bundled")
        if encoder.sha256 == BUNDLED_SHA256:
            return encoder
    raise InputError(
        "encoder 'bundled': the weights that ship with styleinv are missing or damaged "
        f"({str(BUNDLED_WEIGHTS)!r}); install styleinv again"
    )


def _random(seed: int) -> Encoder:
    """He et al. (2015): weights ~ N(0, 2 / fan_in), biases zero; ReLUs keep the variance."""
    generator = torch.Generator().manual_seed(whole_number("seed", seed, 0, LARGEST_SEED))
    state = {}
    for key, shape in zip(TORCHVISION.conv_keys, _CONV_SHAPES, strict=True):
        scale = math.sqrt(2 / math.prod(shape[1:]))
        state[f"{key}.weight"] = scale * torch.randn(shape, generator=generator)
        state[f"{key}.bias"] = torch.zeros(shape[0])
    return Encoder(f"random (seed {seed})", TORCHVISION, state)


def _from_file(path: Path, name: str) -> Encoder:
    state = _read_state(path)
    layout = _recognise(path, state)
    return Encoder(name, layout, _checked_tensors(path, layout, state))


def _read_state(path: Path) -> Mapping[Any, Any]:
    """What a weights file holds by name, which may be anything but code."""
    if not os.path.isfile(path):
        raise InputError(
            f"encoder {str(path)!r} is neither an existing weights file nor one of: "
            f"{', '.join(SOURCES)}"
        )
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(f"encoder {str(path)!r} must end in .safetensors, .pth or .pt")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol
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
    known = "; ".join(f"{layout.name} ({', '.join(layout.keys)})" for layout in LAYOUTS)
    raise InputError(f"encoder {str(path)!r} has none of the known key layouts: {known}")


def _checked_tensors(path: Path, layout: Layout, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The tensors that `layout` needs, in float32."""
    return {
        name: _checked_tensor(f"encoder {str(path)!r}: tensor {name!r}", state[name], shape)
        for name, shape in layout.shapes.items()
    }


def _checked_tensor(subject: str, tensor: Any, shape: tuple[int, ...]) -> Tensor:
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
    return ", ".join(str(value) for value in values)


def _cached_vgg19() -> Path:
    """The cut VGG-19 in the user's cache folder, downloaded and cut if it is not there yet."""
    cache = Path(platformdirs.user_cache_dir("styleinv"))
    cut = cache / f"vgg19-{VGG19_HASH_PREFIX}-relu_2_2.safetensors"
    if not cut.exists():
        try:
            with alone(cache / "vgg19.lock", "another process downloads the same: waiting for it"):
                if not cut.exists():  # nobody else has made it meanwhile
                    _make_cut_vgg19(cut)
        except InputError as error:
            raise InputError(
                f"encoder 'vgg19': {error}; 'bundled', 'random' and the path of a weights file "
                "need no download"
            ) from error
    return cut


def _make_cut_vgg19(cut: Path) -> None:
    whole = cut.with_name(f"vgg19-{VGG19_HASH_PREFIX}.pth")
    if not whole.exists():
        print(f"Downloading {VGG19_URL} (548 MB, once; 1 MB of it is kept)", file=sys.stderr)
        download(VGG19_URL, whole, VGG19_HASH_PREFIX)
    kept = _checked_tensors(whole, TORCHVISION, _read_state(whole))
    write_atomically(cut, lambda part: part.write_bytes(save(kept)))
    whole.unlink()
