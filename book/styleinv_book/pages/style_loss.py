"""The page on style losses: its figures, its tables, and the comparison with `styleinv.losses`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from IPython.display import HTML
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

import styleinv
from styleinv.encoder import Encoder
from styleinv.images import short_name
from styleinv.losses import MomentLoss
from styleinv_book.figures import (
    BLUE,
    INK,
    ORANGE,
    credit_line,
    encoder_named,
    folded_origin,
    html_table,
    plot_axes,
    provenance_line,
    subplots,
)

Maps = npt.NDArray[np.float64]
MINUS = "\N{MINUS SIGN}"
ROUNDING = 1e-12  # below it, a value is what rounding leaves of 0
# The feature map behind the figure on psi: so many positions, so many of them high in the style.
POSITIONS, STYLE_HIGH = 1000, 900
# Of a cell's text: dark in both themes, because the cells are light in both.
ON_GREY: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 15, "color": "#111111"}


def compare(
    by_hand: float, loss: Callable[[Tensor], Callable[[Tensor], Tensor]], style: Maps, noise: Maps
) -> None:
    """Print a loss as computed on the page and as styleinv does.

    Args:
        loss: a class of `styleinv.losses`, or a function that makes one from the style's features.
        style, noise: feature maps (C, h, w).

    Raises:
        AssertionError: the two differ in the ninth digit.
    """
    s, n = (torch.tensor(maps)[None].double() for maps in (style, noise))
    found = loss(s)(n).item()
    print(f"by hand:  {by_hand:.10g}\nstyleinv: {found:.10g}")
    np.testing.assert_allclose(by_hand, found, rtol=1e-9, atol=1e-9)


def matrices(shown: Mapping[str, Maps], height: float = 2.6) -> Figure:
    """Small matrices side by side, each in its own shades of grey, with their values."""
    figure, panels = subplots(height, 1, len(shown))
    for axes, (title, values) in zip(panels, shown.items(), strict=True):
        axes.imshow(values, cmap="Greys", vmin=0, vmax=1.6 * values.max())
        axes.set(title=title, xticks=[], yticks=[])
        for (y, x), value in np.ndenumerate(values):
            axes.text(x, y, f"{value:.0f}", **ON_GREY)
    return figure


def gram_matrix(image: Tensor, gram: Maps) -> Figure:
    """An image (3, H, W) beside a Gram matrix, whose colours are on a scale of square roots."""
    figure, (left, right) = subplots(4, 1, 2, width_ratios=(1, 2.4))
    left.imshow(image.permute(1, 2, 0), interpolation="nearest")
    left.set_axis_off()
    left.set_title("style")
    shown = right.imshow(gram, cmap="viridis", norm=PowerNorm(0.5, vmin=0), interpolation="nearest")
    ticks = [0, len(gram) // 2 - 1, len(gram) - 1]
    labels = [tick + 1 for tick in ticks]
    right.set_xticks(ticks, labels)
    right.set_yticks(ticks, labels)
    right.set(xlabel="$j$", ylabel="$i$", title="Gram matrix")
    figure.colorbar(shown, ax=right, shrink=0.8)
    return figure


def feature_maps(maps: Maps, moments: Maps, chosen: Sequence[int]) -> Figure:
    """Some feature maps (C, h, w), each with the distribution of its values.

    Args:
        moments: (4, C): mean, standard deviation, skewness and kurtosis of every map.
    """
    figure, grid = subplots(2.8 * len(chosen), len(chosen), 2, width_ratios=(1, 2))
    for (left, right), j in zip(grid, chosen, strict=True):
        left.imshow(maps[j], cmap="Greys", interpolation="nearest")
        left.set(xticks=[], yticks=[], title=f"map {j + 1}")
        _distribution(right, maps[j].ravel(), moments[:, j])
    return figure


def _distribution(axes: Axes, values: Maps, moments: Maps) -> None:
    """A histogram, with a line at the mean and a band of one standard deviation around it."""
    mean, deviation, skewness, kurtosis = moments
    low, high = np.clip((mean - deviation, mean + deviation), values.min(), values.max())
    axes.hist(values, bins=30, color=BLUE, log=True)
    axes.axvspan(low, high, color="#f7d9c4", zorder=0)
    axes.axvline(mean, color=ORANGE, linewidth=3)
    axes.set(ylabel="positions", xlabel="value")
    axes.set_title(
        f"mean {mean:.2f}, std. dev. {deviation:.2f}\n"
        f"skewness {skewness:.2f}, kurtosis {kurtosis:.1f}"
    )


def psi_table(features: Mapping[str, Maps]) -> HTML:
    """Layer by layer: psi of each order as printed, and how many maps are skewed to the left."""
    rows = []
    for layer, maps in features.items():
        loss = MomentLoss(torch.tensor(maps)[None], 4, negative_psi="as printed")
        psi = (f"{weight:.3f}".replace("-", MINUS) for weight in loss.psi.tolist())
        negative = int((loss.target[2] < 0).sum())
        rows.append((layer, *psi, f"{negative} of {len(maps)}"))
    head = ("layer", *(f"psi_{order}" for order in (1, 2, 3, 4)), "maps with skewness < 0")
    return HTML(html_table(head, rows))


def negative_psi() -> Figure:
    """The moment loss with N = 3 over the noise's skewness, with psi as printed and as ours is.

    Style and noise are one feature map of two values, with mean and standard deviation 1; how many
    positions are high decides the skewness.
    """
    style = two_valued(STYLE_HIGH)
    noises = [two_valued(n_high) for n_high in range(950, 40, -10)]
    figure, axes = plot_axes(3.2)
    losses = (
        ("as printed", MomentLoss(style, 3, negative_psi="as printed"), "-", ORANGE),
        ("absolute", MomentLoss(style, 3, negative_psi="absolute"), "--", BLUE),
    )
    for rule, loss, line, colour in losses:
        skewness = [loss.statistic(noise)[2, 0].item() for noise in noises]
        values = [loss(noise).item() for noise in noises]
        psi = f"{loss.psi[2]:.3f}".replace("-", MINUS)
        label = rf"{rule}: $\psi_3$ = {psi}"
        axes.plot(skewness, values, line, color=colour, linewidth=2.5, label=label)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="skewness of the noise's feature map", ylabel="moment loss, N = 3")
    axes.legend(frameon=False)
    return figure


def two_valued(n_high: int) -> Tensor:
    """A feature map (1, 1, 25, 40) of mean and deviation 1, `n_high` of its positions high."""
    values = torch.zeros(POSITIONS, dtype=torch.float64)
    values[:n_high] = 1
    return ((values - values.mean()) / values.std() + 1).reshape(1, 1, 25, -1)


def pairs(style: Maps, noise: Maps, h: Maps) -> Figure:
    """The toy's maps (C, h, 2): each row is a pair, in a frame, with its h (C, h) beside it."""
    figure, panels = subplots(3.6, 1, len(h))
    for i, axes in enumerate(panels):
        axes.set(xlim=(-0.6, 2.6), ylim=(2.6, -0.6))
        axes.set_axis_off()
        axes.set_title(f"$F_{i + 1}$")
        for row, value in enumerate(h[i]):
            _pair(axes, row, style[i, row], noise[i, row], value)
    return figure


