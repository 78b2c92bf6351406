"""The eye study's arithmetic, and that its sheets show what was drawn and nothing else."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import eye_study
import numpy as np
import pytest
from PIL import Image

from styleinv.runs.sweeps import sweep


def test_agreement_is_counted_where_the_eye_decides() -> None:
    """Below a difference of 3 the measure tosses a coin, above it is right; ties do not count."""
    differences = [(-1) ** i * 0.1 * i for i in range(1, 101)]
    wrong = [0 < i < 30 and i % 3 > 0 for i in range(1, 101)]
    answers = [
        int(math.copysign(1, d)) * (1 - 2 * no) for d, no in zip(differences, wrong, strict=True)
    ]
    found = eye_study.compare([*differences, 7.0, 8.0], [*answers, 0, 0])
    assert (found["decided"], found["agreed"]) == (100, 80)
    assert [found["low"], found["high"]] == pytest.approx([0.7112, 0.8666], abs=1e-4)  # by hand
    assert found["smallest"] == pytest.approx(3.0)


@pytest.mark.parametrize("count", [300, 10_000])
def test_the_smallest_difference_is_the_true_one_from_few_answers_and_from_many(count: int) -> None:
    """Right with probability 1 - exp(-d) / 2, which is 0.9 at d = log 5, however many are asked."""
    chance = np.random.default_rng(count)
    differences = chance.exponential(2, count)
    right = chance.random(count) < 1 - np.exp(-differences) / 2
    found = eye_study.compare(differences.tolist(), np.where(right, 1, -1).tolist())
    assert found["smallest"] == pytest.approx(math.log(5), rel=0.4 if count < 1000 else 0.2)


def test_a_measure_that_only_guesses_has_no_smallest_difference() -> None:
    found = eye_study.compare([1.0, -1.0] * 50, [1] * 100)
    assert (found["agreed"], found["smallest"]) == (50, None)


def test_some_pairs_are_both_grams_and_none_is_drawn_twice() -> None:
    runs = eye_study.RESULTS / "runs"
    earlier = eye_study.draw(runs, count=700)
    pairs = eye_study.draw(runs, count=40, gram=10, known=earlier)
    assert 10 <= sum(map(eye_study.is_gram, pairs)) < 40
    assert len({eye_study.sides(pair) for pair in [*earlier, *pairs]}) == 740


def shown(number: int, layer: str, loss: str, answers: dict[str, list[int]], **two: Any) -> Any:
    pair = {
        "sweep": "chapter",
        "style": "x",
        "left": f"{layer} {loss} a",
        "right": f"{layer} {loss} b",
    }
    records = [
        SimpleNamespace(measures=SimpleNamespace(**dict(zip(two, x, strict=True))))
        for x in zip(*two.values(), strict=True)
    ]
    return eye_study.Shown(number, 1, pair, tuple(records), answers)


def test_less_distance_is_closer() -> None:
    """The eye calls the colours of the left closer; the measure says their distance is less."""
    assert (
        shown(1, "relu_1_1", "gram", {}, colour_distance=(2, 5)).difference("colour_distance") == 3
    )


def test_only_later_rounds_test_a_measure() -> None:
    """The measure is always right in the rounds that chose it, and wrong afterwards."""
    chosen = eye_study.CHOSEN["artefact_area"]
    values = {
        "artefact_area": (0.5, 0.2),
        "artefact_excess": (2, 1),
        "structure": (1, 0),
        "largest_kept": (3, 1),
        "noise": (1, 0),
        "colour_distance": (1, 2),
    }
    pairs = [
        shown(
            n,
            "relu_1_1",
            loss,
            dict.fromkeys(eye_study.QUESTIONS, [1 if n <= chosen else -1] * 2),
            **values,
        )
        for n in range(1, chosen + 3)
        for loss in ("gram", "moment-1")
    ]
    found = [x for x in eye_study.agreement(pairs)["measures"] if x["measure"] == "artefact_area"]
    counts = {x["among"]: (x["agreed"], x["decided"]) for x in found}
    assert counts["round 1"] == (4, 4)
    assert counts[eye_study.TESTED] == (0, 8)
    assert counts[eye_study.OF_GRAM] == (0, 4)


def test_sheets_show_the_drawn_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are enlarged, not smoothed; the form tells nothing but numbers."""
    for name in eye_study.SWEEPS:
        losses = ["moment-1", "gram"]
        cell: dict[str, Any] = {"size": 64, "iterations": 1, "layers": ["relu_1_1"]}
        sweep(["bundled:strokes"], losses=losses, folder=tmp_path / name, **cell)
    pairs = eye_study.draw(tmp_path, count=2)
    assert {pair["sweep"] for pair in pairs} == set(eye_study.SWEEPS)
    monkeypatch.setattr(eye_study, "PER_SHEET", 1)
    eye_study.sheets(pairs, tmp_path, tmp_path / "sheets")
    with Image.open(tmp_path / "sheets" / "sheet-02.png") as sheet:
        drawn = np.asarray(sheet)[26 : 26 + 256, 276 : 276 + 256]
    own = eye_study.pictures(tmp_path / pairs[1]["sweep"])[pairs[1]["left"]][0]
    with Image.open(own.with_suffix(".png")) as picture:
        np.testing.assert_array_equal(drawn[::4, ::4], np.asarray(picture))
    np.testing.assert_array_equal(drawn[::4, ::4], drawn[3::4, 3::4])
    form = (tmp_path / "sheets" / "form.json").read_text(encoding="utf-8")
    assert len(json.loads(form)["answers"]) == 2
    assert not re.search("gram|moment|relu|[0-9a-f]{8}", form)
