"""Claims: effects on records that are made up, intervals, rules, verdicts, and the real file."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.stats
from bs4 import BeautifulSoup
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from styleinv_book import claims, claims_html, intervals
from styleinv_book.claims import Effect, Finding, Row, Rule, judge, value
from styleinv_book.intervals import Sample, bootstrap, holm, resampled

from styleinv import InputError
from styleinv.protocol import CHAPTER, FROM_NOISE
from styleinv.runs import reference
from styleinv.runs.record import (
    Along,
    Asked,
    MadeWith,
    Measures,
    Record,
    Result,
    Settings,
    TracePoint,
    sealed,
)
from tests.conftest import ROOT

TERMS = claims.Terms(theta=1e-3, converged=1e-2, agreement=0.75, artefact_excess=0.5)
SMALLEST = {"largest_kept": 1.15, "colour_distance": 2.0}
REAL = ROOT / "book" / "claims.yml"
STYLES = "abcdefghijkl"
PLAIN: dict[str, Any] = {
    **dict.fromkeys(Measures.__struct_fields__, 0.0),
    **{"version": 2, "largest_kept": 4.0, "colour_distance": 2.0},
    **{"structures": (0.5,) * 5, "artefact_grid": (0.0,) * 64},
}


@pytest.fixture(autouse=True, scope="module")
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "RESAMPLES", 2000)
        yield


def record(
    style: str = "a",
    loss: str = "gram",
    seed: int = 0,
    reached: float = 1e-4,
    layer: str = "relu_1_1",
    protocol: Any = FROM_NOISE,
    **measures: Any,
) -> Record:
    """A run whose loss falls tenfold with every iteration, down to 1e-4 after 4."""
    asked = Asked(
        *("0" * 64, 128, 128, layer, loss, "e", "0" * 64, "cpu", "float32", seed),
        protocol=msgspec.convert(protocol.settings(loss, layer), Settings),
    )
    made_up = Record(
        address=asked.address,
        style=style,
        source=style,
        asked=asked,
        result=Result(reached, 80, 90, 9.0, "theta", "0" * 64),
        made_with=MadeWith(1, "0", "0", "0", "cpu", "none", 1, "2026-01-01"),
        trace=tuple(TracePoint(i, 2 * i, 10.0**-i, float(i), loss) for i in range(5)),
        measures=Measures(**PLAIN | measures),
        picture=False,
    )
    return sealed(made_up)


def part(**fields: Any) -> dict[str, Any]:
    return {
        **{"says": "larger", "measure": "largest_kept", "effect": "ratio"},
        **{"of": {"loss": "moment-1"}, "against": {"loss": "gram"}, "rule": {"above": 1.0}},
        **fields,
    }


def write(root: Path, *records: Record, sweep: str = "s") -> Path:
    file = root / "runs" / sweep / "runs.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in records))
    return file


def pairs(ratio: float = 2.0, styles: str = STYLES, **fields: Any) -> list[Record]:
    """Two runs of each style; the one with N = 1 keeps structures `ratio` times as large."""
    sizes = ("gram", 4.0), ("moment-1", 4.0 * ratio)
    return [record(s, x, largest_kept=y, **fields) for s in styles for x, y in sizes]


def judged(root: Path, *parts: dict[str, Any], **fields: Any) -> Row:
    """The claim with these parts, by the records that have been written to `root`."""
    claim = {"claim": "c", "where": "w", "figure": "f", "parts": parts, **fields}
    file = root / "claims.yml"
    content = {"terms": TERMS, "smallest": SMALLEST, "claims": {"C1": claim}}
    file.write_bytes(msgspec.yaml.encode(content))
    (row,), altered = judge(root, file)
    assert not altered
    return row


def effect(root: Path, **fields: Any) -> Effect:
    """The effect of the one part with these fields."""
    return judged(root, part(**fields)).effects[0]


def test_ratio_is_the_geometric_mean_over_what_can_be_compared(tmp_path: Path) -> None:
    lone = record("a", "moment-1", seed=7, largest_kept=99.0)
    write(tmp_path, *pairs(8.0, STYLES[:6]), *pairs(2.0, STYLES[6:]), lone)
    row = judged(tmp_path, part(), reading="it is {0}")
    (found,) = row.effects
    assert found.estimate == pytest.approx(4.0)
    assert 2 < found.low < 4 < found.high < 8
    assert (found.comparisons, found.styles, found.finding) == (12, 12, "holds")
    assert row.verdict == "supported"
    assert "it is 4" in claims_html.section(row)


def test_styles_that_a_measure_cannot_tell_count_for_other_measures_only(tmp_path: Path) -> None:
    """The twelfth style counts by its colours, and not by its structure."""
    write(tmp_path, *pairs(2.0, STYLES[:11]), *pairs(1.0, STYLES[11:]))
    file = tmp_path / "claims.yml"
    assert judged(tmp_path, part()).effects[0].styles == 12
    content = msgspec.yaml.decode(file.read_bytes())
    unfit = {"structure": [record(STYLES[11], "gram").source]}
    for measure, styles in {"largest_kept": 11, "colour_distance": 12}.items():
        content["claims"]["C1"]["parts"] = [part(measure=measure)]
        file.write_bytes(msgspec.yaml.encode({**content, "unfit": unfit}))
        ((row,), _) = judge(tmp_path, file)
        assert row.effects[0].styles == styles


def test_a_changed_record_changes_its_row(tmp_path: Path) -> None:
    file = write(tmp_path, *pairs())
    assert judged(tmp_path, part()).verdict == "supported"
    changed = file.read_text(encoding="utf-8").replace('"largest_kept":8.0', '"largest_kept":2.5')
    file.write_text(changed, encoding="utf-8")
    (row,), altered = judge(tmp_path, tmp_path / "claims.yml")
    assert (row.effects[0].estimate, row.verdict) == (pytest.approx(0.625), "not supported")
    assert len(altered) == 12
    assert altered[0].name.startswith("a-relu_1_1-moment-1-seed0-")


def test_fewer_than_ten_comparisons_or_five_styles_decide_nothing(tmp_path: Path) -> None:
    write(tmp_path, *pairs(styles=STYLES[:10]))
    assert judged(tmp_path, part()).verdict == "supported"
    write(tmp_path, *pairs(styles=STYLES[:9]))
    row = judged(tmp_path, part())
    (found,) = row.effects
    assert (row.verdict, found.finding, found.comparisons) == ("too few runs", "too few runs", 9)
    assert found.minutes == pytest.approx(2 * 9.0 / 60)  # one more pair
    assert "enough would take 0 minutes more" in claims_html.section(row)
    seeds = [pairs(styles="abcd", seed=seed) for seed in range(3)]
    write(tmp_path, *itertools.chain(*seeds))
    assert judged(tmp_path, part()).verdict == "too few runs"
    assert effect(tmp_path, of={"sweep": "none"}).minutes != effect(tmp_path).minutes


def test_sweeps_can_be_compared(tmp_path: Path) -> None:
    write(tmp_path, *(record(s, colour_distance=5.0) for s in STYLES), sweep="x")
    write(tmp_path, *(record(s, colour_distance=2.0) for s in STYLES), sweep="y")
    sides = {"of": {"sweep": "x"}, "against": {"sweep": ["y", "z"]}, "effect": "difference"}
    found = effect(tmp_path, measure="colour_distance", rule="clearly more", **sides)
    assert (found.estimate, found.finding) == (pytest.approx(3.0), "holds")
    assert str(found).startswith("3 CIELAB units")


def test_at_equal_loss_both_runs_must_have_got_there(tmp_path: Path) -> None:
    def kept(loss: float, size: float) -> Along:
        return Along(loss, 1, 1, (0.0,) * 5, size, 0.0, 0.0, 0.0, 0.0, 0.0)

    path = {
        "gram": (kept(0.5, 1.0), kept(0.02, 2.0)),
        "moment-1": (kept(0.4, 1.0), kept(0.03, 6.0)),
    }
    runs = [replace(run, along=path[run.asked.loss]) for run in pairs()]
    write(tmp_path, *map(sealed, runs))
    assert effect(tmp_path, at=0.03).estimate == pytest.approx(3.0)
    assert effect(tmp_path, at=0.45).estimate == pytest.approx(1 / 2)
    assert effect(tmp_path, at=0.025).comparisons == 0
    assert effect(tmp_path).estimate == pytest.approx(2.0)


def test_iterates_that_were_measured_in_another_way_are_not_compared(tmp_path: Path) -> None:
    old = Along(0.01, 1, 1, (0.5,) * 5, 9.0, None, None, 0.0, None, None)
    write(tmp_path, *(sealed(replace(run, along=(old,))) for run in pairs()))
    assert effect(tmp_path, at=0.03).comparisons > 0
    for measure in ("colour_distance", "artefact_area", "clean"):
        assert effect(tmp_path, at=0.03, measure=measure).comparisons == 0


def test_what_it_takes_to_theta_counts_where_one_of_two_runs_gets_there(tmp_path: Path) -> None:
    costs = ("evaluations_to_theta", "iterations_to_theta", "seconds_to_theta")
    fast = [record(style) for style in STYLES]
    slow = [sealed(replace(x, trace=x.trace[:3])) for x in map(record, STYLES, ["moment-1"] * 12)]
    write(tmp_path, *fast, *slow)
    # Gram passes 1e-3 in the last point; the other counts with Gram's budget, the larger one.
    assert effect(tmp_path, measure=costs[0]).estimate == pytest.approx(1000 / 8)
    assert effect(tmp_path, measure=costs[1]).estimate == pytest.approx(1000 / 4)
    assert effect(tmp_path, measure=costs[2]).estimate == pytest.approx(9 * 1000 / 90 / 4)
    sides = {"of": {"loss": "gram"}, "against": {"loss": "moment-1"}}
    assert effect(tmp_path, measure=costs[0], **sides).estimate == pytest.approx(8 / 1000)
    adam = [record(style, "moment-2", protocol=CHAPTER) for style in STYLES]
    write(tmp_path, *adam, *slow)  # Table 1.1 and 240 rounds of 1,000
    adam_sides = {"of": {"loss": "moment-1"}, "against": {"loss": "moment-2"}}
    found = effect(tmp_path, measure=costs[1], **adam_sides)
    assert found.estimate == pytest.approx((40_000 + 240_000) / 4)
    write(tmp_path, *slow, *(sealed(replace(x, trace=x.trace[:3])) for x in fast))
    assert effect(tmp_path, measure=costs[0]).comparisons == 0


def test_shares() -> None:
    names = ("converged", "stuck", "clean")
    assert [value(name, record(), TERMS) for name in names] == [1, 0, 1]
    bad = record(reached=2e-2, artefact_excess=0.6)
    assert [value(name, bad, TERMS) for name in names] == [0, 1, 0]
    kept = record(structures=(0.1, 0.2, 0.3, 0.4, 0.5))
    assert value("structure_9", kept, TERMS) == 0.2
    assert value("structure", kept, TERMS) == pytest.approx(0.3)


def test_between_seeds(tmp_path: Path) -> None:
    grids = np.random.default_rng(0).random((3, 64)).round(3).tolist()
    areas = (0.1, 0.2, 0.4)
    write(
        tmp_path,
        *(
            record(style, seed=i, artefact_grid=grids[i], artefact_area=areas[i])
            for style in STYLES
            for i in range(3)
        ),
    )
    one_side = {"against": None, "of": {"loss": ["gram", "mmd"]}, "rule": {"above": -9}}
    area = one_side | {"measure": "artefact_area", "effect": "factor between seeds"}
    places = one_side | {"measure": "artefact_grid", "effect": "correlation between seeds"}
    two = list(itertools.combinations(grids, 2))
    expected = np.mean([scipy.stats.pearsonr(*pair).statistic for pair in two])
    assert effect(tmp_path, **places).estimate == pytest.approx(expected)
    assert effect(tmp_path, **area).estimate == pytest.approx(math.exp(np.mean(np.log([2, 2, 4]))))
    large = effect(tmp_path, runs={"least_artefact_area": 0.2}, **area)
    assert large.estimate == pytest.approx(2.0)
    small = effect(tmp_path, runs={"most_artefact_area": 0.2}, **area)
    assert (small.estimate, small.comparisons) == (pytest.approx(2.0), 12)


def test_bootstrap_covers_what_it_should() -> None:
    """Of 200 draws of eight styles with a known mean, about 95% cover it."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        drawn = rng.normal(0, 1, (8, 1)) + rng.normal(0, 0.5, (8, 3))
        samples = [Sample(str(style), seed, x) for (style, seed), x in np.ndenumerate(drawn)]
        _, low, high = bootstrap(samples)
        covered += low <= 0 <= high
    assert 0.91 * 200 <= covered <= 0.99 * 200


