"""How the measures do on pictures whose truth is known: mosaics, planted patches, moved colours.

The numbers are in results/measures.json, which `benchmarks/measures.py` makes.
"""

import math
import statistics
from collections.abc import Sequence

from msgspec import UNSET
from scipy.stats import mannwhitneyu, spearmanr

from styleinv.images import short_name
from styleinv.runs import measures
from styleinv.runs.store import Run
from styleinv_book import figures
from styleinv_book.pages.measured import Json

# From here on, the rank correlation of measured and true scale counts as right.
RIGHT = 0.95


def rank_correlation(amounts: Sequence[float], found: Sequence[float]) -> float:
    """Spearman's rank correlation, from -1 to 1."""
    return float(spearmanr(amounts, found).statistic)


def told_apart(clean: Sequence[float], planted: Sequence[float]) -> float:
    """Area under the ROC curve: how often a planted picture has more than a clean one."""
    return float(mannwhitneyu(planted, clean).statistic) / len(planted) / len(clean)


def towards_the_style(found: Json, sign: int) -> float | None:
    """Rank correlation of the structure kept and the painted size, on one side of the style's own.

    Args:
        sign: -1 for structures painted smaller than the style's, 1 for larger ones.

    Returns:
        None if fewer than three sizes were painted there, as of photographs.
    """
    pairs = zip(found.get("factors", []), found.get("painted", []), strict=True)
    steps = [(sign * math.log(factor), statistics.mean(kept)) for factor, kept in pairs]
    side = [(-far, kept) for far, kept in steps if far >= 0]
    return rank_correlation(*zip(*side, strict=True)) if len(side) > 2 else None


def mosaics(known: Json) -> dict[str, list[float]]:
    """The largest structure kept in mosaics, in pixels, by style and side of the pieces."""
    return {
        name: [statistics.geometric_mean(kept) for kept in found["mosaics"]]
        for name, found in known["styles"].items()
    }


def exceptions(known: Json) -> str:
    """The styles whose mosaics are not measured in their order."""
    found = mosaics(known).items()
    wrong = [x for x, kept in found if rank_correlation(known["pieces"], kept) < RIGHT]
    return _listed(wrong)


def blind(known: Json) -> str:
    """The styles of which another sample keeps less than the smallest piece."""
    styles = known["styles"].items()
    return _listed([name for name, found in styles if found["own"] < known["pieces"][0]])


def mosaic_plot(known: Json) -> str:
    """The largest structure kept over the side of a mosaic's pieces, as HTML."""
    pieces, found = known["pieces"], mosaics(known)
    plot, axes = figures.plot_axes(3.6)
    for name, kept in found.items():
        line = "-" if name.startswith("bundled:") else "--"
        axes.plot(pieces, kept, line, label=short_name(name), linewidth=1, marker=".")
    axes.plot(pieces, pieces, color=figures.INK, linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlabel="side of the pieces, px", ylabel="largest kept, px")
    axes.minorticks_off()
    axes.set_xticks(pieces, map(str, pieces))
    axes.set_yticks((1, 2, *pieces), map(str, (1, 2, *pieces)))
    axes.legend(frameon=False, fontsize="x-small", ncol=2)
    alt = "The measured size of the largest structure kept rises with the side of the pieces."
    return figures.as_html(plot, alt) + figures.provenance_line(
        f"{len(found)} styles, {known['size']} pixels, the mean of two mosaics each",
        f"record: <code>results/measures.json</code>, {known['date'][:10]}",
        f"styleinv {known['styleinv']}, measures version {known['version']}",
    )


def grey_styles() -> figures.Panel:
    """Two grey photographs, and two layers' Gram matrices with the structure that is measured."""
    album = figures.reference("grey-styles")
    rows: figures.Cells = {}
    for style, label in album.labels().items():
        keys = {layer: (style, layer, "gram") for layer in album.layers}
        scores = ", ".join(f"{_structure(album.runs[key]):.1f}" for key in keys.values())
        pictures = {layer: (album, key) for layer, key in keys.items()}
        rows[f"{label}: {scores}"] = {"style": (album, style), **pictures}
    return figures.panel(rows)


def _structure(run: Run) -> float:
    return math.nan if run.record.measures is UNSET else run.record.measures.structure


def truth_table(known: Json) -> str:
    """How well each measure follows the truth, by style and over all, as HTML."""
    styles = known["styles"]
    kinds = list(next(iter(styles.values()))["planted"])
    head = [
        "style",
        "another sample keeps, px",
        "mosaics",
        "painted smaller",
        "painted larger",
        *kinds,
        "clean samples unclean",
        "colours moved",
        "noise added",
    ]
    kept = mosaics(known)
    rows = [
        [
            name,
            _written(found["own"], ".0f"),
            _written(rank_correlation(known["pieces"], kept[name])),
            _written(towards_the_style(found, -1)),
            _written(towards_the_style(found, 1)),
            *(_written(told_apart(*_excesses([found], kind))) for kind in kinds),
            f"{100 * _unclean([found]):.0f}%",
            _written(rank_correlation(known["shifts"], [x for x, _ in found["shifted"]])),
            _written(rank_correlation(known["sigmas"], found["noisy"])),
        ]
        for name, found in styles.items()
    ]
    every = list(styles.values())
    pooled = [_written(told_apart(*_excesses(every, kind))) for kind in kinds]
    rows.append(["all together", *[""] * 4, *pooled, f"{100 * _unclean(every):.1f}%", "", ""])
    return figures.html_table(head, rows)


def _excesses(styles: Sequence[Json], kind: str) -> tuple[list[float], list[float]]:
    """The artefact excess of clean samples, and of those with something planted."""
    clean = [excess for found in styles for excess in found["clean"]]
    planted = [excess for found in styles for some in found["planted"][kind] for excess in some]
    return clean, planted


def _unclean(styles: Sequence[Json]) -> float:
    """The share of clean samples in which artefacts cover more than they may."""
    areas: list[float] = [area for found in styles for area in found["clean_areas"]]
    return statistics.mean(float(area > measures.CLEAN_AREA) for area in areas)


def _listed(styles: Sequence[str]) -> str:
    return ", ".join(map(short_name, styles)) or "none"


def _written(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)
