"""What section 1.3 shows: how the loss falls under Adam and `fast`, how alike pictures are."""

import dataclasses
import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.lines import Line2D
from scipy.ndimage import gaussian_filter

from styleinv.encoder import LAYERS
from styleinv.live.labels import COLOURS, TITLES
from styleinv.protocol import CHAPTER, CHAPTER_ITERATIONS
from styleinv.runs.measures import psnr
from styleinv.runs.reference import chapter_runs, entry_of
from styleinv.runs.store import Run
from styleinv.runs.sweeps import Key
from styleinv_book import figures
from styleinv_book.figures import Album, Panel

BLUR = 2  # pixels
# The pairs of pictures that are compared: what they share, what they differ in.
OPTIMISERS, NOISES, STYLES = "two optimisers, one noise", "two noises, one optimiser", "two styles"

Pair = tuple[Run, Run]


@dataclasses.dataclass(frozen=True)
class Likeness:
    """How alike two pictures of one loss are: a correlation, and a PSNR in dB."""

    correlation: float
    psnr: float
    loss: str


def table_1_1() -> str:
    """Table 1.1 of the chapter: iterations by layer and loss."""
    rows = [
        (layer, *(f"{budgets[layer]:,}" for budgets in CHAPTER_ITERATIONS.values()))
        for layer in LAYERS
    ]
    return figures.html_table(("layer", *(TITLES[loss] for loss in CHAPTER_ITERATIONS)), rows)


def finished(sweep: str, results: str = figures.RESULTS) -> Album:
    """The runs of a sweep of `results/chapter.yml` that are made; others take days."""
    runs = chapter_runs(sweep, results)
    return Album({key: run for key, run in runs.items() if run is not None}, results)


def passed(run: Run) -> bool:
    """Whether a run has passed theta."""
    return run.record.result.stop_reason == "theta"


def curves_panel(album: Album) -> Panel | None:
    """The first style's runs at the deepest layer; the signed MMD has no place on a log axis."""
    style, layer = album.styles[0], album.layers[-1]
    chosen = {
        TITLES[loss]: run
        for (own_style, own_layer, loss), run in album.runs.items()
        if (own_style, own_layer) == (style, layer) and loss != "mmd"
    }
    if not chosen:
        return None
    alt = f"Style loss over evaluations at {layer}, both axes logarithmic: {', '.join(chosen)}."
    return figures.plot_panel(album, chosen, figures.curves(chosen), alt)


# Adam beside `fast`


def side_by_side(adam: Album, fast: Album, loss: str) -> Panel:
    """A tab for a loss: the style and what both optimisers leave, a row for each finished layer."""
    style = fast.styles[0]
    rows = {x: (style, x, loss) for x in fast.layers if (style, x, loss) in adam.runs}
    shown = figures.compared(rows, {"Adam": (adam, None), "fast": (fast, None)})
    return dataclasses.replace(shown, title=TITLES[loss])


def in_both(adam: Album, fast: Album) -> list[Key]:
    """The runs of the Gram matrix and of N = 2 that both optimisers have finished."""
    return [key for key in fast.runs if key in adam.runs and key[2] in ("gram", "moment-2")]


