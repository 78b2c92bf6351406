"""The benchmarks' baseline computes what it says, and their measurements run."""

import dataclasses
import json
from pathlib import Path

# The scripts import each other from their folder, see pyproject.toml.
import bench
import busy
import evaluations
import full
import pytest
from first_picture import first_picture
from released import ReleasedAlgorithm
from ways import LOSSES, gflop, in_bfloat16

from styleinv.encoder import LAYERS, Encoder
from styleinv.inversion import noise_image, plan
from styleinv.protocol import RELEASED
from tests.conftest import ROOT

STEPS = 12


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layer", ["relu_1_1", "relu_2_2"])
def test_released_protocol_takes_the_released_algorithms_steps(
    bundled: Encoder, layer: str, loss: str
) -> None:
    """The baseline and protocol `released`: the same loss at every iteration."""
    endless = dataclasses.replace(RELEASED.limited_to(STEPS), theta=-float("inf"))
    asked = {"layer": layer, "loss": loss, "protocol": endless, "size": 32}
    task = plan("bundled:mosaic", encoder=bundled, **asked)
    noise = noise_image(task.style[None], RELEASED, task.seed)
    baseline = ReleasedAlgorithm(bundled, task.style, noise, layer, loss)
    expected = [baseline.step() / endless.weight(loss) for _ in range(STEPS)]
    found = [point.loss for point in task.run().trace[:STEPS]]
    assert found == pytest.approx(expected, rel=2e-3)


def test_counts_the_work_of_the_convolutions() -> None:
    """At 256 x 256 by hand: forward 0.23, 5.06, 7.47 and 12.3 GFLOP, the gradient as much again."""
    found = [gflop(256, layer) / 2 for layer in LAYERS]
    assert found == pytest.approx([0.23, 5.06, 7.47, 12.3], rel=0.02)


def test_half_precision_runs(bundled: Encoder) -> None:
    task = plan("bundled:mosaic", loss="moment-2", size=32, encoder=bundled)
    assert 0 < in_bfloat16(task, 30)["gradient_error"] < 0.2


def test_bench_prints_keeps_and_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = {"SIZE": 16, "ROUNDS": 1, "CELLS": [("relu_1_1", "mmd")], "BUILD": tmp_path}
    small["RACE"] = {name: protocol.limited_to(2) for name, protocol in bench.RACE.items()}
    small["first_pictures"] = lambda: [first_picture(16)]  # not in a process of its own
    for name, value in small.items():
        monkeypatch.setattr(bench, name, value)
    bench.main()
    found = json.loads((tmp_path / "bench.json").read_text())
    assert {way for row in found["rows"] for way in row["ways"]} >= {"Adam", "projected L-BFGS"}
    assert len(found["race"]) == 3
    assert 0 < found["first_picture"]["median"] < 60
    assert (tmp_path / "bench.png").is_file()


def test_full_record_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A measurement that is there is not made again; styles are named without their paths."""
    monkeypatch.setattr(full, "WORK", tmp_path / "work")
    monkeypatch.setattr(full, "RECORD", tmp_path / "performance.json")
    own = str(tmp_path / "own.png")
    record = full.Bench("bundled", ["bundled:mosaic", "bundled:strokes", own])
    cell = {"style": own, "size": 32, "layer": "relu_1_1", "loss": "gram"}
    kept = [record._keep("part", cell, lambda _, x=x: {"x": x}) for x in (1, 2)]
    assert kept[0] == kept[1]
    assert kept[0].items() >= {**cell, "style": "own", "x": 1}.items()
    record.collect()
    text = (tmp_path / "performance.json").read_text()
    assert '"x": 1' in text
    assert str(tmp_path) not in text


def test_busy_measures_each_way_alone_and_beside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = {"PAIRS": 1, "EVALUATIONS": {64: 60}, "RECORD": tmp_path / "busy.json"}
    for name, value in small.items():
        monkeypatch.setattr(busy, name, value)
    busy.main(["OMP_WAIT_POLICY=PASSIVE"])
    found = json.loads((tmp_path / "busy.json").read_text(encoding="utf-8"))
    (row,) = found["rows"]
    assert (row["size"], row["way"]) == (64, "OMP_WAIT_POLICY=PASSIVE")
    assert row["beside"]["median"] > 0 < row["alone"]["median"]
    assert row["alone_to_first"]["median"] == 1


def test_known_evaluations_are_those_of_the_records(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those of the reference runs; the sweeps with the bundled encoder are not kept."""
    shipped = json.loads(evaluations.KNOWN.read_text(encoding="utf-8"))["evaluations"]
    monkeypatch.setattr(evaluations, "KNOWN", tmp_path / "evaluations.json")
    evaluations.main([str(ROOT / "results" / "runs")])
    found = json.loads((tmp_path / "evaluations.json").read_text(encoding="utf-8"))["evaluations"]
    (encoder,) = (name for name, sizes in found.items() if "256" in sizes)
    assert shipped[encoder] == found[encoder]
