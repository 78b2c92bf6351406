"""The first edition's mistakes: its pictures and numbers beside today's.

The numbers are in results/first_errors.json, which `benchmarks/first_errors.py` computes from the
repository's history, where the first edition's runs are.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from styleinv.encoder import LAYERS
from styleinv.live.labels import COLOURS, TITLES
from styleinv.runs.reference import chapter_runs, reference_runs
from styleinv.runs.store import Run
from styleinv_book import claims_html, figures
from styleinv_book.claims import TESTED, judge, read_study
from styleinv_book.pages.measured import Json

STYLE, LAYER, SIDE, GAP = "bundled:marbling", "relu_2_1", 128, 6
ORIGIN = figures.provenance_line(
    "first edition: pictures of its runs, from the repository's history",
    "numbers: <code>results/first_errors.json</code>",
)


def structure(first: Json) -> figures.Panel:
    """Marbling and what four layers hold, with the first and today's measure of structures."""
    sizes = {row["layer"]: row for row in first["structure"]}
    labels = [
        f"{layer}: then {sizes[layer]['structure_size']:.1f} px, "
        f"now {sizes[layer]['largest_kept']:.0f} px"
        for layer in LAYERS
    ]
    rows = {"": _strip("first_structure", ["style", *labels])}
    return figures.Panel("First edition", figures.picture_table(rows), [], ORIGIN)


def agreement_table(first: Json) -> str:
    """How often the first and today's measures order two pictures as eyes do, as HTML."""
    study = read_study(figures.RESULTS)
    names = {"structures": "structure", "artefacts": "artefact_excess"}
    tested = [row for row in study["measures"] if row["among"] == TESTED]
    rows = []
    for question, name in names.items():
        old = [row for row in first["eye"] if row["question"] == question]
        new = [row for row in tested if row["measure"] == name]
        rows.append((question, _agreed(old), _agreed(new)))
    return figures.html_table(("asked for", "first edition", "today"), rows)


def _agreed(rows: Sequence[Json]) -> str:
    agreed, decided = (sum(row[key] for row in rows) for key in ("agreed", "decided"))
    return f"{100 * agreed / decided:.0f}% of {decided} answers"


def starts() -> figures.Panel:
    """Marbling with N = 2, 3, 4: then, today, and from noise."""
    then = _strip("first_moments", ["style", "N = 2", "N = 3", "N = 4"])
    rows, shown = {"first edition": then}, list[Run]()
    for title, sweep in {"today": "moments-128", "from noise": "from-noise-128"}.items():
        made = reference_runs(sweep, figures.RESULTS)
        runs = {n: made[STYLE, LAYER, f"moment-{n}"] for n in (2, 3, 4)}
        pictures = {f"N = {n}": _corner(run, f"N = {n}, {title}") for n, run in runs.items()}
        rows[title] = {"style": then["style"], **pictures}
        shown += runs.values()
    return figures.Panel("N = 2, 3, 4", figures.picture_table(rows), shown, ORIGIN)


def starts_table(first: Json) -> str:
    """How many runs with N = 4 pass theta, by what they start from, as HTML."""
    names = {
        "from noise": "n4-noise",
        "from what fewer moments leave": "n4-continued-compressed",
        "from sorted values": "n4-fast",  # as `fast` was then
    }
    rows = [(start, *first["ways"][way][:2]) for start, way in names.items()]
    return figures.html_table(("N = 4 starts", "runs", "pass theta"), rows)


def adam(first: Json) -> figures.Panel:
    """The chapter's Adam to its own end, and where the first edition had stopped it."""
    made = chapter_runs("adam-128", figures.RESULTS)
    runs = {key: run for key, run in made.items() if run and key[2] != "mmd"}
    plot, axes = figures.plot_axes(3.4)
    lines = dict(zip(LAYERS, ("-", "--", "-.", ":"), strict=True))
    for (_, layer, loss), run in runs.items():
        points = [(point.iteration, point.loss) for point in run.record.trace if point.iteration]
        axes.plot(*zip(*points, strict=True), color=COLOURS[loss], linestyle=lines[layer])
    for loss in dict.fromkeys(loss for _, _, loss in runs):
        axes.plot([], [], color=COLOURS[loss], label=TITLES[loss])
    for layer in dict.fromkeys(layer for _, layer, _ in runs):
        axes.plot([], [], color=figures.INK, linestyle=lines[layer], label=layer)
    for stop in first["adam"]["iterations"]:
        axes.axvline(stop, color=figures.INK, linewidth=0.8)
        axes.text(stop * 0.97, 2e2, f"{stop:,}", ha="right", va="top", rotation=90, fontsize=8)
    axes.axhline(1e-5, color=figures.INK, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(100, None))
    axes.set(xlabel="iterations of Adam", ylabel="style loss")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    alt = "Losses of Adam over iterations: where it was stopped, most lie far above theta."
    shown = {str(key): run for key, run in runs.items()}
    return figures.plot_panel(figures.Album(runs, figures.RESULTS), shown, plot, alt)


def sizes_table(first: Json) -> str:
    """How far runs of the Gram matrix get in small pictures, as HTML."""
    head = ("side, pixels", "runs", "below 0.001", *(f"median loss, {layer}" for layer in LAYERS))
    rows = [
        (
            row["size"],
            row["runs"],
            f"{100 * row['converged']:.0f}%",
            *(f"{row[layer]:.1e}" for layer in LAYERS),
        )
        for row in first["sizes"]
    ]
    return figures.html_table(head, rows)


def noise_table(first: Json) -> str:
    """How many runs passed the bound on noise, before and after it was moved, as HTML."""
    found = first["noise"]
    rows = [("the first", found["below_3"]), ("the second", found["below_15"])]
    return figures.html_table(("bound", f"of {found['runs']} runs pass"), rows)


def verdicts_table(first: Json) -> str:
    """Each claim's verdict in the first edition and now, as HTML."""
    rows, _ = judge(figures.RESULTS, claims_html.CLAIMS)
    head = ("claim", "what the chapter says, in our words", "first edition", "now")
    return figures.html_table(
        head, [(x.id, x.claim.claim, first["verdicts"][x.id], x.verdict) for x in rows]
    )


def _strip(name: str, labels: Sequence[str]) -> dict[str, figures.Picture | None]:
    """The old pictures, which lie side by side in one file, each with its label."""
    with Image.open(f"../book/figures/{name}.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    parts = [pixels[:, i * (SIDE + GAP) :][:, :SIDE] for i in range(len(labels))]
    return {x: figures.embedded(part, x) for x, part in zip(labels, parts, strict=True)}


def _corner(run: Run, label: str) -> figures.Picture:
    """A part of today's picture, as large as the old ones."""
    return figures.embedded(run.image[:SIDE, :SIDE], label)
