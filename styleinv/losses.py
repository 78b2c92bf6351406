"""The chapter's style losses: Gram matrix, N moments, MMD (section 1.2, equations 1.1 to 1.6),
and four statistics that came after it (`BEYOND`).

Each loss is a module that reduces the style's feature maps to its statistic once and, called with
the feature maps of the noise image, returns a scalar that is differentiable in them. Feature maps
are (1, C, h, w); style and noise must agree in C, and for MMD in h and w as well. Any floating
dtype. Two conventions:

* ``chapter``: as the equations are printed;
* ``released``: as the author's published code has them (github.com/jzenn/StyleVisualizations).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from styleinv.errors import InputError, one_of

CONVENTIONS = ("chapter", "released")
Convention = Literal["chapter", "released"]
Pairing = Literal["adjacent", "random"]
NegativePsi = Literal["absolute", "as printed"]

# The kernel width of the MMD (released code).
ALPHA = 0.1

# M_1 to M_4.
MOMENT_NAMES = ("the mean", "the standard deviation", "the skewness", "the kurtosis")

# Added to the variance so that M_2 has a gradient where a channel is constant (released code).
VARIANCE_FLOOR = 1e-5


class StyleLoss(nn.Module):
    """A statistic of the style's feature maps and the distance of the noise's from it.

    Attributes:
        generators: those that it draws from at every call.
        negative_orders: see `MomentLoss`; empty for the others.
    """

    generators: tuple[torch.Generator, ...] = ()
    negative_orders: tuple[int, ...] = ()

    def __init__(self, style_features: Tensor, convention: Convention) -> None:
        super().__init__()
        self.convention = one_of("convention", convention, CONVENTIONS)
        self.channels = checked_features(style_features).shape[1]

    def checked(self, noise_features: Tensor) -> Tensor:
        """The noise's features, checked against the style's channels."""
        channels = checked_features(noise_features).shape[1]
        if channels != self.channels:
            raise InputError(
                f"noise_features has {channels} channels, but must have the style's {self.channels}"
            )
        return noise_features

    def statistics(self, noise_features: Tensor) -> dict[str, Tensor]:
        """What the loss is made of, by name: to say what was not finite first."""
        return {"the loss": self(noise_features)}


def checked_features(features: Tensor) -> Tensor:
    """The features themselves, if they are floating point of shape (1, C, h, w)."""
    if features.ndim != 4 or features.shape[0] != 1 or not features.is_floating_point():
        raise InputError(
            f"features must be floating point of shape (1, C, h, w), but are {features.dtype} "
            f"of shape {tuple(features.shape)}"
        )
    return features


def same_positions(values: Tensor, target: Tensor, dim: int) -> Tensor:
    """The noise's values, if they have as many positions (along `dim`) as the style's."""
    if values.shape[dim] != target.shape[dim]:
        raise InputError(
            f"noise_features has {values.shape[dim]} positions, but this loss needs the style's "
            f"{target.shape[dim]}"
        )
    return values


def positions(features: Tensor) -> Tensor:
    """(1, C, h, w) -> (h w, C), a view: one row per position, one column per feature map F_i."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def gram_matrix(features: Tensor) -> Tensor:
    """Equation 1.1 per position: G_ij / (h w) = <F_i, F_j> / (h w), (1, C, h, w) -> (C, C).

    Dividing by the number of positions first leaves equation 1.2's value unchanged when style
    and noise have the same size, and makes it meaningful when they do not.
    """
    gram: Tensor = _GramMatrix.apply(features)
    return gram / features[0, 0].numel()


