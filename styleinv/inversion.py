"""Invert a style image: change noise until its statistic at one layer matches the style's."""

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from styleinv.checkpoint import DEFAULT_SECONDS, Checkpoint
from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.errors import InputError, one_of, whole_number
from styleinv.files import check_writable
from styleinv.images import TENSOR, Fit, Source, public_name, read_style, short_name
from styleinv.isolation import own_settings
from styleinv.losses import ALPHA, LOSSES, MOMENT_NAMES, REDRAWN, WITH_ALPHA, StyleLoss, make_loss
from styleinv.machine import check_memory, needed_memory, reuse_freed_memory
from styleinv.optim import Iterate, Minimum, Monitor, Stage, minimise
from styleinv.protocol import Protocol, Warmup, get_protocol
from styleinv.styles import LARGEST_SEED, MIN_SIZE

DEFAULT_SIZE = 256

# Raise this when the same request gives another result than before (tests/test_golden.py fails
# then). Kept runs and checkpoints of another version are not used; the runs are made again.
RESULTS_VERSION = 1


@dataclass(frozen=True)
class Task:
    """One inversion, checked and ready to run.

    Attributes:
        style: the style image, (3, H, W), float32 in [0, 1], on the CPU.
        source: where the style image came from: ``bundled:NAME``, ``skimage:NAME``, a file's name
            without its folder, or one of `styleinv.images.UNNAMED`.
        notes: what was done to the style image, see `load_style`.
        along: whether to keep iterates on the way (`Inversion.along`), which changes no result.
    """

    style: Tensor
    source: str
    layer: str
    loss: str
    encoder: Encoder
    protocol: Protocol
    seed: int
    alpha: float = ALPHA
    notes: tuple[str, ...] = ()
    along: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.alpha < math.inf:
            raise InputError(f"alpha is {self.alpha}, but must be a number greater than 0")
        if self.alpha != ALPHA and self.loss not in WITH_ALPHA:
            raise InputError(
                f"alpha is {self.alpha}, but loss {self.loss!r} has no kernel width; only "
                f"{' and '.join(WITH_ALPHA)} have one"
            )
        if self.loss in REDRAWN and self.protocol.method != "adam":
            raise InputError(
                f"loss {self.loss!r} draws new pairs at every evaluation, which the line search of "
                f"protocol {self.protocol.name!r} cannot compare; allowed are protocols that use "
                "Adam"
            )

    @property
    def style_name(self) -> str:
        """The name of the style in figures."""
        return short_name(self.source)

    def asked(self) -> dict[str, Any]:
        """Everything that determines the result, as plain JSON values."""
        # The default is left out, so that older records keep their addresses.
        chosen = {} if self.alpha == ALPHA else {"alpha": self.alpha}
        return {
            **chosen,
            "style_sha256": self._style_sha256,
            "height": self.style.shape[1],
            "width": self.style.shape[2],
            "layer": self.layer,
            "loss": self.loss,
            "encoder": self.encoder.name,
            "encoder_sha256": self.encoder.sha256,
            "device": self.encoder.device.type,
            "dtype": str(self.encoder.dtype).removeprefix("torch."),
            "seed": self.seed,
            "protocol": self.protocol.settings(self.loss, self.layer),
        }

    @cached_property
    def _style_sha256(self) -> str:  # a run asks for it several times
        return pixels_sha256(self.style)

    @property
    def address(self) -> str:
        """SHA-256 of everything that determines the result."""
        return json_sha256(self.asked())

    def checkpoint(self, path: Path, every: float = DEFAULT_SECONDS) -> Checkpoint:
        """The file in which `run` saves its state every `every` seconds, to continue from it."""
        return Checkpoint(path, self.address, RESULTS_VERSION, every)

    def check_memory(self) -> str:
        """Say how much memory the run needs; refuse a run on the CPU that does not fit.

        Raises:
            InputError: the message has the estimate and the largest size that fits.
        """
        if self.encoder.device.type != "cpu":
            return f"The run needs memory of {self.encoder.device}; how much is not known"
        return check_memory(*self._what_needs_memory())

    def needed_memory(self) -> float:
        """An estimate, in bytes, of the run's peak memory on the CPU."""
        return needed_memory(*self._what_needs_memory())

    def _what_needs_memory(self) -> tuple[int, int, str, str, int]:
        height, width = self.style.shape[1:]
        return height, width, self.layer, self.loss, self.encoder.dtype.itemsize

    def run(
        self,
        callback: Callable[[Iterate], object] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> "Inversion":
        """Run the inversion. `callback` gets every `Iterate` and stops the run by returning True.

        On CUDA, Adam shows `callback` only what the host looks at (`styleinv.adam.LOOK_EVERY`).

        If `checkpoint` has been written before, the run continues from there and ends with the same
        bits as if it had never been interrupted. SciPy's and PyTorch's L-BFGS write no checkpoints.

        Raises:
            InputError: there is too little memory, the first loss is not finite, or the checkpoint
                cannot be written.
        """
        self.check_memory()
        with self.settings():
            begun = self.begin(callback, checkpoint)
            return begun.ended(minimise(begun.stages, begun.start, self.protocol, begun.monitor))

    @contextmanager
    def settings(self) -> Iterator[None]:
        """What a run is begun and computed in: no setting of the process changes its result."""
        with own_settings(self.encoder.device), reuse_freed_memory():
            yield

    def begin(
        self,
        callback: Callable[[Iterate], object] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> "Begun":
        """Everything up to the first evaluation; arguments and errors as in `run`."""
        protocol = self.protocol
        # A copy, because a tensor that was made in inference mode has no gradients.
        target = self.style.to(self.encoder.device, self.encoder.dtype, copy=True)[None]
        with torch.no_grad():
            features = self.encoder.forward(target, self.layer)
            self._check_that_it_sees(features)
            exact = make_loss(self.loss, features, protocol.convention, self.alpha)
            warmups = protocol.warmups_of(self.loss, self.layer)
            stages = [self._warm_up(warmup, target, exact) for warmup in warmups]
        self._warn_of_negative_psi(exact.negative_orders)
        theta, weight = protocol.theta_of(self.loss), protocol.weight(self.loss)
        explain = partial(self._explain, exact)
        budget, seconds = protocol.budget(self.loss, self.layer), protocol.seconds
        gain = protocol.least_gains.get(self.loss)
        limits = budget, theta, weight, callback, seconds
        monitor = Monitor(*limits, checkpoint, explain, gain, self.along)
        start = noise_image(target, protocol, self.seed)
        return Begun(self, exact, [*stages, self._last_stage(exact)], start, monitor)

    def _check_that_it_sees(self, features: Tensor) -> None:
        """Refuse a layer that is 0 for this style: the noise would pass for its inversion."""
        if not features.any():
            raise InputError(
                f"what {self.layer} of encoder {self.encoder.name!r} returns for "
                f"{self.style_name} is zero everywhere; another layer, style or encoder is needed"
            )

    def _warn_of_negative_psi(self, orders: tuple[int, ...]) -> None:
        if orders:
            named = " and ".join(MOMENT_NAMES[order - 1] for order in orders)
            warnings.warn(
                f"{self.style_name}: {named} of {self.layer} is negative on average; its psi "
                "takes the absolute value, where the printed one would have no lower bound",
                stacklevel=4,
            )

    def _warm_up(self, warmup: Warmup, target: Tensor, exact: StyleLoss) -> Stage:
        """A stage that descends another loss; both come from one pass through the encoder."""
        encode = partial(self.encoder.forward, layer=self.layer, rectified=not warmup.before_relu)
        descended = warmup.make(encode(target), convention=self.protocol.convention)

        def objective(image: Tensor) -> tuple[Tensor, Tensor]:
            features = encode(image)
            loss = descended.forward(features)
            with torch.no_grad():
                return loss, exact.forward(features.relu() if warmup.before_relu else features)

        budget = max(1, round(warmup.share * self.protocol.budget(self.loss, self.layer)))
        return Stage(warmup.name, objective, budget, warmup.enough)

    def _last_stage(self, exact: StyleLoss) -> Stage:
        def objective(image: Tensor) -> tuple[Tensor, Tensor]:
            loss = exact.forward(self.encoder.forward(image, self.layer))
            return loss, loss

        return Stage(self.loss, objective, generators=exact.generators)

    @torch.no_grad()
    def _explain(self, exact: StyleLoss, image: Tensor) -> str:
        """Name the first value that is not finite between an image and its loss."""
        features = self.encoder.forward(image, self.layer)
        values = {
            "the gradient of the iteration before": image,
            f"what {self.layer} returns": features,
            **exact.parts(features),
        }
        broken = (name for name, value in values.items() if not value.isfinite().all())
        return next(broken, "the loss")


@dataclass(frozen=True)
class Begun:
    """A task that is about to be minimised: its loss, the stages to it, and where it starts."""

    task: Task
    exact: StyleLoss
    stages: list[Stage]
    start: Tensor
    monitor: Monitor

    def ended(self, minimum: Minimum, together: int = 1) -> "Inversion":
        """The task's result, from where its minimisation ended."""
        found = vars(minimum) | {"image": minimum.image.float().cpu()}
        negative = self.exact.negative_orders
        return Inversion(**found, task=self.task, negative_psi=negative, together=together)


@dataclass(frozen=True)
class Inversion(Minimum):
    """The result of a task: the minimum found, its image as float32 on the CPU, and the task.

    `negative_psi` lists the moments whose psi is an absolute value (see `MomentLoss`). `together`
    is the largest number of runs that shared its seconds (see `styleinv.batch`).
    """

    task: Task
    negative_psi: tuple[int, ...]
    together: int = 1


class Asked(TypedDict, total=False):
    """What `invert` and `plan` can be asked for; see `invert`."""

    layer: str
    loss: str
    encoder: str | Path | Encoder
    protocol: str | Protocol
    seed: int | None
    size: int | None
    fit: Fit
    iterations: int | None
    seconds: float | None
    alpha: float
    device: str


def invert(
    style: Source | Tensor,
    *,
    callback: Callable[[Iterate], object] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float = DEFAULT_SECONDS,
    **asked: Unpack[Asked],
) -> Inversion:
    """Invert `style` through `loss` at `layer`: `plan` and run in one call.

    Args:
        style: an image file, ``bundled:NAME``, ``skimage:NAME``, a PIL image or a NumPy array of
            uint8 (see `load_style`), or a tensor (3, H, W) in [0, 1].
        layer: one of `LAYERS` (default ``relu_2_1``).
        loss: ``gram`` (default), ``moment-1`` to ``moment-4``, ``mmd``, ``mmd-random`` (Adam only),
            or one of `styleinv.losses.BEYOND`.
        encoder: a source of `load_encoder` (default ``bundled``), or an encoder already loaded (on
            its own device).
        protocol: a name of `styleinv.protocol.PROTOCOLS` (default ``fast``), or a `Protocol`.
        seed: seed of the noise image, 0 or greater (default None: the protocol's own).
        size: shorter side in pixels, 16 to 4096 (default None: 256); a tensor keeps its own size.
        fit: ``crop`` to a square (default) or ``keep`` the aspect ratio, see `load_style`.
        iterations: replace the protocol's budget; then there are no extra rounds (default None:
            the protocol's own).
        seconds: limit of the wall time, in place of the protocol's own (default None: 1800 for
            ``fast``, none where `iterations` is given).
        alpha: kernel width of ``mmd`` and ``mmd-random`` (default 0.1).
        device: ``cpu`` (default), ``cuda``, ...; an encoder already loaded stays on its own.
        callback: called with every `Iterate` (Adam on CUDA: with few of them, see `styleinv.adam`);
            return True to stop the run.
        checkpoint: a file, ending in .checkpoint, in which the run saves its state. If it exists,
            the run continues from it; it is removed when the run has ended.
        checkpoint_every: seconds between two checkpoints, 0 to 86,400.

    The same arguments give the same bits on one machine, unless seconds end the run. On Linux,
    the first run changes settings of the process's memory allocator (`styleinv.machine`).

    Raises:
        InputError: an argument is not allowed; the message names it and says what is.
    """
    task = plan(style, **asked)
    kept = None if checkpoint is None else task.checkpoint(Path(checkpoint), checkpoint_every)
    if kept is not None:
        check_writable(kept.path)
    inversion = task.run(callback, kept)
    if kept is not None and inversion.stop_reason != "stopped":
        kept.remove()
    return inversion


def plan(
    style: Source | Tensor,
    *,
    layer: str = "relu_2_1",
    loss: str = "gram",
    encoder: str | Path | Encoder = "bundled",
    protocol: str | Protocol = "fast",
    seed: int | None = None,
    size: int | None = None,
    fit: Fit = "crop",
    iterations: int | None = None,
    seconds: float | None = None,
    alpha: float = ALPHA,
    device: str = "cpu",
) -> Task:
    """Check the arguments of `invert`, cheapest first, and load what they name."""
    one_of("layer", layer, LAYERS)
    one_of("loss", loss, tuple(LOSSES))
    chosen = get_protocol(protocol).limited_to(iterations, seconds)
    seed = whole_number("seed", chosen.default_seed if seed is None else seed, 0, LARGEST_SEED)
    notes: tuple[str, ...] = ()
    if isinstance(style, Tensor):
        image, source = _check_tensor(style, size), TENSOR
    else:
        image, notes = read_style(style, DEFAULT_SIZE if size is None else size, fit)
        source = public_name(style)
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(encoder, device=device)
    return Task(image, source, layer, loss, encoder, chosen, seed, alpha, notes)


def json_sha256(value: Any) -> str:
    """SHA-256 of plain JSON values in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def pixels_sha256(image: Tensor) -> str:
    """SHA-256 of an image's float32 values, row by row, channel after channel."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def noise_image(like: Tensor, protocol: Protocol, seed: int) -> Tensor:
    """The start of an inversion: seeded noise of the shape, device and dtype of `like`.

    Drawn on the CPU in float32, so that a seed means the same picture on every device.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return protocol.draw_noise(like, generator).to(like)


def _check_tensor(style: Tensor, size: int | None) -> Tensor:
    is_image = style.ndim == 3 and style.shape[0] == 3 and min(style.shape[1:]) >= MIN_SIZE
    if not (is_image and style.is_floating_point() and style.min() >= 0 and style.max() <= 1):
        raise InputError(
            f"style is a tensor of {style.dtype} and shape {tuple(style.shape)}, but must be "
            f"(3, H, W) with H and W of at least {MIN_SIZE} and floating-point values in [0, 1]"
        )
    if size is not None and size != min(style.shape[1:]):
        raise InputError(
            f"size is {size}, but the style tensor's shorter side is {min(style.shape[1:])}; "
            "leave size out, or load the image with load_style"
        )
    return style.detach().cpu().float()
