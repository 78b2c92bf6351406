"""The benchmarks' baseline computes what it says, and their measurements run."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from styleinv.encoder import Encoder
from styleinv.inversion import noise_image, plan
from styleinv.protocol import RELEASED

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import bench
from full import Bench
from released import ReleasedAlgorithm
from ways import LOSSES, convolutions_alone, gflop, in_bfloat16, take_turns

STEPS = 12


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("layer", ["relu_1_1", "relu_2_2"])
def test_released_protocol_takes_the_released_algorithms_steps(
    bundled: Encoder, layer: str, loss: str
) -> None:
    """The baseline and protocol `released`: the same loss at every iteration."""
    endless = dataclasses.replace(RELEASED.limited_to(STEPS), theta=-float("inf"))
    task = plan(
        "bundled:mosaic", layer=layer, loss=loss, size=32, encoder=bundled, protocol=endless
    )
    noise = noise_image(task.style[None], RELEASED, task.seed)
    baseline = ReleasedAlgorithm(bundled, task.style, noise, layer, loss)
    expected = [baseline.step() / endless.weight(loss) for _ in range(STEPS)]
    found = [point.loss for point in task.run().trace[:STEPS]]
    assert found == pytest.approx(expected, rel=2e-3)


def test_take_turns() -> None:
    order: list[str] = []
    ways = {name: lambda name=name: order.append(name) or len(order) for name in "ab"}
    found = take_turns(ways, rounds=2)
    assert order == ["a", "b"] * 3
    assert found == {"a": [3, 5], "b": [4, 6]}


def test_counts_the_work_of_the_convolutions() -> None:
    """SPEC: forward 0.23, 5.1, 7.5 and 12.3 GFLOP at 256 x 256, the gradient as much again."""
    found = [gflop(256, layer) / 2 for layer in ("relu_1_1", "relu_1_2", "relu_2_1", "relu_2_2")]
    assert found == pytest.approx([0.23, 5.06, 7.47, 12.3], rel=0.02)
    convolutions_alone(16, "relu_2_2")()


def test_half_precision_runs(bundled: Encoder) -> None:
    task = plan("bundled:mosaic", loss="moment-2", size=32, encoder=bundled)
    half = in_bfloat16(task, 30)
    assert 0 < half["gradient_error"] < 0.2
    assert half["float32"]["evaluations"] <= 30


def test_bench_prints_keeps_and_draws(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"SIZE": 16, "ROUNDS": 1, "RACE_ITERATIONS": 5, "BUILD": tmp_path}.items():
        monkeypatch.setattr(bench, name, value)
    bench.main()
    printed = capsys.readouterr().out
    assert "relu_2_2 mmd       the released algorithm" in printed
    assert "s wanted" in printed
    found = json.loads((tmp_path / "bench.json").read_text())
    assert {way for row in found["rows"] for way in row["ways"]} >= {"Adam", "projected L-BFGS"}
    assert len(found["race"]) == 3
    assert 0 < found["first_picture"]["median"] < 60
    with Image.open(tmp_path / "bench.png") as picture:
        assert picture.width > 1000


def test_full_record_is_kept_and_named_without_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import full

    monkeypatch.setattr(full, "WORK", tmp_path / "work")
    monkeypatch.setattr(full, "RECORD", tmp_path / "performance.json")
    record = Bench("bundled", ["bundled:mosaic", "bundled:strokes", str(tmp_path / "own.png")])
    cell = {"style": str(tmp_path / "own.png"), "size": 32, "layer": "relu_1_1", "loss": "gram"}
    calls: list[object] = []
    for _ in range(2):
        found = record._keep("part", cell, lambda cell: calls.append(cell) or {"x": 1})
        named = {"style": "own", "size": 32, "layer": "relu_1_1", "loss": "gram", "x": 1}
        assert found == found | named
        assert set(found) == {*named, "date", "code"}
    assert calls == [cell]
    record.collect()
    text = (tmp_path / "performance.json").read_text()
    assert '"x": 1' in text
    assert str(tmp_path) not in text
