"""The chapter's figures, drawn from run records: image grids, and where each comes from."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from styleinv import gallery
from styleinv.images import SCIKIT_IMAGE, load_style, short_name, to_uint8
from styleinv.store import Pixels, Run
from styleinv.sweep import Key

DPI = 100
GAP, TOP, LEFT = 6, 24, 70  # pixels between images, above the grid and left of it
PAGE_WIDTH, CELL_WIDTH = 760, 256  # pixels that a grid and a cell are enlarged to at most
INK = "#222222"
TITLES = {
    "gram": "Gram",
    "moment-1": "N = 1",
    "moment-2": "N = 2",
    "moment-3": "N = 3",
    "moment-4": "N = 4",
    "mmd": "MMD",
    "mmd-random": "MMD, random pairs",
}


def gram_figure(runs: Mapping[Key, Run], styles: Sequence[str], layers: Sequence[str]) -> Figure:
    """Figure 1.3: a column per style; the style image on top, a row per layer below (Gram loss)."""
    rows = [[style_pixels(runs, style) for style in styles]]
    rows += [[runs[style, layer, "gram"].image for style in styles] for layer in layers]
    return image_grid(rows, ["style", *layers], [short_name(style) for style in styles])


def loss_figure(
    runs: Mapping[Key, Run], styles: Sequence[str], layers: Sequence[str], losses: Sequence[str]
) -> Figure:
    """Figures 1.4 to 1.6 and A.1 to A.3: per style a row per layer, a column per loss."""
    rows = [
        [style_pixels(runs, style), *(runs[style, layer, loss].image for loss in losses)]
        for style in styles
        for layer in layers
    ]
    return image_grid(rows, list(layers) * len(styles), ["style", *(TITLES[x] for x in losses)])


def style_pixels(runs: Mapping[Key, Run], style: str) -> Pixels:
    """The style image at the size that its runs were made at."""
    asked = next(run for key, run in runs.items() if key[0] == style).record["asked"]
    return to_uint8(load_style(style, min(asked["height"], asked["width"])))


def image_grid(
    rows: Sequence[Sequence[Pixels]],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
) -> Figure:
    """Images (H, W, 3) in rows and columns, each pixel a whole number of screen pixels.

    Small images are enlarged, unsmoothed, as far as the width of a page allows.
    """
    height, width = rows[0][0].shape[:2]
    room = min(CELL_WIDTH, (PAGE_WIDTH - LEFT) // len(rows[0]) - GAP)
    zoom = max(1, room // width)
    cell_h, cell_w = height * zoom, width * zoom
    total_w = LEFT + len(rows[0]) * (cell_w + GAP)
    total_h = TOP + len(rows) * (cell_h + GAP)
    figure = plt.figure(figsize=(total_w / DPI, total_h / DPI), dpi=DPI, facecolor="white")
    plt.close(figure)  # the caller shows or saves it; pyplot need not keep it
    for i, row in enumerate(rows):
        top = total_h - TOP - i * (cell_h + GAP)
        _label(figure, (LEFT - 6) / total_w, (top - cell_h / 2) / total_h, row_labels[i], "right")
        for j, pixels in enumerate(row):
            left = LEFT + j * (cell_w + GAP)
            box = (left / total_w, (top - cell_h) / total_h, cell_w / total_w, cell_h / total_h)
            axes = figure.add_axes(box)
            axes.imshow(pixels, interpolation="nearest")
            axes.set_axis_off()
            if i == 0:
                middle = (left + cell_w / 2) / total_w
                _label(figure, middle, (total_h - TOP / 2) / total_h, column_labels[j], "center")
    return figure


def _label(figure: Figure, x: float, y: float, text: str, alignment: str) -> None:
    # A file name may hold a dollar sign, which is no mathematics.
    figure.text(x, y, text, ha=alignment, va="center", fontsize=9, color=INK, parse_math=False)


def png(figure: Figure) -> bytes:
    """The figure as PNG, exactly as large as it was laid out."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def as_html(figure: Figure, alt: str) -> str:
    """The figure as an HTML image that carries its own data, for another page to show."""
    data = base64.b64encode(png(figure)).decode()
    return f'<img class="dark-light" src="data:image/png;base64,{data}" alt="{html.escape(alt)}">'


