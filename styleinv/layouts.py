"""Files of weights: what VGG-19's first convolutions are called in them, and how they are read.

A file is known by its content, whatever it is called. Names may stand behind any prefix, such as
DataParallel's ``module.``, and in dictionaries inside the file's own.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any
from zipfile import ZipFile

import torch
from safetensors.torch import load
from torch import Tensor

from styleinv.errors import InputError
from styleinv.fused import Padding

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
State = Mapping[str, Any]

# ImageNet's channel means and standard deviations, which torchvision's VGG-19 was trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The means of blue, green and red, from 0 to 255, which Caffe's VGG-19 was trained with.
CAFFE_MEAN = (103.939, 116.779, 123.68)

_CONV_SHAPES = ((64, 3, 3, 3), (64, 64, 3, 3), (128, 64, 3, 3), (128, 128, 3, 3))


def imagenet_normalisation() -> tuple[Tensor, Tensor]:
    """(x - mean) / std per channel as weight (3, 3, 1, 1) and bias (3,) of a 1x1 convolution."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device="cpu")
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return torch.diag(1 / std)[:, :, None, None], -mean / std


def caffe_normalisation() -> tuple[Tensor, Tensor]:
    """255 x - mean per channel, blue first, as weight and bias of a 1x1 convolution on RGB."""
    mean = torch.tensor(CAFFE_MEAN, dtype=torch.float32, device="cpu")
    return 255 * torch.eye(3, dtype=torch.float32, device="cpu").flip(0)[:, :, None, None], -mean


@dataclass(frozen=True)
class Layout:
    """How a weights file names its tensors, and what its network does between them.

    `input_key` names a 1x1 convolution on the RGB image; without one, `normalisation` makes it.
    `ceil_pool` says how an odd side is halved.
    """

    name: str
    input_key: str | None
    conv_keys: tuple[str, str, str, str]
    padding: Padding
    ceil_pool: bool
    normalisation: Callable[[], tuple[Tensor, Tensor]] = imagenet_normalisation

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

    def places(self, state: State) -> Counter[str]:
        """How many of the tensors `state` has, by the prefix of their names."""
        return Counter(
            name.removesuffix(_bare(own))
            for own in self.shapes
            for name in state
            if f".{name}".endswith(f".{_bare(own)}")
        )


_FEATURES = ("features.0", "features.2", "features.5", "features.7")
_NUMBERED = ("2", "5", "9", "12")
_NAMED = ("conv_1_1", "conv_1_2", "conv_2_1", "conv_2_2")
_GATYS = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")

TORCHVISION = Layout("torchvision", None, _FEATURES, "zeros", False)
ADAIN = Layout("AdaIN", "0", _NUMBERED, "reflect", True)
ADAIN_NAMED = Layout("AdaIN, named", "conv_rgb_to_bgr", _NAMED, "reflect", True)
STYLEINV = Layout("styleinv", "input", _NAMED, "reflect", False)
GATYS = Layout("Gatys", None, _GATYS, "zeros", False, caffe_normalisation)
LAYOUTS = (TORCHVISION, ADAIN, ADAIN_NAMED, STYLEINV, GATYS)
# Has torchvision's names, and is told from it by what its first convolution does.
CAFFE = Layout("Caffe", None, _FEATURES, "zeros", False, caffe_normalisation)

# How files begin that are taken for weights, or named like them.
_BEGINNINGS = {
    rb"$": "is empty",
    rb"version https://git-lfs": "is a Git LFS pointer, for which git lfs pull gets the file",
    rb"\s*<": "is a web page, as a failed download leaves it",
    rb"\x89HDF": "is an HDF5 file, as Keras writes",
    rb"\x08[\x01-\x20]\x12": "is an ONNX model",
    rb"[\x03\x04]\0\0\0": "is a file of Torch 7",
    rb"\n.{1,3}VGG": "is a Caffe model",
    rb"\x1f\x8b|BZh|\xfd7z|7z\xbc\xaf": "is compressed and must be unpacked",
    rb"\x93NUMPY": "is a NumPy array",
    rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF": "is a picture",
    rb"[\t\n\r -~]+$": "is a text",
}
DAMAGED = "is cut off or damaged"


