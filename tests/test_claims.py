"""Claims: effects on records that are made up, intervals, rules, verdicts, and the real ones."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from styleinv_book import claims, claims_html
from styleinv_book.claims import Effect, Row, Rule, Sample, bootstrap, judge, value

from styleinv import InputError
from styleinv.runs import store
from styleinv.runs.record import Record, TracePoint, sealed
from tests.conftest import ROOT

TERMS = claims.Terms(loss=1e-3, artefact_area=0.01, noise=3.0)
REAL = ROOT / "book" / "claims.yml"
SOME = next(iter(store.read_records(ROOT / "results" / "runs" / "adam").values()))
PLAIN = {"structure_size": 4.0, "colour_distance": 2.0, "artefact_area": 0.0, "noise": 0.0}


def record(
    style: str = "a", loss: str = "gram", seed: int = 0, reached: float = 1e-4, **measures: Any
) -> Record:
    """A run whose loss falls tenfold with every iteration at first, and then slowly."""
    made_up = replace(
        SOME,
        style=style,
        source=style,
        asked=replace(SOME.asked, loss=loss, seed=seed),
        result=replace(SOME.result, loss=reached, iterations=80, evaluations=90, seconds=9.0),
        trace=tuple(TracePoint(i, 2 * i, 10.0**-i, float(i), loss) for i in range(5)),
        measures=replace(SOME.measures, **{**PLAIN, **measures}),
    )
    return sealed(replace(made_up, address=made_up.asked.address))


def part(**fields: Any) -> dict[str, Any]:
    return {
        **{"says": "larger", "measure": "structure_size", "effect": "ratio"},
        **{"of": {"loss": "moment-1"}, "against": {"loss": "gram"}, "rule": {"above": 1.0}},
        **fields,
    }


def write(root: Path, *records: Record, sweep: str = "s") -> Path:
    file = root / "runs" / sweep / "runs.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in records))
    return file


def judged(root: Path, *parts: dict[str, Any], **fields: Any) -> Row:
    """The claim with these parts, by the records that have been written to `root`."""
    claim = {"claim": "c", "where": "w", "figure": "f", "parts": parts, **fields}
    file = root / "claims.yml"
    file.write_bytes(msgspec.yaml.encode({"terms": TERMS, "claims": {"C1": claim}}))
    (row,), altered = judge(root, file)
    assert not altered
    return row


def effect(root: Path, **fields: Any) -> Effect:
    """The effect of the one part with these fields."""
    return judged(root, part(**fields)).effects[0]


def test_ratio_is_the_geometric_mean_over_what_can_be_compared(tmp_path: Path) -> None:
    sizes = ("a", "gram", 2.0), ("a", "moment-1", 4.0), ("b", "gram", 1.0), ("b", "moment-1", 8.0)
    lone = record("b", "moment-1", seed=7, structure_size=99.0)
    write(tmp_path, *(record(style, loss, structure_size=x) for style, loss, x in sizes), lone)
    row = judged(tmp_path, part(), reading="it is {0}")
    (found,) = row.effects
    assert found.estimate == pytest.approx(4.0)
    assert (found.low, found.high) == pytest.approx((2.0, 8.0))
    assert (found.comparisons, found.styles, found.finding) == (2, 2, "holds")
    assert row.verdict == "supported"
    assert "<p>it is 4 (2 to 8)</p>" in claims_html.section(row)


def test_a_record_that_was_altered_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, record(), record(loss="moment-1", structure_size=6.0))
    assert judged(tmp_path, part()).verdict == "supported"
    file.write_text(file.read_text().replace('"structure_size":6.0', '"structure_size":2.50'))
    (row,), (altered,) = judge(tmp_path, tmp_path / "claims.yml")
    assert (row.effects[0].estimate, row.verdict) == (pytest.approx(0.625), "not supported")
    assert altered.name.startswith("a-relu_1_1-moment-1-seed0-")


def test_sweeps_can_be_compared(tmp_path: Path) -> None:
    write(tmp_path, record(colour_distance=5.0), sweep="x")
    write(tmp_path, record(colour_distance=2.0), sweep="y")
    sides = {"of": {"sweep": "x"}, "against": {"sweep": ["y", "z"]}}
    found = effect(tmp_path, measure="colour_distance", effect="difference", **sides)
    assert found.estimate == pytest.approx(3.0)


def test_only_runs_of_about_the_same_loss_are_compared(tmp_path: Path) -> None:
    ours = [record(style, "moment-1", reached=1e-5) for style in "abc"]
    theirs = [record(s, reached=x) for s, x in (("a", 9e-5), ("b", 2e-4), ("c", 0.0))]
    write(tmp_path, *ours, *theirs)
    assert effect(tmp_path, losses_within=10).comparisons == 1


def test_what_it_takes_to_converge_counts_where_one_of_two_runs_does(tmp_path: Path) -> None:
    fast, slow = record(), record("a", "moment-1")
    slow, slow_gram = (sealed(replace(run, trace=fast.trace[:3])) for run in (slow, fast))
    costs = ("evaluations_to_converge", "iterations_to_converge", "seconds_to_converge")
    assert [value(cost, fast, TERMS) for cost in costs] == [8, 4, 4]
    assert [value(cost, slow, TERMS) for cost in costs] == [90, 80, 9]
    write(tmp_path, fast, slow)
    assert effect(tmp_path, measure=costs[0]).estimate == pytest.approx(90 / 8)
    write(tmp_path, slow_gram, slow)
    assert str(effect(tmp_path, measure=costs[0])) == "no run got there"


def test_failed_is_not_converged_or_not_clean() -> None:
    assert value("failed", record(), TERMS) == 0
    bad: list[dict[str, Any]] = [{"artefact_area": 0.02}, {"noise": 4.0}, {"reached": 2e-3}]
    assert [value("failed", record(**fields), TERMS) for fields in bad] == [1, 1, 1]


def test_between_seeds(tmp_path: Path) -> None:
    a, b, c = grids = np.random.default_rng(0).random((3, 64)).round(3).tolist()
    made = zip(range(3), grids, (0.1, 0.2, 0.4), strict=True)
    write(tmp_path, *(record(seed=i, artefact_grid=g, artefact_area=x) for i, g, x in made))
    one_side = {"against": None, "of": {"loss": ["gram", "mmd"]}, "rule": {"above": -9}}
    areas = one_side | {"measure": "artefact_area", "effect": "factor between seeds"}
    places = one_side | {"measure": "artefact_grid", "effect": "correlation between seeds"}
    expected = np.mean([scipy.stats.pearsonr(*two).statistic for two in ((a, b), (a, c), (b, c))])
    assert effect(tmp_path, **places).estimate == pytest.approx(expected)
    assert effect(tmp_path, **areas).estimate == pytest.approx(math.exp(np.mean(np.log([2, 2, 4]))))
    large = effect(tmp_path, runs={"least_artefact_area": 0.2}, **areas)
    assert large.estimate == pytest.approx(2.0)
    write(tmp_path, *(record(seed=i, artefact_grid=[0.0] * 64) for i in range(2)))
    with pytest.raises(InputError, match="C1 has no correlation between seeds of artefact_grid"):
        effect(tmp_path, **places)


def test_bootstrap_covers_what_it_should() -> None:
    """Of 200 draws of eight styles with a known mean, about 95% (a bit less) cover it."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        drawn = rng.normal(0, 1, (8, 1)) + rng.normal(0, 0.5, (8, 3))
        samples = [Sample(str(style), seed, x) for (style, seed), x in np.ndenumerate(drawn)]
        _, low, high = bootstrap(samples)
        covered += low <= 0 <= high
    assert 0.82 * 200 <= covered <= 0.99 * 200


