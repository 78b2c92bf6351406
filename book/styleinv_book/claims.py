"""The chapter's claims, each with a measure, an effect and a verdict, computed from the records.

`book/claims.yml` says what is claimed, what is measured and which rule decides; `judge` computes it
from `results/runs`. The effect of a part comes with a 95% interval from a bootstrap in two levels
(styles, then the seeds of each): Davison and Hinkley 1997, section 3.8.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import correlation
from typing import Literal

import msgspec
import numpy as np

from styleinv.errors import InputError, one_of
from styleinv.runs import store
from styleinv.runs.record import Measures, Plain, Record, TracePoint

Finding = Literal["holds", "fails", "undecided"]
Verdict = Literal["supported", "partly supported", "not supported", "undecided"]
Kind = Literal["ratio", "difference", "level", "factor between seeds", "correlation between seeds"]
Names = str | tuple[str, ...] | None
Records = Mapping[Path, Record]

RESAMPLES, BOOTSTRAP_SEED = 10_000, 0
# The costs of convergence, see `value`.
COSTS = ("iterations_to_converge", "evaluations_to_converge", "seconds_to_converge")
MEASURES = ("loss", "converged", "clean", "failed", *COSTS, *Measures.__struct_fields__)


class Terms(Plain, frozen=True):
    """When a run has converged, and when its picture is clean; see `book/claims.yml`."""

    loss: float
    artefact_area: float
    noise: float


class Rule(Plain, frozen=True):
    """The range in which the interval of an effect must lie, without its bounds."""

    above: float = -math.inf
    below: float = math.inf

    def __post_init__(self) -> None:
        if not (str(self) and self.above < self.below):
            raise ValueError("a rule needs `above`, or `below`, or both with `above` being less")

    def __str__(self) -> str:
        bounds = msgspec.structs.asdict(self).items()
        return ", ".join(f"{side} {bound:g}" for side, bound in bounds if math.isfinite(bound))

    def finding(self, low: float, high: float) -> Finding:
        """Whether the interval from `low` to `high` lies inside the range, outside, or across."""
        if self.above < low and high < self.below:
            return "holds"
        return "fails" if high <= self.above or low >= self.below else "undecided"


class Choice(Plain, frozen=True):
    """Some of the runs.

    Attributes:
        sweep, layer, loss: one name or several; None stands for all.
        least_artefact_area: artefacts cover at least this share of the picture.
    """

    sweep: Names = None
    layer: Names = None
    loss: Names = None
    least_artefact_area: float = 0.0

    def among(self, records: Records) -> Records:
        """The chosen ones of the records. The folder of a record is named after its sweep."""
        return {path: record for path, record in records.items() if self._has(path, record)}

    def _has(self, path: Path, record: Record) -> bool:
        given = path.parent.name, record.asked.layer, record.asked.loss
        return record.measures.artefact_area >= self.least_artefact_area and all(
            wanted is None or name in ((wanted,) if isinstance(wanted, str) else wanted)
            for wanted, name in zip((self.sweep, self.layer, self.loss), given, strict=True)
        )


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
        rule: decides whether the part holds.
        runs: all other runs are left out.
        losses_within: two runs are compared if their final losses differ by this factor or less.
        beside: whether the part is only shown and does not count for the verdict.
    """

    says: str
    measure: str
    of: Choice
    effect: Kind
    rule: Rule
    against: Choice | None = None
    runs: Choice = Choice()
    losses_within: float = math.inf
    beside: bool = False

    def __post_init__(self) -> None:
        one_of("measure", self.measure, MEASURES)
        if (self.against is not None) != (self.effect in ("ratio", "difference")):
            raise ValueError("a ratio and a difference must have `against`, other effects must not")

    @property
    def is_factor(self) -> bool:
        """Whether the effect is a factor, which is averaged as a logarithm."""
        return self.effect in ("ratio", "factor between seeds")


class Claim(Plain, frozen=True):
    """A claim of the chapter and how it is judged.

    `reading` interprets the numbers; {0}, {1}, ... in it stand for the effects of the parts.
    """

    claim: str
    where: str
    figure: str
    parts: tuple[Part, ...]
    reading: str = ""
    note: str = ""


class Claims(Plain, frozen=True):
    """The content of `book/claims.yml`: the terms, and the claims by their ids."""

    terms: Terms
    claims: dict[str, Claim]


class Effect(Plain, frozen=True):
    """The effect that a part asks for, with its 95% interval and the finding of its rule.

    Attributes:
        estimate, low, high: the mean and the ends of the interval; NaN without a comparison.
        comparisons, styles: the number of comparisons, and of the styles that they are from.
    """

    part: Part
    estimate: float
    low: float
    high: float
    comparisons: int
    styles: int
    finding: Finding

    def __str__(self) -> str:
        if self.comparisons == 0:
            return "no run got there"
        return f"{self.estimate:.3g} ({self.low:.3g} to {self.high:.3g})"


class Row(Plain, frozen=True):
    """A claim with its effects and its verdict."""

    id: str
    claim: Claim
    effects: Sequence[Effect]
    verdict: Verdict


