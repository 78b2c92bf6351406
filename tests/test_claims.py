"""Claims: effects on records that are made up, intervals, rules, verdicts, and the real ones."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.stats
import yaml
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from styleinv_book import claims, claims_html
from styleinv_book.claims import Row, Rule, Sample, bootstrap, judge, value

from styleinv import InputError
from styleinv.runs import store
from styleinv.runs.record import Record, TracePoint, sealed
from tests.conftest import ROOT

Interval = tuple[float, float]
TERMS = claims.Terms(loss=1e-3, artefact_area=0.01, noise=3.0)
REAL = ROOT / "book" / "claims.yml"
SOME = next(iter(store.read_records(ROOT / "results" / "runs" / "adam").values()))
PLAIN = {"structure_size": 4.0, "colour_distance": 2.0, "artefact_area": 0.0, "noise": 0.0}


def record(
    style: str = "a", loss: str = "gram", seed: int = 0, reached: float = 1e-4, **measures: Any
) -> Record:
    """A run whose loss falls tenfold with every iteration at first, and then slowly."""
    asked = replace(SOME.asked, loss=loss, seed=seed)
    result = replace(SOME.result, loss=reached, iterations=80, evaluations=90, seconds=9.0)
    made_up = replace(
        SOME,
        **{"address": asked.address, "style": style, "source": style},
        asked=asked,
        result=result,
        trace=tuple(TracePoint(i, 2 * i, 10.0**-i, float(i), loss) for i in range(5)),
        measures=replace(SOME.measures, **{**PLAIN, **measures}),
    )
    return sealed(made_up)


def write(root: Path, *records: Record, sweep: str = "s") -> Path:
    file = root / "runs" / sweep / "runs.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in records))
    return file


def write_claims(root: Path, *parts: dict[str, Any], **fields: Any) -> Path:
    claim = {"claim": "c", "where": "w", "figure": "f", "parts": list(parts), **fields}
    path = root / "claims.yml"
    terms = msgspec.structs.asdict(TERMS)
    path.write_text(yaml.safe_dump({"terms": terms, "claims": {"C1": claim}}))
    return path


def part(**fields: Any) -> dict[str, Any]:
    return {
        **{"says": "larger", "measure": "structure_size", "effect": "ratio"},
        **{"of": {"loss": "moment-1"}, "against": {"loss": "gram"}, "rule": {"above": 1.0}},
        **fields,
    }


def judged(root: Path, *parts: dict[str, Any], **fields: Any) -> Row:
    (row,), altered = judge(root, write_claims(root, *parts, **fields))
    assert not altered
    return row


def test_ratio_is_the_geometric_mean_over_what_can_be_compared(tmp_path: Path) -> None:
    write(
        tmp_path,
        record("a", "gram", structure_size=2.0),
        record("a", "moment-1", structure_size=4.0),
        record("b", "gram", structure_size=1.0),
        record("b", "moment-1", structure_size=8.0),
        record("b", "moment-1", 7, structure_size=99.0),  # has no counterpart
    )
    row = judged(tmp_path, part(), reading="it is {0}")
    (effect,) = row.effects
    assert effect.estimate == pytest.approx(4.0)
    assert (effect.low, effect.high) == pytest.approx((2.0, 8.0))
    assert (effect.comparisons, effect.styles, effect.finding) == (2, 2, "holds")
    assert (row.reading, row.verdict) == ("it is 4 (2 to 8)", "supported")


def test_a_record_that_was_altered_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, record(), record(loss="moment-1", structure_size=6.0))
    assert judged(tmp_path, part()).verdict == "supported"
    file.write_text(file.read_text().replace('"structure_size":6.0', '"structure_size":2.50'))
    (row,), altered = judge(tmp_path, tmp_path / "claims.yml")
    assert (row.effects[0].estimate, row.verdict) == (pytest.approx(0.625), "not supported")
    assert [path.name.startswith("a-relu_1_1-moment-1-seed0-") for path in altered] == [True]


def test_sweeps_can_be_compared(tmp_path: Path) -> None:
    write(tmp_path, record(colour_distance=5.0), sweep="x")
    write(tmp_path, record(colour_distance=2.0), sweep="y")
    sides = {"of": {"sweep": "x"}, "against": {"sweep": ["y", "z"]}}
    row = judged(tmp_path, part(measure="colour_distance", effect="difference", **sides))
    assert row.effects[0].estimate == pytest.approx(3.0)


def test_only_runs_of_about_the_same_loss_are_compared(tmp_path: Path) -> None:
    ours = [record(style, "moment-1", reached=1e-5) for style in "abc"]
    theirs = [record(s, reached=x) for s, x in (("a", 9e-5), ("b", 2e-4), ("c", 0.0))]
    write(tmp_path, *ours, *theirs)
    assert judged(tmp_path, part(losses_within=10)).effects[0].comparisons == 1


def test_what_it_takes_to_converge_counts_where_one_of_two_runs_does(tmp_path: Path) -> None:
    fast, slow = record(), record("a", "moment-1")
    slow, slow_gram = (sealed(replace(run, trace=fast.trace[:3])) for run in (slow, fast))
    costs = ("evaluations_to_converge", "iterations_to_converge", "seconds_to_converge")
    assert [value(cost, fast, TERMS) for cost in costs] == [8, 4, 4]
    assert [value(cost, slow, TERMS) for cost in costs] == [90, 80, 9]
    write(tmp_path, fast, slow)
    assert judged(tmp_path, part(measure=costs[0])).effects[0].estimate == pytest.approx(90 / 8)
    write(tmp_path, slow_gram, slow)
    assert str(judged(tmp_path, part(measure=costs[0])).effects[0]) == "no run got there"


@pytest.mark.parametrize(
    ("fields", "failed"),
    [({}, 0), ({"artefact_area": 0.02}, 1), ({"noise": 4.0}, 1), ({"reached": 2e-3}, 1)],
)
def test_failed_is_not_converged_or_not_clean(fields: dict[str, Any], failed: float) -> None:
    assert value("failed", record(**fields), TERMS) == failed


def test_between_seeds(tmp_path: Path) -> None:
    grids = np.random.default_rng(0).random((3, 64)).round(3).tolist()
    areas = (0.1, 0.2, 0.4)
    pairs = enumerate(zip(grids, areas, strict=True))
    write(tmp_path, *(record(seed=i, artefact_grid=g, artefact_area=a) for i, (g, a) in pairs))
    shared = {"against": None, "rule": {"above": -9}, "of": {"loss": ["gram", "mmd"]}}
    areas_part = part(measure="artefact_area", effect="factor between seeds", **shared)
    row = judged(
        tmp_path,
        part(measure="artefact_grid", effect="correlation between seeds", **shared),
        areas_part,
        areas_part | {"runs": {"least_artefact_area": 0.2}},
    )
    correlation, factor, least = (effect.estimate for effect in row.effects)
    expected = [scipy.stats.pearsonr(a, b).statistic for a, b in (*pairwise(grids), grids[::2])]
    assert correlation == pytest.approx(np.mean(expected))
    assert factor == pytest.approx(math.exp(np.mean(np.log([2, 2, 4]))))
    assert least == pytest.approx(2.0)


def test_bootstrap_covers_what_it_should() -> None:
    """Of 200 draws of eight styles with a known mean, about 95% (a bit less) cover it."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        drawn = rng.normal(0, 1, (8, 1)) + rng.normal(0, 0.5, (8, 3))
        samples = [Sample(str(style), seed, x) for (style, seed), x in np.ndenumerate(drawn)]
        estimate, low, high = bootstrap(samples)
        assert low <= estimate <= high
        covered += low <= 0 <= high
    assert 0.82 * 200 <= covered <= 0.99 * 200


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(-9, 9))
def test_bootstrap_moves_along_and_stays_inside(values: list[float], shift: float) -> None:
    samples = [Sample(str(i), 0, v) for i, v in enumerate(values)]
    moved = [Sample(x.style, 0, x.value + shift) for x in samples]
    estimate, low, high = bootstrap(samples)
    assert estimate == pytest.approx(np.mean(values), abs=1e-9)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    expected = (estimate + shift, low + shift, high + shift)
    assert bootstrap(moved) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("rule", "holds", "fails", "undecided"),
    [
        (Rule(above=1), (1.1, 2), (0.5, 1), (0.9, 1.1)),
        (Rule(below=1), (0.1, 0.9), (1, 1.1), (0.9, 1)),
        (Rule(above=1, below=2), (1.1, 1.9), (0.1, 0.9), (0.9, 2.1)),
        (Rule(above=0, below=2), (0.1, 1.9), (2.1, 2.2), (0.1, 2)),
        (Rule(above=0), (0.1, 0.1), (0, 0), (0, 0.1)),
    ],
)
def test_rules(rule: Rule, holds: Interval, fails: Interval, undecided: Interval) -> None:
    found = [rule.finding(*interval) for interval in (holds, fails, undecided)]
    assert found == ["holds", "fails", "undecided"]


