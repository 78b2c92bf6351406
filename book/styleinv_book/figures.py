"""The chapter's figures, drawn from run records: pictures in rows and columns, and their origin.

Image figures are HTML tables with a caption: every picture keeps its own pixels, its own text
alternative and, for reference runs, a link to its state in the viewer. Line plots are SVG.
"""

import base64
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib.pyplot as plt
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from styleinv.images import SCIKIT_IMAGE, Pixels, load_style, short_name, to_uint8
from styleinv.losses import COLOURS, TITLES
from styleinv.runs import store
from styleinv.runs.record import Record, Settings, unit_of
from styleinv.runs.reference import reference_runs
from styleinv.runs.store import Run
from styleinv.runs.sweeps import Key, own_runs, sweep
from styleinv.styles import PHOTOGRAPHS
from styleinv_book.rendering import render_macro
from styleinv_book.viewer import link_to

DPI = 100
PAGE_WIDTH, CELL_WIDTH = 640, 256  # pixels that a row and a picture are enlarged to at most
# As seen from every page: they all lie one folder down.
VIEWER_PAGE, RESULTS, OWN_RUNS = "../notebooks/viewer.html", "../results", "../_build/runs"
INK = "#222222"
# Okabe and Ito's palette, told apart by the colour-blind; the same colour everywhere.
BLUE, ORANGE = "#0072b2", "#d55e00"

# The columns of the table of the runs behind a figure.
RUN_COLUMNS: dict[str, Callable[[Record], object]] = {
    "style": lambda run: run.style,
    "layer": lambda run: run.asked.layer,
    "loss": lambda run: TITLES[run.asked.loss],
    "protocol": lambda run: run.asked.protocol.name,
    "encoder": lambda run: run.asked.encoder,
    "seed": lambda run: run.asked.seed,
    "iterations": lambda run: run.result.iterations,
    "evaluations": lambda run: run.result.evaluations,
    "final loss": lambda run: f"{run.result.loss:.2g}",
    "stopped by": lambda run: run.result.stop_reason,
    "s": lambda run: f"{run.result.seconds:.1f}",
    "address": lambda run: run.address[:8],
}


@dataclass(frozen=True)
class Picture:
    """An image on a page: where its pixels are, what they show, where a click leads."""

    source: str
    alt: str
    width: int
    height: int
    link: str = ""


@dataclass(frozen=True)
class Panel:
    """One tab of a figure: what it shows, and the runs that are behind it."""

    title: str
    content: str
    runs: Sequence[Run]
    styles: Sequence[str]

    @property
    def origin(self) -> str:
        """What made the runs, who took the photographs, and a table of the runs, as HTML."""
        return provenance(self.runs) + credit_line(self.styles) + run_table(self.runs)


@dataclass(frozen=True)
class Album:
    """Runs that figures show.

    Attributes:
        runs: by (style, layer, loss), as `sweep` and `reference_runs` return them.
        results: for reference runs, the folder that holds them, as seen from the page: their
            pictures are linked. None for the runs of this build: their pictures are embedded.
    """

    runs: Mapping[Key, Run]
    results: str | None = None

    @property
    def title(self) -> str:
        return "This build" if self.results is None else "Reference runs"

    @property
    def styles(self) -> list[str]:
        return list(dict.fromkeys(style for style, _, _ in self.runs))

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(layer for _, layer, _ in self.runs))

    @property
    def losses(self) -> list[str]:
        return list(dict.fromkeys(loss for _, _, loss in self.runs))

    def labels(self) -> dict[str, str]:
        """A label for each style: its short name, or its full one where two share the short one."""
        shared = Counter(short_name(style) for style in self.styles)
        return {s: short_name(s) if shared[short_name(s)] == 1 else s for s in self.styles}

    def of(self, styles: Sequence[str]) -> "Album":
        """The album of some of the styles."""
        runs = {key: run for key, run in self.runs.items() if key[0] in styles}
        return Album(runs, self.results)

    def by_style(self, loss: str) -> Panel | None:
        """Figures 1.3 and 1.7: a column per style, its image on top, below a row per layer."""
        if loss not in self.losses:
            return None
        labels = self.labels().items()
        cells: Cells = {"style": {label: (self, style) for style, label in labels}}
        for layer in self.layers:
            cells[layer] = {label: (self, (style, layer, loss)) for style, label in labels}
        return panel(cells)

    def by_loss(self, style_number: int, losses: Sequence[str]) -> Panel | None:
        """Figures 1.4 to 1.6 and A.1 to A.3: a row per layer, the style and a column per loss."""
        shown = [loss for loss in losses if loss in self.losses]
        if style_number >= len(self.styles) or not shown:
            return None
        style = self.styles[style_number]
        cells: Cells = {}
        for layer in self.layers:
            cells[layer] = {"style": (self, style)}
            cells[layer] |= {TITLES[loss]: (self, (style, layer, loss)) for loss in shown}
        return panel(cells)

    def picture(self, key: Key | str) -> Picture:
        """The picture of a run, or a style image at the size of its runs."""
        return self._style(key) if isinstance(key, str) else self._inversion(key)

    def _inversion(self, key: Key) -> Picture:
        run = self.runs[key]
        asked = run.record.asked
        alt = (
            f"{run.record.style}: inversion of {TITLES[asked.loss]} at {asked.layer}, "
            f"protocol {asked.protocol.name}, encoder {asked.encoder}, seed {asked.seed}"
        )
        height, width = run.image.shape[:2]
        if self.results is None or run.path is None:
            return Picture(png_url(run.image), alt, width, height)
        link = f"{VIEWER_PAGE}{link_to(run.record)}"
        return Picture(_url(run.path.with_suffix(".png")), alt, width, height, link)

    def _style(self, style: str) -> Picture:
        record = next(run for key, run in self.runs.items() if key[0] == style).record
        height, width = record.asked.height, record.asked.width
        alt = f"{record.style}: the style image"
        if self.results is None:
            pixels = to_uint8(load_style(style, min(height, width)))
            return Picture(png_url(pixels), alt, width, height)
        name = store.style_file_name(style, min(height, width))
        return Picture(_url(Path(self.results, "runs", "styles", name)), alt, width, height)