class _GramMatrix(torch.autograd.Function):
    """F^T F for features as `positions`, with the gradient F (D + D^T) in a single product.

    On a CPU in float32 both products are 1x1 convolutions, which oneDNN computes two to three
    times as fast as the BLAS multiplies matrices of this shape.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        if _has_fast_convolution(features):
            channels = features.shape[1]
            shape = (channels, channels, 1, 1)
            gram: Tensor = conv2d_weight(features, shape, features)
            return gram[:, :, 0, 0]
        rows = positions(features)
        return rows.T @ rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        symmetric = grad + grad.T
        if _has_fast_convolution(features):
            return F.conv2d(features, symmetric[:, :, None, None])
        rows = positions(features) @ symmetric
        batch, channels, height, width = features.shape
        return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _has_fast_convolution(features: Tensor) -> bool:
    return features.device.type == "cpu" and features.dtype == torch.float32


class GramLoss(StyleLoss):
    """Gram matrix loss (equations 1.1 to 1.3; Gatys et al. 2015).

    L = gamma sum_ij (G_ij(s) - G_ij(n))^2 with gamma = 1 / (c^2 w^2 h^2).

    The released code takes the mean square of the difference of G / (c h w), which is the same
    sum divided by c^2 once more: gamma = 1 / (c^4 w^2 h^2).
    """

    gram: Tensor

    def __init__(self, style_features: Tensor, convention: Convention = "chapter") -> None:
        super().__init__(style_features, convention)
        self.register_buffer("gram", gram_matrix(style_features).detach())
        self.scale = self.channels ** (-2 if convention == "chapter" else -4)

    def forward(self, noise_features: Tensor) -> Tensor:
        gram = gram_matrix(self.checked(noise_features))
        return self.scale * (self.gram - gram).square().sum()

    def statistics(self, noise_features: Tensor) -> dict[str, Tensor]:
        return {
            "the Gram matrix": gram_matrix(noise_features),
            **super().statistics(noise_features),
        }


def moments(features: Tensor, n_moments: int) -> Tensor:
    """The first N moments of each feature map: (1, C, h, w) -> (N, C).

    M_1 is the mean, M_2 = sqrt(unbiased variance + 1e-5), and for i >= 3 the standardised moment
    mean(((F - M_1) / M_2)^i): skewness, kurtosis. The chapter refers to a missing section for M_i;
    this is the released code's definition.
    """
    if features[0, 0].numel() < 2:
        raise InputError("features must have at least 2 positions for a variance")
    central: Tensor = _CentralMoments.apply(positions(features), n_moments)
    if n_moments == 1:
        return central
    n_positions = features[0, 0].numel()
    variance = central[1] * (n_positions / (n_positions - 1)) + VARIANCE_FLOOR
    higher = [central[i - 1] / variance ** (i / 2) for i in range(3, n_moments + 1)]
    return torch.stack([central[0], variance.sqrt(), *higher])


class _CentralMoments(torch.autograd.Function):
    """Mean m_1 and central moments m_k = mean((F - m_1)^k), k = 2..N: (n, C) -> (N, C).

    With dm_1/dF_p = 1/n and dm_k/dF_p = k/n ((F_p - m_1)^(k-1) - m_(k-1)), where the central m_1
    is 0, the gradient is one polynomial in F_p - m_1 per channel: it is evaluated in a few passes
    over the features, where automatic differentiation would need a dozen.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, n_moments: int) -> Tensor:
        mean = rows.mean(dim=0)
        if n_moments == 1:
            ctx.save_for_backward(rows[:1].expand_as(rows), mean[None])
            return mean[None]
        centred = rows - mean
        found = [mean]
        power = centred
        for _ in range(2, n_moments + 1):
            power = power * centred
            found.append(power.mean(dim=0))
        central = torch.stack(found)
        ctx.save_for_backward(centred, central)
        return central

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        centred, central = ctx.saved_tensors
        n_positions, n_moments = centred.shape[0], grad.shape[0]
        weights = grad / n_positions * torch.arange(1, n_moments + 1).to(grad)[:, None]
        # Horner's scheme, highest power first; below it the constant of every term.
        constant = weights[0] - (weights[2:] * central[1:-1]).sum(dim=0)
        if n_moments == 1:
            return constant.expand_as(centred), None
        polynomial = centred * weights[-1]
        for weight in weights[1:-1].flip(0):
            polynomial.add_(weight).mul_(centred)
        return polynomial.add_(constant), None


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
    0, logarithmic in the tail, where the kurtosis of a hardly ever active feature map, hundreds,
    would outweigh everything else. Not in the chapter: a stage on the way to the exact loss.

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
        negative_psi: NegativePsi = "absolute",
        compressed: bool = False,
    ) -> None:
        super().__init__(style_features, convention)
        if n_moments not in (1, 2, 3, 4):
            raise InputError(f"n_moments is {n_moments}, but must be 1, 2, 3 or 4")
        one_of("negative_psi", negative_psi, ("absolute", "as printed"))
        self.n_moments, self.compressed = n_moments, compressed
        self.register_buffer("target", self._moments(style_features).detach())
        mean = self.target.mean(dim=1)
        self.negative_orders = tuple(i + 1 for i in range(n_moments) if mean[i] < 0)
        reciprocal = 1 / (mean.abs() if negative_psi == "absolute" else mean)
        self.register_buffer("psi", reciprocal.clamp(max=1))

    def forward(self, noise_features: Tensor) -> Tensor:
        return self._distance(self._moments(self.checked(noise_features)))

    def statistics(self, noise_features: Tensor) -> dict[str, Tensor]:
        found = moments(noise_features, self.n_moments)
        names = MOMENT_NAMES[: self.n_moments]
        return {**dict(zip(names, found, strict=True)), **super().statistics(noise_features)}

    def _distance(self, found: Tensor) -> Tensor:
        return (self.psi * (self.target - found).square().sum(dim=1)).sum() / self.channels

    def _moments(self, features: Tensor) -> Tensor:
        found = moments(features, self.n_moments)
        return torch.cat((found[:2], found[2:].asinh())) if self.compressed else found


