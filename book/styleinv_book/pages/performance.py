"""What the page on speed shows: plots and tables of the records that `make bench-full` writes."""

import statistics
from collections.abc import Iterable, Sequence

from styleinv.encoder import LAYERS
from styleinv.images import short_name
from styleinv.live.labels import TITLES
from styleinv.protocol import FAST
from styleinv_book import figures
from styleinv_book.figures import BLUE, INK, ORANGE, Panel
from styleinv_book.pages.measured import Json

NONE = "\N{EN DASH}"  # in a table, where there is no value

# Colour and line of each method in the race.
LINES = {
    "fast": (INK, "-"),
    "plenoptic, L-BFGS": (BLUE, "-"),
    "plenoptic, L-BFGS, plain model": (BLUE, "--"),
    "plenoptic, Adam": (BLUE, ":"),
    "SciPy's L-BFGS-B": (ORANGE, "-"),
    "PyTorch's L-BFGS": (ORANGE, "--"),
    "the released algorithm": (ORANGE, ":"),
}


def machine(record: Json) -> str:
    """The processor that a record was measured on, and the versions, as HTML."""
    processor = " ".join(filter(None, (record["system"], record.get("processor"))))
    facts = [f"cpu ({processor}, {record['cores']} cores)"]
    facts += [f"{name} {record[name]}" for name in ("plenoptic", "chromium") if name in record]
    if "threads" in record:
        facts.append(f"threads: {record['threads']}")
    if "load" in record:
        facts.append(f"load average {record['load']:.1f} before it began")
    return " · ".join((*facts, f"torch {record['torch']}", f"styleinv {record['styleinv']}"))


def made_by(record: Json, name: str) -> str:
    """Where the numbers of a table come from, folded: machine, versions, script and record."""
    return figures.folded_origin(line_of(record, name))


def line_of(record: Json, name: str) -> str:
    """What made `results/NAME.json`: the case that was measured, machine, versions, script."""
    keys = ("cell", "style", "layer", "loss", "size", "runs", "evaluations", "rounds")
    facts = [f"{key} {record[key]}" for key in keys if isinstance(record.get(key), (str, int))]
    return _line(name, *facts, machine(record), *(record.get("dates") or [record["date"][:10]]))


def of_bench(record: Json) -> str:
    """The same for a table of `results/performance.json`."""
    return figures.folded_origin(bench_line(record))


def bench_line(record: Json) -> str:
    """What made `results/performance.json`."""
    encoder = f"encoder {figures.encoder_named(record['encoder'], record['encoder_sha256'])}"
    dates = {case["date"] for part in record.values() if isinstance(part, list) for case in part}
    return _line("performance", encoder, machine(record["ceilings"][0]), *sorted(dates))


def _line(name: str, *facts: str) -> str:
    made = "make bench-full" if name == "performance" else f"benchmarks/{name}.py"
    record = f"<code>results/{name}.json</code>"
    return figures.provenance_line(*facts, f"<code>{made}</code>", record)