def test_interval_of_normal_styles_is_about_students(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 100_000)
    values = np.random.default_rng(1).normal(3, 1, 12)
    means = resampled([Sample(str(i), 0, x) for i, x in enumerate(values)])
    for level in (0.05, 0.01):
        expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(1 - level)
        assert means.interval(level) == pytest.approx(expected, abs=0.15)
        low, _ = means.interval(level)
        assert means.judged(low - 0.01, math.inf)[0] < level < means.judged(low + 0.01, math.inf)[0]


def test_where_all_runs_agree_the_interval_of_a_share_is_the_exact_one() -> None:
    for runs, outcome in ((12, 1.0), (48, 1.0), (12, 0.0)):
        means = resampled([Sample(str(i), 0, outcome) for i in range(runs)], is_share=True)
        exact = scipy.stats.binomtest(int(outcome * runs), runs).proportion_ci()
        assert means.interval() == pytest.approx((exact.low, exact.high), abs=3e-3)


@settings(deadline=None, max_examples=10)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(-9, 9))
def test_bootstrap_moves_along_and_stays_inside(values: list[float], shift: float) -> None:
    estimate, low, high = bootstrap([Sample(str(i), 0, v) for i, v in enumerate(values)])
    assert estimate == pytest.approx(np.mean(values), abs=1e-9)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    moved = bootstrap([Sample(str(i), 0, v + shift) for i, v in enumerate(values)])
    assert moved == pytest.approx((estimate + shift, low + shift, high + shift), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([0.001, 0.01, 0.012, 0.02, 0.03, 0.05, 0.2, 0.9]), max_size=8))
