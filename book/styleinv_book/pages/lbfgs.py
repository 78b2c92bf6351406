"""L-BFGS reconsidered: optimisers on one loss, and what ends a descent."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from msgspec import Struct, convert

from styleinv.images import short_name
from styleinv.live.labels import TITLES
from styleinv.protocol import FAST, FROM_NOISE, SLOW_AFTER
from styleinv.runs.record import Record
from styleinv.runs.store import read_records
from styleinv_book.figures import (
    INK,
    Album,
    Panel,
    as_html,
    compared,
    curves,
    plot_axes,
    plot_panel,
    provenance_line,
    span,
)
from styleinv_book.growth import SHADES

# The optimisers that are compared: title -> runs.
Albums = Mapping[str, Album]

TO_THETA = ("loss", "optimiser", "at theta", "evaluations", "structure kept", "colour distance")
REACHED = ("optimiser", "evaluations", "least loss on the way", "loss of the picture", "stopped by")


# Optimisers side by side.


def of_loss(album: Album, loss: str) -> Album:
    """The album of the runs with this loss."""
    return Album({key: run for key, run in album.runs.items() if key[2] == loss}, album.results)


def pictures(albums: Albums) -> Panel:
    """A row per run of the first optimiser, and a column per optimiser beside the style."""
    first = next(iter(albums.values()))
    labels = first.labels()
    rows = {
        f"{labels[style]}, {layer}, {TITLES[loss]}": (style, layer, loss)
        for style, layer, loss in first.runs
    }
    return compared(rows, {title: (album, None) for title, album in albums.items()})


def to_theta(results: str, sweeps: Mapping[str, str], *losses: str) -> list[tuple[str, ...]]:
    """Per loss and optimiser (title -> sweep) the cells under `TO_THETA`.

    Only styles count that all of the optimisers have. "At theta" says how many of the pictures
    have a loss below theta. Of the evaluations there are median and range, of the other measures
    (`styleinv.runs.measures`) the medians.
    """
    rows = []
    for loss in losses:
        found = {title: _runs(results, sweep, loss) for title, sweep in sweeps.items()}
        common = set.intersection(*({run.source for run in runs} for runs in found.values()))
        for title, runs in found.items():
            own = [run for run in runs if run.source in common]
            rows.append((TITLES[loss], title, *_ended(own)))
    return rows


def _runs(results: str, sweep: str, loss: str) -> list[Record]:
    records = read_records(Path(results, "runs", sweep))
    return [run for run in records.values() if run.asked.loss == loss]


def _ended(runs: Sequence[Record]) -> tuple[str, ...]:
    below = sum(run.theta is not None and run.result.loss < run.theta for run in runs)
    evaluations = [run.result.evaluations for run in runs]
    structure, colour = (
        median(getattr(run.measures, name) for run in runs)
        for name in ("structure", "colour_distance")
    )
    return (
        f"{below} of {len(runs)}",
        f"{median(evaluations):,.0f} ({min(evaluations):,} to {max(evaluations):,})",
        f"{structure:.2f}",
        f"{colour:.1f}",
    )


def reached(albums: Albums) -> list[tuple[str, ...]]:
    """Per optimiser the cells under `REACHED`: ranges over its runs, and what stopped them."""
    rows: list[tuple[str, ...]] = []
    for title, album in albums.items():
        records = [run.record for run in album.runs.values()]
        stops = Counter(record.result.stop_reason for record in records).most_common()
        rows.append(
            (
                title,
                span([record.result.evaluations for record in records], ","),
                span([least_on_the_way(record) for record in records], ".0e"),
                span([record.result.loss for record in records], ".0e"),
                ", ".join(f"{reason} ({count})" for reason, count in stops),
            )
        )
    return rows


def least_on_the_way(record: Record) -> float:
    """The least loss that the optimiser saw, whose image may have values beyond [0, 1]."""
    return min(point.loss for point in record.trace)


def loss_curves(albums: Albums) -> Panel:
    """The loss over evaluations of every optimiser: the first style at the last layer."""
    first = next(iter(albums.values()))
    key = (first.styles[0], first.layers[-1], first.losses[0])
    chosen = {title: album.runs[key] for title, album in albums.items()}
    alt = f"{TITLES[key[2]]} loss over evaluations at {key[1]}, a line for each of "
    return plot_panel(first, chosen, curves(chosen), f"{alt}{', '.join(chosen)}.")


# Where descents end. `benchmarks/floor.py` makes the record.


class Step(Struct, frozen=True):
    """An exact Gauss-Newton step.

    Attributes:
        rms: its length, the root mean square of the changes of pixel values.
        promised, loss: the loss after it, by the linear model and as it is.
    """

    rms: float
    promised: float
    loss: float


class Look(Struct, frozen=True):
    """A picture on the way, with its pixel noise (in L*) and colour distance (CIELAB units)."""

    evaluations: int
    loss: float
    noise: float
    colour_distance: float


class Descent(Struct, frozen=True):
    """A descent of the Gram loss that ended where it gained little.

    Attributes:
        values, free: pixel values, and those between their bounds at the end.
        constraints: numbers of the Gram matrix.
        psnr: of the picture and the style image, in dB.
        trace: evaluations and loss.
        ranks, singular_values: of the Jacobian of the Gram matrix, at the end.
        steps: from the end.
    """

    encoder: str
    style: str
    size: int
    layer: str
    protocol: str
    loss: float
    evaluations: int
    values: int
    constraints: int
    free: int
    psnr: float
    trace: tuple[tuple[int, float], ...]
    looks: tuple[Look, ...]
    ranks: tuple[int, ...] = ()
    singular_values: tuple[float, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def label(self) -> str:
        """Where it took place."""
        return f"{self.layer}, {self.size} px"

    @property
    def cell(self) -> tuple[str, int, str]:
        """What it shares with the descent of another protocol."""
        return self.style, self.size, self.layer

    def until(self, level: float) -> int | None:
        """Evaluations until the loss is below a level, or None if it never is."""
        return next((at for at, loss in self.trace if loss < level), None)

    def answering(self, share: float) -> float:
        """The share of the numbers whose singular value is above `share` of the largest."""
        pairs = zip(self.ranks, self.singular_values, strict=True)
        above = max(rank for rank, x in pairs if x > share * self.singular_values[0])
        return above / self.constraints

    def slow_at(self, gain: float) -> int | None:
        """Where it ends if its later half must divide the loss by `gain`: evaluations, or None."""
        for at, loss in self.trace:
            half = [before for earlier, before in self.trace if earlier <= at / 2]
            if at >= SLOW_AFTER and half[-1] < gain * loss:
                return at
        return None


def read_descents(file: Path) -> list[Descent]:
    """The descents of a record of `benchmarks/floor.py` with the encoder of the first."""
    record = json.loads(file.read_text(encoding="utf-8"))
    found = convert(list(record["descents"].values()), list[Descent])
    return [descent for descent in found if descent.encoder == found[0].encoder]


def ends(descents: Sequence[Descent]) -> list[Descent]:
    """Those by `fast`."""
    return [descent for descent in descents if descent.protocol == FAST.name]


def ends_panel(descents: Sequence[Descent], file: Path) -> Panel:
    """A tab with `ends_plot`, and what made the record in `file`."""
    alt = "The loss where descent ends falls with the size and rises with the layer."
    plot = as_html(ends_plot(descents, file.parent), alt)
    return Panel("Record", plot, [], provenance_line(*_made_with(descents, file)))


def ends_plot(descents: Sequence[Descent], results: Path) -> Figure:
    """The loss where descents end over the size: of the record, and of reference runs of `fast`."""
    figure, axes = plot_axes(3.4)
    kept = [run for run in read_records(results / "runs").values() if _is_kin(run, descents[0])]
    for layer, colour in SHADES.items():
        found = _by_size((x.size, x.loss) for x in ends(descents) if x.layer == layer)
        points = [(size, loss) for size, losses in found.items() for loss in losses]
        axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=3)
        axes.plot(list(found), [median(x) for x in found.values()], color=colour, label=layer)
        by_fast = _by_size((x.asked.height, x.result.loss) for x in kept if x.asked.layer == layer)
        medians = [median(x) for x in by_fast.values()]
        axes.plot(list(by_fast), medians, "--s", color=colour, markersize=3, linewidth=0.8)
    axes.axhline(FAST.theta, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="size, px", ylabel="loss where descent ends")
    ticks = (16, 32, 64, 128, 256)
    axes.set_xticks(ticks, ticks)
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def _made_with(descents: Sequence[Descent], file: Path) -> list[str]:
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return [
        f"encoder {descents[0].encoder}",
        f"styles {', '.join(sorted({short_name(x.style) for x in descents}))}",
        f"record: <code>results/{file.name}</code>, {record['date'][:10]}, styleinv "
        f"{record['styleinv']}, torch {record['torch']}",
        f"up to {record['most']:,} evaluations, until the later half of them divides the loss by "
        f"less than {record['least_gain']:g}",
    ]


def _is_kin(record: Record, descent: Descent) -> bool:
    asked = record.asked
    kin = asked.protocol.name, asked.loss, asked.encoder, record.iterations_asked
    return kin == (FAST.name, "gram", descent.encoder, None)


def _by_size(points: Iterable[tuple[int, float]]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for size, loss in sorted(points):
        found.setdefault(size, []).append(loss)
    return found


# What a table says of an end, by the title of its row. Steps are in grey levels, 256 of them.
LOOKED: dict[str, Callable[[Descent], str]] = {
    "free pixel values": lambda x: f"{x.free:,}",
    "numbers of the Gram matrix": lambda x: f"{x.constraints:,}",
    "of these, with a singular value above 1/1000 of the largest": lambda x: (
        f"{x.answering(1e-3):.0%}"
    ),
    "least loss that the linear model promises": lambda x: (
        f"x {min(step.promised for step in x.steps) / x.loss:.2g}"
    ),
    "least loss after an exact step": lambda x: (
        f"x {min(step.loss for step in x.steps) / x.loss:.2f}"
    ),
    "shortest step that promises to halve the loss": lambda x: _shortest(
        step.rms for step in x.steps if step.promised < x.loss / 2
    ),
    "shortest step that doubles it": lambda x: _shortest(
        step.rms for step in x.steps if step.loss > 2 * x.loss
    ),
}


def _shortest(lengths: Iterable[float]) -> str:
    shortest = min(lengths, default=None)
    return "none" if shortest is None else f"{255 * shortest:.0f}"


def looked_around(descents: Sequence[Descent]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of the ends from which exact steps were made, by size per number."""
    found = sorted((x for x in descents if x.steps), key=lambda x: x.free / x.constraints)
    rows = [[title, *map(cell, found)] for title, cell in LOOKED.items()]
    return ["at the end of a descent", *(descent.label for descent in found)], rows


