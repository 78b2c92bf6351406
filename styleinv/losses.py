"""The chapter's style losses: Gram matrix, N moments, MMD (section 1.2, equations 1.1 to 1.6),
and four statistics that came after it (`BEYOND`).

The formulas stand first, as plain functions to read beside the equations. The losses follow: each
is a module that computes the style's statistic once. Called with the feature maps of the noise
image, it returns a scalar that is differentiable with respect to them. The modules compute the
formulas by `styleinv.fused`, which is faster; tests check that values and gradients agree.

Feature maps are (1, C, h, w); style and noise must agree in C, and for MMD in h and w as well. Any
floating dtype. Two conventions:

* ``chapter``: as the equations are printed;
* ``released``: as the author's published code has them (github.com/jzenn/StyleVisualizations).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleinv import fused
from styleinv.errors import InputError, one_of

Convention = Literal["chapter", "released"]

# The kernel width of the MMD (released code).
ALPHA = 0.1

# M_1 to M_4.
MOMENT_NAMES = ("the mean", "the standard deviation", "the skewness", "the kurtosis")

# Random numbers are drawn as if PyTorch had its own default type and device.
_PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}

# Added to the variance so that M_2 has a gradient where a channel is constant (released code).
VARIANCE_FLOOR = 1e-5


def gram_matrix(features: Tensor) -> Tensor:
    """Equation 1.1 per position: G_ij / (h w) = <F_i, F_j> / (h w), (1, C, h, w) -> (C, C).

    Dividing by the number of positions first leaves equation 1.2's value unchanged when style
    and noise have the same size, and makes it meaningful when they do not.
    """
    maps = features[0].flatten(1)
    return maps @ maps.T / maps.shape[1]


def central_moments(features: Tensor, n_moments: int) -> Tensor:
    """Mean m_1 and central moments m_k = mean((F - m_1)^k), k = 2..N: (1, C, h, w) -> (N, C)."""
    maps = features[0].flatten(1)
    mean = maps.mean(dim=1)
    centred = maps - mean[:, None]
    return torch.stack([mean, *(centred.pow(k).mean(dim=1) for k in range(2, n_moments + 1))])


def moments(features: Tensor, n_moments: int) -> Tensor:
    """The first N moments of each feature map: (1, C, h, w) -> (N, C).

    M_1 is the mean, M_2 = sqrt(unbiased variance + 1e-5), and for i >= 3 the standardised moment
    mean(((F - M_1) / M_2)^i): skewness, kurtosis. The chapter refers to a missing section for M_i;
    this is the released code's definition.
    """
    return standardise(central_moments(features, n_moments), features[0, 0].numel())


def standardise(central: Tensor, n_positions: int) -> Tensor:
    """The `moments` M_1 to M_N from the `central_moments` m_1 to m_N, both (N, C).

    M_2 = sqrt(m_2 n / (n - 1) + 1e-5) for n positions, and M_i = m_i / M_2^i for i >= 3.
    """
    if n_positions < 2:
        raise InputError("features must have at least 2 positions for a variance")
    if len(central) == 1:
        return central
    variance = central[1] * (n_positions / (n_positions - 1)) + VARIANCE_FLOOR
    higher = [central[i - 1] / variance ** (i / 2) for i in range(3, len(central) + 1)]
    return torch.stack([central[0], variance.sqrt(), *higher])


def sum_of_h(style: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """Equation 1.6: the sum of h((x, y), (x', y')) over channels and pairs of positions.

    h((x, y), (x', y')) = k(x, x') + k(y, y') - k(x, y') - k(x', y), k(a, b) = exp(-alpha (a-b)^2).

    Args:
        style, noise: (n, C), a row per position and an even number of rows; x and x' are the
            style's rows 2j-1 and 2j, y and y' the noise's.
    """

    def k(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-alpha * (a - b) ** 2)

    (x, x2), (y, y2) = ((rows[0::2], rows[1::2]) for rows in (style, noise))
    return (k(x, x2) + k(y, y2) - k(x, y2) - k(x2, y)).sum()


class StyleLoss(nn.Module):
    """A statistic of the style's feature maps, and the distance of the noise image's from it.

    Attributes:
        generators: the random generators that every call draws from.
        negative_orders: see `MomentLoss`; empty for the other losses.
    """

    generators: tuple[torch.Generator, ...] = ()
    negative_orders: tuple[int, ...] = ()

    def __init__(self, style_features: Tensor, convention: Convention) -> None:
        super().__init__()
        self.convention = one_of("convention", convention, get_args(Convention))
        self.channels = check_features(style_features).shape[1]

    def check(self, noise_features: Tensor) -> Tensor:
        """Return the noise's features if they have the style's channels."""
        channels = check_features(noise_features).shape[1]
        if channels != self.channels:
            raise InputError(
                f"noise_features has {channels} channels, but must have the style's {self.channels}"
            )
        return noise_features

    def parts(self, noise_features: Tensor) -> dict[str, Tensor]:
        """Intermediate values of the loss, by name and in order, to find one that is not finite."""
        return {}


def check_features(features: Tensor) -> Tensor:
    """Return `features` if they are floating point of shape (1, C, h, w)."""
    if features.ndim != 4 or features.shape[0] != 1 or not features.is_floating_point():
        raise InputError(
            f"features must be floating point of shape (1, C, h, w), but are {features.dtype} "
            f"of shape {tuple(features.shape)}"
        )
    return features


def check_positions(values: Tensor, target: Tensor, dim: int) -> Tensor:
    """Return the noise's values if they have as many positions (along `dim`) as the style's."""
    if values.shape[dim] != target.shape[dim]:
        raise InputError(
            f"noise_features has {values.shape[dim]} positions, but this loss needs the style's "
            f"{target.shape[dim]}"
        )
    return values


class GramLoss(StyleLoss):
    """Gram matrix loss (equations 1.1 to 1.3; Gatys et al. 2015).

    L = gamma sum_ij (G_ij(s) - G_ij(n))^2 with gamma = 1 / (c^2 w^2 h^2).

    The released code takes the mean square of the difference of G / (c h w), which is the same
    sum divided by c^2 once more: gamma = 1 / (c^4 w^2 h^2).
    """

    gram: Tensor

    def __init__(self, style_features: Tensor, convention: Convention = "chapter") -> None:
        super().__init__(style_features, convention)
        self.register_buffer("gram", fused.gram_matrix(style_features).detach())
        self.scale = self.channels ** (-2 if convention == "chapter" else -4)

    def forward(self, noise_features: Tensor) -> Tensor:
        gram = fused.gram_matrix(self.check(noise_features))
        return self.scale * (self.gram - gram).square().sum()

    def parts(self, noise_features: Tensor) -> dict[str, Tensor]:
        return {"the Gram matrix": gram_matrix(noise_features)}


class WhitenedGramLoss(GramLoss):
    """`GramLoss` with all directions of the Gram matrix equally stiff: a stage on the way to it.

    With G(s) = Q diag(l) Q^T and D = Q^T (G(s) - G(n)) Q,

        L = gamma sum_ij w_ij D_ij^2,   w_ij = 1 / ((l_i + l_j) / (2 l_1) + 0.1).

    Changing the feature maps F by dF changes G = F F^T by F dF^T + dF F^T. Near the style, that
    map followed by its transpose multiplies direction (i, j) by 2 (l_i + l_j): the exact loss is a
    thousand times less stiff along some directions than along others, and descent is slow along
    those. The weights undo this, for eigenvalues down to a tenth of the largest, l_1. They come
    from the style's Gram matrix alone, and the loss is zero where `GramLoss` is.
    """

    LEAST = 0.1
    rotation: Tensor
    weights: Tensor

    def __init__(self, style_features: Tensor, convention: Convention = "chapter") -> None:
        super().__init__(style_features, convention)
        values, rotation = torch.linalg.eigh(self.gram)  # in ascending order
        relative = values / values[-1]
        self.register_buffer("rotation", rotation)
        self.register_buffer("weights", 1 / ((relative[:, None] + relative) / 2 + self.LEAST))

    def forward(self, noise_features: Tensor) -> Tensor:
        difference = self.gram - fused.gram_matrix(self.check(noise_features))
        rotated = self.rotation.T @ difference @ self.rotation
        return self.scale * (self.weights * rotated.square()).sum()


class MomentLoss(StyleLoss):
    """Moment loss for N in {1, 2, 3, 4} (equations 1.4 and 1.5).

    L = 1/c sum_{i=1..N} psi_i sum_j (M_i(F_j(s)) - M_i(F_j(n)))^2 with
    psi_i = min{1, 1 / mean_j M_i(F_j(s))} and M_i as in `moments`. Both conventions agree.

    A negative mean (behind a ReLU only the skewness can have one) makes the printed psi_i negative
    and the loss unbounded below, in the chapter as in the released code. The rule for it
    (`negative_psi`), by default a deviation from both:

    * ``"absolute"`` (default): psi_i = min{1, 1 / abs(mean_j M_i(F_j(s)))}, equal to the printed
      weight wherever that is positive and never negative;
    * ``"as printed"``: the negative weight is kept, to show what it does.

    `compressed` takes asinh of skewness and kurtosis on both sides (and in psi): about linear near
    0 and logarithmic in the tail. Without it, a feature map that is hardly ever active, with a
    kurtosis in the hundreds, would outweigh all others. The chapter has no such loss; it serves as
    a stage on the way to the exact one.

    Attributes:
        psi: the N weights in use.
        negative_orders: the moments i whose mean over the style's channels is negative.
    """

    target: Tensor
    psi: Tensor

    def __init__(
        self,
        style_features: Tensor,
        n_moments: int,
        convention: Convention = "chapter",
        negative_psi: Literal["absolute", "as printed"] = "absolute",
        compressed: bool = False,
    ) -> None:
        super().__init__(style_features, convention)
        if n_moments not in (1, 2, 3, 4):
            raise InputError(f"n_moments is {n_moments}, but must be 1, 2, 3 or 4")
        one_of("negative_psi", negative_psi, ("absolute", "as printed"))
        self.n_moments, self.compressed = n_moments, compressed
        self.register_buffer("target", self.statistic(style_features).detach())
        mean = self.target.mean(dim=1)
        self.negative_orders = tuple(i + 1 for i in range(n_moments) if mean[i] < 0)
        reciprocal = 1 / (mean.abs() if negative_psi == "absolute" else mean)
        self.register_buffer("psi", reciprocal.clamp(max=1))

    def forward(self, noise_features: Tensor) -> Tensor:
        return self.distance(self.statistic(self.check(noise_features)))

    def parts(self, noise_features: Tensor) -> dict[str, Tensor]:
        found = moments(noise_features, self.n_moments)
        return dict(zip(MOMENT_NAMES, found, strict=False))

    def statistic(self, features: Tensor) -> Tensor:
        """The N moments of feature maps, compressed where this loss is: (1, C, h, w) -> (N, C)."""
        central = fused.central_moments(features, self.n_moments)
        found = standardise(central, features[0, 0].numel())
        return torch.cat((found[:2], found[2:].asinh())) if self.compressed else found

    def distance(self, found: Tensor) -> Tensor:
        """Equation 1.5 for the noise's moments (N, C)."""
        return (self.psi * (self.target - found).square().sum(dim=1)).sum() / self.channels