def with_range(found: Json | None, digits: int = 2) -> str:
    """The median and the range of some measurements, or that there are none."""
    if not found:
        return "not reached"
    median, low, high = (f"{found[key]:.{digits}f}" for key in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"


def of_several(values: Sequence[float], digits: int = 1) -> str:
    """Geometric mean and range of some ratios."""
    if not values:
        return NONE
    low, high = min(values), max(values)
    mean = statistics.geometric_mean(values)
    return f"{mean:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


# The race against Adam


def sooner(case: Json) -> float | None:
    """How many times sooner `fast` has the loss at which Adam ends; None if it never has it."""
    fast = case["fast"]
    return case["adam_seconds"] / fast["seconds"] if fast["stop_reason"] == "theta" else None


def race_panel(record: Json) -> Panel:
    """A dot for each style, layer and loss: how many times sooner than Adam `fast` is."""
    races = record["race"]
    columns = sorted({(case["loss"], case["layer"]) for case in races})
    figure, axes = figures.plot_axes(3.4)
    for colour, (size, marker) in zip((BLUE, ORANGE), ((64, "o"), (128, "s")), strict=True):
        points = [
            (columns.index((case["loss"], case["layer"])), times)
            for case in races
            if case["size"] == size and (times := sooner(case)) is not None
        ]
        axes.plot(*zip(*points, strict=True), marker, color=colour, label=f"{size} x {size}")
    axes.axhline(1, color=INK, linewidth=0.8)
    axes.set(yscale="log", ylabel="times sooner than Adam", xticks=range(len(columns)))
    axes.set_xticklabels(
        f"{layer[5:]}\n{TITLES[loss] if layer == LAYERS[0] else ''}" for loss, layer in columns
    )
    axes.legend(frameon=False)
    alt = "Dots on a logarithmic axis, a column for each loss and layer; the table has the values."
    return Panel("The record", figures.as_html(figure, alt), (), bench_line(record))


def race_table(record: Json) -> str:
    """By loss: how often `fast` reaches the loss at which Adam ends, and how much sooner."""
    races = record["race"]
    groups = {TITLES[loss]: [c for c in races if c["loss"] == loss] for loss in _losses(races)}
    rows = []
    for title, cases in (groups | {"all": races}).items():
        won = [times for case in cases if (times := sooner(case)) is not None]
        rows.append((title, len(cases), len(won), of_several(won)))
    head = ("loss", "runs", "fast gets there", "times sooner: geometric mean (range)")
    every = [
        (
            case["style"],
            case["size"],
            case["layer"],
            TITLES[case["loss"]],
            f"{case['adam_iterations']:,}",
            f"{case['adam_seconds']:.1f}",
            case["fast"]["evaluations"],
            f"{case['fast']['seconds']:.2f}",
            f"{times:.0f}" if (times := sooner(case)) else f"no, {case['fast']['final_loss']:.1g}",
        )
        for case in races
    ]
    names = ("style", "px", "layer", "loss", "Adam", "s", "fast", "s", "sooner")
    return figures.html_table(head, rows) + figures.folded(
        "Every run: iterations of Adam, evaluations of fast", figures.html_table(names, every)
    )


def _losses(cases: Iterable[Json]) -> list[str]:
    return sorted({case["loss"] for case in cases})


# Other people's optimisers


def peers_panel(record: Json) -> Panel:
    """The loss over seconds at relu_2_1, a plot per loss and a line per method."""
    curves = record["curves"]
    figure, panels = figures.plot_axes(3.4, 1, len(curves), sharey=True, squeeze=False)
    for axes, case in zip(panels[0], curves, strict=True):
        for name, points in case["curves"].items():
            colour, line = LINES[name]
            axes.plot(*zip(*points[1:], strict=True), line, color=colour, label=name)
        for level in record["levels"]:
            axes.axhline(level, color=INK, linewidth=0.5, linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel="seconds", title=TITLES[case["loss"]])
    panels[0, 0].set_ylabel("style loss")
    legend = panels[0, 0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    alt = "A plot for each loss, a falling line for each method; the table has the seconds."
    return Panel("The record", figures.as_html(figure, alt), (), line_of(record, "peers"))


def peers_table(record: Json) -> str:
    """How many times as long as `fast` each method takes to each level of the loss."""
    means = {
        (mean["rival"], mean["level"]): mean
        for mean in record["means"]
        if mean["size"] is None and mean["level"]
    }
    levels = record["levels"]
    rows = [
        (rival, *(_times(means.get((rival, level))) for level in levels))
        for rival in dict.fromkeys(rival for rival, _ in means)
    ]
    head = ("method", *(f"to {level:g}" for level in levels))
    every = [
        (case["layer"], TITLES[case["loss"]], name, *map(with_range, seconds))
        for case in record["cells"]
        for name, seconds in case["seconds"].items()
    ]
    names = ("layer", "loss", "method", *(f"s to {level:g}" for level in levels))
    return figures.html_table(head, rows) + figures.folded(
        "Seconds of every run", figures.html_table(names, every)
    )


def _times(mean: Json | None) -> str:
    if mean is None:
        return NONE
    sign = "at least " if mean["bounds"] else ""
    return f"{sign}{mean['mean']:.1f} ({mean['least']:.1f} to {mean['most']:.1f})"


def scipy_table(record: Json) -> str:
    """An evaluation of SciPy's method in units of ours, and what both need to theta."""
    sizes = sorted({case["size"] for case in record["evaluation"]})
    ways = {"scipy as it comes": "as it comes", "scipy": "BLAS on one thread"}
    rows = [
        (f"time of an evaluation, {size} x {size}, SciPy {title}", f"{value:.1f} times ours")
        for size in sizes
        for way, title in ways.items()
        for value in [statistics.median(_against_ours(record["evaluation"], size, way))]
    ]
    cases = record["scipy"]
    both = [c for c in cases if all(_passed(c[side]) for side in ("ours", "scipy"))]
    ratio = statistics.median(c["scipy"]["evaluations"] / c["ours"]["evaluations"] for c in both)
    passed = {side: sum(_passed(case[side]) for case in cases) for side in ("ours", "scipy")}
    rows.append(
        (f"evaluations to theta, where both get there ({len(both)})", f"{ratio:.2f} times ours")
    )
    rows += [
        (
            f"runs that pass theta within {record['scipy_evaluations']} evaluations, {title}",
            f"{passed[side]} of {len(cases)}",
        )
        for side, title in (("scipy", "SciPy"), ("ours", "ours"))
    ]
    return figures.html_table(("SciPy's L-BFGS-B", "median"), rows)


def _passed(run: Json) -> bool:
    return bool(run["stop_reason"] == "theta")


def _against_ours(cases: Iterable[Json], size: int, way: str) -> list[float]:
    return [c[way]["median"] / c["ours"]["median"] for c in cases if c["size"] == size]


# An iteration


def iterations_table(record: Json) -> str:
    """What an iteration of Adam costs beside the released code's and beside its convolutions."""
    cases = sorted(record["iteration"], key=lambda case: (case["layer"], case["loss"]))
    of_layer = {layer: [c for c in cases if c["layer"] == layer] for layer in LAYERS}
    rows = [
        (layer, *(_range_of(own, ratio) for ratio in ("released / adam", "adam / convolutions")))
        for layer, own in of_layer.items()
    ]
    names = ("released", "adam", "convolutions", "convolutions in bfloat16")
    every = [
        (case["layer"], TITLES[case["loss"]], *(_milliseconds(case, name) for name in names))
        for case in cases
    ]
    head = ("layer", "released code / ours", "ours / convolutions alone")
    return figures.html_table(head, rows) + figures.folded(
        "Milliseconds of every layer and loss",
        figures.html_table(("layer", "loss", "released", "ours", *names[2:]), every),
    )


def _range_of(cases: Sequence[Json], ratio: str) -> str:
    found = [case["ratios"][ratio]["median"] for case in cases]
    return f"{min(found):.1f} to {max(found):.1f}"


def _milliseconds(case: Json, name: str) -> str:
    return f"{1000 * case['seconds'][name]['median']:.1f}"


def precision_table(record: Json) -> str:
    """What bfloat16 does to the gradient and to the loss that is reached."""
    rows = [
        (
            case["layer"],
            TITLES[case["loss"]],
            f"{100 * case['gradient_error']:.1f}%",
            *(_ending(case[kind]) for kind in ("float32", "bfloat16")),
        )
        for case in record["bfloat16"]
    ]
    head = ("layer", "loss", "error of the gradient", "float32 ends at", "bfloat16 ends at")
    return figures.html_table(head, rows)


def _ending(run: Json) -> str:
    return f"{run['final_loss']:.1g} after {run['evaluations']}"


def pairs_table(record: Json) -> str:
    """Evaluations and seconds by the number of pairs that are kept, in units of `fast`'s number."""
    cases, own = record["pairs"], str(FAST.memory)
    kept = [name for name in cases[0] if name.isdigit()]
    finished = [case for case in cases if all(_passed(case[name]) for name in kept)]
    rows = [
        (
            name,
            *(
                f"{_mean_ratio(finished, name, own, what):.2f}"
                for what in ("evaluations", "seconds")
            ),
        )
        for name in kept
    ]
    return figures.html_table(("pairs", "evaluations", "seconds"), rows)


def _mean_ratio(cases: Iterable[Json], name: str, own: str, what: str) -> float:
    return statistics.geometric_mean(case[name][what] / case[own][what] for case in cases)


def four_moments_table(record: Json) -> str:
    """How often N = 4 succeeds, from noise and by `quantiles`."""
    rows = [
        (
            way,
            len(cases),
            *(
                _percent(case["final_loss"] < level for case in cases)
                for level in (1e-3, FAST.theta)
            ),
            f"{statistics.median(case['evaluations'] for case in cases):,.0f}",
        )
        for way in ("from-noise", "quantiles")
        for cases in [[case for case in record["n4"] if case["way"] == way]]
    ]
    head = ("protocol", "runs", "loss below 1e-3", "theta reached", "evaluations, median")
    return figures.html_table(head, rows)


def _percent(tests: Iterable[bool]) -> str:
    return f"{100 * statistics.mean(tests):.0f}%"


# The machine


def busy_table(record: Json) -> str:
    """Seconds alone and beside a busy program, by how threads wait."""
    columns = ("alone", "beside", "beside_to_alone")
    rows = [
        (r["size"], r["way"], *(with_range(r[name]) for name in columns)) for r in record["rows"]
    ]
    head = ("size", "how threads wait", "alone, s", "beside a busy program, s", "beside / alone")
    return figures.html_table(head, rows)


def sizes_table(record: Json) -> str:
    """Seconds, milliseconds per evaluation and memory of `fast`, by size and layer."""
    cases = {(c["size"], c["loss"], c["layer"]): c for c in record["cells"]}
    rows = [
        (
            size,
            TITLES[loss],
            *(_of_size(cases.get((size, loss, layer)), record) for layer in LAYERS),
        )
        for size, loss in dict.fromkeys(key[:2] for key in cases)
    ]
    return figures.html_table(("size", "loss", *LAYERS), rows)


def _of_size(case: Json | None, record: Json) -> str:
    if case is None:
        return NONE
    seconds = case["goal_seconds"]
    if seconds is None:
        is_late = case["stop_reason"] == "stopped"
        waited = f">{record['seconds']} s" if is_late else "not reached"
    else:
        waited = f"{seconds:.1f} s"
    return (
        f"{waited}, {1000 * case['evaluation_seconds']:.0f} ms, {case['peak_bytes'] / 1e9:.1f} GB"
    )


def browser_tables(record: Json) -> str:
    """What the published live page computes in a second, and how soon it has a picture."""
    sides = ("browser", "python", "ratio")
    names = ("Chromium", "Python", "Chromium / Python")
    rates = [
        (
            r["size"],
            r["layer"],
            *(with_range(r[side], 2 if side == "ratio" else 0) for side in sides),
        )
        for r in record["rates"]
    ]
    waits = [(f"{r['share']:g}", *(with_range(r[side]) for side in sides)) for r in record["waits"]]
    first = record["first"]
    share = f"share of the first loss, {first['size']} px, {first['layer']}"
    return (
        "<p>Evaluations of loss and gradient per second:</p>"
        + figures.html_table(("size", "layer", *names), rates)
        + "<p>Seconds from Start to a share of the first loss:</p>"
        + figures.html_table((share, *names), waits)
    )


def recipes(record: Json) -> str:
    """How close the live page and Python end with the same recipe, run by run."""
    found = record["recipes"]
    runs = found["runs"]
    rows = [
        (
            short_name(run["style"]),
            run["layer"],
            TITLES[run["loss"]],
            run["protocol"],
            run["size"],
            f"{run['ratio']:.2f}",
            f"{run['correlation']:.3f}",
            f"{run['another seed']:.2f}",
        )
        for run in runs
    ]
    head = ("style", "layer", "loss", "protocol", "size", "final loss, page / Python")
    alike = ("correlation of the pictures", "with another seed")
    ratios, correlations = ([run[name] for run in runs] for name in ("ratio", "correlation"))
    return (
        f"<p>The page's final losses are {min(ratios):.2f} to {max(ratios):.2f} times those of "
        f"Python. After a blur of {found['blur']:g} pixels, the two pictures correlate with "
        f"{min(correlations):.3f} to {max(correlations):.3f}. The last column has the same for two "
        "runs of Python from different noise.</p>" + figures.html_table((*head, *alike), rows)
    )
