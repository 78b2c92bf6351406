"""The chapter's claims, each with a measure, an effect and a verdict, from the records.

`book/claims.yml` says what is claimed, what is measured and which rule decides; `judge` computes it
from `results/runs`. A part's effect comes with a 95% interval from a bootstrap in two levels
(styles, then the seeds of each): Davison and Hinkley 1997, section 3.8.
"""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from styleinv.errors import InputError, one_of
from styleinv.runs import store
from styleinv.runs.record import Record, TracePoint

Finding = Literal["holds", "fails", "undecided"]
Verdict = Literal["supported", "partly supported", "not supported", "undecided"]
Floats = NDArray[np.float64]

RESAMPLES, BOOTSTRAP_SEED = 10_000, 0
# What a run is told apart by; two runs are compared if they agree in all that the part leaves open.
FIELDS = ("style", "layer", "loss", "seed", "size", "encoder")
EFFECTS = ("ratio", "difference", "level", "factor between seeds", "correlation between seeds")


@dataclass(frozen=True)
class Part:
    """One comparison of a claim; the fields are described in `book/claims.yml`."""

    says: str
    measure: str
    of: Mapping[str, Any]
    effect: str
    rule: Mapping[str, Any]
    against: Mapping[str, Any] | None = None
    runs: Mapping[str, Any] = field(default_factory=dict)
    beside: bool = False


@dataclass(frozen=True)
class Claim:
    """A claim of the chapter and how it is judged.

    `reading` interprets the numbers; {0}, {1}, ... in it stand for the effects of the parts.
    """

    id: str
    claim: str
    where: str
    figure: str
    parts: tuple[Part, ...]
    reading: str = ""
    note: str = ""


@dataclass(frozen=True)
class Terms:
    """When a run has converged, and when its picture is clean; see `book/claims.yml`."""

    loss: float
    artefact_area: float
    noise: float


@dataclass(frozen=True)
class Effect:
    """An effect with its 95% interval, from how much, and what the rule makes of it."""

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


@dataclass(frozen=True)
class Row:
    """A claim with its effects and its verdict."""

    claim: Claim
    effects: tuple[Effect, ...]
    verdict: Verdict

    @property
    def reading(self) -> str:
        """The interpretation with its numbers."""
        return self.claim.reading.format(*map(str, self.effects))


@dataclass(frozen=True)
class Sample:
    """One number that an effect is the mean of: whose, and of which seed (or cell)."""

    style: str
    within: object
    value: float


def read_claims(file: Path) -> tuple[Terms, list[Claim]]:
    """The terms and the claims of a file such as `book/claims.yml`.

    Raises:
        InputError: the file is missing, not YAML, or has other fields.
    """
    try:
        content = yaml.safe_load(file.read_text())
        terms = Terms(**content["converged"], **content["clean"])
        claims = [_claim(name, fields) for name, fields in content["claims"].items()]
    except Exception as error:  # PyYAML passes on whatever a value's constructor raises
        raise InputError(f"claims {str(file)!r} cannot be read: {error}") from error
    return terms, claims


def _claim(name: str, fields: Mapping[str, Any]) -> Claim:
    parts = tuple(Part(**part) for part in fields["parts"])
    for part in parts:
        one_of(f"effect of {name}", part.effect, EFFECTS)
        (how,) = part.rule
        one_of(f"rule of {name}", how, ("above", "below", "within"))
    return Claim(id=name, **{**fields, "parts": parts})


def judge(
    results: str | Path, file: str | Path, wanted: Sequence[str] = ()
) -> tuple[list[Row], list[Path]]:
    """The claims judged by the records below `results`, all or those of the `wanted` ids.

    Pictures are not looked at, and a record counts as it is: which of them are not as they were
    written is the second value (`styleinv.verify` looks closer).

    Raises:
        InputError: the file or a record cannot be read, or a part has nothing to compare.
    """
    terms, claims = read_claims(Path(file))
    for name in wanted:
        one_of("claim", name, tuple(claim.id for claim in claims))
    records = store.read_records(Path(results, "runs"))
    try:
        runs = [
            {**_fields(path.parent.name, record), "record": record}
            for path, record in records.items()
        ]
        rows = [_row(x, runs, terms) for x in claims if not wanted or x.id in wanted]
    except InputError:  # says what is wrong already
        raise
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InputError(f"a record in {str(results)!r} lacks {error}") from error
    return rows, [path for path, record in records.items() if not record.is_intact]


def _fields(sweep: str, record: Record) -> dict[str, Any]:
    asked = record.asked
    return {
        "sweep": sweep,
        "style": record.source,
        "size": asked.width,
        **{name: getattr(asked, name) for name in ("layer", "loss", "seed", "encoder")},
    }


def _row(claim: Claim, runs: Sequence[Mapping[str, Any]], terms: Terms) -> Row:
    effects = tuple(_effect(part, runs, terms, claim.id) for part in claim.parts)
    return Row(claim, effects, verdict([x.finding for x in effects if not x.part.beside]))


def verdict(findings: Sequence[Finding]) -> Verdict:
    """What the findings of a claim's parts come to."""
    if all(finding == "holds" for finding in findings):
        return "supported"
    if all(finding == "fails" for finding in findings):
        return "not supported"
    return "partly supported" if "holds" in findings else "undecided"


