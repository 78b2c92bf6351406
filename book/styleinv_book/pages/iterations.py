"""What section A.1 shows: what each loss needs to pass theta, by layer and optimiser."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

from styleinv.encoder import LAYERS
from styleinv.live.labels import COLOURS, TITLES
from styleinv.protocol import CHAPTER_ITERATIONS
from styleinv.runs.store import Run
from styleinv.runs.sweeps import Key
from styleinv_book import figures
from styleinv_book.figures import Album, Panel
from styleinv_book.pages.training import finished, passed

# MMD is a signed sum, which theta does not measure.
LOSSES = [loss for loss in CHAPTER_ITERATIONS if loss != "mmd"]


def adam_runs(sweeps: Iterable[str], results: str = figures.RESULTS) -> dict[Key, Run]:
    """The finished runs of the chapter's Adam in some sweeps, each style, layer and loss once."""
    return {key: run for sweep in sweeps for key, run in finished(sweep, results).runs.items()}


def to_theta(runs: Mapping[Key, Run], layer: str, loss: str) -> list[int | None]:
    """What each run of a layer and a loss took to theta; None if it missed it.

    Iterations of Adam, as in Table 1.1; evaluations of an L-BFGS.
    """
    own = [run for key, run in runs.items() if key[1:] == (layer, loss)]
    return [_took(run) if passed(run) else None for run in own]


def _took(run: Run) -> int:
    result = run.record.result
    return result.iterations if run.record.asked.protocol.method == "adam" else result.evaluations


def median_of_passed(counts: Sequence[int | None]) -> float | None:
    """Median over the runs that pass theta; None unless at least half of them do."""
    found = [count for count in counts if count is not None]
    return statistics.median(found) if 2 * len(found) >= len(counts) > 0 else None


def needed_panel(album: Album, title: str | None = None) -> Panel | None:
    """A point per layer and loss: the median number of evaluations to theta."""
    chosen = [loss for loss in LOSSES if loss in album.losses]
    if not chosen:
        return None
    album.title = title or album.title
    figure, axes = figures.plot_axes()
    for shift, loss in enumerate(chosen):
        counts = [median_of_passed(to_theta(album.runs, layer, loss)) for layer in album.layers]
        places = [i + (shift - (len(chosen) - 1) / 2) / 8 for i in range(len(counts))]
        points = [(x, count) for x, count in zip(places, counts, strict=True) if count is not None]
        if points:
            axes.plot(*zip(*points, strict=True), "o", color=COLOURS[loss], label=TITLES[loss])
    axes.set(yscale="log", ylabel="evaluations to theta", xticks=range(len(album.layers)))
    axes.set_xticklabels(album.layers)
    axes.legend(frameon=False, ncols=len(chosen), loc="lower center", bbox_to_anchor=(0.5, 1))
    runs = {str(key): run for key, run in album.runs.items() if key[2] in chosen}
    alt = "A point per layer and loss: the median number of evaluations to theta, on a log axis."
    return figures.plot_panel(album, runs, figure, alt)


def need_table(columns: Mapping[str, Mapping[Key, Run]]) -> str:
    """Table 1.1 beside what the runs of each column took to theta."""
    rows = [
        (
            layer,
            TITLES[loss],
            f"{CHAPTER_ITERATIONS[loss][layer]:,}",
            *(_said(to_theta(runs, layer, loss)) for runs in columns.values()),
        )
        for layer in LAYERS
        for loss in LOSSES
    ]
    return figures.html_table(("layer", "loss", "Table 1.1", *columns), rows)


def _said(counts: Sequence[int | None]) -> str:
    if not counts:
        return ""
    median = median_of_passed(counts)
    share = f"({sum(count is not None for count in counts)} of {len(counts)})"
    return f"{median:,.0f} {share}" if median else f"- {share}"


def ratios(runs: Mapping[Key, Run], loss: str, other: str) -> list[float]:
    """How many times as much as `other` a loss takes, wherever both pass theta; see `to_theta`."""
    return [
        _took(run) / _took(beside)
        for (style, layer, own), run in runs.items()
        if own == loss
        and (beside := runs.get((style, layer, other))) is not None
        and passed(run)
        and passed(beside)
    ]


def median_ratio(runs: Mapping[Key, Run], loss: str, other: str) -> float:
    """The median of these ratios; nan if there are none."""
    return statistics.median(ratios(runs, loss, other) or [math.nan])
