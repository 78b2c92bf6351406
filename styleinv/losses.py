"""The chapter's style losses: Gram matrix, N moments, MMD (section 1.2, equations 1.1 to 1.6).

Each loss is a module that reduces the style's feature maps to its statistic once and, called with
the feature maps of the noise image, returns a scalar that is differentiable in them. Feature maps
are (1, C, h, w); style and noise must agree in C, and for MMD in h and w as well. Any floating
dtype. Two conventions:

* ``chapter``: as the equations are printed;
* ``released``: as the author's published code has them (github.com/jzenn/StyleVisualizations).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from styleinv.errors import InputError, one_of

CONVENTIONS = ("chapter", "released")
Convention = Literal["chapter", "released"]
Pairing = Literal["adjacent", "random"]
NegativePsi = Literal["absolute", "as printed"]

# Added to the variance so that M_2 has a gradient where a channel is constant (released code).
VARIANCE_FLOOR = 1e-5


class StyleLoss(nn.Module):
    """A statistic of the style's feature maps and the distance of the noise's from it."""

    def __init__(self, style_features: Tensor, convention: Convention) -> None:
        super().__init__()
        self.convention = one_of("convention", convention, CONVENTIONS)
        self.channels = feature_maps(style_features).shape[0]

    def maps_of(self, noise_features: Tensor) -> Tensor:
        """The noise's feature maps as (C, h w), checked against the style's channels."""
        maps = feature_maps(noise_features)
        if maps.shape[0] != self.channels:
            raise InputError(
                f"noise_features has {maps.shape[0]} channels, but must have the style's "
                f"{self.channels}"
            )
        return maps


def feature_maps(features: Tensor) -> Tensor:
    """(1, C, h, w) -> (C, h w): one row per feature map F_i."""
    if features.ndim != 4 or features.shape[0] != 1 or not features.is_floating_point():
        raise InputError(
            f"features must be floating point of shape (1, C, h, w), but are {features.dtype} "
            f"of shape {tuple(features.shape)}"
        )
    return features[0].flatten(1)


def gram_matrix(maps: Tensor) -> Tensor:
    """Equation 1.1 per position: G_ij / (h w) = <F_i, F_j> / (h w), from maps (C, h w).

    Dividing by the number of positions first leaves equation 1.2's value unchanged when style
    and noise have the same size, and makes it meaningful when they do not.
    """
    return maps @ maps.T / maps.shape[1]


class GramLoss(StyleLoss):
    """Gram matrix loss (equations 1.1 to 1.3; Gatys et al. 2015).

    L = gamma sum_ij (G_ij(s) - G_ij(n))^2 with gamma = 1 / (c^2 w^2 h^2).

    The released code takes the mean square of the difference of G / (c h w), which is the same
    sum divided by c^2 once more: gamma = 1 / (c^4 w^2 h^2).
    """

    gram: Tensor

    def __init__(self, style_features: Tensor, convention: Convention = "chapter") -> None:
        super().__init__(style_features, convention)
        self.register_buffer("gram", gram_matrix(feature_maps(style_features)).detach())
        self.scale = self.channels ** (-2 if convention == "chapter" else -4)

    def forward(self, noise_features: Tensor) -> Tensor:
        gram = gram_matrix(self.maps_of(noise_features))
        return self.scale * (self.gram - gram).square().sum()


def moments(maps: Tensor, n_moments: int) -> Tensor:
    """The first N moments of each feature map: (C, h w) -> (N, C).

    M_1 is the mean, M_2 = sqrt(unbiased variance + 1e-5), and for i >= 3 the standardised moment
    mean(((F - M_1) / M_2)^i): skewness, kurtosis. The chapter refers to a missing section for M_i;
    this is the released code's definition.
    """
    mean = maps.mean(dim=1)
    centred = maps - mean[:, None]
    deviation = torch.sqrt(centred.square().sum(dim=1) / (maps.shape[1] - 1) + VARIANCE_FLOOR)
    standardised = centred / deviation[:, None]
    higher = [standardised.pow(order).mean(dim=1) for order in range(3, n_moments + 1)]
    return torch.stack([mean, deviation, *higher][:n_moments])


class MomentLoss(StyleLoss):
    """Moment loss for N in {1, 2, 3, 4} (equations 1.4 and 1.5).

    L = 1/c sum_{i=1..N} psi_i sum_j (M_i(F_j(s)) - M_i(F_j(n)))^2 with
    psi_i = min{1, 1 / mean_j M_i(F_j(s))} and M_i as in `moments`. Both conventions agree.

    A negative mean (behind a ReLU only the skewness can have one) makes the printed psi_i negative
    and the loss unbounded below, in the chapter as in the released code. The rule for it
    (`negative_psi`), by default a deviation from both:

    * ``"absolute"`` (default): psi_i = min{1, 1 / |mean_j M_i(F_j(s))|}, equal to the printed
      weight wherever that is positive and never negative;
    * ``"as printed"``: the negative weight is kept, to show what it does.

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
    ) -> None:
        super().__init__(style_features, convention)
        if n_moments not in (1, 2, 3, 4):
            raise InputError(f"n_moments is {n_moments}, but must be 1, 2, 3 or 4")
        one_of("negative_psi", negative_psi, ("absolute", "as printed"))
        maps = feature_maps(style_features)
        if maps.shape[1] < 2:
            raise InputError("style_features must have at least 2 positions for a variance")
        self.n_moments = n_moments
        self.register_buffer("target", moments(maps, n_moments).detach())
        mean = self.target.mean(dim=1)
        self.negative_orders = tuple(i + 1 for i in range(n_moments) if mean[i] < 0)
        reciprocal = 1 / (mean.abs() if negative_psi == "absolute" else mean)
        self.register_buffer("psi", reciprocal.clamp(max=1))

    def forward(self, noise_features: Tensor) -> Tensor:
        difference = self.target - moments(self.maps_of(noise_features), self.n_moments)
        return (self.psi * difference.square().sum(dim=1)).sum() / self.channels