class HistogramLoss(StyleLoss):
    """Distance of the distributions of each feature map's values (Risser et al. 2017).

    L = 1/c sum_j W_2^2(F_j(s), F_j(n)) / Var F_j(s): in one dimension, the squared Wasserstein
    distance is the mean squared difference of the sorted values. Zero only where every feature map
    has the style's values, in any order: then all its moments agree. Style and noise must have the
    same number of positions.
    """

    target: Tensor
    scale: Tensor
    directions: Tensor | None

    def __init__(
        self,
        style_features: Tensor,
        convention: Convention = "chapter",
        directions: Tensor | None = None,
    ) -> None:
        super().__init__(style_features, convention)
        self.register_buffer("directions", directions)
        target = self._sorted(style_features).detach()
        self.register_buffer("target", target)
        variance = target.var(dim=1, keepdim=True) + VARIANCE_FLOOR
        self.register_buffer("scale", 1 / (variance * target.numel()))

    def forward(self, noise_features: Tensor) -> Tensor:
        values = self._sorted(self.check(noise_features))
        return ((check_positions(values, self.target, 1) - self.target).square() * self.scale).sum()

    def _sorted(self, features: Tensor) -> Tensor:
        """(1, C, h, w) -> (C, h w), or (K, h w) along K directions; each row in ascending order."""
        rows = features[0].flatten(1)
        if self.directions is not None:
            rows = self.directions @ rows
        return rows.sort(dim=1).values


