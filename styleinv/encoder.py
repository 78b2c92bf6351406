"""VGG-19 up to its fourth convolution, and where its weights come from.

The chapter inverts the four layers `LAYERS`: two 3x3 convolutions 3-64-64, a 2x2 max-pool,
two 3x3 convolutions 64-128-128, each followed by a ReLU. Nothing behind `relu_2_2` is ever
needed, so nothing behind it is ever loaded: 260,160 parameters, 1 MB in float32.

Sources of weights (`load_encoder`):

* ``bundled``: ships inside the package, trained by ``training/train_encoder.py``;
* ``vgg19``: torchvision's ``VGG19_Weights.IMAGENET1K_V1``, downloaded once, on request;
* ``vgg19-normalised``: the weights of the reference runs, VGG-19 with its activations normalised
  (Gatys et al. 2015), as published for AdaIN; downloaded once, on request;
* ``random``: He-initialised and seeded, the control of Ustyuzhaninov et al. (2017);
* a path to a ``.safetensors`` file or a ``.pth`` state dict in one of `styleinv.layouts.LAYOUTS`.
"""

import copy
import hashlib
import io
import math
import os
import sys
import urllib.request
import warnings
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from torch import Tensor, nn

from styleinv.errors import InputError, nearest, one_of, shorten, whole_number
from styleinv.files import write_atomically
from styleinv.fused import FrozenConvolution
from styleinv.isolation import own_settings
from styleinv.layouts import CAFFE, TORCHVISION, Layout, read_weights
from styleinv.styles import LARGEST_SEED

LAYERS = ("relu_1_1", "relu_1_2", "relu_2_1", "relu_2_2")
SOURCES = ("bundled", "vgg19", "vgg19-normalised", "random")
# Of these, the ones that may have to be downloaded.
DOWNLOADED = ("vgg19", "vgg19-normalised")

WEIGHTS = Path(__file__).parent / "weights"
BUNDLED_WEIGHTS = WEIGHTS / "bundled.safetensors"

# The digits in the name begin the file's SHA-256. PyTorch compares them with what it downloads.
VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"

# The weights of the reference runs: where they are published (80 MB), the name that the records
# have for them, and their fingerprint.
NORMALISED_URL = (
    "https://github.com/naoto0804/pytorch-AdaIN/releases/download/v0.0.0/vgg_normalised.pth"
)
NORMALISED_NAME = "vgg19_normalised_relu_2_2"
NORMALISED_SHA256 = "bc85d4b858cfa41d4093d28c2b6dbe9f9bbde5c433689a1f9d2649c884cee3ed"
# Seconds without a byte after which a download is given up.
PATIENCE = 60

# Which channels of Caffe's conv1_1 are on in more than half of the photograph, as bits, the first
# channel lowest. Among the 64, other weights differed in 23 and more.
CAFFE_CHANNELS, CAFFE_WITHIN = 0xAD39EA2B3CAFC198, 4
# The share of channels that may be always on or always off: 7 of 64 with other weights.
MOST_STUCK = 0.75


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
        key = layout.input_key
        given = layout.normalisation() if key is None else _weight_and_bias(state, key)
        for part, tensor in zip(("weight", "bias"), given, strict=True):
            self.register_buffer(f"input_{part}", tensor.clone())
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

    def named(self, name: str) -> Self:
        """The same weights under another name, which the addresses of runs contain."""
        renamed = copy.copy(self)
        renamed.name = name
        return renamed

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
        return deque(self.all_layers(images, depth, rectified), maxlen=1).pop()

    def all_layers(
        self, images: Tensor, depth: int = len(LAYERS) - 1, rectified: bool = True
    ) -> Iterator[Tensor]:
        """Yield the features of each layer down to number `depth`, as `forward` computes them."""
        x = F.conv2d(images, self.input_weight, self.input_bias)
        for index, conv in enumerate(self.convs[: depth + 1]):
            if index == 2:
                x = F.max_pool2d(x, 2, ceil_mode=self.layout.ceil_pool)
            # Not `conv(...)`, so that no hook on all modules of the process changes a result.
            x = conv.forward(x, rectify=rectified or index < depth)
            yield x


def _weight_and_bias(state: Mapping[str, Tensor], key: str) -> tuple[Tensor, Tensor]:
    return state[f"{key}.weight"], state[f"{key}.bias"]


