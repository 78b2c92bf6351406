"""The released algorithm, as the baseline of the benchmarks.

Written from a description of github.com/jzenn/StyleVisualizations, with its fault of naming mended
(each loss compares its own layer). It computes what styleinv's protocol `released` computes; what
it costs is different: at every step it runs through all four layers and evaluates the loss of
each, the weights of the network take part in the gradient, each moment computes mean and variance
again, images are stored channel by channel, and the host waits for the loss twice.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleinv.encoder import LAYERS, Encoder

KERNEL_WIDTH = 0.1
STYLE_WEIGHTS = {"mmd": 1000.0}
LEARNING_RATE = 1e-3


def gram(features: Tensor) -> Tensor:
    _, channels, height, width = features.shape
    rows = features.view(channels, height * width)
    return torch.mm(rows, rows.t()) / (channels * height * width)


def moment(features: Tensor, order: int) -> Tensor:
    flat = features.view(features.shape[1], -1)
    mean = flat.mean(dim=1, keepdim=True)
    deviation = torch.sqrt(flat.var(dim=1, keepdim=True) + 1e-5)
    if order == 1:
        return mean
    if order == 2:
        return deviation
    return ((flat - mean) / deviation).pow(order).mean(dim=1, keepdim=True)


def gram_loss(target: Tensor) -> Callable[[Tensor], Tensor]:
    wanted = gram(target)
    return lambda features: F.mse_loss(gram(features), wanted)


def moment_loss(target: Tensor, n_moments: int) -> Callable[[Tensor], Tensor]:
    wanted = [moment(target, order) for order in range(1, n_moments + 1)]

    def loss(features: Tensor) -> Tensor:
        found = [moment(features, order) for order in range(1, n_moments + 1)]
        factors = [torch.min(1 / w.mean(), torch.ones(())) for w in wanted]
        terms = [a * F.mse_loss(f, w) for a, f, w in zip(factors, found, wanted, strict=True)]
        return torch.stack(terms).sum()

    return loss


def mmd_loss(target: Tensor) -> Callable[[Tensor], Tensor]:
    def pairs(features: Tensor) -> tuple[Tensor, Tensor]:
        rows = features.view(features.shape[1], -1)
        rows = rows[:, : rows.shape[1] // 2 * 2].reshape(features.shape[1], -1, 2)
        return rows[:, :, 0], rows[:, :, 1]

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-KERNEL_WIDTH * (a - b).pow(2))

    def loss(features: Tensor) -> Tensor:
        (x, x2), (y, y2) = pairs(target), pairs(features)
        h = kernel(x, x2) + kernel(y, y2) - kernel(x, y2) - kernel(x2, y)
        return torch.abs(torch.sum(h))

    return loss


def loss_module(name: str, target: Tensor) -> Callable[[Tensor], Tensor]:
    if name == "gram":
        return gram_loss(target)
    if name == "mmd":
        return mmd_loss(target)
    return moment_loss(target, int(name.removeprefix("moment-")))


def plain_convolutions(encoder: Encoder) -> list[nn.Conv2d]:
    """The encoder's 1x1 convolution on the pixels and its four others, as PyTorch has them."""
    first = nn.Conv2d(3, 3, 1)
    first.load_state_dict({"weight": encoder.input_weight, "bias": encoder.input_bias})
    found = [first]
    for conv in encoder.convs:
        out, into, *_ = conv.weight.shape
        plain = nn.Conv2d(into, out, 3, padding=1, padding_mode=encoder.layout.padding)
        plain.load_state_dict(conv.state_dict())
        found.append(plain.to(memory_format=torch.contiguous_format))
    return [conv.requires_grad_(False) for conv in found]


class ReleasedAlgorithm:
    """The step loop for one style image, loss and layer, one call of `step` per iteration."""

    def __init__(
        self, encoder: Encoder, style: Tensor, noise: Tensor, layer: str, loss: str
    ) -> None:
        self.layout = encoder.layout
        self.first, *self.convs = plain_convolutions(encoder)
        for conv in self.convs:  # unlike styleinv's, they take part in the gradient
            conv.requires_grad_(True)
        with torch.no_grad():
            self.losses = [loss_module(loss, features) for features in self._features(style[None])]
        self.index = LAYERS.index(layer)
        self.weight = STYLE_WEIGHTS.get(loss, 100.0)
        self.image = noise.clone().requires_grad_()
        self.optimizer = torch.optim.Adam([self.image], lr=LEARNING_RATE)

    def _features(self, x: Tensor) -> list[Tensor]:
        found = []
        x = self.first(x)
        for index, conv in enumerate(self.convs):
            if index == 2:
                x = F.max_pool2d(x, 2, ceil_mode=self.layout.ceil_pool)
            x = F.relu(conv(x)).contiguous()
            found.append(x)
        return found

    def step(self) -> float:
        """One iteration; returns the loss before it, times the style weight."""
        self.image.data.clamp_(0, 1)
        self.optimizer.zero_grad()
        features = self._features(self.image)
        values = [loss(feature) for loss, feature in zip(self.losses, features, strict=True)]
        weighted = values[self.index] * self.weight
        weighted.backward(retain_graph=True)
        self.optimizer.step()
        # The code compares the loss with two thresholds and asks the device for it each time.
        weighted.item()
        return weighted.item()
