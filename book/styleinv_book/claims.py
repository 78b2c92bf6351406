"""The chapter's claims, each with measures, effects and a verdict, computed from the records.

`book/claims.yml` says what is claimed, what is measured and which rule decides; `judge` computes it
from `results/runs`. The effect of a part comes with an interval (`styleinv_book.intervals`) at the
level that the other parts of its claim leave it.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from statistics import correlation, median
from typing import Any, Literal

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from styleinv.encoder import LAYERS
from styleinv.errors import InputError, one_of
from styleinv.losses import LOSSES
from styleinv.runs import store
from styleinv.runs.record import Along, Measures, Plain, Record
from styleinv_book.intervals import ALPHA, Means, Sample, holm, resampled

Finding = Literal["holds", "fails", "undecided", "too few runs"]
Verdict = Literal["supported", "partly supported", "not supported", "undecided", "too few runs"]
Kind = Literal["ratio", "difference", "level", "factor between seeds", "correlation between seeds"]
Clear = Literal["clearly more", "clearly less", "not clearly more", "not clearly less"]
Names = str | tuple[str, ...] | None
Records = Mapping[Path, Record]

# Fewer than these decide nothing.
LEAST_COMPARISONS, LEAST_STYLES = 10, 5
POINTS = " percentage points"
# What a run takes to theta, see `_cost`.
COSTS = ("iterations_to_theta", "evaluations_to_theta", "seconds_to_theta")
SHARES = ("converged", "stuck", "clean")  # 0 or 1 for a run
STRUCTURES = tuple(f"structure_{side}" for side in (5, 9, 17, 33, 49))
# What has the same weaknesses as a measure: it is computed from the same patches or artefacts.
LIKE = {
    "structure": (*STRUCTURES, "largest_kept", "largest_to_style"),
    "artefact_area": ("artefacts", "artefact_grid"),
    "artefact_excess": ("clean",),
}
SEEN = (*Along.__struct_fields__, *Measures.__struct_fields__, "structure", "in_place")
MEASURES = (*SHARES, *COSTS, *STRUCTURES, *dict.fromkeys(SEEN))
EYE_STUDY = "eye_study.json"
# The rows of the eye study that count: of answers that had no part in the choice of the measure.
TESTED = "all rounds that test it"


class Terms(Plain, frozen=True):
    """Where theta is, when a run has converged, when a picture is clean, and which measures decide.

    `artefact_excess`: a clean picture has less; `judge` sets it to what counts.
    `agreement`: in the eye study, a measure agrees with eyes in at least this share of the pairs.
    """

    theta: float
    converged: float
    agreement: float
    artefact_excess: float = 0.0


class Rule(Plain, frozen=True):
    """The range in which the interval of an effect must lie, without its bounds."""

    above: float = -math.inf
    below: float = math.inf

    def __post_init__(self) -> None:
        if not (self.bounds and self.above < self.below):
            raise ValueError("a rule needs `above`, or `below`, or both with `above` being less")

    @property
    def bounds(self) -> dict[str, float]:
        """The bounds that there are, by their side."""
        sides = msgspec.structs.asdict(self).items()
        return {side: bound for side, bound in sides if math.isfinite(bound)}


class Choice(Plain, frozen=True):
    """Some of the runs.

    Attributes:
        sweep, layer, loss: one name or several; None stands for all.
        least_artefact_area, most_artefact_area: artefacts cover such a share of the picture.
    """

    sweep: Names = None
    layer: Names = None
    loss: Names = None
    least_artefact_area: float = 0.0
    most_artefact_area: float = 1.0

    def __post_init__(self) -> None:
        for name, chosen, allowed in (("layer", self.layer, LAYERS), ("loss", self.loss, LOSSES)):
            for one in names(chosen):
                one_of(name, one, tuple(allowed))

    def among(self, records: Records) -> Records:
        """The chosen ones of the records. The folder of a record is named after its sweep."""
        return {path: record for path, record in records.items() if self._has(path, record)}

    def _has(self, path: Path, record: Record) -> bool:
        wanted = self.sweep, self.layer, self.loss
        given = path.parent.name, record.asked.layer, record.asked.loss
        if not all(x is None or y in names(x) for x, y in zip(wanted, given, strict=True)):
            return False
        if (self.least_artefact_area, self.most_artefact_area) == (0.0, 1.0):
            return True
        area = math.nan if record.measures is UNSET else record.measures.artefact_area
        return self.least_artefact_area <= area <= self.most_artefact_area


def names(names: Names) -> tuple[str, ...]:
    """The names that one name or several stand for; none for None."""
    return (names,) if isinstance(names, str) else names or ()


class Part(Plain, frozen=True):
    """One comparison of a claim.

    Attributes:
        says: what the part claims, in words.
        measure: one of `MEASURES`.
        of, against: the two sides of a ratio or a difference: runs that agree in style, size,
            encoder, seed, and in the layer and the loss if `of` leaves them open. Other effects
            have one side only.
        effect: how the sides differ, or what they are (`level`), or how two seeds differ: by a
            factor in the measure, or in the places of their artefacts (correlation of the shares
            that these cover on an 8 x 8 grid).
        rule: decides whether the part holds; in words, by the smallest difference that counts.
        runs: all other runs are left out.
        at: the loss at which pictures are compared; by default each run's last.
        beside: whether the part is only shown and does not count for the verdict.
    """

    says: str
    measure: str
    of: Choice
    effect: Kind
    rule: Rule | Clear
    against: Choice | None = None
    runs: Choice = Choice()
    at: float | None = None
    beside: bool = False

    def __post_init__(self) -> None:
        one_of("measure", self.measure, MEASURES)
        if (self.against is not None) != (self.effect in ("ratio", "difference")):
            raise ValueError("a ratio and a difference must have `against`, other effects must not")

    @property
    def title(self) -> str:
        """What the part claims, and at which loss."""
        return self.says if self.at is None else f"{self.says}, at a loss of {self.at:g}"

    @property
    def is_factor(self) -> bool:
        """Whether the effect is a factor, which is averaged as a logarithm."""
        return self.effect in ("ratio", "factor between seeds")

    def resolved(self, smallest: Mapping[str, float]) -> Rule:
        """The rule in numbers; `smallest` is the smallest difference that counts, by measure.

        Raises:
            InputError: it does not say what counts in this part's measure.
        """
        if isinstance(self.rule, Rule):
            return self.rule
        one_of("measure whose smallest difference is known", self.measure, tuple(smallest))
        step = smallest[self.measure]
        less = 1 / step if self.is_factor else -step
        if self.rule == "clearly more":
            return Rule(above=step)
        if self.rule == "clearly less":
            return Rule(below=less)
        return Rule(below=step) if self.rule == "not clearly more" else Rule(above=less)


class Claim(Plain, frozen=True):
    """A claim of the chapter and how it is judged.

    Attributes:
        claim: what is claimed, in our words; `where` it is.
        figure: where it is seen: a page of the book and a label on it, as in "page#fig-1-3".
        chapter, did: what the chapter says, what we did.
        reading: what came out; {0}, {1}, ... in it stand for the estimates of the parts.
        sure, change: how sure we are, and what would change our mind.
    """

    claim: str
    where: str
    figure: str
    parts: tuple[Part, ...]
    chapter: str = ""
    did: str = ""
    reading: str = ""
    sure: str = ""
    change: str = ""
    note: str = ""


class Claims(Plain, frozen=True):
    """The content of `book/claims.yml`.

    Attributes:
        claims: by their ids.
        smallest: the smallest difference that counts, by measure.
        unfit: by measure, the style images of which it cannot tell what it should.
    """

    terms: Terms
    claims: dict[str, Claim]
    smallest: dict[str, float]
    unfit: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)

    def fit(self, records: Records, measure: str) -> Records:
        """The records of styles that the measure can be used for."""
        without = {
            style
            for name, styles in self.unfit.items()
            if measure in (name, *LIKE.get(name, ()))
            for style in styles
        }
        return {path: record for path, record in records.items() if record.source not in without}


class Effect(Plain, frozen=True):
    """The effect that a part asks for, with its interval and the finding of its rule.

    Attributes:
        rule: the part's, in numbers.
        estimate, low, high: the mean and the ends of the interval; NaN for too few runs.
        level: how often such an interval misses, such as 0.05.
        comparisons, styles: the number of comparisons, and of the styles that they are from.
        minutes: what the runs would take that are missing for a finding; NaN if it is not known.
        pair: the comparison nearest to the median, of those that have pictures.
        is_trusted: whether eyes agree with the measure often enough for it to decide anything.
    """

    part: Part
    rule: Rule
    estimate: float
    low: float
    high: float
    level: float
    comparisons: int
    styles: int
    finding: Finding
    minutes: float
    pair: Records
    is_trusted: bool

    def __str__(self) -> str:
        if self.finding == "too few runs":
            if self.part.at is not None:
                return "too few runs got to this loss"
            if math.isnan(self.minutes):
                return "what enough would cost is not known"
            return f"enough would take {self.minutes:.0f} minutes more"
        shown = [self.shown(x) for x in (self.estimate, self.low, self.high)]
        return f"{shown[0]}{self.unit} ({shown[1]} to {shown[2]})"

    @property
    def brief(self) -> str:
        """The estimate with its unit, for a sentence."""
        is_known = self.finding != "too few runs"
        return f"{self.rounded(self.estimate)}{self.unit}" if is_known else "(too few runs)"

    @property
    def numbers(self) -> str:
        """The estimate and its interval for a column: of the units, only percent is written."""
        sign = "%" if self.unit == "%" else ""
        estimate, low, high = (
            f"{self.rounded(x)}{sign}" for x in (self.estimate, self.low, self.high)
        )
        return f"{estimate} ({low} to {high})"

    @property
    def unit(self) -> str:
        """What the effect is in, with what stands before it: "%", " px", ..., or nothing."""
        if self.part.effect.startswith(("ratio", "f", "c")):
            return ""
        own = unit(self.part.measure)
        return POINTS if own == "%" and self.part.effect == "difference" else own

    def shown(self, value: float) -> str:
        """A value of the effect in its unit, which is not written."""
        # Without a sign before a zero.
        is_share = self.unit in ("%", POINTS)
        return f"{round(100 * value, 1) + 0.0:g}" if is_share else f"{value:.3g}"

    def rounded(self, value: float) -> str:
        """The same for people: differences in hundredths, large factors without powers of ten."""
        if self.unit in ("%", POINTS):
            return self.shown(value)
        if not self.part.is_factor:
            return f"{round(value, 2) + 0.0:.3g}"
        return f"{value:.3g}" if value < 1000 else f"{float(f'{value:.3g}'):,.0f}"

    @property
    def allowed(self) -> str:
        """The rule in words and numbers."""
        return ", ".join(f"{s} {self.shown(x)}{self.unit}" for s, x in self.rule.bounds.items())


def unit(measure: str) -> str:
    """The unit of a measure, with what stands before it."""
    if measure in (*SHARES, "artefact_area", "in_place"):
        return "%"
    units = {
        "colour_distance": " CIELAB units",
        "artefact_excess": " CIELAB units",
        "largest_kept": " px",
        "noise": " dB",
        "psnr": " dB",
        "psnr_of_pairs": " dB",
        "artefacts": " per 10,000 px",
    }
    return units.get(measure, "")


class Row(Plain, frozen=True):
    """A claim with its effects and its verdict."""

    id: str
    claim: Claim
    effects: Sequence[Effect]
    verdict: Verdict

    @property
    def tally(self) -> str:
        """How many of the parts that count hold, and how many fail."""
        found = [effect.finding for effect in self.effects if not effect.part.beside]
        holds, fails = found.count("holds"), found.count("fails")
        return f"{holds} of {len(found)} parts hold, {fails} {'fails' if fails == 1 else 'fail'}"


def read_claims(file: Path) -> Claims:
    """The content of a file such as `book/claims.yml`.

    Raises:
        InputError: the file is missing, not YAML, or has other fields.
    """
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=Claims)
    except Exception as error:  # PyYAML passes on whatever a value's constructor raises
        raise InputError(f"claims {str(file)!r} cannot be read: {error}") from error


def judge(
    results: str | Path, file: str | Path, wanted: Sequence[str] = ()
) -> tuple[list[Row], list[Path]]:
    """Judge the claims in `file`, all or those with the `wanted` ids, by the records in `results`.

    Pictures are not read. Altered records count as well, and the second value lists them
    (`styleinv.runs.verification` checks more).

    Raises:
        InputError: the file or a record cannot be read, or an effect cannot be computed, such as a
            ratio of negative numbers.
    """
    content = read_claims(Path(file))
    records = store.read_records(Path(results, "runs"))
    study = read_study(results)
    smallest = content.smallest | larger_seen(study, content.smallest)
    least = smallest.get("artefact_excess", content.terms.artefact_excess)
    terms = replace(content.terms, artefact_excess=least)
    doubted = doubted_measures(study, content.terms.agreement)
    rows = []
    for name in wanted or content.claims:
        claim = content.claims[one_of("claim", name, tuple(content.claims))]
        try:
            drafts = [
                _draft(part, content.fit(records, part.measure), terms, smallest)
                for part in claim.parts
            ]
        except (ArithmeticError, TypeError, ValueError) as error:
            raise InputError(f"claim {name} cannot be judged: {error}") from error
        effects = _judged(drafts, records, doubted)
        counted = [effect.finding for effect in effects if not effect.part.beside]
        rows.append(Row(name, claim, effects, verdict(counted)))
    return rows, [path for path, record in records.items() if not record.is_intact]


def read_study(results: str | Path) -> dict[str, Any]:
    """What the eye study in the folder `results` found, or nothing."""
    file = Path(results, EYE_STUDY)
    if not file.is_file():
        return {"smallest_seen": {}, "measures": []}
    study: dict[str, Any] = msgspec.json.decode(file.read_bytes())
    return study


def larger_seen(study: Mapping[str, Any], smallest: Mapping[str, float]) -> dict[str, float]:
    """The smallest differences that the eye study could see, where they are larger."""
    found = study["smallest_seen"].items()
    return {name: x for name, x in found if x is not None and x > smallest.get(name, x)}


def doubted_measures(study: Mapping[str, Any], least: float) -> set[str]:
    """The measures that agree with eyes too rarely to decide anything."""
    rows = [row for row in study["measures"] if row["among"] == TESTED]
    found = {row["measure"] for row in rows if row["agreed"] < least * row["decided"]}
    return found.union(*(LIKE.get(name, ()) for name in found))


def verdict(findings: Sequence[Finding]) -> Verdict:
    """The verdict on a claim, from the findings of those of its parts that count."""
    if all(finding == "holds" for finding in findings):
        return "supported"
    if "holds" in findings:
        return "partly supported"
    if 2 * findings.count("fails") >= len(findings):
        return "not supported"
    return "too few runs" if "too few runs" in findings else "undecided"


class Comparison(Sample, frozen=True):
    """What one comparison found, and the records of its one or two runs."""

    paths: tuple[Path, ...]


class _Draft(Plain, frozen=True):
    """A part with its comparisons, before it is judged together with the others of its claim."""

    part: Part
    rule: Rule
    samples: Sequence[Comparison]
    means: Means | None  # None: too few
    p_value: float
    found: Finding
    minutes: float


def _draft(part: Part, records: Records, terms: Terms, smallest: Mapping[str, float]) -> _Draft:
    rule, among = part.resolved(smallest), part.runs.among(records)
    samples = _samples(part, among, terms)
    styles = len({sample.style for sample in samples})
    missing = max(LEAST_COMPARISONS - len(samples), LEAST_STYLES - styles)
    if missing > 0:
        minutes = missing * _minutes(part, among) / len(samples) if samples else math.nan
        return _Draft(part, rule, samples, None, math.nan, "too few runs", minutes)
    means = resampled(samples, is_share=part.measure in SHARES and part.effect == "level")
    p_value, holds = means.judged(*_ends(rule, part.is_factor))
    return _Draft(part, rule, samples, means, p_value, "holds" if holds else "fails", 0.0)


def _ends(rule: Rule, is_factor: bool) -> tuple[float, float]:
    """The ends of a rule's range on the scale on which effects are averaged."""
    if not is_factor:
        return rule.above, rule.below
    return math.log(rule.above) if rule.above > 0 else -math.inf, math.log(rule.below)