def _pair(axes: Axes, row: int, style: Maps, noise: Maps, value: float) -> None:
    colour, line = (ORANGE, "--") if value < 0 else (BLUE, "-")
    box = FancyBboxPatch((-0.42, row - 0.36), 1.84, 0.72, "round,pad=0,rounding_size=0.15")
    box.set(facecolor="none", edgecolor=colour, linestyle=line, linewidth=2.5)
    axes.add_patch(box)
    middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 13}
    for column in range(2):
        axes.text(column, row, f"s: {style[column]:.0f}\nn: {noise[column]:.0f}", **middle)
    text = f"{value:.2f}".replace("-", MINUS)
    axes.text(2.05, row, text, color=colour, weight="bold", **middle)


def loss_table(
    style: Maps, others: Mapping[str, Maps], losses: Mapping[str, Callable[[Maps, Maps], float]]
) -> HTML:
    """The losses of a style's maps (C, h, w) against others, which may come as (C, h w)."""
    rows = [
        (name, *(number(loss(style, maps.reshape(style.shape))) for loss in losses.values()))
        for name, maps in others.items()
    ]
    return HTML(html_table(("style against", *losses), rows))


def number(value: float) -> str:
    """Three digits, or all before the point; what rounding leaves of 0 is 0."""
    if abs(value) < ROUNDING:
        return "0"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", MINUS)


def toy_origin() -> HTML:
    """The provenance of a figure of the toy feature maps."""
    line = provenance_line("computed on this page", "double precision", _versions())
    return HTML(folded_origin(line))


def origin(style: str, image: Tensor, encoder: Encoder, *facts: str) -> HTML:
    """The provenance of a figure or table of the real features; facts are HTML."""
    line = provenance_line(
        f"{escape(short_name(style))}, {image.shape[2]} x {image.shape[1]} pixels",
        f"encoder {encoder_named(encoder.name, encoder.sha256)}",
        *facts,
        _versions(),
    )
    return HTML(folded_origin(line + credit_line([style])))


def _versions() -> str:
    return f"NumPy {np.__version__} · torch {torch.__version__} · styleinv {styleinv.__version__}"