def psi_figure(skewness: Sequence[float], losses: Mapping[str, Sequence[float]]) -> Figure:
    """Moment loss over the skewness of the noise, one line per rule for a negative psi."""
    figure, axes = plt.subplots(figsize=(6.4, 3.2), dpi=DPI, layout="constrained")
    plt.close(figure)
    for (label, values), style in zip(losses.items(), ("-", "--"), strict=True):
        axes.plot(skewness, values, style, label=label, linewidth=2)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set(xlabel="skewness of the noise's feature map", ylabel="moment loss, N = 3")
    axes.legend(frameon=False)
    return figure


def provenance(runs: Sequence[Run]) -> str:
    """One paragraph of HTML that says what made a figure; ranges where its runs differ."""
    asked = [run.record["asked"] for run in runs]
    made = [run.record["made_with"] for run in runs]
    results = [run.record["result"] for run in runs]
    facts = [
        "encoder "
        + _distinct(
            f"{html.escape(a['encoder'])} (sha256 <code>{a['encoder_sha256'][:12]}</code>)"
            for a in asked
        ),
        _distinct(f"{a['width']} x {a['height']} pixels" for a in asked),
        "protocol " + _distinct(_protocol(a["protocol"]) for a in asked),
        "seed " + _distinct(str(a["seed"]) for a in asked),
        _span([r["iterations"] for r in results], "iterations"),
        _span([r["evaluations"] for r in results], "evaluations"),
        "device "
        + _distinct(f"{m['device']} ({m['processor']}, {m['threads']} threads)" for m in made),
        "torch " + _distinct(m["torch"] for m in made),
        "styleinv " + _distinct(m["styleinv"] for m in made),
    ]
    return f'<p class="provenance"><strong>Provenance:</strong> {" · ".join(facts)}</p>'


def credit_line(styles: Sequence[str]) -> str:
    """Who made the photographs among `styles`, as a paragraph of HTML; empty if there are none."""
    names = [style.removeprefix(SCIKIT_IMAGE) for style in styles if style.startswith(SCIKIT_IMAGE)]
    credits = [f"{name}: {gallery.SCIKIT_IMAGE[name]}, from scikit-image" for name in names]
    return f'<p class="credits">Photographs: {html.escape("; ".join(credits))}.</p>' * bool(credits)


def run_table(runs: Sequence[Run]) -> str:
    """All runs behind a figure as an HTML table that unfolds."""
    head = ("style", "layer", "loss", "iterations", "evaluations", "final loss", "stopped by", "s")
    cells = [
        (
            run.record["style"],
            run.record["asked"]["layer"],
            TITLES[run.record["asked"]["loss"]],
            run.record["result"]["iterations"],
            run.record["result"]["evaluations"],
            f"{run.record['result']['loss']:.2g}",
            run.record["result"]["stop_reason"],
            f"{run.record['result']['seconds']:.1f}",
        )
        for run in runs
    ]
    return folded(f"The {len(runs)} runs behind this figure", html_table(head, cells))


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; cells are text, not HTML."""
    header = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<table class="table"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>'


def folded(summary: str, content: str) -> str:
    """HTML that unfolds on a click."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def _protocol(settings: Mapping[str, object]) -> str:
    unit = "evaluations" if settings["method"] != "adam" else "iterations"
    theta = "no theta" if settings["theta"] is None else f"theta {settings['theta']:g}"
    facts = [str(settings["method"]), theta, f"budget {settings['budget']:,} {unit}"]
    warmups = settings.get("warmups")
    if isinstance(warmups, list) and warmups:
        facts.append("after " + " and ".join(warmup["loss"] for warmup in warmups))
    return f"{settings['name']} ({', '.join(facts)})"


def _distinct(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def _span(numbers: Sequence[int], unit: str) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
