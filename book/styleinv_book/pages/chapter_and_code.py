"""Chapter against code: what single differences between the two do, measured on one style image."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from markupsafe import escape
from matplotlib.figure import Figure
from torch import Tensor, nn

import styleinv
from styleinv.encoder import LAYERS, Encoder
from styleinv.images import short_name, to_uint8
from styleinv.inversion import Inversion
from styleinv.layouts import STYLEINV
from styleinv.live.labels import TITLES
from styleinv.losses import LOSSES, GramLoss
from styleinv.protocol import CHAPTER, CHAPTER_ITERATIONS, RELEASED, Protocol
from styleinv_book import figures
from styleinv_book.figures import BLUE, INK, ORANGE, Panel

THETA = (
    "loss",
    "layers",
    "weight",
    "chapter's theta",
    "released, same units",
    "the code's rule is",
)
BUDGETS = ("layer", *(TITLES[loss] for loss in CHAPTER_ITERATIONS))
ENCODER = (
    "layer",
    "positions that padding changes",
    "Gram loss by padding",
    "by leaving out the normalisation",
    "of noise, to compare",
)
# A layer's output differs if it does so by more than this share of the largest feature.
DIFFERS = 1e-4
# Faster than the chapter's, which takes thousands of iterations.
LEARNING_RATE = 0.05


@dataclass(frozen=True)
class Setting:
    """What all measurements of the page share, to show and to name it."""

    style: str
    encoder: Encoder
    size: int

    def figure(self, name: str, caption: str, content: str, *facts: str) -> str:
        """A figure of this build as HTML, with what made it."""
        made = figures.provenance_line(*self.made_with(*facts))
        tab = Panel("This build", content, [], made + figures.credit_line([self.style]))
        return figures.figure(name, caption, tab)

    def pictures(self, rows: Mapping[str, Mapping[str, Tensor]]) -> str:
        """Images (1, 3, H, W) by row and column, as a table of pictures."""
        name = short_name(self.style)
        return figures.picture_table(
            {
                label: {
                    column: figures.embedded(to_uint8(image[0]), f"{name}: {label}, {column}")
                    for column, image in row.items()
                }
                for label, row in rows.items()
            }
        )

    def made_with(self, *facts: str) -> tuple[str, ...]:
        """What a provenance line says."""
        return (
            f"style {escape(short_name(self.style))}",
            f"encoder {figures.encoder_named(self.encoder.name, self.encoder.sha256)}",
            f"{self.size} x {self.size} pixels",
            *facts,
            f"device {self.encoder.device}",
            f"torch {torch.__version__}",
            f"styleinv {styleinv.__version__}",
        )


@dataclass(frozen=True)
class Descent:
    """A run that theta does not stop, with the loss after each of some numbers of evaluations."""

    evaluations: Sequence[int]
    losses: Sequence[float]
    result: Inversion

    def first_below(self, theta: float) -> int | None:
        """After how many evaluations the loss is below theta; None if it never is."""
        points = zip(self.evaluations, self.losses, strict=True)
        return next((at for at, loss in points if loss < theta), None)


def descent(
    picture: Tensor, encoder: Encoder, loss: str, protocol: Protocol, layer: str = LAYERS[0]
) -> Descent:
    """Invert an image (1, 3, H, W) from seed 0, whatever theta says."""
    endless = dataclasses.replace(protocol, without_theta=tuple(LOSSES))
    evaluations, losses = list[int](), list[float]()

    def note(iterate: styleinv.Iterate) -> None:
        evaluations.append(iterate.evaluations)
        losses.append(iterate.loss)

    result = styleinv.invert(
        picture[0].cpu(),
        layer=layer,
        loss=loss,
        encoder=encoder,
        protocol=endless,
        seed=0,
        callback=note,
    )
    return Descent(evaluations, losses, result)


# Theta, rounds and budgets.


def released_theta(loss: str, channels: int) -> float:
    """The code's threshold for the loss as the chapter prints it.

    The code multiplies a loss by its weight first, and its Gram loss is c^2 times smaller.
    """
    scale = channels**2 if loss == "gram" else 1
    return RELEASED.theta / RELEASED.weight(loss) * scale


def strictness(loss: str, channels: int) -> str:
    """How the code's threshold compares with the chapter's."""
    factor = CHAPTER.theta / released_theta(loss, channels)
    return f"{factor:,.0f} times stricter" if factor > 1 else f"{1 / factor:.1f} times looser"


def theta_rows(channels: Mapping[str, int]) -> list[tuple[str, ...]]:
    """The cells under `THETA`."""
    groups = (
        ("Gram", "gram", LAYERS[:2]),
        ("Gram", "gram", LAYERS[2:]),
        ("N = 1 to 4", "moment-1", LAYERS),
        ("MMD", "mmd", LAYERS),
    )
    return [
        (
            title,
            ", ".join(layers) if layers != LAYERS else "all",
            f"{RELEASED.weight(loss):,.0f}",
            f"{CHAPTER.theta:.0e}",
            f"{released_theta(loss, channels[layers[0]]):.1e}",
            strictness(loss, channels[layers[0]]),
        )
        for title, loss, layers in groups
    ]


def theta_plot(descents: Mapping[str, Descent], channels: int) -> Figure:
    """Losses over evaluations; a line and a dot for each rule that would stop them."""
    figure, panels = figures.plot_axes(3.2, 1, len(descents), sharey=True)
    for axes, (loss, found) in zip(panels, descents.items(), strict=True):
        axes.plot(found.evaluations, found.losses, color=INK, linewidth=1.5)
        for name, theta, line, colour in (
            ("chapter", CHAPTER.theta, "--", BLUE),
            ("released", released_theta(loss, channels), ":", ORANGE),
        ):
            label = f"{name}: {theta:.1e}"
            axes.axhline(theta, linestyle=line, color=colour, linewidth=2, label=label)
            if (stop := found.first_below(theta)) is not None:
                at = found.evaluations.index(stop)
                axes.plot(stop, found.losses[at], "o", color=colour)
        axes.set(yscale="log", ylim=(1e-10, None), xlabel="evaluations", title=TITLES[loss])
        axes.legend(frameon=False, fontsize="small")
    panels[0].set_ylabel("loss")
    return figure


def longest(protocol: Protocol, loss: str, layer: str) -> int:
    """The iterations of a run that never passes theta."""
    return protocol.budget(loss, layer) + protocol.extra_rounds * protocol.extra_iterations


def budget_rows() -> list[tuple[str, ...]]:
    """Table 1.1 and its sums; where the code differs, chapter -> code."""
    both = {
        loss: [tuple(p.budget(loss, layer) for p in (CHAPTER, RELEASED)) for layer in LAYERS]
        for loss in CHAPTER_ITERATIONS
    }
    for budgets in both.values():
        budgets.append(tuple(map(sum, zip(*budgets, strict=True))))
    return [
        (label, *(_entry(*budgets[number]) for budgets in both.values()))
        for number, label in enumerate((*LAYERS, "sum"))
    ]


def _entry(chapter: int, code: int) -> str:
    return f"{chapter:,}" if chapter == code else f"{chapter:,} \N{RIGHTWARDS ARROW} {code:,}"


# The encoder.


@dataclass(frozen=True)
class Choices:
    """What an encoder's choices do at one layer, with the same weights and the same image.

    Attributes:
        touched: the share of positions whose features depend on the padding.
        padding, normalisation: Gram loss between two passes that differ in this alone.
        noise: Gram loss between the image and noise.
    """

    touched: float
    padding: float
    normalisation: float
    noise: float


def encoder_choices(encoder: Encoder, picture: Tensor, noise: Tensor) -> dict[str, Choices]:
    """Layer -> what padding and normalisation do there; images are (1, 3, H, W)."""
    reflect, zeros = same_weights(encoder, "reflect"), same_weights(encoder, "zeros")
    raw = same_weights(encoder, "reflect", normalised=False)
    found = {}
    for layer in LAYERS:
        features, padded = reflect(picture, layer), zeros(picture, layer)
        change = (features - padded).abs().amax(dim=1) / features.max()
        loss = GramLoss(features)
        found[layer] = Choices(
            (change > DIFFERS).float().mean().item(),
            *(loss(x).item() for x in (padded, raw(picture, layer), reflect(noise, layer))),
        )
    return found


def same_weights(
    encoder: Encoder, padding: Literal["zeros", "reflect"], normalised: bool = True
) -> Encoder:
    """The encoder with another padding, with or without its input layer."""
    weight, bias = encoder.input_weight, encoder.input_bias
    if not normalised:
        weight, bias = torch.eye(3)[:, :, None, None], torch.zeros(3)
    state = {"input.weight": weight.cpu(), "input.bias": bias.cpu()}
    for key, convolution in zip(STYLEINV.conv_keys, encoder.convs, strict=True):
        state |= {f"{key}.{name}": x.cpu() for name, x in convolution.state_dict().items()}
    layout = dataclasses.replace(STYLEINV, padding=padding)
    return Encoder("same weights", layout, state).to(encoder.device)


def encoder_rows(choices: Mapping[str, Choices]) -> list[tuple[str, ...]]:
    """The cells under `ENCODER`."""
    return [
        (layer, f"{x.touched:.0%}", f"{x.padding:.2g}", f"{x.normalisation:.2g}", f"{x.noise:.2g}")
        for layer, x in choices.items()
    ]


# The wiring of losses and layers.


class Layer(nn.Module):
    """Stands for a layer of the network."""


class StyleLoss(nn.Module):
    """Stands for a loss behind a layer, which passes on what it sees."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def extra_repr(self) -> str:
        """What the representation of a network says of it."""
        return f"target from {self.layer}"