# The first stage of `fast`, and when to stop.

LEVELS = (1e-2, 1e-3, 1e-4, FAST.theta)


def pairs(descents: Sequence[Descent]) -> list[tuple[Descent, Descent]]:
    """Descents by `from-noise` and by `fast` that differ in nothing else."""
    others = {x.cell: x for x in descents if x.protocol == FROM_NOISE.name}
    return [(others[x.cell], x) for x in ends(descents) if x.cell in others]


def stiffness_rows(descents: Sequence[Descent]) -> list[tuple[object, ...]]:
    """Per pair: the evaluations to each of `LEVELS` and the losses at the end, both / joined."""
    return [
        (
            short_name(pair[1].style),
            pair[1].layer,
            *(" / ".join(str(x.until(level) or "-") for x in pair) for level in LEVELS),
            " / ".join(f"{x.loss:.0e}" for x in pair),
        )
        for pair in pairs(descents)
    ]


def median_gain(descents: Sequence[Descent], level: float) -> float:
    """How many times the evaluations of `fast` `from-noise` needs, where both get below a level."""
    found = [(a.until(level), b.until(level)) for a, b in pairs(descents)]
    return median(a / b for a, b in found if a and b)


def going_on(descents: Sequence[Descent], gain: float) -> list[tuple[str, str, str]]:
    """What descents that slow down gain and lose when they go on: medians, and how many rise.

    Counted are those whose end by the rule (`Descent.slow_at`) comes well before their own.
    """
    stopped = []
    for descent in ends(descents):
        at = descent.slow_at(gain)
        if at is not None and at < 0.8 * descent.evaluations:
            nearest = min(descent.looks, key=lambda look: abs(look.evaluations - at))
            stopped.append((nearest, descent.looks[-1]))
    rows: list[tuple[str, str, str]] = []
    for name in ("evaluations", "loss"):
        factors = [getattr(last, name) / getattr(first, name) for first, last in stopped]
        rows.append((name, f"x {median(factors):.2g}", _rising(factors, 1)))
    for title, name in (("pixel noise, L*", "noise"), ("colour distance", "colour_distance")):
        changes = [getattr(last, name) - getattr(first, name) for first, last in stopped]
        rows.append((title, f"{median(changes):+.2f}", _rising(changes, 0)))
    return rows


def _rising(changes: Sequence[float], none: float) -> str:
    return f"{sum(change > none for change in changes)} of {len(changes)}"