class RawMomentLoss(MomentLoss):
    """`MomentLoss` with the noise's skewness and kurtosis in units of the style's deviation.

    M_i(n) (M_2(n) / M_2(s))^i for i >= 3 is a central moment of the noise over a constant: a
    polynomial in the features, and still zero for the style's statistics. It does not divide by
    the noise's own deviation, which vanishes where a feature map does. A stage on the way to the
    moment loss.
    """

    def forward(self, noise_features: Tensor) -> Tensor:
        found = moments(self.checked(noise_features), self.n_moments)
        powers = torch.arange(3, self.n_moments + 1).to(found)[:, None]
        raw = found[2:] * (found[1] / self.target[1]) ** powers
        return self._distance(torch.cat((found[:2], raw)))


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
        values = self._sorted(self.checked(noise_features))
        return ((same_positions(values, self.target, 1) - self.target).square() * self.scale).sum()

    def _sorted(self, features: Tensor) -> Tensor:
        """(1, C, h, w) -> (C, h w), or (K, h w) along K directions; each row in ascending order."""
        rows = features[0].flatten(1)
        if self.directions is not None:
            rows = self.directions @ rows
        return rows.sort(dim=1).values


class PreActivationLoss(HistogramLoss):
    """`HistogramLoss` of what the ReLU is given: a stage on the way to the moment loss.

    A feature map that the noise leaves at zero everywhere has no gradient, its pre-activations do.
    """


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
        channels = checked_features(style_features).shape[1]
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(n_directions, channels, generator=generator).to(style_features)
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
        difference = self._moments(self.checked(noise_features)) - self.target
        total: Tensor = torch.linalg.vector_norm(difference, dim=1).sum()
        return total

    def _moments(self, features: Tensor) -> Tensor:
        found: Tensor = _CentralMoments.apply(positions(features.sigmoid()), self.ORDERS)
        return found


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
        generator = torch.Generator().manual_seed(seed)
        rows = positions(style_features).detach()
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        sigma = (rows[order[1:]] - rows[order[:-1]]).norm(dim=1).median()
        drawn = torch.randn(self.channels, n_frequencies, generator=generator).to(rows)
        self.register_buffer("frequencies", drawn / sigma.clamp(min=math.sqrt(VARIANCE_FLOOR)))
        self.register_buffer("target", self._embedding(style_features).detach())

    def forward(self, noise_features: Tensor) -> Tensor:
        difference = self._embedding(self.checked(noise_features)) - self.target
        return difference.square().sum() / self.frequencies.shape[1]

    def _embedding(self, features: Tensor) -> Tensor:
        phases = positions(features) @ self.frequencies
        return torch.stack((phases.cos().mean(dim=0), phases.sin().mean(dim=0)))