def test_holm_rejects_what_the_adjusted_p_values_do(p_values: list[float]) -> None:
    """Adjusted: the running maximum of (m - rank) p over the sorted ones, as in Holm 1979."""
    m, order = len(p_values), np.argsort(p_values, kind="stable")
    adjusted = np.maximum.accumulate([(m - rank) * p_values[i] for rank, i in enumerate(order)])
    expected = {int(i): bool(p <= 0.05) for i, p in zip(order, adjusted, strict=True)}
    levels = holm(p_values)
    assert {i: p <= levels[i] for i, p in enumerate(p_values)} == expected


def test_parts_of_a_claim_are_right_together(tmp_path: Path) -> None:
    """A part that holds alone is undecided among many; what does not count changes nothing."""
    spread = scipy.stats.norm.ppf((np.arange(12) + 0.5) / 12)  # p is about 0.01
    ratios = np.exp(0.12 + 0.14 * spread).tolist()
    write(tmp_path, *(x for s, y in zip(STYLES, ratios, strict=True) for x in pairs(y, s)))
    alone = judged(tmp_path, part())
    many = judged(tmp_path, *[part()] * 9)
    shown = judged(tmp_path, part(), *[part(beside=True)] * 8)
    assert [row.verdict for row in (alone, many, shown)] == ["supported", "undecided", "supported"]
    assert many.effects[0].level == pytest.approx(0.05 / 9)
    assert many.effects[0].low < 1 < alone.effects[0].low == shown.effects[1].low


