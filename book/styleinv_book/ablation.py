"""The protocols that the page on N = 4 compares, to find what makes four moments hard.

Each protocol in `ABLATION` is ``fast`` with other stages before the exact loss or another start,
and differs from one of the others in a single setting. They serve that comparison alone:
`styleinv.protocol.PROTOCOLS` does not list them; pass the `Protocol` itself to `styleinv.invert`.
"""

import dataclasses
from functools import partial

import torch
from torch import Tensor

from styleinv.encoder import LAYERS
from styleinv.losses import LOSSES, Convention, HistogramLoss, MomentLoss
from styleinv.protocol import (
    FAST,
    FOUR_MOMENTS,
    PROTOCOLS,
    QUANTILES,
    THREE_MOMENTS,
    Protocol,
    Warmup,
)


class RawMomentLoss(MomentLoss):
    """`MomentLoss` with the noise's skewness and kurtosis in units of the style's deviation.

    M_i(n) (M_2(n) / M_2(s))^i for i >= 3 is a central moment of the noise over a constant: a
    polynomial in the features, and still zero for the style's statistics. It does not divide by
    the noise's own deviation, which vanishes where a feature map does.
    """

    def forward(self, noise_features: Tensor) -> Tensor:
        found = self.statistic(self.check(noise_features))
        orders = torch.arange(3, self.n_moments + 1, dtype=found.dtype, device=found.device)
        raw = found[2:] * (found[1] / self.target[1]) ** orders[:, None]
        return self.distance(torch.cat((found[:2], raw)))


def annealed_moments(
    style_features: Tensor, weight: float, convention: Convention = "chapter"
) -> MomentLoss:
    """Four moments whose skewness and kurtosis count `weight` times as much as in `MomentLoss`."""
    loss = MomentLoss(style_features, 4, convention)
    loss.psi[2:] *= weight
    return loss


class ShuffledProtocol(Protocol):
    """A protocol whose runs start from the style image's own pixels in another order."""

    def draw_noise(self, style: Tensor, generator: torch.Generator) -> Tensor:
        order = torch.randperm(style[0, 0].numel(), generator=generator, device="cpu").to(
            style.device
        )
        return style.flatten(2)[:, :, order].view_as(style)


def _ablated(name: str, *stages: Warmup) -> Protocol:
    """`FAST` with these stages for four moments, and none for three."""
    return dataclasses.replace(FAST, name=name, warmups={"moment-4": dict.fromkeys(LAYERS, stages)})


# Two stages in place of one share its evaluations.
_HALF = dataclasses.replace(FOUR_MOMENTS, share=FOUR_MOMENTS.share / 2)
_TWO = dataclasses.replace(_HALF, name="moment-2", make=LOSSES["moment-2"])
_THREE = dataclasses.replace(_HALF, name="moment-3", make=LOSSES["moment-3"])
_THREE_COMPRESSED = dataclasses.replace(THREE_MOMENTS, share=_HALF.share)
_ANNEALED = [
    dataclasses.replace(
        _HALF, name=f"moment-4 at {weight:.0%}", make=partial(annealed_moments, weight=weight)
    )
    for weight in (0.01, 0.1)
]
_RAW = dataclasses.replace(
    FOUR_MOMENTS, name="moment-4 raw", make=partial(RawMomentLoss, n_moments=4)
)
_BEHIND_RELU = Warmup("histogram", HistogramLoss, QUANTILES.share, QUANTILES.enough)

ABLATION = {
    protocol.name: protocol
    for protocol in (
        # Three remedies, each with and without the others. `FAST` is continuation and compression,
        # `QUANTILES_FIRST` quantiles and compression.
        _ablated("n4-noise"),
        _ablated("n4-continued", _TWO, _THREE),
        _ablated("n4-compressed", FOUR_MOMENTS),
        dataclasses.replace(FAST, name="n4-continued-compressed"),
        _ablated("n4-quantiles", QUANTILES),
        _ablated("n4-quantiles-continued", QUANTILES, _TWO, _THREE),
        _ablated("n4-all", QUANTILES, _TWO, _THREE_COMPRESSED, FOUR_MOMENTS),
        # Other remedies in their place.
        _ablated("n4-annealed", *_ANNEALED),
        _ablated("n4-raw", _RAW),
        ShuffledProtocol(**vars(_ablated("n4-shuffled")) | {"noise": "shuffled"}),
        _ablated("n4-behind-relu", _BEHIND_RELU, FOUR_MOMENTS),
    )
}
# The protocols of all reference runs.
KNOWN = PROTOCOLS | ABLATION
