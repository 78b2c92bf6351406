"""What grows from layer to layer, and what changes while the loss falls: plots from the records."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from msgspec import UNSET

from styleinv.encoder import LAYERS
from styleinv.optim import decade
from styleinv.runs import store
from styleinv.runs.record import Record
from styleinv_book.claims import Claims
from styleinv_book.figures import BLUE, INK, ORANGE, plot_axes

# From the first layer to the last: the deeper, the darker.
SHADES = dict(zip(LAYERS, ("#d55e00", "#e69f00", "#56b4e9", "#0072b2"), strict=True))
# What is drawn over the loss, with the axis that it is on.
OVER_LOSS = {
    "structure": "structure kept (1: another sample)",
    "noise": "pixel noise over the style's (dB)",
}


def runs_of(results: str | Path, content: Claims, claim: str) -> list[Record]:
    """The records of a claim's first part, of those styles whose structure can be told."""
    chosen = content.claims[claim].parts[0].runs
    records = content.fit(store.read_records(Path(results, "runs")), "structure")
    return list(chosen.among(records).values())


def by_layer(runs: Sequence[Record], at: float) -> Figure:
    """The structure kept at each layer, a line per style: at the end, and at a loss."""
    figure, panels = plot_axes(3.6, 1, 2, sharey=True)
    at_end, at_loss = {}, {}
    for run in runs:
        key = run.source, run.asked.layer
        if run.measures is not UNSET:
            at_end[key] = run.measures.structure
        if (kept := next((x for x in run.along if x.loss <= at), None)) is not None:
            at_loss[key] = kept.structure
    for axes, found, title in zip(
        panels, (at_end, at_loss), ("at the end of the run", f"at a loss of {at:g}"), strict=True
    ):
        _lines(axes, found)
        axes.set(title=title, xlabel="layer")
    panels[0].set(ylabel=OVER_LOSS["structure"])
    panels[0].legend(frameon=False, loc="lower right")
    return figure


def _lines(axes: Any, found: Mapping[tuple[str, str], float]) -> None:
    """A line per style over the layers, and their median."""
    labels = {"bundled": "a painted style", "skimage": "a photograph"}
    for style in dict.fromkeys(style for style, _ in found):
        kind = style.partition(":")[0]
        line = [found.get((style, layer), float("nan")) for layer in LAYERS]
        colour, label = BLUE if kind == "bundled" else ORANGE, labels.pop(kind, None)
        axes.plot(LAYERS, line, color=colour, linewidth=1, alpha=0.6, label=label, marker=".")
    middle = [
        median([x for (_, y), x in found.items() if y == layer] or [float("nan")])
        for layer in LAYERS
    ]
    axes.plot(LAYERS, middle, color=INK, linewidth=2.5, label="median")


def while_the_loss_falls(runs: Sequence[Record]) -> Figure:
    """Structure and noise over the loss: a line per layer, the median over styles.

    A layer's line goes as far as half of its styles do.
    """
    figure, panels = plot_axes(3.2, 1, 2)
    for layer in LAYERS:
        own = [run for run in runs if run.asked.layer == layer and run.along]
        steps = {decade(kept.loss) for run in own for kept in run.along}
        for axes, measure in zip(panels, OVER_LOSS, strict=True):
            points = []
            for step in sorted(steps):
                seen = [x for run in own for x in run.along if decade(x.loss) == step]
                if 2 * len(seen) >= len(own):
                    points.append((10.0**step, median(getattr(x, measure) for x in seen)))
            if points:
                axes.plot(*zip(*points, strict=True), color=SHADES[layer], label=layer, marker=".")
    for axes, title in zip(panels, OVER_LOSS.values(), strict=True):
        axes.set(xscale="log", xlabel="loss (falls to the right)", title=title)
        axes.title.set_size("small")
        axes.invert_xaxis()
    if panels[0].lines:
        panels[0].legend(frameon=False)
    return figure