class MMDLoss(StyleLoss):
    """MMD loss with the linear-time estimator of Gretton et al. 2012 (equation 1.6).

    L = sum over channels i and pairs of positions (p, q) of h((s_p, n_p), (s_q, n_q)) with
    h((x, y), (x', y')) = k(x, x') + k(y, y') - k(x, y') - k(x', y), k(a, b) = exp(-alpha (a-b)^2).

    As printed, h can be and does get negative; the released code takes the absolute value of the
    whole sum.

    Args:
        alpha: kernel width, > 0 (released code: 0.1).
        pairing: ``"adjacent"`` pairs neighbours in row-major order, the chapter's 2j-1 and 2j;
            ``"random"`` draws a new permutation of the positions at every call, the same one for
            style and noise: not an objective for a quasi-Newton method. An odd last position is
            left out.
        seed: seed of the random pairing.
    """

    style_maps: Tensor

    def __init__(
        self,
        style_features: Tensor,
        alpha: float = 0.1,
        pairing: Pairing = "adjacent",
        convention: Convention = "chapter",
        seed: int = 0,
    ) -> None:
        super().__init__(style_features, convention)
        if not alpha > 0:
            raise InputError(f"alpha is {alpha}, but must be greater than 0")
        self.pairing = one_of("pairing", pairing, ("adjacent", "random"))
        self.alpha = alpha
        self.register_buffer("style_maps", feature_maps(style_features).detach())
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, noise_features: Tensor) -> Tensor:
        noise_maps = self.maps_of(noise_features)
        n_positions = self.style_maps.shape[1]
        if noise_maps.shape[1] != n_positions:
            raise InputError(
                f"noise_features has {noise_maps.shape[1]} positions, but MMD needs the style's "
                f"{n_positions}"
            )
        first, second = self._pairs(n_positions, noise_maps.device)
        x, x2 = self.style_maps[:, first], self.style_maps[:, second]
        y, y2 = noise_maps[:, first], noise_maps[:, second]
        kernel = self._kernel
        total = (kernel(x, x2) + kernel(y, y2) - kernel(x, y2) - kernel(x2, y)).sum()
        return total if self.convention == "chapter" else total.abs()

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-self.alpha * (a - b).square())

    def _pairs(self, n_positions: int, device: torch.device) -> tuple[Tensor, Tensor]:
        even = n_positions // 2 * 2
        if self.pairing == "random":
            order = torch.randperm(n_positions, generator=self._generator)[:even].to(device)
        else:
            order = torch.arange(even, device=device)
        return order[0::2], order[1::2]


LOSSES: dict[str, Callable[[Tensor, Convention], StyleLoss]] = {
    "gram": GramLoss,
    "moment-1": lambda style, convention: MomentLoss(style, 1, convention),
    "moment-2": lambda style, convention: MomentLoss(style, 2, convention),
    "moment-3": lambda style, convention: MomentLoss(style, 3, convention),
    "moment-4": lambda style, convention: MomentLoss(style, 4, convention),
    "mmd": lambda style, convention: MMDLoss(style, convention=convention),
}


def make_loss(name: str, style_features: Tensor, convention: Convention = "chapter") -> StyleLoss:
    """The loss called `name` (one of `LOSSES`) with its target taken from `style_features`."""
    return LOSSES[one_of("loss", name, tuple(LOSSES))](style_features, convention)