class SlicedWassersteinLoss(HistogramLoss):
    """Distance of the distributions of whole feature vectors (Heitz et al. 2021).

    L = 1/K sum_k W_2^2(<F, v_k>(s), <F, v_k>(n)) / Var <F, v_k>(s) over K random unit vectors v_k
    of R^c, drawn once: Heitz et al. draw new ones for every step, which no line search can compare.
    """

    def __init__(
        self,
        style_features: Tensor,
        convention: Convention = "chapter",
        n_directions: int = 128,
        seed: int = 0,
    ) -> None:
        channels = check_features(style_features).shape[1]
        generator = torch.Generator("cpu").manual_seed(seed)
        drawn = torch.randn(n_directions, channels, generator=generator, **_PLAIN).to(
            style_features
        )
        super().__init__(style_features, convention, directions=F.normalize(drawn, dim=1))


class CentralMomentLoss(StyleLoss):
    """Central moment discrepancy (Zellinger et al. 2017; for styles Kalischek et al. 2021).

    L = norm(E a - E b) + sum_{k=2..5} norm(c_k(a) - c_k(b)) with Euclidean norms over the channels,
    where a and b are the sigmoids of the feature maps of style and noise, bounded to [0, 1] as the
    discrepancy asks, and c_k their k-th central moments. The norms are not squared.
    """

    target: Tensor
    ORDERS = 5

    def __init__(self, style_features: Tensor, convention: Convention = "chapter") -> None:
        super().__init__(style_features, convention)
        self.register_buffer("target", self._moments(style_features).detach())

    def forward(self, noise_features: Tensor) -> Tensor:
        difference = self._moments(self.check(noise_features)) - self.target
        total: Tensor = torch.linalg.vector_norm(difference, dim=1).sum()
        return total

    def _moments(self, features: Tensor) -> Tensor:
        return fused.central_moments(features.sigmoid(), self.ORDERS)


