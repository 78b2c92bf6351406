"""The chapter's figures, drawn from run records: pictures in rows and columns, and their origin.

Image figures are HTML tables with a caption: every picture keeps its own pixels, its own text
alternative and, for reference runs, a link to its state in the viewer. Line plots are SVG.
"""

import base64
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO, StringIO
from math import ceil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from markupsafe import escape
from matplotlib.figure import Figure
from matplotlib_inline.config import InlineBackend
from PIL import Image

from styleinv.errors import InputError
from styleinv.images import SCIKIT_IMAGE, Pixels, load_style, public_name, short_name, to_uint8
from styleinv.live.labels import COLOURS, TITLES, title_of
from styleinv.protocol import told_beyond
from styleinv.runs.record import Record, Settings, unit_of
from styleinv.runs.reference import reference_runs
from styleinv.runs.store import Run, style_file_name
from styleinv.runs.sweeps import Key, own_runs, sweep
from styleinv.styles import PHOTOGRAPHS
from styleinv_book.rendering import render_macro
from styleinv_book.viewer import link_to

DPI = 100
# In pixels: how wide a row of pictures can be, and the pictures in it at most and at least. Rows
# wider than the text reach into the margin.
ROOM, TEXT, LARGEST, SMALLEST = 920, 640, 256, 128
# The paths as seen from a page; all pages are one folder down.
VIEWER_PAGE, RESULTS, OWN_RUNS = "../notebooks/viewer.html", "../results", "../_build/runs"
INK = "#222222"
# Of the ids in SVG: with a fixed one, the same plot gives the same text.
SALT = "styleinv"
# Okabe and Ito's palette, which colour-blind readers can tell apart; the same colours everywhere.
BLUE, ORANGE = "#0072b2", "#d55e00"
# A run has failed if its loss ends above so many times theta.
FAILED = 100
GREY = 128

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
    """An image on a page: where its pixels are, what they show, where a click leads.

    `failure` is said below it, with a frame around it.
    """

    source: str
    alt: str
    width: int
    height: int
    link: str = ""
    failure: str = ""

    def shown(self, columns: int) -> tuple[int, int]:
        """Its width and height on a page, beside others in so many columns.

        A whole multiple of its own size: the largest that is at most `LARGEST` pixels wide and
        leaves room for the other columns, but no less than `SMALLEST`. Where one to one does not
        fit, half of it, or a third and so on. What is still too wide scrolls.
        """
        room = min(LARGEST, ROOM // columns)
        if self.width > room and (parts := self.width // SMALLEST) > 1:
            return round(self.width / parts), round(self.height / parts)
        zoom = max(room // self.width, ceil(SMALLEST / self.width))
        return zoom * self.width, zoom * self.height


@dataclass(frozen=True)
class Panel:
    """One tab of a figure: what it shows, the runs that are behind it, what else it comes from.

    `content` and `besides` are HTML.
    """

    title: str
    content: str
    runs: Sequence[Run]
    besides: str = ""

    @property
    def origin(self) -> str:
        """What the runs went through, what made them, who took the photographs; a table of them."""
        if not self.runs:
            return self.besides
        styles = list(dict.fromkeys(run.record.source for run in self.runs))
        made = provenance(self.runs) + self.besides + credit_line(styles)
        return paths(self.runs) + made + files(self.runs) + run_table(self.runs)


class Album:
    """Runs that figures show.

    Attributes:
        runs: by (style, layer, loss), as `sweep` and `reference_runs` return them.
        results: for reference runs, the folder that holds them, as seen from the page: their
            pictures are linked. None for the runs of this build: their pictures are embedded.
        title: of the tab that shows them.
        styles, layers, losses: the names in the keys of `runs`, each once and in their order.
    """

    def __init__(self, runs: Mapping[Key, Run], results: str | None = None) -> None:
        self.runs, self.results = runs, results
        self.title = "This build" if results is None else "Reference runs"
        self.styles, self.layers, self.losses = (
            list(dict.fromkeys(key[i] for key in runs)) for i in range(3)
        )

    def labels(self) -> dict[str, str]:
        """A label for each style: its short name, or a longer one where two share the short one.

        Files of one name in two folders are numbered: pages do not show a file's folder.
        """
        shared = Counter(short_name(style) for style in self.styles)
        labels: dict[str, str] = {}
        for style in self.styles:
            short = short_name(style)
            label = short if shared[short] == 1 else public_name(style)
            times = sum(public_name(other) == label for other in labels)
            labels[style] = f"{label} ({times + 1})" if times else label
        return labels

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

    def by_loss(
        self, style_number: int, losses: Sequence[str], change: tuple[str, str] | None = None
    ) -> Panel | None:
        """Figures 1.4 to 1.6 and A.1 to A.3: a row per layer, the style and a column per loss.

        Failed runs are marked; a run that is not there leaves its place empty.

        Args:
            change: two losses; the last column shows the difference that the second makes.
        """
        shown = [loss for loss in losses if loss in self.losses]
        if style_number >= len(self.styles) or not shown:
            return None
        style = self.styles[style_number]
        cells: Cells = {}
        for layer in self.layers:
            keys = {self.label(loss): (style, layer, loss) for loss in shown}
            cells[layer] = {"style": (self, style)}
            cells[layer] |= {
                x: (self, key) if key in self.runs else None for x, key in keys.items()
            }
            if change and set(change) <= set(shown):
                before, after = ((style, layer, loss) for loss in change)
                label = " \N{MINUS SIGN} ".join(map(self.label, reversed(change)))
                cells[layer][label] = self.change(before, after)
        return panel(cells, mark_failures=True)

    def label(self, loss: str) -> str:
        """The title of a loss, and what its runs were told beyond it."""
        told = {
            what
            for key, run in self.runs.items()
            if key[2] == loss
            for what in run.record.asked.told
        }
        return " + ".join((TITLES[loss], *sorted(told)))

    def change(self, before: Key, after: Key) -> Picture:
        """How much lighter (or darker) than grey: the mean over colours of a difference of runs."""
        first, second = (self.runs[key].image.mean(axis=2) for key in (before, after))
        grey = np.clip(GREY + second - first, 0, 255).round().astype(np.uint8)
        labels = (f"{TITLES[loss]} at {layer}" for _, layer, loss in (after, before))
        return embedded(grey, f"{short_name(after[0])}: {' less '.join(labels)}")

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
        if self.results is None or run.path is None:
            return embedded(run.image, alt)
        picture, link = run.path.with_suffix(".png"), f"{VIEWER_PAGE}{link_to(run.record)}"
        return Picture(quote(picture.as_posix()), alt, asked.width, asked.height, link)

    def _style(self, style: str) -> Picture:
        record = next(run for key, run in self.runs.items() if key[0] == style).record
        width, height = record.asked.width, record.asked.height
        alt = f"{record.style}: the style image"
        if self.results is None:
            return embedded(to_uint8(load_style(style, min(width, height))), alt)
        name = style_file_name(style, min(width, height))
        return Picture(quote(f"{self.results}/runs/styles/{name}"), alt, width, height)


# Row label -> column label -> what to show there: a run or a style of an album, or any picture.
Cells = dict[str, dict[str, tuple[Album, Key | str] | Picture | None]]


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
    # Pages show the standard output of their notebooks, but not the standard error.
    report = partial(print, file=sys.stderr)
    return Album(sweep(styles, folder=own_runs(OWN_RUNS), report=report, **asked))


def panel(cells: Cells, mark_failures: bool = False) -> Panel:
    """A tab that shows runs and styles in rows and columns; all rows have the same columns.

    Raises:
        InputError: a run was told more of its style than its labels say.
    """
    titles, runs = list[str](), list[Run]()
    pictures: dict[str, dict[str, Picture | None]] = {label: {} for label in cells}
    for label, row in cells.items():
        for column, cell in row.items():
            picture = cell if isinstance(cell, Picture) else None
            if isinstance(cell, tuple):
                album, key = cell
                picture = album.picture(key)
                titles.append(album.title)
                if not isinstance(key, str):
                    runs.append(album.runs[key])
                    check_labels(runs[-1], label, column)
                    if mark_failures:
                        picture = replace(picture, failure=failure(runs[-1].record))
            pictures[label][column] = picture
    return Panel(titles[0], picture_table(pictures), runs)


def compared(
    rows: Mapping[str, Key],
    columns: Mapping[str, tuple[Album, str | None]],
    mark_failures: bool = False,
) -> Panel:
    """A tab that shows, for each row, its style, then what each column's runs make of it.

    Args:
        columns: an album, and the loss that it is shown with in all rows; None: each row's own.
    """
    first, _ = next(iter(columns.values()))
    cells: Cells = {}
    for label, (style, layer, own) in rows.items():
        cells[label] = {"style": (first, style)}
        for name, (album, loss) in columns.items():
            cells[label][name] = album, (style, layer, loss or own)
    return panel(cells, mark_failures)


def plot_panel(album: Album, runs: Mapping[str, Run], plot: Figure, alt: str) -> Panel:
    """A tab that shows a plot made from some of an album's runs; raises as `panel` does."""
    for label, run in runs.items():
        check_labels(run, label)
    return Panel(album.title, as_html(plot, alt), list(runs.values()))


def check_labels(run: Run, *labels: str) -> None:
    """Refuse to show a run as what its loss holds if it was told more, and no label says so.

    Raises:
        InputError: it was; the message says what.
    """
    asked = run.record.asked
    if missing := [what for what in asked.told if not any(what in label for label in labels)]:
        raise InputError(
            f"a run of protocol {asked.protocol.name!r} cannot be shown as {' / '.join(labels)!r}: "
            f"besides {TITLES[asked.loss]}, it was told {' and '.join(missing)}"
        )


def failure(record: Record) -> str:
    """What to say of a run that has failed, else nothing."""
    theta, loss = record.theta, record.result.loss
    return f"failed: loss {loss:.2g}" if theta and not loss < FAILED * theta else ""


def figure(name: str, caption: str, *tabs: Panel | None) -> str:
    """A figure as HTML: its tabs that are not None, a caption, and the folded origin of each tab.

    Args:
        name: identifies the figure within its page, in HTML ids.
        caption: HTML.
    """
    return render_macro("figures.html.j2", "figure", name, caption, tabs)


def picture_table(rows: Mapping[str, Mapping[str, Picture | None]]) -> str:
    """Pictures by the labels of their row and their column, as an HTML table with headers.

    All rows have the same columns; `Picture.shown` says how large the pictures are. Where they are
    smaller than they could be, a reader can have them one to one.
    """
    columns = max(map(len, rows.values()), default=0)
    pictures = [picture for row in rows.values() for picture in row.values() if picture]
    widths = [picture.shown(columns)[0] for picture in pictures]
    is_wide = columns * max(widths, default=0) > TEXT
    reduced = any(width < x.width for width, x in zip(widths, pictures, strict=True))
    return render_macro("figures.html.j2", "picture_table", rows, columns, is_wide, reduced)


def embedded(pixels: Pixels, alt: str) -> Picture:
    """A picture whose URL holds its pixels, (H, W, 3) or, in grey, (H, W)."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    height, width = pixels.shape[:2]
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Picture(source, alt, width, height)


def as_html(figure: Figure, alt: str) -> str:
    """A plot as `plot_within_html`."""
    buffer = StringIO()
    with plt.rc_context({"svg.hashsalt": SALT}):
        figure.savefig(buffer, format="svg")
    return plot_within_html(buffer.getvalue(), alt)


def plot_within_html(text: str, alt: str) -> str:
    """A plot of Matplotlib's as SVG within HTML.

    Its colours are custom properties of CSS, such as `--plot-0072b2`, so that a page's style sheet
    can give them other values where the background is dark.
    """
    (view,) = re.findall('viewBox="([^"]*)"', text)
    drawn = text[text.index("</metadata>") + len("</metadata>") : text.rindex("</svg>")]
    # Without its style sheet, which would be for the whole page, and without empty lines.
    drawn = re.sub("<style.*?</style>|<!--.*?-->", "", " ".join(drawn.split()))
    drawn = re.sub('#([0-9a-f]{6})(?=[;"])', r"var(--plot-\1, #\1)", drawn)
    # No other plot on the page has these ids.
    own = hashlib.sha256(drawn.encode()).hexdigest()[:8]
    drawn = re.sub('( id="|url\\(#|href="#)', rf"\g<1>{own}-", drawn)
    return render_macro("figures.html.j2", "plot", view, drawn, alt)


def curves(runs: Mapping[str, Run]) -> Figure:
    """Plot the loss of labelled runs over evaluations, on log axes; theta too if they share it."""
    figure, axes = plot_axes()
    losses = [run.record.asked.loss for run in runs.values()]
    for label, run in runs.items():
        # A loss has a colour of its own; several runs of one loss get the default ones.
        colour = COLOURS.get(run.record.asked.loss) if len(set(losses)) > 1 else None
        points = [(point.evaluations, point.loss) for point in run.record.trace]
        axes.plot(*zip(*points, strict=True), label=label, color=colour)
    axes.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="style loss")
    thetas = {theta for run in runs.values() if (theta := run.record.theta) is not None}
    if len(thetas) == 1:
        axes.axhline(thetas.pop(), color=INK, linewidth=0.8, linestyle=":")
    axes.legend(frameon=False)
    return figure


def plot_axes(height: float = 3.2, *shape: int, **options: Any) -> tuple[Figure, Any]:
    """Empty plots of lines or points, framed on the left and below; see `subplots`."""
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        return subplots(height, *shape, **options)


def subplots(height: float, *shape: int, **options: Any) -> tuple[Figure, Any]:
    """`plt.subplots` as wide as a page, `height` inches high, and without a ground."""
    options |= {"figsize": (6.4, height), "dpi": DPI, "layout": "constrained"}
    with plt.rc_context({"figure.facecolor": "none", "axes.facecolor": "none"}):
        figure, axes = plt.subplots(*shape, **options)
    if shell := get_ipython():  # what a cell returns is drawn in lines, not in pixels
        InlineBackend.instance(parent=shell).figure_formats = {"svg"}
        plt.rcParams["svg.hashsalt"] = SALT
    plt.close(figure)  # the caller shows or saves it; pyplot need not keep it
    return figure, axes


def provenance(runs: Sequence[Run]) -> str:
    """A paragraph of HTML that says what made some runs, with ranges where they differ."""
    records = [run.record for run in runs]
    stops = Counter(r.result.stop_reason for r in records).most_common()
    made = [r.made_with for r in records]
    encoders = (encoder_named(r.asked.encoder, r.asked.encoder_sha256) for r in records)
    return provenance_line(
        "encoder " + _distinct(encoders),
        _distinct(f"{r.asked.width} x {r.asked.height} pixels" for r in records),
        *_protocols([r.asked.protocol for r in records]),
        "seed " + _distinct(str(r.asked.seed) for r in records),
        span([r.result.iterations for r in records]) + " iterations",
        span([r.result.evaluations for r in records]) + " evaluations",
        "final loss " + span([r.result.loss for r in records], ".2g"),
        "stopped by " + ", ".join(f"{reason} ({n})" for reason, n in stops),
        "device " + _distinct(f"{m.device} ({m.processor}, {m.threads} threads)" for m in made),
        "torch " + _distinct(m.torch for m in made),
        "styleinv " + _distinct(f"{m.styleinv}, results version {m.results}" for m in made),
        _distinct(m.date[:10] for m in made),
    )


def encoder_named(name: str, sha256: str) -> str:
    """An encoder's name and the start of its hash, as HTML."""
    return f"{escape(name)} (sha256 <code>{sha256[:12]}</code>)"


def provenance_line(*facts: str) -> str:
    """A paragraph that says what made a figure or a table; facts are HTML."""
    return render_macro("figures.html.j2", "provenance_line", " · ".join(facts))


def credit_line(styles: Sequence[str]) -> str:
    """A paragraph of HTML that credits the photographs among `styles`; empty if there are none."""
    names = [style.removeprefix(SCIKIT_IMAGE) for style in styles if style.startswith(SCIKIT_IMAGE)]
    credits = [f"{name}: {PHOTOGRAPHS[name]}, from scikit-image" for name in names]
    return render_macro("figures.html.j2", "credit_line", credits)


def files(runs: Sequence[Run]) -> str:
    """A paragraph of HTML: the folders of those runs that come with the book."""
    kept = [run.path.parent for run in runs if run.path and run.path.is_relative_to(RESULTS)]
    folders = [folder.as_posix().removeprefix("../") for folder in dict.fromkeys(kept)]
    return render_macro("figures.html.j2", "files", folders)


def run_table(runs: Sequence[Run]) -> str:
    """All runs behind a figure as an HTML table."""
    rows = [[cell(run.record) for cell in RUN_COLUMNS.values()] for run in runs]
    return html_table(list(RUN_COLUMNS), rows)


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells are text, not HTML."""
    return render_macro("figures.html.j2", "html_table", head, rows)


def folded_origin(content: str) -> str:
    """HTML that says where a figure comes from, and which notebook makes it; it unfolds on a click.

    `styleinv_book.sphinx_extension` makes a link of the words "this page's notebook".
    """
    return render_macro("figures.html.j2", "folded_origin", content)


def folded(summary: str, content: str) -> str:
    """HTML that unfolds on a click."""
    return render_macro("figures.html.j2", "folded", summary, content)


def paths(runs: Sequence[Run]) -> str:
    """A paragraph of HTML: for each protocol, what its runs start from and pass through."""
    ways: dict[str, dict[str, list[str]]] = {}
    for asked in (run.record.asked for run in runs):
        noise = asked.protocol.noise
        began = " and ".join(told_beyond(asked.loss, noise, ())) or f"{noise} noise"
        start = f"Protocol {asked.protocol.name}, from {began}"
        way = ", then ".join(map(title_of, asked.stages))
        titles = ways.setdefault(start, {}).setdefault(f"through {way}" if way else "directly", [])
        if (title := TITLES[asked.loss]) not in titles:
            titles.append(title)
    return render_macro("figures.html.j2", "paths", ways)


def _protocols(settings: Sequence[Settings]) -> Iterator[str]:
    """For each protocol: its method, and the thetas and budgets of its runs."""
    for name in dict.fromkeys(one.name for one in settings):
        same = [one for one in settings if one.name == name]
        thetas = _distinct("none" if one.theta is None else f"{one.theta:g}" for one in same)
        budgets = span([one.budget for one in same])
        facts = [same[0].method, f"theta {thetas}", f"budget {budgets} {unit_of(same[0])}s"]
        yield f"protocol {name} ({'; '.join(facts)})"


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def span(numbers: Sequence[float], form: str = ",") -> str:
    """The range of some numbers, or the one that they all are, in a format of Python's."""
    low, high = (format(number, form) for number in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"
