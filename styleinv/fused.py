"""The same values and gradients as autograd computes, at less cost on a CPU.

On a CPU, moving feature maps through memory costs more than computing with them. Each function
here therefore stands for a chain of simple operations: it computes the same values, writes its
gradient out by hand, and keeps less for the backward pass. The tests compare each of them with
the plain chain.
"""

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

Padding = Literal["zeros", "reflect"]


class FrozenConvolution(nn.Module):
    """A 3x3 convolution whose kernels never change, together with its padding and its ReLU.

    Called with x (B, C, H, W), it computes y = relu(weight * pad(x) + bias), of shape (B, D, H, W),
    or the same without the ReLU. It is differentiable once, with respect to x.

    The gradient of a convolution is the convolution with the flipped, transposed kernels, which
    are made once. The only feature map that is kept for it is y, whose zeros mask the ReLU.

    Args:
        weight: the kernels, (D, C, 3, 3).
        bias: (D,).
        padding: what lies beyond the border: zeros, or the map as reflected there.
    """

    flipped: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, padding: Padding) -> None:
        super().__init__()  # PyTorch's own convolution would draw from the global generator
        self.padding = padding
        self.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.bias = nn.Parameter(bias.clone(), requires_grad=False)
        self.register_buffer("flipped", weight.flip(2, 3).transpose(0, 1), persistent=False)

    def forward(self, input: Tensor, rectify: bool = True) -> Tensor:
        out = _Convolution.apply(input, self.weight, self.bias, self.flipped, self.padding, rectify)
        return cast(Tensor, out)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        flipped: Tensor,
        padding: str,
        rectify: bool,
    ) -> Tensor:
        ctx.zeros = 0 if padding == "reflect" else 1  # on each side, added by the convolution
        if padding == "reflect":
            x = F.pad(x, (1, 1, 1, 1), mode="reflect")
        out = F.conv2d(x, weight, bias, padding=ctx.zeros)
        ctx.save_for_backward(flipped, out.relu_() if rectify else None)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        flipped, rectified = ctx.saved_tensors
        if rectified is not None:
            grad = torch.ops.aten.threshold_backward(grad, rectified, 0)
        x_grad = F.conv2d(grad, flipped, padding=2 - ctx.zeros)
        return x_grad if ctx.zeros else _fold_back(x_grad), None, None, None, None, None


def _fold_back(padded: Tensor) -> Tensor:
    """Add the gradient on a reflected border, in place, to that of the pixels it reflects."""
    padded[:, :, 2] += padded[:, :, 0]
    padded[:, :, -3] += padded[:, :, -1]
    padded[:, :, :, 2] += padded[:, :, :, 0]
    padded[:, :, :, -3] += padded[:, :, :, -1]
    return padded[:, :, 1:-1, 1:-1]


def gram_matrix(features: Tensor) -> Tensor:
    """`styleinv.losses.gram_matrix`: (1, C, h, w) -> (C, C).

    With D the gradient of the matrix, that of the features is a single product, F (D + D^T). On a
    CPU in float32 both products are 1x1 convolutions, which oneDNN computes two to three times as
    fast as the BLAS multiplies matrices of this shape.
    """
    return cast(Tensor, _GramMatrix.apply(features)) / features[0, 0].numel()


class _GramMatrix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        if _has_fast_convolution(features):
            channels = features.shape[1]
            gram: Tensor = conv2d_weight(features, (channels, channels, 1, 1), features)
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


def positions(features: Tensor) -> Tensor:
    """(1, C, h, w) -> (h w, C), a view: one row per position, one column per feature map F_i."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


def central_moments(features: Tensor, n_moments: int) -> Tensor:
    """`styleinv.losses.central_moments`: (1, C, h, w) -> (N, C).

    With dm_1/dF_p = 1/n and dm_k/dF_p = k/n ((F_p - m_1)^(k-1) - m_(k-1)), where the central m_1
    is 0, the gradient is one polynomial in F_p - m_1 per channel: it is evaluated in a few passes
    over the features, where automatic differentiation would need a dozen.
    """
    return cast(Tensor, _CentralMoments.apply(positions(features), n_moments))


class _CentralMoments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, n_moments: int) -> Tensor:
        mean = rows.mean(dim=0)
        power = centred = rows - mean
        found = [mean]
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
        orders = torch.arange(1, n_moments + 1, dtype=grad.dtype, device=grad.device)
        weights = grad / n_positions * orders[:, None]
        # Horner's scheme, highest power first; below it the constant of every term.
        constant = weights[0] - (weights[2:] * central[1:-1]).sum(dim=0)
        if n_moments == 1:
            return constant.expand_as(centred), None
        polynomial = centred * weights[-1]
        for weight in weights[1:-1].flip(0):
            polynomial.add_(weight).mul_(centred)
        return polynomial.add_(constant), None


def sum_of_h(style: Tensor, noise: Tensor, alpha: float, style_style: Tensor) -> Tensor:
    """`styleinv.losses.sum_of_h`: rows (n, C) of an even number of positions -> scalar.

    With a, b a pair of the noise's rows, dk(a, b)/da = -2 alpha (a - b) k(a, b): the gradient
    needs the same exponentials as the value and is computed along with it.

    Args:
        style, noise, alpha: as there; differentiable with respect to the noise alone.
        style_style: `kernel_of_pairs` of the style, which the noise does not change.
    """
    return cast(Tensor, _SumOfH.apply(style, noise, alpha, style_style))


def kernel_of_pairs(rows: Tensor, alpha: float) -> Tensor:
    """k of the rows (0, 1), (2, 3), ...: (n, C) -> (n / 2, C)."""
    return _kernel(rows[0::2] - rows[1::2], alpha)


def _kernel(difference: Tensor, alpha: float) -> Tensor:
    """exp(-alpha d^2), with one new tensor instead of three."""
    return difference.square().mul_(-alpha).exp_()


class _SumOfH(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, style: Tensor, noise: Tensor, alpha: float, style_style: Tensor
    ) -> Tensor:
        s, t = style[0::2], style[1::2]
        a, b = noise[0::2], noise[1::2]
        noise_noise = _kernel(a - b, alpha)
        cross_a, cross_b = _kernel(t - a, alpha), _kernel(s - b, alpha)
        # Pair by pair before the sum: four sums would be large, and their difference inexact.
        h = (noise_noise - cross_a).sub_(cross_b).add_(style_style)
        if ctx.needs_input_grad[1]:
            gradient = torch.empty_like(noise)
            noise_noise.mul_(a - b)
            torch.sub(cross_a.mul_(a - t), noise_noise, out=gradient[0::2])
            torch.add(cross_b.mul_(b - s), noise_noise, out=gradient[1::2])
            ctx.save_for_backward(gradient.mul_(2 * alpha))
        return h.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * grad, None, None