def load_encoder(
    source: str | Path = "bundled",
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Encoder:
    """Load the encoder from one of `SOURCES` or from a weights file.

    Args:
        source: one of `SOURCES`, or the path of a ``.safetensors`` file or of a ``.pth`` state
            dict. A file's weights may be of any type of `styleinv.layouts.FLOATS` and are rounded
            to float32. ``"vgg19"`` takes the file of 548 MB that torchvision or an earlier call has
            downloaded to PyTorch's hub folder, or else downloads it there; ``"vgg19-normalised"``
            downloads 80 MB and keeps the 1 MB that it needs of them in the same folder.
        device: where the features are computed; there is no silent fallback.
        dtype: type of weights and features, one of `styleinv.layouts.FLOATS`.
        seed: seed of ``"random"``, 0 to 2**63 - 1; the other sources ignore it.

    What the layers return for a small photograph is looked at: weights of Caffe's VGG-19, which
    have torchvision's names, are used with Caffe's normalisation, and a warning says so.

    Raises:
        InputError: the source is unknown, unreachable, damaged or no encoder's, a layer returns the
            same whatever the picture shows, or the device is absent.
    """
    target = _usable_device(device)
    with own_settings(torch.device("cpu")):
        if source == "bundled":
            encoder = _from_path(BUNDLED_WEIGHTS, source)
        elif source == "vgg19":
            encoder = _vgg19()
        elif source == "vgg19-normalised":
            encoder = _vgg19_normalised()
        elif source == "random":
            encoder = _random(seed)
        elif not isinstance(source, str | Path):
            raise InputError(
                f"encoder is {shorten(source)}, but must be a file of weights, an encoder that "
                f"`load_encoder` has loaded, or one of: {', '.join(SOURCES)}"
            )
        else:
            path = Path(os.path.expanduser(source))
            encoder = _from_path(path, path.stem)
        return encoder.to(device=target, dtype=dtype)


def _usable_device(device: str | torch.device) -> torch.device:
    """The device asked for, or an `InputError` if this machine lacks it: no silent fallback."""
    try:
        probe = torch.zeros(1, dtype=torch.float32, device=device)
        probe.item()  # some devices hold tensors, but no values
        return probe.device
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device is {str(device)!r}, but this machine's PyTorch cannot use it; "
            "allowed are 'cpu' and, where present, 'cuda' or 'mps'"
        ) from error


# Sources --------------------------------------------------------------------------------------


def _random(seed: int) -> Encoder:
    """He et al. (2015): weights ~ N(0, 2 / fan_in), biases zero; ReLUs keep the variance."""
    generator = torch.Generator("cpu").manual_seed(whole_number("seed", seed, 0, LARGEST_SEED))
    state = {}
    for name, shape in TORCHVISION.shapes.items():
        tensor = torch.zeros(shape, dtype=torch.float32, device="cpu")
        scale = math.sqrt(2 / math.prod(shape[1:]))
        is_weight = name.endswith("weight")
        state[name] = scale * tensor.normal_(generator=generator) if is_weight else tensor
    return Encoder(f"random (seed {seed})", TORCHVISION, state)


def _vgg19() -> Encoder:
    """torchvision's VGG-19, from PyTorch's hub folder, to which it is downloaded if missing."""
    file = _hub_file(VGG19_URL.rpartition("/")[2])
    if not file.is_file():
        with _downloading("vgg19", VGG19_URL, file):
            file.parent.mkdir(parents=True, exist_ok=True)
            begins = file.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(VGG19_URL, str(file), begins, sys.stderr.isatty())
    return _from_path(file, "vgg19")


def _vgg19_normalised() -> Encoder:
    """The reference runs' encoder, from the hub folder; if missing, it is made from a download."""
    file = _hub_file(f"{NORMALISED_NAME}.safetensors")
    if not file.is_file():
        write_atomically(file, _write_normalised)
    encoder = _from_path(file, file.stem)
    _check_fingerprint(encoder, f"{str(file)!r}, which can be removed,")
    return encoder


def _write_normalised(part: Path) -> None:
    """Download the published weights, and write the tensors that are needed to `part`."""
    part.touch()  # where nothing can be written, nothing needs to be downloaded
    with (
        _downloading("vgg19-normalised", NORMALISED_URL, part.parent),
        urllib.request.urlopen(NORMALISED_URL, timeout=PATIENCE) as answer,
    ):
        content = answer.read()
    layout, tensors, _ = read_weights(io.BytesIO(content), f"what {NORMALISED_URL} holds")
    _check_fingerprint(Encoder(NORMALISED_NAME, layout, tensors), f"what {NORMALISED_URL} holds")
    part.write_bytes(save(tensors))


