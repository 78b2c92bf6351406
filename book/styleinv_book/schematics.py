"""The chapter's two drawings: the encoder (Figure 1.1) and the style loss (Figure 1.2).

Both are laid out in pixels of a page that is `WIDTH` wide, in letters that survive a phone's half
of that. Shapes come from the encoder itself; red marks what the loss compares and what it changes.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon, Rectangle
from numpy.typing import ArrayLike

from styleinv.encoder import LAYERS, load_encoder
from styleinv.styles import paint
from styleinv_book.figures import DPI, INK

WIDTH = 560
SIZE = 256  # the chapter's images
FILL, EDGE, RED, PINK = "#d6e4f0", "#33628a", "#c62828", "#f7c9c4"
STYLE = "strokes"


def layer_shapes() -> dict[str, tuple[int, int]]:
    """Channels and side of every layer's feature maps at `SIZE`, from a pass that computes none."""
    encoder = load_encoder("random").to("meta")
    images = torch.empty(1, 3, SIZE, SIZE, device="meta")
    maps = {layer: encoder(images, layer) for layer in LAYERS}
    return {layer: (found.shape[1], found.shape[2]) for layer, found in maps.items()}


def encoder_schematic() -> Figure:
    """Figure 1.1: the encoder up to relu_2_2, and where the features are taken.

    A block is as high as its feature maps and as wide as they are many.
    """
    figure, axes = _canvas(320)
    tall, wide, middle = 112, 68, 188
    shapes = layer_shapes()
    most = max(channels for channels, _ in shapes.values())
    _picture(axes, 60, middle, tall, paint(STYLE, 48))
    _label(axes, 60, 46, f"image\n3 maps\n{SIZE} x {SIZE}")
    end, before, side_before = 60 + tall / 2, 3, SIZE
    for number, (layer, (channels, side)) in enumerate(shapes.items(), start=1):
        x = 64 + 110 * number
        width, height = wide * channels / most, tall * side / SIZE
        _arrow(axes, (end + 3, middle), (x - width / 2 - 3, middle))
        if side < side_before:
            _pool(axes, (end + x - width / 2) / 2, middle, tall * side_before / SIZE, height)
        pool = "max-pool\n" * (side < side_before)
        _label(axes, x, 281, f"{pool}conv\n{before}-{channels}")
        _block(axes, x, middle, width, height, rf"$\phi_{number}$")
        _arrow(axes, (x, middle - height / 2 - 2), (x, 86), RED)
        _label(axes, x, 46, f"{layer}\n{channels} maps\n{side} x {side}", color=RED)
        end, before, side_before = x + width / 2, channels, side
    return figure


def loss_schematic() -> Figure:
    """Figure 1.2: one frozen encoder for style and noise; the gradient ends at the noise's pixels.

    Filled red: what the loss is computed on. Bordered red: what gradient descent changes.
    """
    figure, axes = _canvas(320)
    side, left, right, high, low = 92, 54, 458, 242, 110
    noise = np.random.default_rng(0).random((16, 16, 3))
    for y, name, pixels in ((high, "s", paint(STYLE, 48)), (low, "n", noise)):
        _picture(axes, left, y, side, pixels)
        _arrow(axes, (left + side / 2 + 5, y), (128, y))
        _arrow(axes, (374, y), (right - 44, y))
        _block(axes, right, y, 84, 46, f"$F({name})$", PINK, RED)
    axes.add_patch(Rectangle((left - 46, low - 46), 92, 92, fill=False, ec=RED, lw=5))
    _label(axes, left, 302, "style $s$")
    _label(axes, left, 176, "noise $n$")
    frame = FancyBboxPatch((134, 72), 236, 208, boxstyle="round,pad=0,rounding_size=8")
    frame.set(facecolor="#f2f2f2", edgecolor="#777777", linewidth=1.5)
    axes.add_patch(frame)
    _label(axes, 252, 302, "one encoder, frozen")
    shapes = list(layer_shapes().values())
    for number, (channels, size) in enumerate(shapes, start=1):
        width, height = 58 * channels / shapes[-1][0], 176 * size / SIZE
        x = (156, 198, 255, 326)[number - 1]
        _block(axes, x, 176, width, height, rf"$\phi_{number}$", size=13)
    _label(axes, right, 302, "features")
    for y, end in ((high - 25, 204), (low + 25, 148)):
        _arrow(axes, (right, y), (right, end), RED)
    _block(axes, right, 176, 144, 54, "loss: compare\nstatistics", RED, RED, "white", 12.5)
    axes.plot(
        [right + 73, 548, 548, left, left], [176, 176, 32, 32, 56], color=RED, lw=2.5, ls="--"
    )
    _arrow(axes, (left, 54), (left, 62), RED)
    _label(axes, 302, 14, "gradient: changes the pixels of $n$ only", color=RED)
    return figure


def _canvas(height: int) -> tuple[Figure, Axes]:
    """White, `WIDTH` x `height` pixels, the origin at the lower left."""
    figure = plt.figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    plt.close(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.set_axis_off()
    return figure, axes


def _label(axes: Axes, x: float, y: float, text: str, color: str = INK, size: float = 12.5) -> None:
    axes.text(x, y, text, color=color, fontsize=size, ha="center", va="center", linespacing=1.25)


def _block(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str,
    fill: str = FILL,
    edge: str = EDGE,
    ink: str = INK,
    size: float = 15,
) -> None:
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(Rectangle(corner, width, height, facecolor=fill, edgecolor=edge, lw=2))
    _label(axes, x, y, text, ink, size)


def _picture(axes: Axes, x: float, y: float, side: float, pixels: ArrayLike) -> None:
    box = (x - side / 2, x + side / 2, y - side / 2, y + side / 2)
    axes.imshow(pixels, extent=box, interpolation="nearest", aspect="auto")
    axes.set(xlim=(0, WIDTH), ylim=(0, axes.get_ylim()[1]))


def _pool(axes: Axes, x: float, y: float, before: float, after: float) -> None:
    corners = [(x - 7, y - before / 2), (x - 7, y + before / 2), (x + 7, y + after / 2)]
    corners.append((x + 7, y - after / 2))
    axes.add_patch(Polygon(corners, facecolor="#dddddd", edgecolor="#777777", lw=1.5, zorder=3))


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK
) -> None:
    style = {"arrowstyle": "-|>", "color": color, "lw": 2, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=style)