@settings(deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(-9, 9))
def test_bootstrap_moves_along_and_stays_inside(values: list[float], shift: float) -> None:
    estimate, low, high = bootstrap([Sample(str(i), 0, v) for i, v in enumerate(values)])
    assert estimate == pytest.approx(np.mean(values), abs=1e-9)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = bootstrap([Sample(str(i), 0, v + shift) for i, v in enumerate(values)])
    assert moved == pytest.approx((estimate + shift, low + shift, high + shift), abs=1e-6)


def test_rules() -> None:
    """An interval lies inside the range of a rule, outside, or across a bound."""
    inside, outside = [(1.1, 1.9), (1.5, 1.5)], [(0.5, 1), (1, 1), (2, 2), (2, 2.1)]
    across = [(0.9, 1.1), (1, 1.5), (1.5, 2), (0.9, 2.1), (math.nan, math.nan)]
    rule = Rule(above=1, below=2)
    assert {rule.finding(*interval) for interval in inside} == {"holds"}
    assert {rule.finding(*interval) for interval in outside} == {"fails"}
    assert {rule.finding(*interval) for interval in across} == {"undecided"}
    assert [Rule(above=1).finding(*x) for x in ((1.1, 99), (-99, 1))] == ["holds", "fails"]
    assert [Rule(below=1).finding(*x) for x in ((-99, 0.9), (1, 99))] == ["holds", "fails"]


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
        ({"measure": "beauty"}, "measure is 'beauty', but must be one of: loss,"),
        ({"against": None}, "a ratio and a difference must have `against`"),
        ({"of": {"loss": "none"}}, "claim C1 has no runs to compare for 'larger'"),
        ({"measure": "artefact_area"}, "claim C1 has no ratio of artefact_area: "),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write(tmp_path, record(), record(loss="moment-1"))
    with pytest.raises(InputError, match=message):
        effect(tmp_path, **fields)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The chapter's claims, judged by the reference runs."""
    rows, altered = judge(ROOT / "results", REAL)
    assert altered == []
    return rows


def test_each_claim_has_a_reading_and_a_page_with_its_figure(rows: list[Row]) -> None:
    assert [row.id for row in rows] == [f"C{i}" for i in range(1, 18)]
    assert all(row.claim.reading for row in rows)
    assert all((ROOT / f"{row.claim.figure}.md").is_file() for row in rows)


def test_no_number_is_typed_into_a_reading(rows: list[Row]) -> None:
    """But for names (N = 3, relu_2_1), powers and the placeholders."""
    words = " ".join(row.claim.reading for row in rows).replace("N = ", "N=").split()
    assert not [w for w in words if w.strip(".,;:()").replace(".", "").isdigit()]


def test_the_claims_html_names_each_with_its_verdict(rows: list[Row]) -> None:
    for row in rows:
        assert f'<section class="claim" id="{row.id.lower()}">' in claims_html.section(row)
        assert row.verdict in claims_html.summary([row])