def paths_panel(adam: Album, fast: Album, unit: Literal["evaluations", "seconds"]) -> Panel:
    """The loss over `unit`, a plot per layer: Adam in full lines, `fast` in dashed ones."""
    figure, panels = figures.plot_axes(4.6, 2, 2, sharex=True, sharey=True)
    keys = in_both(adam, fast)
    for axes, layer in zip(panels.flat, LAYERS, strict=True):
        for key in (key for key in keys if key[1] == layer):
            for name, album, line in (("Adam", adam, "-"), ("fast", fast, "--")):
                trace = album.runs[key].record.trace
                # The axis is logarithmic, and the first point is at 0 seconds.
                points = [(max(getattr(point, unit), 0.01), point.loss) for point in trace]
                label = f"{TITLES[key[2]]}, {name}"
                axes.plot(*zip(*points, strict=True), line, color=COLOURS[key[2]], label=label)
        axes.set(xscale="log", yscale="log", title=layer, xlabel=unit, ylabel="style loss")
        axes.axhline(CHAPTER.theta, color=figures.INK, linewidth=0.8, linestyle=":")
    legend = panels.flat[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside upper center", ncols=4, frameon=False, fontsize="small")
    runs = {
        f"{name} {key}": album.runs[key]
        for key in keys
        for name, album in (("Adam", adam), ("fast", fast))
    }
    alt = f"Style loss over {unit} for Adam and fast, a plot per layer, all axes logarithmic."
    return dataclasses.replace(figures.plot_panel(adam, runs, figure, alt), title=f"Over {unit}")


def times_the_evaluations(adam: Album, fast: Album) -> float:
    """How many times the evaluations of `fast` Adam takes, in the median of the runs of both."""
    return statistics.median(
        adam.runs[key].record.result.evaluations / fast.runs[key].record.result.evaluations
        for key in in_both(adam, fast)
    )


def adam_table(sweep: str, results: str = figures.RESULTS) -> str:
    """The iterations that the chapter's Adam took, in the places that Table 1.1 has for them.

    The sweep has one style, all layers and all losses.
    A run that theta did not stop says what did; one that is not made yet is a dash.
    """
    runs = {key[1:]: run for key, run in chapter_runs(sweep, results).items()}
    rows = [(layer, *(_took(runs[layer, loss]) for loss in CHAPTER_ITERATIONS)) for layer in LAYERS]
    return figures.html_table(("layer", *(TITLES[loss] for loss in CHAPTER_ITERATIONS)), rows)


def _took(run: Run | None) -> str:
    if run is None:
        return "\N{EN DASH}"
    stopped = "" if passed(run) else f" ({run.record.result.stop_reason})"
    return f"{run.record.result.iterations:,}{stopped}"


# Pictures with the same statistic


def likeness(one: Run, other: Run) -> Likeness:
    """The correlation of two pictures without their mean colours and finest details; their PSNR."""
    blurred = [gaussian_filter(run.image.astype(float), (BLUR, BLUR, 0)) for run in (one, other)]
    centred = [(picture - picture.mean(axis=(0, 1))).ravel() for picture in blurred]
    correlation = float(np.corrcoef(*centred)[0, 1])
    return Likeness(correlation, psnr(one.image, other.image), one.record.asked.loss)


def pairs_of_pictures(adam: Album, fast: Album, sweep: str = "seeds") -> dict[str, list[Pair]]:
    """Pairs that differ in one thing, without runs that have failed.

    Args:
        sweep: of the reference runs, one with several seeds.
    """
    seeds = entry_of(sweep, figures.RESULTS).seeds
    seeded = [figures.reference(sweep, seed=seed).runs for seed in seeds]
    pairs = {
        OPTIMISERS: [(run, fast.runs[key]) for key, run in adam.runs.items() if key in fast.runs],
        NOISES: [
            (one[key], other[key])
            for one, other in itertools.combinations(seeded, 2)
            for key in one
        ],
        STYLES: list(_of_two_styles(seeded)),
    }
    return {
        name: [pair for pair in some if not any(figures.failure(run.record) for run in pair)]
        for name, some in pairs.items()
    }


def _of_two_styles(seeded: Sequence[Mapping[Key, Run]]) -> Iterator[Pair]:
    for one, other in itertools.product(seeded, repeat=2):
        for key, another in itertools.combinations(one, 2):
            if key[1:] == another[1:]:
                yield one[key], other[another]


def likeness_of(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, list[Likeness]]:
    """How alike the pictures of each pair are."""
    return {name: [likeness(*pair) for pair in some] for name, some in pairs.items()}


def likeness_panel(
    album: Album,
    pairs: Mapping[str, Sequence[Pair]],
    found: Mapping[str, Sequence[Likeness]],
) -> Panel:
    """A row for each kind of pair, a dot for each pair, in the colour of its loss."""
    figure, axes = figures.plot_axes(2.6, 1, 2, sharey=True)
    losses = [x for x in COLOURS if any(x == each.loss for some in found.values() for each in some)]
    labels = {"correlation": f"correlation after a blur of {BLUR} px", "psnr": "PSNR, dB"}
    for place, (measure, label) in zip(axes, labels.items(), strict=True):
        for (row, some), loss in itertools.product(enumerate(found.values()), losses):
            values = [getattr(each, measure) for each in some if each.loss == loss]
            height = row + 0.12 * (losses.index(loss) - len(losses) / 2)
            style = {"color": COLOURS[loss], "markersize": 4, "alpha": 0.6}
            place.plot(values, [height] * len(values), "o", **style)
        place.set(xlabel=label, yticks=range(len(found)))
    axes[0].set_yticklabels(found)
    axes[0].invert_yaxis()
    handles = [Line2D([], [], marker="o", linestyle="", color=COLOURS[x]) for x in losses]
    titles = [TITLES[loss] for loss in losses]
    figure.legend(handles, titles, loc="outside upper right", ncols=len(losses), frameon=False)
    runs = {run.record.address: run for some in pairs.values() for pair in some for run in pair}
    alt = "How alike two pictures are, a dot per pair; the table has the medians."
    return figures.plot_panel(album, runs, figure, alt)


def likeness_table(found: Mapping[str, Sequence[Likeness]]) -> str:
    """The correlations of each kind of pair, and their PSNR in the median."""
    rows = [
        (
            name,
            len(some),
            f"{statistics.median(x):.2f} ({min(x):.2f} to {max(x):.2f})",
            f"{statistics.median(each.psnr for each in some):.1f}",
        )
        for name, some in found.items()
        for x in [[each.correlation for each in some]]
    ]
    return figures.html_table(("pairs", "number", "correlation: median (range)", "PSNR, dB"), rows)