# Row label -> column label -> an album, and which of its runs or styles to show there.
Cells = dict[str, dict[str, tuple[Album, Key | str]]]


def reference(name: str, results: str = RESULTS, **which: int | None) -> Album:
    """The album of a sweep's reference runs.

    Args:
        which: `seed` and `iterations`, as in `styleinv.runs.reference.reference_runs`.
    """
    return Album(reference_runs(name, results, **which), results)


def this_build(styles: Sequence[str | Path], **asked: Any) -> Album:
    """The album of runs that this build makes, or finds from an earlier one.

    Args:
        asked: the arguments of `styleinv.runs.sweeps.sweep`.
    """
    # To the terminal alone: pages do not show what is said there.
    report = partial(print, file=sys.stderr)
    return Album(sweep(styles, folder=own_runs(OWN_RUNS), report=report, **asked))


def panel(cells: Cells) -> Panel:
    """A tab that shows runs and styles in rows and columns; all rows have the same columns."""
    rows = [[album.picture(key) for album, key in row.values()] for row in cells.values()]
    shown = [cell for row in cells.values() for cell in row.values()]
    columns = list(next(iter(cells.values())))
    return Panel(
        title=shown[0][0].title,
        content=picture_table(rows, list(cells), columns),
        runs=[album.runs[key] for album, key in shown if not isinstance(key, str)],
        styles=list(dict.fromkeys(key if isinstance(key, str) else key[0] for _, key in shown)),
    )


def plot_panel(album: Album, runs: Mapping[str, Run], plot: Figure, alt: str) -> Panel:
    """A tab that shows a plot made from some of an album's runs."""
    styles = list(dict.fromkeys(run.record.source for run in runs.values()))
    return Panel(album.title, as_html(plot, alt), list(runs.values()), styles)


def figure(name: str, caption: str, *tabs: Panel | None) -> str:
    """A figure as HTML: its tabs that are not None, each with its origin, and a caption.

    Args:
        name: of the figure within its page, for its HTML ids.
        caption: HTML.
    """
    return render_macro(
        "figures.html.j2", "figure", name, caption, [tab for tab in tabs if tab is not None]
    )