class Sample(Plain, frozen=True):
    """One of the numbers whose mean is an effect, with its style and its seed (or its cell)."""

    style: str
    within: object
    value: float


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
        InputError: the file or a record cannot be read, a part has nothing to compare, or its
            effect cannot be computed, such as a ratio of negative numbers.
    """
    content = read_claims(Path(file))
    records = store.read_records(Path(results, "runs"))
    rows = []
    for name in wanted or content.claims:
        claim = content.claims[one_of("claim", name, tuple(content.claims))]
        effects = [_effect(part, records, content.terms, name) for part in claim.parts]
        counted = [effect.finding for effect in effects if not effect.part.beside]
        rows.append(Row(name, claim, effects, verdict(counted)))
    return rows, [path for path, record in records.items() if not record.is_intact]


def verdict(findings: Sequence[Finding]) -> Verdict:
    """The verdict on a claim, from the findings of those of its parts that count."""
    if all(finding == "holds" for finding in findings):
        return "supported"
    if all(finding == "fails" for finding in findings):
        return "not supported"
    return "partly supported" if "holds" in findings else "undecided"


def _effect(part: Part, records: Records, terms: Terms, name: str) -> Effect:
    among = part.runs.among(records)
    try:
        samples = _samples(part, among, terms)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise InputError(f"claim {name} has no {part.effect} of {part.measure}: {error}") from error
    if not samples and not part.of.among(among):
        raise InputError(f"claim {name} has no runs to compare for {part.says!r}")
    found = bootstrap(samples) if samples else (math.nan, math.nan, math.nan)
    estimate, low, high = map(math.exp if part.is_factor else float, found)
    styles = len({sample.style for sample in samples})
    return Effect(part, estimate, low, high, len(samples), styles, part.rule.finding(low, high))


def bootstrap(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """Mean over styles of the mean over seeds, and the ends of its 95% interval.

    The ends are percentiles of 10,000 resamples. Each draws as many styles as there are, with
    replacement, and for each of them as many seeds as it has.
    """
    grouped: dict[str, dict[object, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        grouped[sample.style][sample.within].append(sample.value)
    styles = [np.array([np.mean(x) for x in by_seed.values()]) for by_seed in grouped.values()]
    rng, n = np.random.default_rng(BOOTSTRAP_SEED), len(styles)
    seeds = [rng.integers(len(x), size=(RESAMPLES, n, len(x))) for x in styles]
    redrawn = np.stack([x[chosen].mean(axis=2) for x, chosen in zip(styles, seeds, strict=True)])
    drawn = rng.integers(n, size=(RESAMPLES, n))
    means = redrawn[drawn, np.arange(RESAMPLES)[:, None], np.arange(n)].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(np.mean([x.mean() for x in styles])), float(low), float(high)


def _samples(part: Part, among: Records, terms: Terms) -> list[Sample]:
    """A sample for every run if the effect is a level, else for every two runs compared."""
    ours = part.of.among(among).values()
    if part.effect == "level":
        return [Sample(x.source, x.asked.seed, value(part.measure, x, terms)) for x in ours]
    pairs: Iterable[tuple[Record, Record]] = itertools.combinations(ours, 2)
    if part.against is not None:
        pairs = itertools.product(ours, part.against.among(among).values())
    samples = []
    for run, other in pairs:
        if _shared(run, part) == _shared(other, part) and _comparable(run, other, part, terms):
            within = _shared(run, part) if part.against is None else run.asked.seed
            samples.append(Sample(run.source, within, _change(run, other, part, terms)))
    return samples


def _shared(run: Record, part: Part) -> tuple[object, ...]:
    """What a run must have in common with another one to be compared with it."""
    asked = run.asked
    if part.against is None:  # two seeds of one cell
        return run.source, asked.width, asked.encoder, asked.layer, asked.loss
    layer = asked.layer if part.of.layer is None else None
    loss = asked.loss if part.of.loss is None else None
    return run.source, asked.width, asked.encoder, asked.seed, layer, loss


def _comparable(run: Record, other: Record, part: Part, terms: Terms) -> bool:
    """Whether the final losses are close enough and, for a cost, one of the runs converges."""
    low, high = sorted((run.result.loss, other.result.loss))
    converges = part.measure not in COSTS or any(_converged_at(x, terms) for x in (run, other))
    return converges and (part.losses_within == math.inf or high / part.losses_within <= low)


def _change(run: Record, other: Record, part: Part, terms: Terms) -> float:
    """How two runs differ, as a logarithm for a factor, whose sign means nothing between seeds."""
    if part.effect == "correlation between seeds":
        return correlation(run.measures.artefact_grid, other.measures.artefact_grid)
    ours, theirs = (value(part.measure, x, terms) for x in (run, other))
    change = math.log(ours / theirs) if part.is_factor else ours - theirs
    return change if part.against is not None else abs(change)


def _converged_at(run: Record, terms: Terms) -> TracePoint | None:
    """The first point of the trace at which the run has converged, if it does."""
    return next((point for point in run.trace if point.loss < terms.loss), None)


def value(measure: str, run: Record, terms: Terms) -> float:
    """The value of one of the `MEASURES`; 0 or 1 for `converged`, `clean` and `failed`.

    For a run that does not converge, the cost of the whole run stands for the cost of convergence.
    """
    result, measures = run.result, run.measures
    converged = result.loss < terms.loss
    clean = measures.artefact_area < terms.artefact_area and measures.noise < terms.noise
    passed = _converged_at(run, terms)
    of_run = {
        "loss": result.loss,
        "converged": converged,
        "clean": clean,
        "failed": not (converged and clean),
        "iterations_to_converge": passed.iteration if passed else result.iterations,
        "evaluations_to_converge": (passed or result).evaluations,
        "seconds_to_converge": (passed or result).seconds,
    }
    return float(of_run[measure] if measure in of_run else getattr(measures, measure))
