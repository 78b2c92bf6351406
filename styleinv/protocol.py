"""How an inversion is run: Table 1.1, the stopping rule, and the protocols.

* ``chapter``: section 1.3 as printed. Adam, learning rate 1e-3; stop when the loss falls below
  theta = 1e-5; if it is still above theta at the end, up to 240 rounds of 1000 more iterations.
* ``released``: the same as the author's published code has it: other noise, budgets and theta,
  the losses scaled.
* ``fast``: projected L-BFGS with the pixel bounds [0, 1], for N > 2 by continuation; the default
  for readers;
* ``scipy``: SciPy's L-BFGS-B with the same bounds and budgets, from noise: the reference for
  ``fast``;
* ``unbounded``, ``clamped``: `torch.optim.LBFGS` without bounds, and with the image clamped behind
  its back before every evaluation: to show what bounds do (claim about L-BFGS in section 1.4);
* ``n4-...`` (`ABLATION`): ``fast`` with other warm-ups for four moments, or from another start.

Deviations, on purpose. Where the chapter is silent, ``chapter`` starts from uniform noise in
[0, 1) and clamps the image to [0, 1] before every evaluation, as the released code does.
``released`` mends the code's fault of naming, which made losses compare the wrong layers. Both keep
the moment loss bounded where psi would be negative (`styleinv.losses.MomentLoss`).

The settings of ``fast`` were chosen by measurement (the book's page on speed; `benchmarks/full.py`
makes its record): 40 pairs, because fewer need more evaluations and more take longer for each;
the warm-ups, because from noise three and four moments mostly do not converge at the deeper
layers.

The MMD as printed is a signed sum. Under ``chapter`` it passes theta by becoming negative, often
after few iterations; ``fast`` therefore runs it through its whole budget.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from styleinv.encoder import LAYERS
from styleinv.errors import InputError, one_of, whole_number
from styleinv.losses import BEYOND, LOSSES, REDRAWN, Convention

Noise = Literal["uniform", "normal", "shuffled"]

# Table 1.1, as printed.
CHAPTER_ITERATIONS: Mapping[str, Mapping[str, int]] = {
    loss: dict(zip(LAYERS, budget, strict=True))
    for loss, budget in {
        "gram": (100_000, 150_000, 200_000, 250_000),
        "mmd": (100_000, 150_000, 200_000, 250_000),
        "moment-1": (20_000, 40_000, 60_000, 80_000),
        "moment-2": (40_000, 80_000, 120_000, 160_000),
        "moment-3": (60_000, 120_000, 180_000, 240_000),
        "moment-4": (100_000, 200_000, 300_000, 400_000),
    }.items()
}

# The released code differs from Table 1.1 in two columns.
RELEASED_ITERATIONS: Mapping[str, Mapping[str, int]] = {
    **CHAPTER_ITERATIONS,
    "gram": dict(zip(LAYERS, (100_000, 200_000, 300_000, 400_000), strict=True)),
    "moment-4": dict(zip(LAYERS, (80_000, 160_000, 240_000, 320_000), strict=True)),
}

# What Table 1.1 does not list runs as long as MMD.
_UNLISTED = ("mmd-random", *BEYOND)

MOST_ITERATIONS = 10**9
MOST_SECONDS = 10**9


@dataclass(frozen=True)
class Warmup:
    """A stage before the exact loss is descended.

    Attributes:
        loss: one of `styleinv.losses.WARMUPS`.
        share: of the budget, at most; what is not needed goes to the later stages.
        enough: the stage is over as soon as its loss is below.
    """

    loss: str
    share: float
    enough: float


@dataclass(frozen=True)
class Protocol:
    """Everything about an inversion that is not the image, the layer, the loss or the seed.

    Attributes:
        convention: in which convention of `styleinv.losses` the loss is computed.
        method: ``"adam"``, ``"l-bfgs"`` (ours), ``"l-bfgs-b"`` (SciPy's), ``"l-bfgs unbounded"``
            or ``"l-bfgs clamped"`` (both PyTorch's).
        noise: ``"uniform"`` on [0, 1), standard ``"normal"``, or the style image's own pixels
            ``"shuffled"``; clamped to [0, 1] before each evaluation.
        default_seed: the seed that the source uses.
        budgets: iterations per loss and layer; for L-BFGS, evaluations of loss and gradient.
        theta: stop as soon as weight x loss is below it.
        without_theta: losses that theta does not stop. One with new random choices at every call
            would pass theta by chance.
        weights: factor on each loss, which theta and Adam see but the reported loss not.
        extra_rounds, extra_iterations: at the end of the budget, while weight x loss is above
            `extra_above`, so many rounds of so many further iterations.
        learning_rate, betas: Adam's.
        memory: number of correction pairs that L-BFGS keeps.
        warmups: per loss and layer, the stages before the exact loss (``"l-bfgs"`` only).
        seconds: wall time at most, or None for any. A run that it ends is not repeatable.
    """

    name: str
    convention: Convention
    method: Literal["adam", "l-bfgs", "l-bfgs-b", "l-bfgs unbounded", "l-bfgs clamped"]
    noise: Noise
    default_seed: int
    budgets: Mapping[str, Mapping[str, int]]
    theta: float
    weights: Mapping[str, float]
    without_theta: tuple[str, ...] = ()
    extra_rounds: int = 0
    extra_iterations: int = 1000
    extra_above: float = 0.0
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    memory: int = 40
    warmups: Mapping[str, Mapping[str, tuple[Warmup, ...]]] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def can_go_on(self) -> bool:
        """Whether a run that was interrupted goes on from a checkpoint."""
        return self.method in ("adam", "l-bfgs")

    def budget(self, loss: str, layer: str) -> int:
        """Iterations (L-BFGS: evaluations) before the extra rounds."""
        return self.budgets[loss][layer]

    def theta_of(self, loss: str) -> float | None:
        """Theta, or None for a loss that it does not stop."""
        return None if loss in self.without_theta else self.theta

    def warmups_of(self, loss: str, layer: str) -> tuple[Warmup, ...]:
        return self.warmups.get(loss, {}).get(layer, ())

    def weight(self, loss: str) -> float:
        return self.weights.get(loss, 1.0)

    def settings(self, loss: str, layer: str) -> dict[str, Any]:
        """What this protocol means for one cell, as plain JSON values for a record."""
        common = {
            "name": self.name,
            "convention": self.convention,
            "method": self.method,
            "noise": self.noise,
            "budget": self.budget(loss, layer),
            "theta": self.theta_of(loss),
            "weight": self.weight(loss),
            "seconds": self.seconds,
        }
        if self.method != "adam":
            warmups = [dataclasses.asdict(warmup) for warmup in self.warmups_of(loss, layer)]
            return {**common, "memory": self.memory, "warmups": warmups}
        return {
            **common,
            "extra_rounds": self.extra_rounds,
            "extra_iterations": self.extra_iterations,
            "extra_above": self.extra_above,
            "learning_rate": self.learning_rate,
            "betas": list(self.betas),
        }

    def limited_to(self, iterations: int) -> "Protocol":
        """This protocol with the same budget for every cell, no extra rounds, any wall time."""
        whole_number("iterations", iterations, 1, MOST_ITERATIONS)
        flat = {loss: dict.fromkeys(LAYERS, iterations) for loss in LOSSES}
        return dataclasses.replace(self, budgets=flat, extra_rounds=0, seconds=None)

    def limited_to_seconds(self, seconds: float) -> "Protocol":
        """This protocol with so much wall time at most."""
        if not 0 < seconds <= MOST_SECONDS:
            raise InputError(
                f"seconds is {seconds}, but must be greater than 0 and at most {MOST_SECONDS}"
            )
        return dataclasses.replace(self, seconds=seconds)


CHAPTER = Protocol(
    name="chapter",
    convention="chapter",
    method="adam",
    noise="uniform",
    default_seed=0,
    budgets={**CHAPTER_ITERATIONS, **dict.fromkeys(_UNLISTED, CHAPTER_ITERATIONS["mmd"])},
    theta=1e-5,
    without_theta=REDRAWN,
    weights={},
    extra_rounds=240,
    extra_above=1e-5,
)

RELEASED = Protocol(
    name="released",
    convention="released",
    method="adam",
    noise="normal",
    default_seed=13,
    budgets={**RELEASED_ITERATIONS, **dict.fromkeys(_UNLISTED, RELEASED_ITERATIONS["mmd"])},
    theta=1e-6,
    without_theta=REDRAWN,
    weights={loss: 1000.0 if loss.startswith("mmd") else 100.0 for loss in LOSSES},
    extra_rounds=450,
    extra_above=1e-5,
)

# Evaluations. One or two moments pass theta after about a hundred, the Gram matrix of the deeper
# layers hardly ever, and the signed MMD has no theta to pass.
_FAST_EVALUATIONS = {
    "gram": 1000,
    "mmd": 400,
    "mmd-random": 400,
    "moment-1": 500,
    "moment-2": 500,
    "moment-3": 2500,
    "moment-4": 2500,
    **dict.fromkeys(BEYOND, 300),
}
_QUANTILES = Warmup("pre-activations", share=0.04, enough=1e-4)
_THREE_MOMENTS = Warmup("moment-3 compressed", share=0.12, enough=1e-6)
_FOUR_MOMENTS = Warmup("moment-4 compressed", share=0.24, enough=1e-6)

FAST = Protocol(
    name="fast",
    convention="chapter",
    method="l-bfgs",
    noise="uniform",
    default_seed=0,
    budgets={loss: dict.fromkeys(LAYERS, _FAST_EVALUATIONS[loss]) for loss in LOSSES},
    theta=1e-5,
    weights={},
    # Theta is said of the chapter's losses; below it others are at another distance.
    without_theta=("mmd", "mmd-random", *BEYOND),
    warmups={
        # Three moments of the first two layers converge at once, and sorting their many
        # positions would take longer than that.
        "moment-3": {layer: (_THREE_MOMENTS,) for layer in LAYERS[:2]}
        | {layer: (_QUANTILES, _THREE_MOMENTS) for layer in LAYERS[2:]},
        "moment-4": dict.fromkeys(LAYERS, (_QUANTILES, _FOUR_MOMENTS)),
    },
    seconds=1800,
)

SCIPY = dataclasses.replace(FAST, name="scipy", method="l-bfgs-b", warmups={})

UNBOUNDED = dataclasses.replace(FAST, name="unbounded", method="l-bfgs unbounded", warmups={})
CLAMPED = dataclasses.replace(FAST, name="clamped", method="l-bfgs clamped", warmups={})

PROTOCOLS = {
    protocol.name: protocol for protocol in (CHAPTER, RELEASED, FAST, SCIPY, UNBOUNDED, CLAMPED)
}


def _ablated(name: str, *stages: Warmup, noise: Noise = "uniform") -> Protocol:
    """`FAST` with these stages for four moments and none for three, or from another start."""
    warmups = {"moment-4": dict.fromkeys(LAYERS, stages)}
    return dataclasses.replace(FAST, name=name, noise=noise, warmups=warmups)


def _half(loss: str) -> Warmup:
    """One of two stages that share the evaluations of `_FOUR_MOMENTS`."""
    return dataclasses.replace(_FOUR_MOMENTS, loss=loss, share=_FOUR_MOMENTS.share / 2)


_CONTINUED = (_half("moment-2"), _half("moment-3"))
_CONTINUED_COMPRESSED = (_half("moment-2"), _half("moment-3 compressed"), _FOUR_MOMENTS)

# What makes N = 4 hard, and what solves it (the book's page on N = 4): each differs from another
# one, or from `FAST`, in one thing. For comparison only, but found by name like the rest.
ABLATION = {
    protocol.name: protocol
    for protocol in (
        # Three remedies, each with and without the others; `FAST` is quantiles and compression.
        _ablated("n4-noise"),
        _ablated("n4-continued", *_CONTINUED),
        _ablated("n4-compressed", _FOUR_MOMENTS),
        _ablated("n4-continued-compressed", *_CONTINUED_COMPRESSED),
        _ablated("n4-quantiles", _QUANTILES),
        _ablated("n4-quantiles-continued", _QUANTILES, *_CONTINUED),
        _ablated("n4-all", _QUANTILES, *_CONTINUED_COMPRESSED),
        # Others in their place.
        _ablated("n4-annealed", _half("moment-4 at 1%"), _half("moment-4 at 10%")),
        _ablated("n4-raw", dataclasses.replace(_FOUR_MOMENTS, loss="moment-4 raw")),
        _ablated("n4-shuffled", noise="shuffled"),
        _ablated(
            "n4-behind-relu", dataclasses.replace(_QUANTILES, loss="histogram"), _FOUR_MOMENTS
        ),
    )
}

KNOWN = PROTOCOLS | ABLATION


def get_protocol(protocol: str | Protocol) -> Protocol:
    """A protocol by name, or the protocol itself."""
    if isinstance(protocol, Protocol):
        return protocol
    return KNOWN[one_of("protocol", protocol, tuple(KNOWN))]
