"""L-BFGS reconsidered: what the page's tables say of descents and runs whose truth is known."""

import json
from pathlib import Path
from typing import Any

import msgspec
from styleinv_book.figures import Album
from styleinv_book.pages import lbfgs
from styleinv_book.pages.lbfgs import Descent, Look, Step

from styleinv.encoder import Encoder
from styleinv.protocol import FAST, FROM_NOISE
from styleinv.runs.sweeps import sweep


def descent(**values: Any) -> Descent:
    """One that halves its loss every 100 evaluations, if nothing else is given."""
    trace = tuple((at, 2.0 ** -(at / 100)) for at in range(0, 1001, 100))
    plain: dict[str, Any] = {
        **{"encoder": "a", "style": "bundled:dots", "size": 16, "layer": "relu_1_1"},
        **{"protocol": FAST.name, "loss": trace[-1][1], "evaluations": 1000, "values": 768},
        **{"constraints": 10, "free": 700, "psnr": 9.0, "trace": trace, "looks": ()},
    }
    return Descent(**plain | values)


def test_until_is_the_first_evaluation_below_a_level() -> None:
    assert descent().until(0.3) == 200
    assert descent().until(0.25) == 300  # not at the level itself
    assert descent().until(1e-9) is None


def test_a_run_is_slow_once_its_later_half_gains_too_little() -> None:
    """At 400 evaluations the later half has divided the loss by 4, at 200 by 2."""
    steady = descent()
    assert steady.slow_at(1.9) is None
    assert steady.slow_at(2.1) == 200  # 100 would be too early for the rule
    levelled = tuple((at, max(loss, 2.0**-4)) for at, loss in steady.trace)
    assert descent(trace=levelled).slow_at(1.9) == 800


def test_answering_is_a_share_of_the_numbers() -> None:
    ranked = descent(ranks=(1, 4, 7, 9), singular_values=(10.0, 1.0, 0.02, 0.001))
    assert ranked.answering(0.05) == 0.4
    assert ranked.answering(1e-3) == 0.7


def test_steps_are_told_in_grey_levels_and_relative_losses() -> None:
    steps = (
        Step(rms=2 / 255, promised=0.9, loss=0.95),
        Step(rms=5 / 255, promised=0.4, loss=1.5),
        Step(rms=8 / 255, promised=0.1, loss=2.5),
    )
    few, many = (
        descent(loss=1.0, steps=steps, ranks=(1,), singular_values=(1.0,), free=free)
        for free in (5, 5000)
    )
    head, rows = lbfgs.looked_around([many, descent(), few])
    assert head[1:] == [few.label, many.label]
    cells = {title: (first, second) for title, first, second in rows}
    assert cells["free pixel values"] == ("5", "5,000")
    assert cells["least loss that the linear model promises"][0] == "x 0.1"
    assert cells["least loss after an exact step"][0] == "x 0.95"
    assert cells["shortest step that promises to halve the loss"][0] == "5"
    assert cells["shortest step that doubles it"][0] == "8"


def test_protocols_are_compared_where_nothing_else_differs() -> None:
    slower = tuple((2 * at, loss) for at, loss in descent().trace)
    noisy = {"protocol": FROM_NOISE.name, "trace": slower}
    found = [descent(), descent(size=32), descent(**noisy), descent(**noisy, layer="relu_2_2")]
    assert lbfgs.pairs(found) == [(found[2], found[0])]
    assert lbfgs.median_gain(found, 0.1) == 2
    (row,) = lbfgs.stiffness_rows(found)
    assert row[:2] == ("dots", "relu_1_1")
    assert row[2:6] == ("1400 / 700", "2000 / 1000", "- / -", "- / -")


def test_going_on_counts_only_runs_that_the_rule_ends_early() -> None:
    looks = (Look(100, 0.5, 1.0, 4.0), Look(200, 0.25, 2.0, 4.0), Look(1000, 0.125, 3.0, 3.5))
    late = descent(evaluations=210, looks=looks[:2])
    rows = lbfgs.going_on([descent(looks=looks), late], 2.1)
    assert rows == [
        ("evaluations", "x 5", "1 of 1"),
        ("loss", "x 0.5", "0 of 1"),
        ("pixel noise, L*", "+1.00", "1 of 1"),
        ("colour distance", "-0.50", "0 of 1"),
    ]


def test_only_descents_with_the_encoder_of_the_first_are_read(tmp_path: Path) -> None:
    found = [descent(), descent(encoder="b"), descent(size=32)]
    content = {"descents": {str(i): msgspec.to_builtins(x) for i, x in enumerate(found)}}
    (tmp_path / "floor.json").write_text(json.dumps(content), encoding="utf-8")
    assert lbfgs.read_descents(tmp_path / "floor.json") == [found[0], found[2]]


def test_optimisers_are_compared_on_the_styles_that_all_of_them_have(
    bundled: Encoder, tmp_path: Path
) -> None:
    asked = {"layers": ["relu_1_1"], "losses": ["gram"], "encoder": bundled, "size": 16}
    for name, styles in (("one", ["dots", "strokes"]), ("two", ["strokes"])):
        own = [f"bundled:{style}" for style in styles]
        sweep(own, iterations=2, folder=tmp_path / "runs" / name, **asked)
    rows = lbfgs.to_theta(str(tmp_path), {"first": "one", "second": "two"}, "gram")
    assert [row[:4] for row in rows] == [
        ("Gram", "first", "0 of 1", "2 (2 to 2)"),
        ("Gram", "second", "0 of 1", "2 (2 to 2)"),
    ]
    assert rows[0][4:] == rows[1][4:]


def test_clamping_is_seen_in_what_an_optimiser_reached(bundled: Encoder, tmp_path: Path) -> None:
    asked = {"layers": ["relu_1_1"], "losses": ["gram"], "encoder": bundled, "size": 16}
    runs = sweep(["bundled:dots"], protocol="unbounded", iterations=20, folder=tmp_path, **asked)
    ((_, _, on_the_way, at_the_end, stops),) = lbfgs.reached({"no bounds": Album(runs)})
    assert float(on_the_way.split()[0]) < float(at_the_end.split()[0])
    assert stops == "budget (1)"
