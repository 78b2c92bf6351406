"""How an inversion is run: Table 1.1, the stopping rule, and the protocols.

* ``chapter``: section 1.3 as printed. Adam, learning rate 1e-3; stop when the loss falls below
  theta = 1e-5; if it is still above theta at the end, up to 240 rounds of 1000 more iterations.
* ``released``: the same method as in the author's published code, which has other noise, budgets
  and theta, and scales the losses.
* ``fast``: projected L-BFGS with the pixel bounds [0, 1]; the default for readers. Its first stages
  know no more than the statistic that they lead to: the Gram matrix whitened; for N > 2, fewer
  moments and compressed ones;
* ``from-noise``: ``fast`` without these stages;
* ``quantiles``: for N > 2, ``fast`` with the sorted pre-activations of every channel as its first
  stage. These hold far more than N moments, and the picture shows it: a stronger statistic;
* ``scipy``: SciPy's L-BFGS-B with the same bounds and budgets, from noise: the reference for
  ``fast``;
* ``unbounded``, ``clamped``: `torch.optim.LBFGS` without bounds, and with an image that is clamped
  before every evaluation without the optimiser's knowledge. They show what bounds do (the claim
  about L-BFGS in section 1.4).

Deviations, on purpose. Where the chapter is silent, ``chapter`` starts from uniform noise in
[0, 1) and clamps the image to [0, 1] before every evaluation, as the released code does.
``released`` corrects a naming error of that code, which made losses compare the wrong layers. Both
keep the moment loss bounded where psi would be negative (`styleinv.losses.MomentLoss`).

The settings of ``fast`` were chosen by measurement (the book's page on speed; `benchmarks/full.py`
makes its record): 40 pairs, because fewer need more evaluations and more take longer for each;
the first stages for three and four moments, because from noise they mostly do not converge at the
deeper layers; the one for the Gram matrix, because it halves the evaluations.

The MMD as printed is a signed sum. Under ``chapter`` it passes theta by becoming negative, often
after few iterations; ``fast`` therefore runs it through its whole budget.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Self

import torch
from torch import Tensor

from styleinv import losses
from styleinv.encoder import LAYERS
from styleinv.errors import InputError, one_of, whole_number


def _by_layer(*values: int) -> dict[str, int]:
    return dict(zip(LAYERS, values, strict=True))


# Table 1.1, as printed.
CHAPTER_ITERATIONS: Mapping[str, Mapping[str, int]] = {
    "gram": _by_layer(100_000, 150_000, 200_000, 250_000),
    "mmd": _by_layer(100_000, 150_000, 200_000, 250_000),
    "moment-1": _by_layer(20_000, 40_000, 60_000, 80_000),
    "moment-2": _by_layer(40_000, 80_000, 120_000, 160_000),
    "moment-3": _by_layer(60_000, 120_000, 180_000, 240_000),
    "moment-4": _by_layer(100_000, 200_000, 300_000, 400_000),
}

# The released code differs from Table 1.1 in two columns.
RELEASED_ITERATIONS: Mapping[str, Mapping[str, int]] = {
    **CHAPTER_ITERATIONS,
    "gram": _by_layer(100_000, 200_000, 300_000, 400_000),
    "moment-4": _by_layer(80_000, 160_000, 240_000, 320_000),
}

# Evaluations of a stage before `Protocol.least_gains` count: a loss may start with a plateau.
SLOW_AFTER = 200

MOST_ITERATIONS = MOST_SECONDS = 10**9

# The settings that only Adam has.
_OF_ADAM = ("extra_rounds", "extra_iterations", "extra_above", "learning_rate", "betas")


@dataclass(frozen=True)
class Warmup:
    """A stage before the exact loss is descended.

    Attributes:
        name: what records and traces call the stage. It begins with the name of the loss whose
            statistic the stage sees, see `told_beyond`.
        make: (style features, convention=) -> the loss that the stage descends.
        share: the largest part of the budget that the stage may use; the later stages get what it
            does not use.
        enough: the stage ends as soon as its loss is below this.
        before_relu: the loss compares the inputs of the layer's ReLU. A feature map that is zero
            everywhere has no gradient, but its pre-activations have one.
    """

    name: str
    make: Callable[..., losses.StyleLoss] = field(compare=False)
    share: float
    enough: float
    before_relu: bool = False


@dataclass(frozen=True)
class Protocol:
    """Everything about an inversion that is not the image, the layer, the loss or the seed.

    Attributes:
        convention: in which convention of `styleinv.losses` the loss is computed.
        method: ``"adam"``, ``"l-bfgs"`` (ours), ``"l-bfgs-b"`` (SciPy's), ``"l-bfgs unbounded"``
            or ``"l-bfgs clamped"`` (both PyTorch's).
        noise: what an inversion starts from, ``"uniform"`` on [0, 1) or standard ``"normal"``,
            clamped to [0, 1] before each evaluation.
        budgets: iterations per loss and layer; for L-BFGS, evaluations of loss and gradient. A
            loss that is not listed runs as long as MMD.
        theta: stop as soon as weight x loss is below it.
        default_seed: the seed that the source uses.
        without_theta: losses that theta does not stop. One with new random choices at every call
            would pass theta by chance.
        weights: a factor on each loss, 1 if not listed, for theta and Adam; the reported loss is
            without it.
        extra_rounds, extra_iterations: at the end of the budget, while weight x loss is above
            `extra_above`, this many rounds of this many iterations follow.
        learning_rate, betas: Adam's.
        memory: number of correction pairs that L-BFGS keeps.
        warmups: per loss and layer, the stages before the exact loss (``"l-bfgs"`` only).
        least_gains: per loss; a stage ends as soon as the later half of its evaluations has
            divided the exact loss by less than this, but not before the first `SLOW_AFTER`.
        seconds: limit of the wall time, or None. A run that this limit ends is not repeatable.
    """

    name: str
    convention: losses.Convention
    method: Literal["adam", "l-bfgs", "l-bfgs-b", "l-bfgs unbounded", "l-bfgs clamped"]
    noise: str
    budgets: Mapping[str, Mapping[str, int]]
    theta: float
    default_seed: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    without_theta: tuple[str, ...] = ()
    extra_rounds: int = 0
    extra_iterations: int = 1000
    extra_above: float = 0.0
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    memory: int = 40
    warmups: Mapping[str, Mapping[str, tuple[Warmup, ...]]] = field(default_factory=dict)
    least_gains: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def can_go_on(self) -> bool:
        """Whether an interrupted run can continue from a checkpoint."""
        return self.method in ("adam", "l-bfgs")

    def budget(self, loss: str, layer: str) -> int:
        """Iterations (L-BFGS: evaluations) before the extra rounds."""
        return self.budgets.get(loss, self.budgets["mmd"])[layer]

    def theta_of(self, loss: str) -> float | None:
        """Theta, or None for a loss that theta does not stop."""
        return None if loss in self.without_theta else self.theta

    def warmups_of(self, loss: str, layer: str) -> tuple[Warmup, ...]:
        """The stages before the exact loss, in order."""
        return self.warmups.get(loss, {}).get(layer, ())

    def weight(self, loss: str) -> float:
        """The factor on the loss that theta and Adam see."""
        return self.weights.get(loss, 1.0)

    def settings(self, loss: str, layer: str) -> dict[str, Any]:
        """This protocol's settings for one layer and loss, as plain JSON values for a record."""
        is_adam = self.method == "adam"
        own = _OF_ADAM if is_adam else ("memory",)
        names = ("name", "convention", "method", "noise", "seconds", *own)
        found = {name: getattr(self, name) for name in names} | {
            "budget": self.budget(loss, layer),
            "theta": self.theta_of(loss),
            "weight": self.weight(loss),
        }
        if not is_adam:
            found["warmups"] = [
                {"loss": warmup.name, "share": warmup.share, "enough": warmup.enough}
                for warmup in self.warmups_of(loss, layer)
            ]
        if loss in self.least_gains:
            found["least_gain"] = self.least_gains[loss]
        return found

    def draw_noise(self, style: Tensor, generator: torch.Generator) -> Tensor:
        """The start of an inversion of `style` (1, 3, H, W), in float32 on the CPU."""
        draw = torch.rand if self.noise == "uniform" else torch.randn
        return draw(style.shape, generator=generator, dtype=torch.float32, device="cpu")

    def limited_to(self, iterations: int | None = None, seconds: float | None = None) -> Self:
        """This protocol with other limits, where they are given.

        Args:
            iterations: the budget of every cell; then there are no extra rounds, and only
                `seconds` limits the wall time.
            seconds: limit of the wall time.
        """
        limited = self
        if iterations is not None:
            whole_number("iterations", iterations, 1, MOST_ITERATIONS)
            flat = {loss: dict.fromkeys(LAYERS, iterations) for loss in losses.LOSSES}
            limited = dataclasses.replace(self, budgets=flat, extra_rounds=0, seconds=None)
        if seconds is None:
            return limited
        if not 0 < seconds <= MOST_SECONDS:
            raise InputError(
                f"seconds is {seconds}, but must be greater than 0 and at most {MOST_SECONDS}"
            )
        return dataclasses.replace(limited, seconds=seconds)


CHAPTER = Protocol(
    name="chapter",
    convention="chapter",
    method="adam",
    noise="uniform",
    budgets=CHAPTER_ITERATIONS,
    theta=1e-5,
    without_theta=losses.REDRAWN,
    extra_rounds=240,
    extra_above=1e-5,
)

RELEASED = dataclasses.replace(
    CHAPTER,
    name="released",
    convention="released",
    noise="normal",
    default_seed=13,
    budgets=RELEASED_ITERATIONS,
    theta=1e-6,
    weights={loss: 1000.0 if loss.startswith("mmd") else 100.0 for loss in losses.LOSSES},
    extra_rounds=450,
)

# Evaluations. One or two moments pass theta after about a hundred, the Gram matrix of the deeper
# layers hardly ever, and the signed MMD has no theta to pass.
_FAST_EVALUATIONS = {
    "gram": 1000,
    **dict.fromkeys(("moment-1", "moment-2"), 500),
    **dict.fromkeys(("moment-3", "moment-4"), 2500),
    **dict.fromkeys(("mmd", "mmd-random"), 400),
    **dict.fromkeys(losses.BEYOND, 300),
}
TWO_MOMENTS = Warmup("moment-2", losses.LOSSES["moment-2"], share=0.12, enough=1e-6)
_THREE = partial(losses.MomentLoss, n_moments=3, compressed=True)
_FOUR = partial(losses.MomentLoss, n_moments=4, compressed=True)
THREE_MOMENTS = Warmup("moment-3 compressed", _THREE, share=0.12, enough=1e-6)
FOUR_MOMENTS = Warmup("moment-4 compressed", _FOUR, share=0.24, enough=1e-6)
WHITENED_GRAM = Warmup("gram whitened", losses.WhitenedGramLoss, share=0.8, enough=0.0)
QUANTILES = Warmup(
    "pre-activations", losses.HistogramLoss, share=0.04, enough=1e-4, before_relu=True
)

FAST = Protocol(
    name="fast",
    convention="chapter",
    method="l-bfgs",
    noise="uniform",
    budgets={loss: dict.fromkeys(LAYERS, most) for loss, most in _FAST_EVALUATIONS.items()},
    theta=1e-5,
    # The chapter states theta for its own losses. The values of other losses mean other distances.
    without_theta=("mmd", "mmd-random", *losses.BEYOND),
    warmups={
        "gram": dict.fromkeys(LAYERS, (WHITENED_GRAM,)),
        "moment-3": dict.fromkeys(LAYERS, (TWO_MOMENTS, THREE_MOMENTS)),
        "moment-4": dict.fromkeys(LAYERS, (TWO_MOMENTS, THREE_MOMENTS, FOUR_MOMENTS)),
    },
    least_gains={"gram": 1.5},
    seconds=1800,
)

FROM_NOISE = dataclasses.replace(FAST, name="from-noise", warmups={}, least_gains={})
QUANTILES_FIRST = dataclasses.replace(
    FAST,
    name="quantiles",
    warmups={
        "moment-3": dict.fromkeys(LAYERS, (QUANTILES, THREE_MOMENTS)),
        "moment-4": dict.fromkeys(LAYERS, (QUANTILES, FOUR_MOMENTS)),
    },
)
SCIPY = dataclasses.replace(FROM_NOISE, name="scipy", method="l-bfgs-b")
UNBOUNDED = dataclasses.replace(SCIPY, name="unbounded", method="l-bfgs unbounded")
CLAMPED = dataclasses.replace(SCIPY, name="clamped", method="l-bfgs clamped")

PROTOCOLS = {
    own.name: own
    for own in (CHAPTER, RELEASED, FAST, FROM_NOISE, QUANTILES_FIRST, SCIPY, UNBOUNDED, CLAMPED)
}


# What starts and stages tell of a style that no loss of the chapter holds.
_TOLD = {"shuffled": "shuffled pixels", "pre-activations": "quantiles", "histogram": "quantiles"}


def told_beyond(loss: str, noise: str, stages: Iterable[str]) -> tuple[str, ...]:
    """What a run is told of its style beyond the statistic of its loss, in words; mostly nothing.

    A start from noise tells nothing. A stage is fair if it sees the loss's own statistic, however
    it weighs it, or fewer moments. Its picture shows what `loss` holds; any other shows more.

    Args:
        noise: `Protocol.noise`.
        stages: the names of the stages before the exact loss.
    """
    told = [] if noise in ("uniform", "normal") else [noise]
    for stage in stages:
        seen = stage.split(" ")[0]
        is_fewer = seen.startswith("moment-") and loss.startswith("moment-") and seen < loss
        if seen != loss and not is_fewer:
            told.append(stage)
    return tuple(dict.fromkeys(_TOLD.get(what, what) for what in told))


def get_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of `PROTOCOLS` with this name, or the given protocol itself."""
    if isinstance(protocol, Protocol):
        return protocol
    return PROTOCOLS[one_of("protocol", protocol, tuple(PROTOCOLS))]
