"""The ledger: effects on records that are made up, intervals, rules, verdicts, and the real one."""

import json
import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import yaml
from hypothesis import given
from hypothesis import strategies as st
from styleinv_book import claims_html
from styleinv_book.claims import Sample, Terms, bootstrap, find, judge, read_ledger, value, verdict

from styleinv import InputError
from styleinv.runs import store
from tests.conftest import ROOT

TERMS = Terms(loss=1e-3, artefact_area=0.01, noise=3.0)
HEAD = {"converged": {"loss": 1e-3}, "clean": {"artefact_area": 0.01, "noise": 3.0}}


def record(style: str = "a", loss: str = "gram", seed: int = 0, **fields: Any) -> dict[str, Any]:
    result = {"loss": 1e-4, "evaluations": 90, "iterations": 80, "seconds": 9.0}
    trace = [
        {"iteration": i, "evaluations": 2 * i, "loss": 10.0**-i, "seconds": i} for i in range(5)
    ]
    metrics = {
        "structure_size": 4.0,
        "colour_distance": 2.0,
        "artefact_area": 0.0,
        "noise": 0.0,
        "artefact_grid": [0.0, 1.0, 0.5],
    }
    made = {
        "source": style,
        "style": style,
        "asked": {"layer": "relu_1_1", "loss": loss, "seed": seed, "encoder": "e", "width": 64},
        "result": result,
        "metrics": metrics,
        "trace": trace,
    }
    for group in ("asked", "result", "metrics"):
        made[group] |= {k: v for k, v in fields.items() if k in made[group]}
    return {**made, "sha256": store.seal(made)}


def write(root: Path, records: list[dict[str, Any]], sweep: str = "s") -> None:
    folder = root / "runs" / sweep
    folder.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(records):
        (folder / f"{number}.json").write_text(json.dumps(one))


def write_ledger(root: Path, *parts: dict[str, Any], **fields: Any) -> Path:
    claim = {"claim": "c", "where": "w", "figure": "f", "parts": list(parts), **fields}
    path = root / "claims.yml"
    path.write_text(yaml.safe_dump({**HEAD, "claims": {"C1": claim}}))
    return path


def part(**fields: Any) -> dict[str, Any]:
    return {
        "says": "larger",
        "measure": "structure_size",
        "of": {"loss": "moment-1"},
        "against": {"loss": "gram"},
        "effect": "ratio",
        "rule": {"above": 1.0},
        **fields,
    }


def test_ratio_is_the_geometric_mean_over_what_can_be_compared(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            record("a", "gram", 0, structure_size=2.0),
            record("a", "moment-1", 0, structure_size=4.0),
            record("b", "gram", 0, structure_size=1.0),
            record("b", "moment-1", 0, structure_size=8.0),
            record("b", "moment-1", 7, structure_size=99.0),  # has no counterpart
        ],
    )
    (row,), altered = judge(tmp_path, write_ledger(tmp_path, part(), reading="it is {0}"))
    (effect,) = row.effects
    assert effect.estimate == pytest.approx(4.0)
    assert (effect.low, effect.high) == pytest.approx((2.0, 8.0))
    assert (effect.comparisons, effect.styles, effect.finding) == (2, 2, "holds")
    assert row.reading == "it is 4 (2 to 8)"
    assert (row.verdict, altered) == ("supported", [])


def test_a_changed_metric_changes_the_row_and_is_named(tmp_path: Path) -> None:
    write(tmp_path, [record(), record(loss="moment-1", structure_size=6.0)])
    asked = write_ledger(tmp_path, part())
    (before,), _ = judge(tmp_path, asked)
    assert before.effects[0].estimate == pytest.approx(1.5)
    path = tmp_path / "runs/s/1.json"
    changed = json.loads(path.read_text())
    changed["metrics"]["structure_size"] = 2.0
    path.write_text(json.dumps(changed))
    (after,), altered = judge(tmp_path, asked)
    assert after.effects[0].estimate == pytest.approx(0.5)
    assert (before.verdict, after.verdict) == ("supported", "not supported")
    assert altered == [path]


def test_sweeps_can_be_compared(tmp_path: Path) -> None:
    write(tmp_path, [record(colour_distance=5.0)], "x")
    write(tmp_path, [record(colour_distance=2.0)], "y")
    compared = part(
        measure="colour_distance", of={"sweep": "x"}, against={"sweep": "y"}, effect="difference"
    )
    (row,), _ = judge(tmp_path, write_ledger(tmp_path, compared))
    assert row.effects[0].estimate == pytest.approx(3.0)


def test_only_runs_of_about_the_same_loss_are_compared(tmp_path: Path) -> None:
    runs = []
    for style, loss, reached in [
        ("a", "moment-1", 1e-5),
        ("a", "gram", 9e-5),
        ("b", "moment-1", 1e-5),
        ("b", "gram", 2e-4),
    ]:
        run = record(style, loss)
        run["result"]["loss"] = reached
        runs.append(run)
    write(tmp_path, runs)
    (row,), _ = judge(tmp_path, write_ledger(tmp_path, part(runs={"losses_within": 10})))
    assert row.effects[0].comparisons == 1


def test_what_it_takes_to_converge(tmp_path: Path) -> None:
    one = record()
    assert value("evaluations_to_converge", one, TERMS) == (8, True)
    assert value("iterations_to_converge", one, TERMS) == (4, True)
    assert value("seconds_to_converge", one, TERMS) == (4, True)
    one["trace"] = one["trace"][:3]
    assert value("evaluations_to_converge", one, TERMS) == (90, False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, 0), ({"artefact_area": 0.02}, 1), ({"noise": 4.0}, 1), ({"lost": 1}, 0)],
)
def test_failed_is_not_converged_or_not_clean(fields: dict[str, Any], expected: float) -> None:
    assert value("failed", record(**fields), TERMS) == (expected, True)
    worse = record()
    worse["result"]["loss"] = 2e-3
    assert value("failed", worse, TERMS) == (1, True)