def _check_fingerprint(encoder: Encoder, place: str) -> None:
    if encoder.sha256 != NORMALISED_SHA256:
        raise InputError(
            f"encoder 'vgg19-normalised': {place} has the fingerprint {encoder.sha256[:12]}, but "
            f"the weights of the reference runs have {NORMALISED_SHA256[:12]}"
        )


def _hub_file(name: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", name)


@contextmanager
def _downloading(source: str, url: str, to: Path) -> Iterator[None]:
    """Say that `url` is downloaded; an error inside becomes an `InputError`."""
    print(f'Downloading: "{url}" to {to}', file=sys.stderr, flush=True)
    try:
        yield
    except Exception as error:  # the network, a proxy or the disk can raise anything
        raise InputError(
            f"encoder {source!r} cannot be downloaded from {url} to {str(to)!r}: {error}; "
            "'bundled', 'random' and the path of a weights file need no download"
        ) from error


# Weights files --------------------------------------------------------------------------------


def _from_path(path: Path, name: str) -> Encoder:
    """Read an encoder from a weights file and look at what it does."""
    subject = f"encoder {str(path)!r}"
    if not os.path.isfile(path):  # reading from a pipe, for one, might never end
        raise InputError(
            f"{subject} is neither an existing file of weights nor one of: {', '.join(SOURCES)}"
            f"{nearest(str(path), SOURCES)}"
        )
    try:
        with path.open("rb") as file:
            layout, tensors, notes = read_weights(file, subject)
    except OSError as error:
        raise InputError(f"{subject} cannot be read: {error.strerror}") from error
    if layout is TORCHVISION:
        layout = _by_what_it_does(tensors, subject)
    encoder = Encoder(name, layout, tensors)
    if layout is CAFFE:
        notes.append("it is Caffe's VGG-19, so it gets BGR from 0 to 255 less Caffe's means")
    for note in (*notes, *_weak_layers(encoder, subject)):
        warnings.warn(f"{subject}: {note}", stacklevel=4)
    return encoder


@cache
def _photograph() -> Tensor:
    """A small natural picture, (1, 3, 64, 64): scikit-image's cup of coffee."""
    with Image.open(WEIGHTS / "photograph.png") as picture:
        pixels = np.asarray(picture, dtype=np.float32) / np.float32(255)
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())


def _by_what_it_does(tensors: Mapping[str, Tensor], subject: str) -> Layout:
    """torchvision's layout or Caffe's, which has the same names.

    Files differ in the scale of a channel, but not in where the channel is on, with its own
    normalisation.

    Raises:
        InputError: most channels depend on the picture with Caffe's normalisation only.
    """
    key = TORCHVISION.conv_keys[0]
    on = {
        layout: F.conv2d(
            F.conv2d(_photograph(), *layout.normalisation()),
            tensors[f"{key}.weight"],
            tensors[f"{key}.bias"],
        ).gt(0)
        for layout in (TORCHVISION, CAFFE)
    }
    shares = on[CAFFE].float().mean((0, 2, 3)).tolist()
    bits = sum((share > 0.5) << channel for channel, share in enumerate(shares))
    if (bits ^ CAFFE_CHANNELS).bit_count() <= CAFFE_WITHIN:
        return CAFFE
    stuck = {
        layout: (maps.flatten(2).all(2) | ~maps.flatten(2).any(2)).float().mean()
        for layout, maps in on.items()
    }
    if stuck[TORCHVISION] > MOST_STUCK >= stuck[CAFFE]:
        raise InputError(
            f"{subject} has torchvision's names, but weights for pictures from 0 to 255, as Caffe "
            "has them; of Caffe's, only VGG-19 as published is known"
        )
    return TORCHVISION


def _weak_layers(encoder: Encoder, subject: str) -> Iterator[str]:
    """Name the layers most of whose channels return the same whatever the photograph shows.

    Raises:
        InputError: a layer has no other channels.
    """
    for layer, features in zip(LAYERS, encoder.all_layers(_photograph()), strict=True):
        maps = features[0, :, 2:-2, 2:-2].flatten(1)  # without the border, where padding shows
        low, high = maps.amin(1), maps.amax(1)
        alive = (high > low).sum().item()
        if not high.isfinite().all():
            raise InputError(f"{subject}: what {layer} returns for a photograph is not finite")
        if not alive:
            everywhere = "zero" if not high.any() else "the same"
            raise InputError(f"{subject}: what {layer} returns is {everywhere} everywhere")
        if alive < len(maps) * (1 - MOST_STUCK):
            yield f"only {alive} of {len(maps)} channels of {layer} depend on the picture"