class VectorMMDLoss(StyleLoss):
    """MMD of whole feature vectors with a Gaussian kernel (as Li et al. 2017), every pair counted.

    L = mean k(s, s') + mean k(n, n') - 2 mean k(s, n) with
    k(a, b) = exp(-norm(a - b)^2 / (2 sigma^2)), the means over all pairs of positions, by random
    Fourier features (Rahimi and Recht 2007): k(a, b) is the mean of cos(<w, a - b>) over normal
    w / sigma, so L is the squared distance of the means of cos(<w, F>) and sin(<w, F>), averaged
    over so many w, drawn once. sigma is the median distance of two of the style's vectors, taken
    over neighbours in a random order.
    """

    target: Tensor
    frequencies: Tensor

    def __init__(
        self,
        style_features: Tensor,
        convention: Convention = "chapter",
        n_frequencies: int = 512,
        seed: int = 0,
    ) -> None:
        super().__init__(style_features, convention)
        generator = torch.Generator("cpu").manual_seed(seed)
        rows = fused.positions(style_features).detach()
        order = torch.randperm(len(rows), generator=generator, device="cpu").to(rows.device)
        sigma = (rows[order[1:]] - rows[order[:-1]]).norm(dim=1).median()
        drawn = torch.randn(self.channels, n_frequencies, generator=generator, **_PLAIN).to(rows)
        self.register_buffer("frequencies", drawn / sigma.clamp(min=math.sqrt(VARIANCE_FLOOR)))
        self.register_buffer("target", self._embedding(style_features).detach())

    def forward(self, noise_features: Tensor) -> Tensor:
        difference = self._embedding(self.check(noise_features)) - self.target
        return difference.square().sum() / self.frequencies.shape[1]

    def _embedding(self, features: Tensor) -> Tensor:
        phases = fused.positions(features) @ self.frequencies
        return torch.stack((phases.cos().mean(dim=0), phases.sin().mean(dim=0)))