def test_a_difference_must_be_visible(tmp_path: Path) -> None:
    """1.15 here, or what the eye study could see, if that is more; fails: too small to be seen."""
    write(tmp_path, *pairs(1.3))
    assert effect(tmp_path, rule="clearly more").finding == "holds"
    assert effect(tmp_path, rule="not clearly more").finding == "fails"
    study = tmp_path / "eye_study.json"
    seen = '{"measures": [], "smallest_seen": {"largest_kept": %s, "noise": null}}'
    study.write_text(seen % 1.5, encoding="utf-8")
    assert effect(tmp_path, rule="clearly more").finding == "fails"
    assert effect(tmp_path, rule="not clearly less").finding == "holds"
    assert effect(tmp_path, rule="clearly less").rule == Rule(below=1 / 1.5)
    study.write_text(seen % 1.01, encoding="utf-8")
    assert effect(tmp_path, rule="clearly more").rule == Rule(above=1.15)


def test_a_measure_that_eyes_contradict_decides_nothing(tmp_path: Path) -> None:
    write(tmp_path, *pairs(1.3))
    for agreed, finding in ((75, "holds"), (74, "undecided")):
        row = {
            "measure": "largest_kept",
            "among": claims.TESTED,
            "decided": 100,
            "agreed": agreed,
        }
        study = json.dumps({"smallest_seen": {}, "measures": [row]})
        (tmp_path / "eye_study.json").write_text(study, encoding="utf-8")
        judged_part = judged(tmp_path, part(rule="clearly more"))
        assert judged_part.effects[0].finding == finding
        said = "Eyes agree too rarely" in claims_html.section(judged_part)
        assert said == (finding == "undecided")