def test_between_seeds(tmp_path: Path) -> None:
    grids = ([0.0, 1.0, 0.5], [0.0, 2.0, 1.0], [1.0, 0.0, 0.5])
    areas = (0.1, 0.2, 0.4)
    write(
        tmp_path,
        [
            record(seed=i, artefact_grid=grid, artefact_area=area)
            for i, (grid, area) in enumerate(zip(grids, areas, strict=True))
        ],
    )
    open_rule = {"of": {"loss": "gram"}, "against": None, "rule": {"above": -9}}
    asked = write_ledger(
        tmp_path,
        part(measure="artefact_grid", effect="correlation between seeds", **open_rule),
        part(measure="artefact_area", effect="factor between seeds", **open_rule),
        part(
            measure="artefact_area",
            effect="factor between seeds",
            runs={"least": {"artefact_area": 0.2}},
            **open_rule,
        ),
    )
    (row,), _ = judge(tmp_path, asked)
    correlation, factor, least = (effect.estimate for effect in row.effects)
    expected = [
        scipy.stats.pearsonr(*pair).statistic for pair in (grids[:2], grids[1:], grids[::2])
    ]
    assert correlation == pytest.approx(np.mean(expected))
    assert factor == pytest.approx(math.exp(np.mean(np.log([2, 2, 4]))))
    assert least == pytest.approx(2.0)


def test_bootstrap_covers_what_it_should() -> None:
    """Of 200 draws of six styles with a known mean, about 95% (a bit less) cover it."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        styles = rng.normal(0, 1, 8)
        samples = [
            Sample(str(i), seed, mean + rng.normal(0, 0.5))
            for i, mean in enumerate(styles)
            for seed in range(3)
        ]
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
    ("rule", "interval", "finding"),
    [
        ({"above": 1}, (1.1, 2), "holds"),
        ({"above": 1}, (0.5, 1), "fails"),
        ({"above": 1}, (0.9, 1.1), "undecided"),
        ({"below": 1}, (0.1, 0.9), "holds"),
        ({"below": 1}, (1.0, 1.1), "fails"),
        ({"below": 1}, (0.9, 1.0), "undecided"),
        ({"within": [1, 2]}, (1.1, 1.9), "holds"),
        ({"within": [1, 2]}, (0.1, 0.9), "fails"),
        ({"within": [1, 2]}, (2.1, 2.2), "fails"),
        ({"within": [1, 2]}, (0.9, 2.1), "undecided"),
        ({"above": 0}, (0, 0), "fails"),
    ],
)
def test_rules(rule: dict[str, Any], interval: tuple[float, float], finding: str) -> None:
    assert find(rule, *interval) == finding


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        (["holds", "holds"], "supported"),
        (["fails", "fails"], "not supported"),
        (["holds", "fails"], "partly supported"),
        (["holds", "undecided"], "partly supported"),
        (["fails", "undecided"], "undecided"),
    ],
)
def test_verdicts(findings: list[Any], expected: str) -> None:
    assert verdict(findings) == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"effect": "sum"}, "effect of C1 is 'sum', but must be one of"),
        ({"rule": {"near": 1}}, "rule of C1 is 'near', but must be one of"),
        ({"colour": "red"}, "ledger .* cannot be read"),
        ({"of": {"loss": "none"}}, "claim C1 has no runs to compare for 'larger'"),
        ({"measure": "beauty"}, "lacks 'beauty'"),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write(tmp_path, [record(), record(loss="moment-1")])
    with pytest.raises(InputError, match=message):
        judge(tmp_path, write_ledger(tmp_path, part(**fields)))


class TestTheLedger:
    def test_judges_every_claim_from_the_records_alone_in_seconds(self) -> None:
        started = time.process_time()
        rows, altered = judge(ROOT / "results", ROOT / "book" / "claims.yml")
        assert time.process_time() - started < 20
        assert [row.claim.id for row in rows] == [f"C{i}" for i in range(1, 18)]
        assert altered == []
        assert all(row.reading for row in rows)

    def test_every_claim_has_a_page_with_its_figure(self) -> None:
        _, claims = read_ledger(ROOT / "book" / "claims.yml")
        assert all((ROOT / f"{claim.figure}.md").is_file() for claim in claims)

    def test_no_number_is_typed_into_a_reading(self) -> None:
        """But for names (N = 3, relu_2_1), powers and the placeholders."""
        _, claims = read_ledger(ROOT / "book" / "claims.yml")
        for claim in claims:
            words = claim.reading.replace("N = ", "N=").split()
            loose = [w for w in words if w.strip(".,;:()").replace(".", "").isdigit()]
            assert not loose, (claim.id, loose)

    def test_its_html_names_every_claim_once(self) -> None:
        rows, _ = judge(ROOT / "results", ROOT / "book" / "claims.yml")
        sections = "".join(map(claims_html.section, rows))
        assert all(sections.count(f'id="{row.claim.id.lower()}"') == 1 for row in rows)
        places = [sections.index(f'id="{row.claim.id.lower()}"') for row in rows]
        assert all(a < b for a, b in pairwise(places))
        assert all(row.verdict in claims_html.summary([row]) for row in rows)