class MMDLoss(StyleLoss):
    """MMD loss with the linear-time estimator of Gretton et al. 2012 (equation 1.6).

    L = sum over channels i and pairs of positions (p, q) of h((s_p, n_p), (s_q, n_q)) with
    h((x, y), (x', y')) = k(x, x') + k(y, y') - k(x, y') - k(x', y), k(a, b) = exp(-alpha (a-b)^2).

    As printed, h can become negative, and does; the released code takes the absolute value of the
    whole sum.

    Args:
        alpha: kernel width, > 0; by default the released code's.
        pairing: ``"adjacent"`` pairs neighbours in row-major order, the chapter's 2j-1 and 2j;
            ``"random"`` draws a new permutation of the positions at every call, the same one for
            style and noise: not an objective for a quasi-Newton method. An odd last position is
            left out.
        seed: seed of the random pairing.
    """

    style_rows: Tensor
    style_style: Tensor

    def __init__(
        self,
        style_features: Tensor,
        alpha: float = ALPHA,
        pairing: Literal["adjacent", "random"] = "adjacent",
        convention: Convention = "chapter",
        seed: int = 0,
    ) -> None:
        super().__init__(style_features, convention)
        if not alpha > 0:
            raise InputError(f"alpha is {alpha}, but must be greater than 0")
        self.alpha = alpha
        self.pairing = one_of("pairing", pairing, ("adjacent", "random"))
        self.generators = (torch.Generator("cpu").manual_seed(seed),)
        rows = fused.positions(style_features).detach()
        self.even = len(rows) // 2 * 2
        self.register_buffer("style_rows", rows)
        self.register_buffer("style_style", fused.kernel_of_pairs(rows[: self.even], alpha))

    def forward(self, noise_features: Tensor) -> Tensor:
        rows = fused.positions(self.check(noise_features))
        noise = check_positions(rows, self.style_rows, 0)[: self.even]
        style, style_style = self.style_rows[: self.even], self.style_style
        if self.pairing == "random":
            drawn = torch.randperm(len(rows), generator=self.generators[0], device="cpu")
            order = drawn[: self.even].to(rows.device)
            style, noise = self.style_rows[order], rows[order]
            style_style = fused.kernel_of_pairs(style, self.alpha)
        total = fused.sum_of_h(style, noise, self.alpha, style_style)
        return total if self.convention == "chapter" else total.abs()


LOSSES: dict[str, Callable[..., StyleLoss]] = {
    "gram": GramLoss,
    **{f"moment-{n}": partial(MomentLoss, n_moments=n) for n in (1, 2, 3, 4)},
    "mmd": MMDLoss,
    "mmd-random": partial(MMDLoss, pairing="random"),
    "mmd-vector": VectorMMDLoss,
    "histogram": HistogramLoss,
    "sliced-wasserstein": SlicedWassersteinLoss,
    "central-moments": CentralMomentLoss,
}

# These losses are not in the chapter; their formulas are the same in every convention.
BEYOND = ("mmd-vector", "histogram", "sliced-wasserstein", "central-moments")

# Losses that draw new random numbers at every call, so that no line search can compare two values.
REDRAWN = ("mmd-random",)

# Losses with a kernel whose width can be chosen.
WITH_ALPHA = ("mmd", "mmd-random")


def make_loss(
    name: str,
    style_features: Tensor,
    convention: Convention = "chapter",
    alpha: float = ALPHA,
) -> StyleLoss:
    """The loss called `name` (one of `LOSSES`) with its target taken from `style_features`.

    `alpha` is the kernel width of the losses in `WITH_ALPHA`; the others have none.
    """
    one_of("loss", name, tuple(LOSSES))
    chosen = {"alpha": alpha} if name in WITH_ALPHA else {}
    return LOSSES[name](style_features, convention=convention, **chosen)