class MMDLoss(StyleLoss):
    """MMD loss with the linear-time estimator of Gretton et al. 2012 (equation 1.6).

    L = sum over channels i and pairs of positions (p, q) of h((s_p, n_p), (s_q, n_q)) with
    h((x, y), (x', y')) = k(x, x') + k(y, y') - k(x, y') - k(x', y), k(a, b) = exp(-alpha (a-b)^2).

    As printed, h can be and does get negative; the released code takes the absolute value of the
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
        pairing: Pairing = "adjacent",
        convention: Convention = "chapter",
        seed: int = 0,
    ) -> None:
        super().__init__(style_features, convention)
        if not alpha > 0:
            raise InputError(f"alpha is {alpha}, but must be greater than 0")
        self.pairing = one_of("pairing", pairing, ("adjacent", "random"))
        self.alpha = alpha
        rows = positions(style_features).detach()
        self.register_buffer("style_rows", rows)
        self.register_buffer("style_style", self._style_style(rows))
        self.generators = (torch.Generator().manual_seed(seed),)

    def forward(self, noise_features: Tensor) -> Tensor:
        noise = same_positions(positions(self.checked(noise_features)), self.style_rows, 0)
        n_positions = self.style_rows.shape[0]
        style, style_style = self.style_rows, self.style_style
        if self.pairing == "random":
            order = torch.randperm(n_positions, generator=self.generators[0]).to(noise.device)
            style, noise = style[order], noise[order]
            style_style = self._style_style(style)
        even = n_positions // 2 * 2
        total: Tensor = _SumOfH.apply(style_style, style[:even], noise[:even], self.alpha)
        return total if self.convention == "chapter" else total.abs()

    def _style_style(self, rows: Tensor) -> Tensor:
        """k(x, x') of every pair, which the noise does not change."""
        even = rows.shape[0] // 2 * 2
        return _kernel(rows[0:even:2] - rows[1:even:2], self.alpha)


def _kernel(difference: Tensor, alpha: float) -> Tensor:
    return difference.square().mul_(-alpha).exp_()


class _SumOfH(torch.autograd.Function):
    """Sum of h over the rows (0, 1), (2, 3), ...: style and noise (n, C) -> scalar.

    With a, b a pair of the noise's rows and s, t the style's, dk(a, b)/da = -2 alpha (a - b) k:
    the gradient needs the same exponentials as the value and is computed along with it.
    """

    @staticmethod
    def forward(
        ctx: Any, style_style: Tensor, style: Tensor, noise: Tensor, alpha: float
    ) -> Tensor:
        s, t = style[0::2], style[1::2]
        a, b = noise[0::2], noise[1::2]
        noise_noise = _kernel(a - b, alpha)
        cross_a, cross_b = _kernel(t - a, alpha), _kernel(s - b, alpha)
        # Pair by pair before the sum: four sums would be large, and their difference inexact.
        h = (noise_noise - cross_a).sub_(cross_b).add_(style_style)
        if ctx.needs_input_grad[2]:
            gradient = torch.empty_like(noise)
            noise_noise.mul_(a - b)
            torch.sub(cross_a.mul_(a - t), noise_noise, out=gradient[0::2])
            torch.add(cross_b.mul_(b - s), noise_noise, out=gradient[1::2])
            ctx.save_for_backward(gradient.mul_(2 * alpha))
        return h.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, None, gradient * grad, None


LOSSES: dict[str, Callable[[Tensor, Convention], StyleLoss]] = {
    "gram": GramLoss,
    "moment-1": lambda style, convention: MomentLoss(style, 1, convention),
    "moment-2": lambda style, convention: MomentLoss(style, 2, convention),
    "moment-3": lambda style, convention: MomentLoss(style, 3, convention),
    "moment-4": lambda style, convention: MomentLoss(style, 4, convention),
    "mmd": lambda style, convention: MMDLoss(style, convention=convention),
    "mmd-random": lambda style, convention: MMDLoss(style, pairing="random", convention=convention),
    "mmd-vector": VectorMMDLoss,
    "histogram": HistogramLoss,
    "sliced-wasserstein": SlicedWassersteinLoss,
    "central-moments": CentralMomentLoss,
}

# What tables and figures call them.
TITLES = {
    "gram": "Gram",
    "moment-1": "N = 1",
    "moment-2": "N = 2",
    "moment-3": "N = 3",
    "moment-4": "N = 4",
    "mmd": "MMD",
    "mmd-random": "MMD, random pairs",
    "mmd-vector": "MMD, whole vectors",
    "histogram": "histograms",
    "sliced-wasserstein": "sliced Wasserstein",
    "central-moments": "central moments",
}

# The same colour everywhere: Okabe and Ito's palette, told apart by the colour-blind.
COLOURS = {
    "gram": "#000000",
    "moment-1": "#56b4e9",
    "moment-2": "#0072b2",
    "moment-3": "#e69f00",
    "moment-4": "#d55e00",
    "mmd": "#cc79a7",
}


def title_of(loss: str) -> str:
    """What tables and figures call a loss, known here or not."""
    return TITLES.get(loss, loss)


# Not in the chapter; one formula in every convention.
BEYOND = ("mmd-vector", "histogram", "sliced-wasserstein", "central-moments")

# Losses with other random choices at every call: no line search can compare two of their values.
REDRAWN = ("mmd-random",)

# Losses with a kernel whose width can be chosen.
WITH_ALPHA = ("mmd", "mmd-random")


def _annealed(style_features: Tensor, convention: Convention, weight: float) -> MomentLoss:
    """Four moments, with so much of the weight of skewness and kurtosis."""
    loss = MomentLoss(style_features, 4, convention)
    loss.psi[2:] *= weight
    return loss


# Losses that stages on the way to an exact one descend (`styleinv.protocol.Warmup`).
WARMUPS: dict[str, Callable[[Tensor, Convention], StyleLoss]] = {
    "pre-activations": PreActivationLoss,
    "histogram": HistogramLoss,
    "moment-2": LOSSES["moment-2"],
    "moment-3": LOSSES["moment-3"],
    "moment-4 at 1%": partial(_annealed, weight=0.01),
    "moment-4 at 10%": partial(_annealed, weight=0.1),
    "moment-4 raw": lambda style, convention: RawMomentLoss(style, 4, convention),
    "moment-3 compressed": lambda style, convention: MomentLoss(
        style, 3, convention, compressed=True
    ),
    "moment-4 compressed": lambda style, convention: MomentLoss(
        style, 4, convention, compressed=True
    ),
}


def make_loss(
    name: str,
    style_features: Tensor,
    convention: Convention = "chapter",
    alpha: float = ALPHA,
) -> StyleLoss:
    """The loss called `name` (one of `LOSSES`) with its target taken from `style_features`.

    `alpha` is the kernel width of those in `WITH_ALPHA`; the others have none.
    """
    one_of("loss", name, tuple(LOSSES))
    if name in WITH_ALPHA:
        pairing: Pairing = "random" if name in REDRAWN else "adjacent"
        return MMDLoss(style_features, alpha, pairing, convention)
    return LOSSES[name](style_features, convention)