def _effect(part: Part, runs: Sequence[Mapping[str, Any]], terms: Terms, name: str) -> Effect:
    samples = list(_samples(part, runs, terms))
    if not samples:
        if not any(_matches(run, part, part.of) for run in runs):
            raise InputError(f"claim {name} has no runs to compare for {part.says!r}")
        return Effect(part, math.nan, math.nan, math.nan, 0, 0, "undecided")
    # Ratios and factors are averaged as logarithms.
    averaged = bootstrap(samples)
    if part.effect in ("ratio", "factor between seeds"):
        averaged = tuple(math.exp(x) for x in averaged)
    estimate, low, high = averaged
    styles = len({sample.style for sample in samples})
    finding = find(part.rule, low, high)
    return Effect(part, estimate, low, high, len(samples), styles, finding)


def find(rule: Mapping[str, Any], low: float, high: float) -> Finding:
    """Whether an interval lies within what a rule allows, outside, or across its bounds."""
    ((how, bound),) = rule.items()
    least = bound[0] if how == "within" else bound if how == "above" else -math.inf
    most = bound[1] if how == "within" else bound if how == "below" else math.inf
    if least < low and high < most:
        return "holds"
    return "fails" if high <= least or low >= most else "undecided"


def bootstrap(samples: Sequence[Sample]) -> tuple[float, ...]:
    """Mean over styles of the mean over seeds, and the ends of its 95% interval.

    Each of 10,000 resamples draws as many styles as there are, with replacement, and for each of
    them as many seeds as it has; percentiles.
    """
    grouped: dict[str, dict[object, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        grouped[sample.style][sample.within].append(sample.value)
    styles = [np.array([np.mean(x) for x in by_seed.values()]) for by_seed in grouped.values()]
    rng, n = np.random.default_rng(BOOTSTRAP_SEED), len(styles)
    redrawn = np.stack(
        [x[rng.integers(len(x), size=(RESAMPLES, n, len(x)))].mean(axis=2) for x in styles]
    )
    chosen = rng.integers(n, size=(RESAMPLES, n))
    means = redrawn[chosen, np.arange(RESAMPLES)[:, None], np.arange(n)].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(np.mean([x.mean() for x in styles])), float(low), float(high)


def _samples(part: Part, runs: Sequence[Mapping[str, Any]], terms: Terms) -> Iterator[Sample]:
    left = [run for run in runs if _matches(run, part, part.of)]
    if part.effect.endswith("between seeds"):
        yield from _between_seeds(part, left)
        return
    if part.against is None:
        for run in left:
            yield Sample(run["style"], run["seed"], value(part.measure, run["record"], terms)[0])
        return
    shared = [name for name in FIELDS if name not in part.of]
    others = {
        tuple(run[name] for name in shared): run
        for run in runs
        if _matches(run, part, part.against)
    }
    for run in left:
        other = others.get(tuple(run[name] for name in shared))
        if other is None or not _comparable(run, other, part.runs.get("losses_within")):
            continue
        ours, reached = value(part.measure, run["record"], terms)
        theirs, other_reached = value(part.measure, other["record"], terms)
        if reached or other_reached:
            change = ours - theirs if part.effect == "difference" else math.log(ours / theirs)
            yield Sample(run["style"], run["seed"], change)


def _matches(run: Mapping[str, Any], part: Part, side: Mapping[str, Any]) -> bool:
    wanted = {**part.runs, **side}
    sweeps = wanted.pop("sweeps", None)
    wanted.pop("losses_within", None)
    least = wanted.pop("least", {})
    return (
        (sweeps is None or run["sweep"] in sweeps)
        and all(run[k] in v if isinstance(v, list) else run[k] == v for k, v in wanted.items())
        and all(getattr(run["record"].measures, name) >= bound for name, bound in least.items())
    )


def _comparable(run: Mapping[str, Any], other: Mapping[str, Any], factor: float | None) -> bool:
    """Whether the final losses of two runs are within a factor, if one is asked for."""
    if factor is None:
        return True
    ours, theirs = (x["record"].result.loss for x in (run, other))
    return bool(min(ours, theirs) > 0 and max(ours, theirs) <= factor * min(ours, theirs))


def value(measure: str, record: Record, terms: Terms) -> tuple[float, bool]:
    """A measure of a record; and, for what it takes to converge, whether it did.

    What a run that does not converge would take is unknown: where it ended counts instead.
    """
    result, measures = record.result, record.measures
    converged = result.loss < terms.loss
    clean = measures.artefact_area < terms.artefact_area and measures.noise < terms.noise
    if measure.endswith("_to_converge"):
        what = measure.removesuffix("_to_converge")
        passed = first_below(record.trace, terms.loss)
        # A trace counts one iteration, a result all iterations.
        took = (
            getattr(result, what)
            if passed is None
            else getattr(passed, what.replace("iterations", "iteration"))
        )
        return float(took), passed is not None
    known = {
        "loss": result.loss,
        "converged": float(converged),
        "clean": float(clean),
        "failed": float(not (converged and clean)),
    }
    return float(known[measure] if measure in known else getattr(measures, measure)), True


def _between_seeds(part: Part, runs: Sequence[Mapping[str, Any]]) -> Iterator[Sample]:
    """Every pair of seeds of every cell."""
    cells = defaultdict(list)
    for run in runs:
        key = tuple(run[name] for name in FIELDS if name != "seed")
        cells[key].append(getattr(run["record"].measures, part.measure))
    for key, values in cells.items():
        for a, b in itertools.combinations(values, 2):
            if part.effect.startswith("factor"):
                yield Sample(key[0], key, abs(math.log(a / b)))
            elif np.ptp(a) > 0 and np.ptp(b) > 0:
                yield Sample(key[0], key, float(np.corrcoef(a, b)[0, 1]))


def first_below(trace: Sequence[TracePoint], loss: float) -> TracePoint | None:
    """The first point of a record's trace with a lower exact loss; None if there is none."""
    return next((point for point in trace if point.loss < loss), None)