def wired(name_of_loss: Callable[[str], str]) -> nn.Sequential:
    """The network with a loss behind each layer, added under the name that the layer gives it."""
    network = nn.Sequential()
    for layer in LAYERS:
        network.add_module(layer, Layer())
        network.add_module(name_of_loss(layer), StyleLoss(layer))
    return network


def compared(network: nn.Sequential) -> dict[str, str | None]:
    """Layer that a target is from -> layer that it is compared with; None if it is with none."""
    found: dict[str, str | None] = dict.fromkeys(LAYERS)
    latest = None
    for name, module in network.named_children():
        if isinstance(module, StyleLoss):
            found[module.layer] = latest
        else:
            latest = name
    return found


def invert_wired(
    picture: Tensor, encoder: Encoder, start: Tensor, network: nn.Sequential, steps: int
) -> dict[str, Tensor]:
    """Layer -> what the released Gram loss makes of `start` with this wiring, by Adam."""
    return {
        layer: start if other is None else _invert(picture, encoder, start, layer, other, steps)
        for layer, other in compared(network).items()
    }


def _invert(
    picture: Tensor, encoder: Encoder, start: Tensor, layer: str, other: str, steps: int
) -> Tensor:
    """Match the features of `other` to the Gram matrix of `layer`."""
    style_loss = GramLoss(encoder(picture, layer), "released")
    image = start.clone().requires_grad_()
    adam = torch.optim.Adam([image], lr=LEARNING_RATE)
    for _ in range(steps):
        adam.zero_grad()
        (RELEASED.weight("gram") * style_loss(encoder(image, other))).backward()
        adam.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    return image.detach()


def own_losses(
    picture: Tensor, encoder: Encoder, *images: Mapping[str, Tensor]
) -> dict[str, list[float]]:
    """Layer -> the Gram loss that each of its images has there."""
    found = {}
    for layer in LAYERS:
        loss = GramLoss(encoder(picture, layer))
        found[layer] = [loss(encoder(made[layer], layer)).item() for made in images]
    return found