def _minutes(part: Part, among: Records) -> float:
    """What all the runs that a part compares have taken."""
    sides = [side.among(among) for side in (part.of, part.against) if side is not None]
    return sum(float(run.result.seconds) for side in sides for run in side.values()) / 60


def _judged(drafts: Sequence[_Draft], records: Records, doubted: Set[str]) -> list[Effect]:
    """The effects of a claim's parts, at levels at which those that count are right together."""
    levels = [ALPHA] * len(drafts)
    counted = [i for i, x in enumerate(drafts) if x.means is not None and not x.part.beside]
    for i, level in zip(counted, holm([drafts[i].p_value for i in counted]), strict=True):
        levels[i] = level
    return [
        _effect(draft, level, records, draft.part.measure not in doubted)
        for draft, level in zip(drafts, levels, strict=True)
    ]


def _effect(draft: _Draft, level: float, records: Records, is_trusted: bool) -> Effect:
    part, samples, found = draft.part, draft.samples, draft.found
    estimate = low = high = math.nan
    if draft.means is not None:
        estimate, (low, high) = draft.means.mean, draft.means.interval(level)
        low, high = min(low, estimate), max(high, estimate)
        found = found if is_trusted and draft.p_value <= level else "undecided"
    scale = math.exp if part.is_factor else float
    shown = [sample for sample in samples if all(records[path].picture for path in sample.paths)]
    middle = median(sample.value for sample in samples) if samples else math.nan
    nearest = min(shown, key=lambda sample: abs(sample.value - middle), default=None)
    return Effect(
        part,
        draft.rule,
        scale(estimate),
        scale(low),
        scale(high),
        level,
        len(samples),
        len({sample.style for sample in samples}),
        found,
        draft.minutes,
        {path: records[path] for path in nearest.paths} if nearest and part.at is None else {},
        is_trusted,
    )


