"""The claims as the book shows them: a summary, a section per claim, verdicts beside figures."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import msgspec

from styleinv.live.labels import TITLES
from styleinv.runs import store
from styleinv.runs.record import Record
from styleinv_book.claims import (
    COSTS,
    TESTED,
    Claim,
    Claims,
    Effect,
    Part,
    Records,
    Row,
    Verdict,
    doubted_measures,
    judge,
    larger_seen,
    read_claims,
    read_study,
    unit,
)
from styleinv_book.figures import (
    RESULTS,
    VIEWER_PAGE,
    Picture,
    folded_origin,
    html_table,
    provenance,
)
from styleinv_book.rendering import render_macro
from styleinv_book.viewer import link_to

# The path as seen from a page; all pages are one folder down.
CLAIMS = "../book/claims.yml"
MINUS = "\N{MINUS SIGN}"
MARGIN = 4  # percent of a drawing's width
MOST_TICKS = 8
# Ticks between powers of ten, from the finest.
FACTORS = ((1, 1.2, 1.5, 2, 3, 5, 7), (1, 2, 5))
THUMBNAIL = 128  # pixels; the sizes of runs are multiples of it

NAMES = {
    "structure": "structure kept",
    "largest_kept": "largest structure kept",
    "colour_distance": "distance of the colours",
    "artefact_excess": "what does not belong to the style",
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

# What a sentence says of the claims of each verdict.
ENDED: dict[Verdict, str] = {
    "supported": "held up",
    "partly supported": "did in part",
    "not supported": "did not",
    "undecided": "remain undecided",
    "too few runs": "lack runs",
}


@dataclass(frozen=True)
class Scale:
    """A scale for all effects of one unit, in percent of a drawing's width.

    Attributes:
        is_log: on a log scale, a factor and its reciprocal are equally far from 1.
        low, high: its ends, logarithms if it `is_log`.
    """

    is_log: bool
    low: float
    high: float

    @classmethod
    def of(cls, effects: Sequence[Effect]) -> Self:
        """The scale that holds all intervals and bounds, and no difference at all."""
        is_log = effects[0].part.is_factor
        bounds = [bound for x in effects for bound in x.rule.bounds.values()]
        ends = [end for x in effects for end in (x.low, x.high) if math.isfinite(end)]
        shown = [math.log(x) if is_log else x for x in (*bounds, *ends, float(is_log))]
        slack = 0.04 * (max(shown) - min(shown)) or 1.0
        return cls(is_log, min(shown) - slack, max(shown) + slack)

    def place(self, value: float) -> float:
        """Where a value is; infinite ones are at the edges."""
        if math.isinf(value):
            return 0.0 if value < 0 else 100.0
        share = ((math.log(value) if self.is_log else value) - self.low) / (self.high - self.low)
        return round(MARGIN + (100 - 2 * MARGIN) * share, 1)

    @cached_property
    def ticks(self) -> list[float]:
        """Round values, a few of them."""
        return (_log_ticks if self.is_log else _ticks)(self.low, self.high)


@dataclass(frozen=True)
class Chart:
    """Effects of one kind and unit, one below the other on one axis.

    Attributes:
        title: what the axis measures, with its unit.
    """

    title: str
    effects: Sequence[Effect]
    scale: Scale

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and labels."""
        some = self.effects[0]
        sign = "%" if some.unit == "%" else ""
        return [(self.scale.place(x), f"{some.rounded(x)}{sign}") for x in self.scale.ticks]

    @property
    def none(self) -> float:
        """Where an effect that is none is."""
        return self.scale.place(float(self.scale.is_log))


def judged() -> list[Row]:
    """All claims of the book, judged by its reference runs.

    Raises:
        ValueError: a record has been altered.
    """
    rows, altered = judge(RESULTS, CLAIMS)
    if altered:
        raise ValueError(f"altered records: {altered}")
    return rows


def content() -> Claims:
    """The claims with their terms, as `book/claims.yml` has them."""
    return read_claims(Path(CLAIMS))


def tally(rows: Sequence[Row]) -> str:
    """How many claims there are, and how many of each verdict that occurs, as a sentence."""
    found = Counter(row.verdict for row in rows)
    said = [f"{found[verdict]} {words}" for verdict, words in ENDED.items() if found[verdict]]
    *others, last = said
    listed = f"{', '.join(others)}, and {last}" if others else last
    return f"Of the chapter's {len(rows)} claims, {listed}."


def summary(rows: Sequence[Row]) -> str:
    """A table of the claims with their verdicts; each row links to the claim's section."""
    return render_macro("claims.html.j2", "summary", rows)


def beside(*ids: str) -> str:
    """The claims that a figure is about: a line each, with the verdict."""
    rows, _ = judge(RESULTS, CLAIMS, ids)
    return render_macro("claims.html.j2", "beside", rows)


def what_counts() -> str:
    """A table of the smallest effects that count, and of how often eyes agree with each measure."""
    known, study = content(), read_study(RESULTS)
    seen = larger_seen(study, known.smallest)
    doubted = doubted_measures(study, known.terms.agreement)
    asked = {row["measure"]: row for row in study["measures"] if row["among"] == TESTED}
    rows = []
    for measure, assumed in known.smallest.items():
        step, own = seen.get(measure, assumed), unit(measure)
        amount = f"{100 * step:.3g}%" if own == "%" else f"{step:.3g}{own}"
        source = "nine of ten answers agree from there on" if measure in seen else "assumed"
        agreement = "not asked"
        if found := asked.get(measure):
            agreement = f"{found['agreed']} of {found['decided']} answers"
        agreement += ": too few to decide" if measure in doubted else ""
        rows.append((NAMES[measure], amount, source, agreement))
    head = ("measure", "smallest effect that counts", "because", "raters agree in")
    return html_table(head, rows)