def read_weights(file: IO[bytes], subject: str) -> tuple[Layout, dict[str, Tensor], list[str]]:
    """Read a file of weights, which may hold anything but code.

    Returns:
        the layout, its tensors as float32 on the CPU, and what deserves a note.

    Raises:
        InputError: begins with `subject`, and says what the file is.
    """
    state = dict(_flat(_load(file, subject)))
    layout, prefix = _recognise(state, subject)
    tensors = {
        name: _in_float32(subject, f"{prefix}{_bare(name)}", state, shape)
        for name, shape in layout.shapes.items()
    }
    kernels = [
        name
        for name, value in state.items()
        if name.startswith(prefix) and _shape(value)[2:] == (3, 3)
    ]
    other = {8: "VGG-11", 10: "VGG-13", 13: "VGG-16"}.get(len(kernels))
    notes = [f"it has the {len(kernels)} convolutions of {other}, not VGG-19's"] if other else []
    return layout, tensors, notes


def _load(file: IO[bytes], subject: str) -> Mapping[Any, Any]:
    """What the file holds by name, from safetensors or from PyTorch's own formats."""
    cause = None
    try:
        begin = file.read(512)
        if not (found := _foreign(file, begin)):
            file.seek(0)
            if begin[:1] == b"\x80" or begin[:2] == b"PK":  # a pickle, or one in a zip archive
                content = torch.load(file, map_location="cpu", weights_only=True)
            else:
                content = load(file.read())
            if isinstance(content, Mapping):
                return content
            found = f"holds a {type(content).__name__}"
    except Exception as error:  # a damaged file can raise anything
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        found = f"holds Python objects ({code[1]}), which are not read" if code else DAMAGED
        cause = error
    raise InputError(
        f"{subject} must be a .safetensors or .pth file of tensors by name, as state_dict() "
        f"returns them, but {found}"
    ) from cause


def _foreign(file: IO[bytes], begin: bytes) -> str:
    """What a file is that is not for weights; empty for others."""
    if begin[:2] == b"PK":
        names = {name.rpartition("/")[2] for name in ZipFile(file).namelist()}
        if "constants.pkl" in names:
            return "is a TorchScript program"
        return "" if "data.pkl" in names else "is a zip archive of another kind"
    if begin[:1] == b"\x80" or begin[8:9] == b"{":
        return ""
    found = (kind for start, kind in _BEGINNINGS.items() if re.match(start, begin, re.DOTALL))
    return next(found, "is of another kind")


def _flat(value: object, prefix: str = "", depth: int = 4) -> Iterator[tuple[str, Any]]:
    """The items of a dictionary and of those inside it, whose names are joined by dots."""
    for name, item in value.items() if isinstance(value, Mapping) else ():
        if isinstance(item, Mapping) and depth:
            yield from _flat(item, f"{prefix}{name}.", depth - 1)
        else:
            yield f"{prefix}{name}", item


def _recognise(state: State, subject: str) -> tuple[Layout, str]:
    """The layout whose tensors the file has, and the prefix of their names."""
    found = [
        (number == len(layout.shapes), -len(prefix), layout, prefix, number)
        for layout in LAYOUTS
        for prefix, number in layout.places(state).items()
    ]
    whole = [(layout, prefix) for is_whole, _, layout, prefix, _ in found if is_whole]
    top = [pair for pair in whole if pair[1] in ("", "features.")]
    if len(top or whole) == 1:
        return (top or whole)[0]
    if whole:
        places = _listed(repr(prefix) for _, prefix in top or whole)
        raise InputError(f"{subject} holds several networks, at {places}: keep only one of them")
    if any(name.endswith("running_mean") for name in state):
        raise InputError(
            f"{subject} holds a network with batch normalisation (such as vgg19_bn), but must hold "
            "one without it"
        )
    nearest = max(found, key=lambda match: match[4], default=(0, 0, TORCHVISION, "features.", 0))
    _, _, layout, prefix, _ = nearest
    missing = [name for own in layout.shapes if (name := f"{prefix}{_bare(own)}") not in state]
    known = "; ".join(f"{layout.name} ({_listed(layout.kernels)})" for layout in LAYOUTS)
    raise InputError(
        f"{subject} lacks {_listed(missing)} of the nearest key layout, {layout.name}; known are, "
        f"behind any prefix: {known}"
    )


def _in_float32(subject: str, name: str, state: State, shape: tuple[int, ...]) -> Tensor:
    """Round a dense tensor of this shape and a type of `FLOATS` to float32; refuse others."""
    tensor, subject = state[name], f"{subject}: tensor {name!r}"
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


def _bare(name: str) -> str:
    """The name of a tensor without its network's own prefix: torchvision's `features` alone."""
    return name.removeprefix("features.")


def _shape(value: object) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