def test_verdicts() -> None:
    expected: dict[str, list[list[claims.Finding]]] = {
        "supported": [["holds", "holds"]],
        "not supported": [["fails", "fails"]],
        "partly supported": [["holds", "fails"], ["holds", "undecided"]],
        "undecided": [["fails", "undecided"], ["undecided"]],
    }
    for verdict, cases in expected.items():
        assert {claims.verdict(findings) for findings in cases} == {verdict}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"effect": "sum"}, "Invalid enum value 'sum'"),
        ({"rule": {"near": 1}}, "unknown field `near`"),
        ({"rule": {}}, "a rule needs `above`, or `below`"),
        ({"rule": {"above": 2, "below": 1}}, "a rule needs `above`, or `below`"),
        ({"colour": "red"}, "unknown field `colour`"),
        ({"measure": "beauty"}, "measure is 'beauty', but must be one of: loss,"),
        ({"against": None}, "a ratio and a difference must have `against`"),
        ({"of": {"loss": "none"}}, "claim C1 has no runs to compare for 'larger'"),
        ({"measure": "artefact_area"}, "claim C1 has no ratio of artefact_area: "),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write(tmp_path, record(), record(loss="moment-1"))
    with pytest.raises(InputError, match=message):
        judge(tmp_path, write_claims(tmp_path, part(**fields)))


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The chapter's claims, judged by the reference runs."""
    rows, altered = judge(ROOT / "results", REAL)
    assert altered == []
    return rows


class TestTheChaptersClaims:
    def test_each_has_a_reading_and_a_page_with_its_figure(self, rows: list[Row]) -> None:
        assert [row.id for row in rows] == [f"C{i}" for i in range(1, 18)]
        assert all(row.reading for row in rows)
        assert all((ROOT / f"{row.claim.figure}.md").is_file() for row in rows)

    def test_no_number_is_typed_into_a_reading(self) -> None:
        """But for names (N = 3, relu_2_1), powers and the placeholders."""
        for name, claim in claims.read_claims(REAL).claims.items():
            words = claim.reading.replace("N = ", "N=").split()
            loose = [w for w in words if w.strip(".,;:()").replace(".", "").isdigit()]
            assert not loose, (name, loose)

    def test_their_html_names_each_once(self, rows: list[Row]) -> None:
        sections = "".join(map(claims_html.section, rows))
        assert all(sections.count(f'id="{row.id.lower()}"') == 1 for row in rows)
        places = [sections.index(f'id="{row.id.lower()}"') for row in rows]
        assert places == sorted(places)
        assert all(row.verdict in claims_html.summary([row]) for row in rows)
