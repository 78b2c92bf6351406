"""What makes N = 4 hard: how often each method gets the loss down, and what keeps it up."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure
from msgspec import Struct, convert

from styleinv import LAYERS
from styleinv.images import short_name
from styleinv.runs.reference import entry_of
from styleinv.runs.store import Run
from styleinv_book import figures
from styleinv_book.figures import BLUE, INK, ORANGE, Panel, as_html, html_table, provenance_line
from styleinv_book.intervals import Sample, bootstrap

NOISE, CONTINUED, COMPRESSED = "from noise", "continued", "compressed"
FAST, QUANTILES = "continued + compressed (fast)", "quantiles"
QUANTILES_COMPRESSED = "quantiles + compressed"
SHUFFLED, BEHIND = "from shuffled pixels", "quantiles behind the ReLU + compressed"
# Method -> sweep of reference runs. Three remedies, each with and without the others...
METHODS = {
    NOISE: "n4-noise",
    CONTINUED: "n4-continued",
    COMPRESSED: "n4-compressed",
    FAST: "n4-continued-compressed",
    QUANTILES: "n4-quantiles",
    "quantiles + continued": "n4-quantiles-continued",
    QUANTILES_COMPRESSED: "n4-quantiles-compressed",
    "all three": "n4-all",
    # ... and others in their place.
    "annealed weights": "n4-annealed",
    "raw moments first": "n4-raw",
    SHUFFLED: "n4-shuffled",
    BEHIND: "n4-behind-relu",
}
# Those that start from the quantiles before the ReLU.
FROM_QUANTILES = (QUANTILES, "quantiles + continued", QUANTILES_COMPRESSED, "all three")
# Those whose pictures are shown.
SHOWN = (NOISE, COMPRESSED, FAST, QUANTILES, QUANTILES_COMPRESSED)
# What is changed -> the methods before and after it.
CHANGES = {
    "add quantiles": [
        (NOISE, QUANTILES),
        (CONTINUED, "quantiles + continued"),
        (COMPRESSED, QUANTILES_COMPRESSED),
        (FAST, "all three"),
    ],
    "add continuation": [
        (NOISE, CONTINUED),
        (COMPRESSED, FAST),
        (QUANTILES, "quantiles + continued"),
        (QUANTILES_COMPRESSED, "all three"),
    ],
    "add compression": [
        (NOISE, COMPRESSED),
        (CONTINUED, FAST),
        (QUANTILES, QUANTILES_COMPRESSED),
        ("quantiles + continued", "all three"),
    ],
    "add annealed weights": [(NOISE, "annealed weights")],
    "add raw moments": [(NOISE, "raw moments first")],
    "shuffled pixels for noise": [(NOISE, SHUFFLED)],
    "quantiles before the ReLU, not behind it": [(BEHIND, QUANTILES_COMPRESSED)],
    "continuation in place of quantiles": [(QUANTILES_COMPRESSED, FAST)],
    "all of fast": [(NOISE, FAST)],
}
# A run is low if its loss ends below this; dead channels are to blame if they carry more than so
# much of a loss that is not.
LOW, MOST = 1e-3, 0.5


class Channel(Struct, frozen=True):
    """The channel that carries most of a loss: its part, and the style's values in it.

    Attributes:
        active: at how many of its `positions` the style activates it.
    """

    loss: float
    active: int
    positions: int
    skewness: float
    kurtosis: float


class Seen(Struct, frozen=True):
    """What only the features of a run's image tell; `benchmarks/hard_moments.py` looks at them.

    Attributes:
        dead_at_start: how many channels the style activates and the starting noise does not.
        loss, loss_of_dead: the final loss, and what channels carry of it that are dead at the end.
    """

    channels: int
    dead_at_start: int
    loss: float
    loss_of_dead: float
    heaviest: Channel


@dataclass(frozen=True)
class Attempt:
    """A run, and what was seen of its features."""

    run: Run
    seen: Seen

    @property
    def loss(self) -> float:
        """The final exact loss."""
        return self.run.record.result.loss

    @property
    def layer(self) -> str:
        """The layer that was inverted."""
        return self.run.record.asked.layer

    @property
    def is_low(self) -> bool:
        """Whether the loss ended below `LOW`."""
        return self.loss < LOW

    @property
    def is_at_theta(self) -> bool:
        """Whether the loss got below theta."""
        return self.run.record.result.stop_reason == "theta"

    @property
    def of_dead(self) -> float:
        """The share of the loss that dead channels carry."""
        return self.seen.loss_of_dead / self.seen.loss

    @property
    def is_dead(self) -> bool:
        """Whether dead channels carry most of a loss that is not low."""
        return not self.is_low and self.of_dead > MOST


Attempts = Mapping[str, Sequence[Attempt]]
Test = Callable[[Attempt], bool]
TESTS: dict[str, Test] = {
    "below 1e-3": lambda attempt: attempt.is_low,
    "theta reached": lambda attempt: attempt.is_at_theta,
}


def read(record: str | Path, results: str = figures.RESULTS) -> dict[str, list[Attempt]]:
    """The reference runs of each method, in the same order, with what a record says of them."""
    seen = convert(json.loads(Path(record).read_text(encoding="utf-8"))["runs"], dict[str, Seen])
    seeds = entry_of(METHODS[NOISE], results).seeds
    return {
        method: [
            Attempt(run, seen[run.record.address])
            for seed in seeds
            for run in figures.reference(sweep, results, seed=seed).runs.values()
        ]
        for method, sweep in METHODS.items()
    }


def percent(test: str, attempts: Sequence[Attempt]) -> float:
    """How many attempts pass one of `TESTS`, in percent."""
    return 100 * mean(map(TESTS[test], attempts))


def success(attempts: Attempts) -> Panel:
    """A tab with `success_plot`, and the runs behind it."""
    shares = (
        f"{method} {', '.join(f'{percent(test, some):.0f}%' for test in TESTS)}"
        for method, some in attempts.items()
    )
    alt = f"Share of runs per method: {', '.join(TESTS)}. {'; '.join(shares)}"
    runs = [attempt.run for some in attempts.values() for attempt in some]
    return Panel("Reference runs", as_html(success_plot(attempts), alt), runs)


def success_plot(attempts: Attempts) -> Figure:
    """How many runs of each method pass the tests, with 95% bootstrap intervals."""
    plot, axes = figures.plot_axes(5)
    looks = zip(TESTS.items(), ((INK, "^", -0.15), (BLUE, "o", 0.15)), strict=True)
    for (label, test), (colour, marker, shift) in looks:
        found = [_interval(some, [test(one) for one in some]) for some in attempts.values()]
        for row, (middle, low, high) in enumerate(found):
            y = row + shift
            axes.plot((low, high), (y, y), color=colour, linewidth=1.2)
            axes.plot(middle, y, marker, color=colour, markersize=4.5, label=label)
            label = ""  # in the legend once
    axes.set(xlim=(0, 100), xlabel="runs, %", yticks=range(len(attempts)))
    axes.set_yticklabels(attempts)
    axes.invert_yaxis()
    for tick, some in zip(axes.get_yticklabels(), attempts.values(), strict=True):
        if some[0].run.record.asked.told:
            tick.set(style="italic")
    plot.legend(loc="outside upper right", ncols=2, frameon=False)
    return plot


def _interval(
    attempts: Sequence[Attempt], values: Sequence[float | bool]
) -> tuple[float, float, float]:
    """Mean over styles and seeds in percent, and its 95% bootstrap interval, as for the claims."""
    records = [attempt.run.record for attempt in attempts]
    return bootstrap(
        [
            Sample(record.source, record.asked.seed, 100.0 * value)
            for record, value in zip(records, values, strict=True)
        ]
    )


def setting(attempts: Attempts) -> str:
    """What every method was tried on."""
    records = [attempt.run.record for attempt in attempts[NOISE]]
    styles = {record.source for record in records}
    layers = {record.asked.layer for record in records}
    seeds = {record.asked.seed for record in records}
    asked = records[0].asked
    return (
        f"{len(styles)} styles x {len(layers)} layers x {len(seeds)} seeds at {asked.width} x "
        f"{asked.height} pixels, up to {asked.protocol.budget:,} evaluations each"
    )


def pictures() -> Panel:
    """A row per run that was kept with its picture, and a column per method of `SHOWN`."""
    albums = {method: figures.reference(f"{METHODS[method]}-shown") for method in SHOWN}
    first = albums[NOISE]
    rows = {f"{short_name(key[0])}, {key[1]}": key for key in first.runs}
    columns = {method: (album, None) for method, album in albums.items()}
    return figures.compared(rows, columns, mark_failures=True)


def change(
    attempts: Attempts, test: str, methods: Sequence[tuple[str, str]]
) -> tuple[float, float, float]:
    """How much more often a test is passed after a change, in percentage points, with interval.

    Args:
        methods: before and after the change; runs are compared one by one.
    """
    found = [
        (after, TESTS[test](after) - TESTS[test](before))
        for names in methods
        for before, after in zip(*(attempts[name] for name in names), strict=True)
    ]
    return _interval(*zip(*found, strict=True))


def changes(attempts: Attempts) -> str:
    """The table of what each of `CHANGES` does."""

    def effect(test: str, methods: Sequence[tuple[str, str]]) -> str:
        text = "{:+.0f} ({:+.0f} to {:+.0f})".format(*change(attempts, test, methods))
        return text.replace("-", "\N{MINUS SIGN}")

    rows = ((what, *(effect(test, methods) for test in TESTS)) for what, methods in CHANGES.items())
    return html_table(("change", *TESTS), rows)


def dead_at_start(attempts: Attempts) -> str:
    """Per layer: how many channels are dead before the first step, in noise and shuffled pixels."""

    def row(layer: str) -> tuple[object, ...]:
        seen = {
            method: [attempt.seen for attempt in attempts[method] if attempt.layer == layer]
            for method in (NOISE, SHUFFLED)
        }
        ranges = (figures.span([one.dead_at_start for one in some]) for some in seen.values())
        return layer, seen[NOISE][0].channels, *ranges

    head = ("layer", "channels", "dead in noise", "dead in shuffled pixels")
    return html_table(head, map(row, LAYERS))


def heaviest(attempts: Sequence[Attempt], rows: int) -> str:
    """The attempts in which dead channels carry the largest losses, and the heaviest channel."""
    worst = sorted(attempts, key=lambda attempt: -attempt.seen.loss_of_dead)[:rows]
    head = (
        "style, layer, seed",
        "loss",
        "one channel's share",
        "active at",
        "skewness",
        "kurtosis",
    )
    return html_table(head, map(_heaviest, worst))


def _heaviest(attempt: Attempt) -> tuple[str, ...]:
    record, channel = attempt.run.record, attempt.seen.heaviest
    return (
        f"{short_name(record.source)}, {attempt.layer}, {record.asked.seed}",
        f"{attempt.loss:.3g}",
        f"{channel.loss / attempt.seen.loss:.0%}",
        f"{channel.active} of {channel.positions:,}",
        f"{channel.skewness:.0f}",
        f"{channel.kurtosis:.0f}",
    )


def dead_panel(attempts: Attempts, record: str | Path) -> Panel:
    """A tab with `dead_plot`, and which record it is from."""
    made = json.loads(Path(record).read_text(encoding="utf-8"))
    failed = [attempt for some in attempts.values() for attempt in some if not attempt.is_low]
    alt = (
        f"Final loss and the share of it that dead channels carry, a point per run. Of "
        f"{len(failed)} runs above 1e-3, dead channels carry most of the loss in "
        f"{sum(attempt.is_dead for attempt in failed)}."
    )
    origin = provenance_line(
        "the runs of the first figure",
        f"features of their images before they were rounded to 8 bits: <code>{Path(record).name}"
        f"</code>, {made['date'][:10]}, styleinv {made['styleinv']}, torch {made['torch']}",
    )
    return Panel("Reference runs", as_html(dead_plot(attempts), alt), [], origin)


def dead_plot(attempts: Attempts) -> Figure:
    """The share of the final loss that dead channels carry, over that loss: a point per run."""
    plot, axes = figures.plot_axes()
    groups = (
        ("other methods", ORANGE, "o", [name for name in attempts if name not in FROM_QUANTILES]),
        ("quantiles before the ReLU", BLUE, "s", FROM_QUANTILES),
    )
    for label, colour, marker, names in groups:
        some = [attempt for name in names for attempt in attempts[name]]
        look: dict[str, Any] = {"markersize": 4, "alpha": 0.6, "markeredgewidth": 0}
        losses, shares = [one.loss for one in some], [100 * one.of_dead for one in some]
        axes.plot(losses, shares, marker, color=colour, label=label, **look)
    axes.axvline(LOW, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="final exact loss", ylabel="carried by dead channels, %")
    axes.legend(frameon=False, loc="center left")
    return plot


def failures(attempts: Attempts) -> str:
    """Per method: runs above 1e-3, by what keeps them there, and how many are below at relu_2_2."""
    rows = []
    for method, some in attempts.items():
        failed = [attempt for attempt in some if not attempt.is_low]
        dead = sum(attempt.is_dead for attempt in failed)
        deepest = [attempt for attempt in some if attempt.layer == LAYERS[-1]]
        low = sum(attempt.is_low for attempt in deepest)
        rows.append((method, dead, len(failed) - dead, f"{low} of {len(deepest)}"))
    head = ("method", "above 1e-3: dead channels", "above 1e-3: others", "relu_2_2: below 1e-3")
    return html_table(head, rows)