def _samples(part: Part, among: Records, terms: Terms) -> list[Comparison]:
    """A number for every run if the effect is a level, else for every two runs compared."""
    ours, samples = part.of.among(among), list[Comparison]()
    if part.effect == "level":
        for path, run in ours.items():
            if (found := value(part.measure, run, terms, part.at)) is not None:
                samples.append(Comparison(run.source, run.asked.seed, found, (path,)))
        return samples
    pairs: Iterable[tuple[Path, Path]] = itertools.combinations(ours, 2)
    if part.against is not None:
        pairs = itertools.product(ours, part.against.among(among))
    for paths in pairs:
        run, other = (among[path] for path in paths)
        if (shared := _shared(run, part)) != _shared(other, part):
            continue
        if (change := _change(run, other, part, terms)) is not None:
            within = shared if part.against is None else run.asked.seed
            samples.append(Comparison(run.source, within, change, paths))
    return samples


def _shared(run: Record, part: Part) -> tuple[object, ...]:
    """What a run must have in common with another one to be compared with it."""
    asked = run.asked
    if part.against is None:  # two seeds of one cell
        return run.source, asked.width, asked.encoder, asked.layer, asked.loss
    layer = asked.layer if part.of.layer is None else None
    loss = asked.loss if part.of.loss is None else None
    return run.source, asked.width, asked.encoder, asked.seed, layer, loss