def test_verdicts() -> None:
    expected: dict[str, list[list[Finding]]] = {
        "supported": [["holds", "holds"]],
        "not supported": [["fails", "fails"], ["fails", "undecided"], ["fails", "too few runs"]],
        "partly supported": [["holds", "fails"], ["holds", "undecided"], ["holds", "too few runs"]],
        "too few runs": [["too few runs"], ["undecided", "too few runs"]],
        "undecided": [["undecided"], ["fails", "undecided", "undecided"]],
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
        ({"rule": "more"}, "Invalid enum value 'more'"),
        ({"measure": "psnr", "rule": "clearly more"}, "smallest difference is known is 'psnr'"),
        ({"measure": "beauty"}, "measure is 'beauty', but must be one of: "),
        ({"against": None}, "a ratio and a difference must have `against`"),
        ({"of": {"loss": "none"}}, "loss is 'none', but must be one of: gram"),
        ({"measure": "artefact_area"}, "claim C1 cannot be judged: "),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write(tmp_path, record(), record(loss="moment-1"))
    with pytest.raises(InputError, match=message):
        effect(tmp_path, **fields)


def test_the_real_claims_name_sweeps_and_pages_that_there_are() -> None:
    content = claims.read_claims(REAL).claims
    assert list(content) == [f"C{i}" for i in range(1, 18)]
    files = (reference.REFERENCE, reference.CHAPTER)
    known = {x for file in files for x in reference.read_reference(ROOT / "results" / file).sweeps}
    for claim in content.values():
        page, _, label = claim.figure.partition("#")
        assert f"({label})=" in (ROOT / f"{page}.md").read_text(encoding="utf-8"), claim.figure
        assert all((claim.chapter, claim.did, claim.change))
        sides = [side for x in claim.parts for side in (x.runs, x.of, x.against) if side]
        named = {name for side in sides for name in claims.names(side.sweep)}
        assert named - known == set()


def test_no_number_is_typed_into_a_reading() -> None:
    """But for names (N = 3, relu_2_1), powers and the placeholders."""
    real = claims.read_claims(REAL).claims.values()
    words = " ".join(f"{x.reading} {x.sure}" for x in real).replace("N = ", "N=").split()
    assert not [w for w in words if w.strip(".,;:()").replace(".", "").isdigit()]


def test_a_section_shows_numbers_on_an_axis_with_units(tmp_path: Path) -> None:
    areas = {"gram": 0.02, "moment-1": 0.12}
    write(tmp_path, *(record(s, x, artefact_area=y) for s in STYLES for x, y in areas.items()))
    row = judged(tmp_path, part(measure="artefact_area", effect="difference", rule={"above": 0.01}))
    section = BeautifulSoup(claims_html.section(row), "html.parser")
    assert section.select_one("section.claim#c1") is not None
    assert [x.get_text() for x in section.select(".effects thead th")] == [
        "difference, percentage points"
    ]
    (drawing,) = section.select("svg[role=img]")
    points = "percentage points"
    assert drawing["aria-label"] == f"10 {points} (10 to 10), allowed: above 1 {points}"
    assert "supported" in claims_html.summary([row])
    share = part(measure="converged", effect="level", against=None, rule={"above": 0.9})
    section = BeautifulSoup(claims_html.section(judged(tmp_path, share)), "html.parser")
    assert section.select(".axis text")[-1].get_text().endswith("%")


def test_a_drawing_has_the_rule_and_its_bound(tmp_path: Path) -> None:
    write(tmp_path, *pairs(8.0, STYLES[:6]), *pairs(2.0, STYLES[6:]))
    section = claims_html.section(judged(tmp_path, part(rule={"above": 0.5, "below": 2.0})))
    drawing = BeautifulSoup(section, "html.parser").select_one("svg[role=img]")
    assert drawing is not None

    def x(tag: str, name: str = "x1") -> list[float]:
        return [float(str(found[name]).rstrip("%")) for found in drawing.select(tag)]

    (none,), bounds, (dot,) = x(".none"), x(".bound"), x("circle", "cx")
    (start,), (width,) = x("rect", "x"), x("rect", "width")
    assert [start, start + width] == pytest.approx(bounds, abs=0.11)
    assert none - bounds[0] == pytest.approx(
        bounds[1] - none, abs=0.11
    )  # 1/2 and 2, on a log scale
    assert dot - none == pytest.approx(2 * (bounds[1] - none), abs=0.2)  # 4


def test_one_unit_has_one_scale_in_all_claims(tmp_path: Path) -> None:
    write(tmp_path, *pairs(2.0))
    small = judged(tmp_path, part())
    write(tmp_path, *pairs(64.0))
    large = replace(judged(tmp_path, part()), id="C2")
    page = BeautifulSoup(claims_html.sections([small, large]), "html.parser")
    dots = [float(str(dot["cx"]).rstrip("%")) for dot in page.select("circle")]
    axes = [axis.get_text(" ", strip=True) for axis in page.select("svg.axis")]
    assert axes[0] == axes[1]
    assert dots[0] < dots[1] - 30
    assert {"2", "64"} <= {text.split()[1] for text in _found(page)}


def _found(page: BeautifulSoup) -> list[str]:
    return [cell.get_text(" ", strip=True) for cell in page.select(".effects tr td:last-child")][
        ::2
    ]


def test_ticks_are_few_and_inside() -> None:
    for low, high in ((1e-3, 9e-3), (1.0, 9.0), (50.0, 450.0), (1e-9, 1e9)):
        for is_log in (True, False):
            ends = (math.log(low), math.log(high)) if is_log else (low, high)
            scale = claims_html.Scale(is_log, *ends)
            assert 1 <= len(scale.ticks) <= claims_html.MOST_TICKS + 1
            assert all(0 <= scale.place(x) <= 100 for x in scale.ticks)


def test_rules_are_written_out_as_the_file_has_them() -> None:
    """What is shown of every claim means the same as what the file says."""
    for claim in claims.read_claims(REAL).claims.values():
        shown = claims_html.rules(claim.parts)
        assert msgspec.yaml.decode(shown, type=tuple[claims.Part, ...]) == claim.parts
        assert "null" not in shown


def test_the_tally_leaves_out_verdicts_that_no_claim_has(tmp_path: Path) -> None:
    write(tmp_path, *pairs())
    row = judged(tmp_path, part())
    assert claims_html.tally([row]) == "Of the chapter's 1 claims, 1 held up."
    verdicts: list[claims.Verdict] = ["undecided", "supported", "not supported", "supported"]
    assert claims_html.tally([replace(row, verdict=x) for x in verdicts]) == (
        "Of the chapter's 4 claims, 2 held up, 1 did not, and 1 remain undecided."
    )