def origin() -> str:
    """What made all runs that the claims choose among, folded."""
    records = store.read_records(Path(RESULTS, "runs")).values()
    return folded_origin(provenance([store.Run(record, None) for record in records]))


def sections(rows: Sequence[Row]) -> str:
    """A section for every claim; effects of one unit are on one scale in all of them."""
    scales = _scales(effect for row in rows for effect in row.effects)
    return "".join(section(row, scales) for row in rows)


def section(row: Row, scales: Mapping[str, Scale] | None = None) -> str:
    """A claim: the verdict, what came out, a pair of pictures, effects on axes, and the rules.

    Args:
        scales: by unit; by default those that the claim's own effects need.
    """
    scales = scales or _scales(row.effects)
    counted = [x for x in row.effects if not x.part.beside]
    others = [x for x in row.effects if x.part.beside]
    shown = next((x for x in (*counted, *others) if x.pair), None)
    pictures = {} if shown is None else pair(shown.pair)
    numbers = [effect.brief.replace("-", MINUS) for effect in row.effects]
    doubted = dict.fromkeys(NAMES[x.part.measure] for x in counted if not x.is_trusted)
    texts = {
        "The chapter.": row.claim.chapter,
        "What we did.": row.claim.did,
        "How sure.": row.claim.sure.format(*numbers),
        "What would change our mind.": row.claim.change,
        "Note.": row.claim.note,
    }
    return render_macro(
        "claims.html.j2",
        "section",
        row,
        row.claim.reading.format(*numbers),
        list(doubted),
        texts,
        list(_charts(counted, scales)),
        list(_charts(others, scales)),
        shown,
        pictures,
        rules(row.claim.parts),
        _seen_in(row.claim),
    )


def _seen_in(claim: Claim) -> tuple[str, str]:
    """Where a claim is seen: the address and its text, such as "figure 1.3"."""
    page, _, label = claim.figure.partition("#")
    number = re.fullmatch(r"fig-(\w)-(\d+)", label)
    text = f"figure {number[1].upper()}.{number[2]}" if number else "our figure"
    return f"../{page}.html#{label}", text


def rules(parts: Sequence[Part]) -> str:
    """The parts of a claim as YAML, as its file has them, but written out and without defaults."""
    return msgspec.yaml.encode([_given(part) for part in parts]).decode()


def _given(value: Any) -> Any:
    if not isinstance(value, msgspec.Struct):
        return value
    given = ((x.name, getattr(value, x.name), x.default) for x in msgspec.structs.fields(value))
    return {name: _given(found) for name, found, default in given if found != default}


def _scales(effects: Iterable[Effect]) -> dict[str, Scale]:
    """A scale for each unit."""
    groups = defaultdict[str, list[Effect]](list)
    for effect in effects:
        groups[_unit(effect)].append(effect)
    return {name: Scale.of(group) for name, group in groups.items()}


def _charts(effects: Sequence[Effect], scales: Mapping[str, Scale]) -> Iterator[Chart]:
    """Those with an interval, a chart for each kind of effect and unit."""
    groups = defaultdict[tuple[str, str], list[Effect]](list)
    for effect in effects:
        if math.isfinite(effect.low):
            groups[effect.part.effect, _unit(effect)].append(effect)
    kinds = {"difference": "difference", "level": "share"}
    for (kind, name), group in groups.items():
        title = ", ".join(x for x in (kinds.get(kind), name.removeprefix("%")) if x)
        yield Chart(title, group, scales[name])


def _unit(effect: Effect) -> str:
    """What the axis of an effect is in."""
    part = effect.part
    if part.effect == "correlation between seeds":
        return "correlation between two seeds"
    if part.is_factor:
        costs = "factor in iterations, evaluations or seconds"
        return costs if part.measure in COSTS else f"factor, {NAMES[part.measure]}"
    named = NAMES.get(part.measure, "structure kept")
    return effect.unit.strip() or named


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


def pair(runs: Records) -> dict[str, Picture]:
    """The style image and the pictures of the runs of a comparison, small, by what they are."""
    (first, record), *_ = runs.items()
    side = min(record.asked.height, record.asked.width)
    source = (first.parents[1] / "styles" / store.style_file_name(record.source, side)).as_posix()
    style = Picture(quote(source), f"{record.style}: the style image", *_small(record))
    return {record.style: style} | {
        label: Picture(
            quote(path.with_suffix(".png").as_posix()),
            f"{run.style}: {label}",
            *_small(run),
            f"{VIEWER_PAGE}{link_to(run)}",
        )
        for label, (path, run) in zip(_labels(list(runs.values())), runs.items(), strict=True)
    }


def _small(run: Record) -> tuple[int, int]:
    """Width and height of a run's thumbnail."""
    scale = THUMBNAIL / max(run.asked.width, run.asked.height)
    return round(scale * run.asked.width), round(scale * run.asked.height)


def _labels(runs: Sequence[Record]) -> list[str]:
    """Layer and loss of each run; protocol and seed as well where the runs differ in them."""
    labels = []
    for asked in (run.asked for run in runs):
        facts = [asked.layer, TITLES[asked.loss]]
        if len({run.asked.protocol.name for run in runs}) > 1:
            facts.append(asked.protocol.name)
        if len({run.asked.seed for run in runs}) > 1:
            facts.append(f"seed {asked.seed}")
        labels.append(", ".join(facts))
    return labels