def _change(run: Record, other: Record, part: Part, terms: Terms) -> float | None:
    """How two runs differ, as a logarithm for a factor, whose sign means nothing between seeds.

    None where they cannot be compared: a picture was not measured, a loss was not reached.
    """
    if part.effect == "correlation between seeds":
        grids = [x.measures.artefact_grid for x in (run, other) if x.measures is not UNSET]
        has_places = len(grids) == 2 and all(len(set(grid)) > 1 for grid in grids)
        return correlation(*grids) if has_places else None
    if part.measure in COSTS:
        ours, theirs = (_cost(part.measure, *x, terms) for x in ((run, other), (other, run)))
    else:
        ours, theirs = (value(part.measure, x, terms, part.at) for x in (run, other))
    if ours is None or theirs is None:
        return None
    change = math.log(ours / theirs) if part.is_factor else ours - theirs
    return change if part.against is not None else abs(change)


def _cost(measure: str, run: Record, other: Record, terms: Terms) -> float | None:
    """Iterations, evaluations or seconds to theta; None if neither run gets there.

    A run that does not counts as if it had used its budget, or the other's, if that is larger.
    """
    unit = measure.removesuffix("_to_theta")
    passed, passes = (
        next((point for point in x.trace if point.loss < terms.theta), None) for x in (run, other)
    )
    if passed is not None:
        return float(getattr(passed, unit.removesuffix("s") if unit == "iterations" else unit))
    if passes is None:
        return None
    used = max(run.result.iterations, 1) if unit == "iterations" else run.result.evaluations
    most = max(used, _budget(run), _budget(other))
    return run.result.seconds * most / used if unit == "seconds" else float(most)