def picture_table(
    rows: Sequence[Sequence[Picture]], row_labels: Sequence[str], column_labels: Sequence[str]
) -> str:
    """Pictures in rows and columns as an HTML table with row and column headers.

    Small pictures are enlarged, unsmoothed, to a whole multiple that a page has room for.
    """
    room = min(CELL_WIDTH, PAGE_WIDTH // len(rows[0]))
    return render_macro("figures.html.j2", "picture_table", rows, row_labels, column_labels, room)


def _url(path: Path) -> str:
    return quote(path.as_posix())


def png_url(pixels: Pixels) -> str:
    """The image as a URL that holds its pixels."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return _data_url("png", buffer)


def _data_url(kind: str, content: BytesIO) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def as_html(figure: Figure, alt: str) -> str:
    """A line plot as an HTML image that carries its own SVG."""
    buffer = BytesIO()
    # Ids from a fixed salt, and no date: the same plot gives the same file.
    with plt.rc_context({"svg.hashsalt": "styleinv"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return render_macro("figures.html.j2", "plot", _data_url("svg+xml", buffer), alt)


def curves(runs: Mapping[str, Run]) -> Figure:
    """Plot the loss of labelled runs over evaluations, on log axes; theta too if they share it."""
    figure, axes = plot_axes()
    losses = [run.record.asked.loss for run in runs.values()]
    for label, run in runs.items():
        trace = run.record.trace
        # A loss has a colour of its own; several runs of one loss get the default ones.
        colour = COLOURS.get(run.record.asked.loss) if len(set(losses)) > 1 else None
        evaluations, values = zip(*((p.evaluations, p.loss) for p in trace), strict=True)
        axes.plot(evaluations, values, label=label, color=colour)
    axes.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="style loss")
    thetas = {theta for run in runs.values() if (theta := run.record.theta) is not None}
    if len(thetas) == 1:
        axes.axhline(thetas.pop(), color=INK, linewidth=0.8, linestyle=":")
    axes.legend(frameon=False)
    return figure


def plot_axes() -> tuple[Figure, Axes]:
    """An empty plot in the book's format."""
    figure, axes = subplots(3.2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def subplots(height: float, *shape: int, **options: Any) -> tuple[Figure, Any]:
    """`plt.subplots` as wide as a page, `height` inches high."""
    figure, axes = plt.subplots(
        *shape, figsize=(6.4, height), dpi=DPI, layout="constrained", **options
    )
    plt.close(figure)  # the caller shows or saves it; pyplot need not keep it
    return figure, axes


def provenance(runs: Sequence[Run]) -> str:
    """A paragraph of HTML that says what made some runs, with ranges where they differ."""
    records = [run.record for run in runs]
    stops = Counter(r.result.stop_reason for r in records).most_common()
    encoders = ((r.asked.encoder, r.asked.encoder_sha256[:12]) for r in records)
    made = [r.made_with for r in records]
    return provenance_line(
        "encoder " + _distinct(f"{escape(x)} (sha256 <code>{sha}</code>)" for x, sha in encoders),
        _distinct(f"{r.asked.width} x {r.asked.height} pixels" for r in records),
        *_protocols([r.asked.protocol for r in records]),
        "seed " + _distinct(str(r.asked.seed) for r in records),
        _span([r.result.iterations for r in records]) + " iterations",
        _span([r.result.evaluations for r in records]) + " evaluations",
        "final loss " + _span([r.result.loss for r in records], ".2g"),
        "stopped by " + ", ".join(f"{reason} ({n})" for reason, n in stops),
        "device " + _distinct(f"{m.device} ({m.processor}, {m.threads} threads)" for m in made),
        "torch " + _distinct(m.torch for m in made),
        "styleinv " + _distinct(f"{m.styleinv}, results version {m.results}" for m in made),
        _distinct(m.date[:10] for m in made),
    )


def provenance_line(*facts: str) -> str:
    """A paragraph that says what made a figure or a table; facts are HTML."""
    return render_macro("figures.html.j2", "provenance_line", " · ".join(facts))


def credit_line(styles: Sequence[str]) -> str:
    """A paragraph of HTML that credits the photographs among `styles`; empty if there are none."""
    names = [style.removeprefix(SCIKIT_IMAGE) for style in styles if style.startswith(SCIKIT_IMAGE)]
    credits = [f"{name}: {PHOTOGRAPHS[name]}, from scikit-image" for name in names]
    return render_macro("figures.html.j2", "credit_line", credits)


def run_table(runs: Sequence[Run]) -> str:
    """All runs behind a figure as an HTML table that unfolds."""
    rows = [[cell(run.record) for cell in RUN_COLUMNS.values()] for run in runs]
    return folded(f"The {len(runs)} runs behind this figure", html_table(list(RUN_COLUMNS), rows))


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells are text, not HTML."""
    return render_macro("figures.html.j2", "html_table", head, rows)


def folded(summary: str, content: str) -> str:
    """HTML that unfolds on a click."""
    return render_macro("figures.html.j2", "folded", summary, content)


def _protocols(settings: Sequence[Settings]) -> Iterator[str]:
    """For each protocol: its method, and the thetas, budgets and warm-ups of its runs."""
    for name in dict.fromkeys(one.name for one in settings):
        same = [one for one in settings if one.name == name]
        thetas = ("none" if one.theta is None else f"{one.theta:g}" for one in same)
        budgets = _span([one.budget for one in same])
        facts = f"{same[0].method}; theta {_distinct(thetas)}; budget {budgets} {unit_of(same[0])}s"
        warmups = _distinct(warmup.loss for one in same for warmup in one.warmups or ())
        yield f"protocol {name} ({facts}{'; warm-ups ' * bool(warmups)}{warmups})"


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _span(numbers: Sequence[float], form: str = ",") -> str:
    low, high = (format(number, form) for number in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"
