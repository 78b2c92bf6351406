"""Values and gradients as autograd has them, at less cost on a CPU.

On a CPU, moving feature maps through memory costs more than computing with them. Each function
here therefore stands for a chain of simple operations: it computes the same values, writes its
gradient out by hand, and keeps less for the backward pass. The tests compare each of them with
the plain chain.
"""

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Padding = Literal["zeros", "reflect"]


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor, flipped: Tensor, padding: Padding, rectify: bool
) -> Tensor:
    """Pad, convolve with frozen 3x3 kernels and, on request, apply a ReLU.

    Computes y = relu(weight * pad(x) + bias), of the height and width of x. The gradient of a
    convolution is the convolution with the flipped, transposed kernels. The only feature map that
    is kept for it is the output, whose zeros are the mask of the ReLU.

    Args:
        x: (B, C, H, W), with H and W of at least 2 where the padding reflects.
        weight: kernels (D, C, 3, 3).
        bias: (D,).
        flipped: `weight.flip(2, 3).transpose(0, 1)`, shape (C, D, 3, 3). The caller keeps it
            because the kernels never change.
        padding: what lies beyond the border: zeros, or the picture reflected there.
        rectify: whether the ReLU follows.

    Returns:
        (B, D, H, W), differentiable once with respect to x and not to the kernels.
    """
    return cast(Tensor, _Convolution.apply(x, weight, bias, flipped, padding, rectify))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        flipped: Tensor,
        padding: Padding,
        rectify: bool,
    ) -> Tensor:
        if padding == "reflect":
            out = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight, bias)
        else:
            out = F.conv2d(x, weight, bias, padding=1)
        ctx.padding, ctx.rectify = padding, rectify
        if rectify:
            ctx.save_for_backward(flipped, out.relu_())
        else:
            ctx.save_for_backward(flipped)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        flipped, *out = ctx.saved_tensors
        if ctx.rectify:
            grad = torch.ops.aten.threshold_backward(grad, out[0], 0)
        if ctx.padding == "reflect":
            image_grad = _folded_back(F.conv2d(grad, flipped, padding=2))
        else:
            image_grad = F.conv2d(grad, flipped, padding=1)
        return image_grad, None, None, None, None, None


def _folded_back(padded: Tensor) -> Tensor:
    """Add the gradient on a reflected border, in place, to that of the pixels it reflects."""
    padded[:, :, 2] += padded[:, :, 0]
    padded[:, :, -3] += padded[:, :, -1]
    padded[:, :, :, 2] += padded[:, :, :, 0]
    padded[:, :, :, -3] += padded[:, :, :, -1]
    return padded[:, :, 1:-1, 1:-1]