def _budget(run: Record) -> int:
    """The largest number of iterations (Adam) or evaluations that a run was given."""
    asked = run.asked.protocol
    if asked.extra_rounds is UNSET or asked.extra_iterations is UNSET:
        return asked.budget
    return asked.budget + asked.extra_rounds * asked.extra_iterations


def value(measure: str, run: Record, terms: Terms, at: float | None = None) -> float | None:
    """The value of one of the `MEASURES` but `COSTS`; 0 or 1 for `SHARES`.

    Args:
        at: measured is the first kept iterate whose loss is at most this; by default the result.

    None where there is no such iterate, or the picture was not measured, or in another way.
    """
    loss = run.result.loss
    of_run = {
        "loss": loss,
        "converged": loss < terms.converged,
        "stuck": not loss < terms.converged,
    }
    if measure in of_run:
        return float(of_run[measure])
    seen: Measures | Along | None = None if run.measures is UNSET else run.measures
    if at is not None:
        seen = next((kept for kept in run.along if kept.loss <= at), None)
    if seen is None:
        return None
    if measure == "clean":
        excess = getattr(seen, "artefact_excess", UNSET)
        return None if excess is UNSET else float(excess < terms.artefact_excess)
    if measure in STRUCTURES:
        return float(seen.structures[STRUCTURES.index(measure)])
    found = getattr(seen, measure, UNSET)
    return None if found is UNSET or found is None else float(found)
