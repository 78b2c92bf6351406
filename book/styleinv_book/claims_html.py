"""The claims as the book shows them: a summary, a section per claim, verdicts beside figures."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from styleinv.live.labels import TITLES
from styleinv.runs.store import style_file_name
from styleinv_book.claims import Effect, Records, Row, judge
from styleinv_book.figures import RESULTS, VIEWER_PAGE, Picture, picture_table
from styleinv_book.rendering import render_macro
from styleinv_book.viewer import link_to

# The path as seen from a page; all pages are one folder down.
CLAIMS = "../book/claims.yml"
MARGIN = 4  # percent of a drawing's width
MOST_TICKS = 6
# Ticks between powers of ten, from the finest.
FACTORS = ((1, 1.2, 1.5, 2, 3, 5, 7), (1, 2, 5))

NAMES = {
    "structure": "structure kept",
    "largest_kept": "largest structure kept",
    "colour_distance": "distance of the colours",
    "artefact_excess": "strangeness of places",
    "artefact_area": "area that artefacts cover",
    "artefacts": "number of artefacts",
    "artefact_grid": "places of artefacts",
    "noise": "pixel noise",
    "psnr_of_pairs": "closeness to the image, pairs averaged",
    "in_place": "patches most like the image at their own place",
    "converged": "runs that get to ten times theta",
    "stuck": "runs that do not get to ten times theta",
    "clean": "pictures without artefacts",
    "loss": "final loss",
    "iterations_to_theta": "iterations to theta",
    "evaluations_to_theta": "evaluations to theta",
    "seconds_to_theta": "seconds to theta",
}


@dataclass(frozen=True)
class Chart:
    """Effects on one axis.

    Attributes:
        title: what the axis measures, with its unit.
        rows: each effect with its places: low, high, estimate, and the ends of what its rule
            allows, in percent of the width; None without an interval.
        ticks: places and labels.
    """

    title: str
    rows: Sequence[tuple[Effect, tuple[float, ...] | None]]
    ticks: Sequence[tuple[float, str]]


def summary(rows: Sequence[Row]) -> str:
    """A table of the claims with their verdicts; each row links to the claim's section."""
    return render_macro("claims.html.j2", "summary", rows)


def beside(*ids: str) -> str:
    """The claims that a figure is about: a line each, with the verdict."""
    rows, _ = judge(RESULTS, CLAIMS, ids)
    return render_macro("claims.html.j2", "beside", rows)


def section(row: Row) -> str:
    """A claim: what was said, done and found, its effects on axes, a pair of pictures."""
    groups = defaultdict[object, list[Effect]](list)
    for effect in row.effects:
        groups[effect.part.effect, effect.part.measure].append(effect)
    charts = [chart(group) for group in groups.values()]
    shown = next((x for x in row.effects if x.pair and not x.part.beside), None)
    pictures = "" if shown is None else pair(shown.pair)
    numbers = [effect.brief for effect in row.effects]
    texts = {
        "The chapter.": row.claim.chapter,
        "What we did.": row.claim.did,
        "What came out.": row.claim.reading.format(*numbers),
        "How sure.": row.claim.sure.format(*numbers),
        "What would change our mind.": row.claim.change,
        "Note.": row.claim.note,
    }
    return render_macro("claims.html.j2", "section", row, texts, charts, shown, pictures)


def chart(effects: Sequence[Effect]) -> Chart:
    """Effects of one kind and measure, on a common axis that holds their intervals and bounds."""
    some = effects[0]
    # On a log scale, a factor and its reciprocal are equally far from 1.
    is_log = some.part.is_factor
    scale = math.log if is_log else float
    bounds = [bound for effect in effects for bound in effect.rule.bounds.values()]
    ends = [end for x in effects for end in (x.low, x.high) if math.isfinite(end)]
    shown = [scale(x) for x in (*bounds, *ends, 1.0 if is_log else 0.0)]
    slack = 0.08 * (max(shown) - min(shown)) or 1.0
    low, high = min(shown) - slack, max(shown) + slack

    def place(value: float) -> float:
        inside = min(max(scale(value), low), high)
        return round(MARGIN + (100 - 2 * MARGIN) * (inside - low) / (high - low), 1)

    rows = []
    for x in effects:
        start = place(x.rule.above) if x.rule.above > -math.inf else 0.0
        end = place(x.rule.below) if x.rule.below < math.inf else 100.0
        has_interval = math.isfinite(x.low)
        places = (*map(place, (x.low, x.high, x.estimate)), start, end) if has_interval else None
        rows.append((x, places))
    ticks = _log_ticks(low, high) if is_log else _ticks(low, high)
    kind = {"ratio": "factor", "level": "", "difference": "difference"}.get(
        some.part.effect, some.part.effect
    )
    facts = NAMES.get(some.part.measure, some.part.measure.replace("_", " ")), kind, some.unit
    title = ", ".join(fact.strip() for fact in facts if fact)
    return Chart(title, rows, [(place(x), some.shown(x)) for x in ticks])


def _ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    step = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    step *= next(x for x in (1, 2, 5, 10) if (high - low) / (x * step) <= MOST_TICKS)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Factors between exp(low) and exp(high), 1 among them."""
    powers = range(-12, 13)
    finer = [[x * 10.0**k for k in powers for x in steps] for steps in FACTORS]
    coarser = [[10.0**k for k in powers if k % every == 0] for every in (1, 2, 3, 6, 12)]
    for ticks in (*finer, *coarser):
        found = [tick for tick in ticks if low <= math.log(tick) <= high]
        if len(found) <= MOST_TICKS:
            return found
    return [1.0]


def pair(runs: Records) -> str:
    """The pictures of the runs of a comparison beside their style image."""
    (first, record), *_ = runs.items()
    size = record.asked.height, record.asked.width
    style = first.parents[1] / "styles" / style_file_name(record.source, min(size))
    row = {
        "style": Picture(quote(style.as_posix()), f"{record.style}: the style image", *size[::-1])
    }
    for path, run in runs.items():
        asked = run.asked
        facts = asked.layer, TITLES[asked.loss], asked.protocol.name, f"seed {asked.seed}"
        link = f"{VIEWER_PAGE}{link_to(run)}"
        source = quote(path.with_suffix(".png").as_posix())
        alt = f"{run.style}: {', '.join(facts)}"
        row[", ".join(facts)] = Picture(source, alt, asked.width, asked.height, link)
    return picture_table({record.style: row})
