"""The benchmarks' baseline computes what it says, and their measurements run."""

import dataclasses
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

# The scripts import each other from their folder, see pyproject.toml.
import batches
import bench
import browser
import busy
import device
import evaluations
import floor
import full
import measures
import numpy as np
import out_of_reach
import peers
import pytest
import sizes
import torch
from first_picture import first_picture
from released import ReleasedAlgorithm
from torch import Tensor
from ways import LOSSES, gflop, in_bfloat16

from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.inversion import invert, noise_image, plan
from styleinv.losses import GramLoss, gram_matrix
from styleinv.optim import Iterate
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


@pytest.mark.parametrize(("layer", "size"), [("relu_1_1", 32), ("relu_2_2", 16)])
def test_jacobian_of_the_gram_matrix_is_that_of_autograd(layer: str, size: int) -> None:
    """Along a random combination of the residuals; and their squares add up to the loss."""
    encoder = load_encoder("bundled", dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    style, image = torch.rand(2, 3, size, size, generator=generator, dtype=torch.float64)
    features = encoder(style[None], layer)
    target = gram_matrix(features)
    with torch.no_grad():
        found = floor.jacobian(encoder, layer, image)
        residuals = floor.residuals(encoder, layer, image, target)
    weights = torch.rand(found.shape[1], generator=generator, dtype=torch.float64)
    image.requires_grad_()
    difference = gram_matrix(encoder.forward(image[None], layer)) - target
    (expected,) = torch.autograd.grad(floor.upper(difference / len(target)) @ weights, image)
    largest = expected.abs().max().item()
    torch.testing.assert_close(found @ weights, expected.flatten(), rtol=0, atol=1e-5 * largest)
    loss = GramLoss(features)(encoder(image.detach()[None], layer)).item()
    assert residuals.square().sum().item() == pytest.approx(loss)


def test_floor_descends_and_looks_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The model's promise of a short step is kept; what the record has is not made again."""
    small = {"STYLES": ("bundled:dots",), "SIZES": (16,), "LAYERS": ("relu_1_1",), "EVALUATIONS": 9}
    small |= {"JACOBIANS": ((16, "relu_1_1"),), "DAMPINGS": (1e-4, 1e4), "COMPARED_SIZE": 16}
    small |= {"RECORD": tmp_path / "floor.json", "PICTURES": tmp_path}
    for name, value in small.items():
        monkeypatch.setattr(floor, name, value)
    floor.main(["bundled"])
    first = floor.RECORD.read_text()
    descents = json.loads(first)["descents"]
    assert [x["protocol"] for x in descents.values()] == ["from-noise", "fast"]
    for descent in descents.values():
        far, near = descent["steps"]
        assert near["rms"] < far["rms"]
        assert near["loss"] < descent["loss"]
        assert near["loss"] == pytest.approx(near["promised"], rel=1e-4)
        assert descent["ranks"][-1] == min(descent["free"], descent["constraints"])
    floor.main(["bundled"])
    assert floor.RECORD.read_text() == first


def test_out_of_reach_is_what_the_records_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shipped = out_of_reach.OUT_OF_REACH.read_text(encoding="utf-8")
    monkeypatch.setattr(out_of_reach, "OUT_OF_REACH", tmp_path / "out_of_reach.json")
    out_of_reach.main([str(ROOT / "results" / "runs")])
    assert (tmp_path / "out_of_reach.json").read_text(encoding="utf-8") == shipped


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


@pytest.fixture(scope="module")
def race(bundled: Encoder) -> peers.Race:
    return peers.Race(bundled, 32, "relu_2_1", "gram")


@pytest.mark.parametrize("loss", peers.LOSSES)
@pytest.mark.parametrize("plain", [False, True])
def test_peers_squared_error_is_the_chapters_loss(bundled: Encoder, loss: str, plain: bool) -> None:
    """What plenoptic minimises: the mean square over the representation's entries."""
    race = peers.Race(bundled, 32, "relu_2_1", loss)
    representation = peers.Representation(race, plain)
    with torch.no_grad():
        difference = representation(race.noise) - representation(race.style)
    assert difference.square().mean().item() == pytest.approx(race.exact(race.noise), rel=1e-4)


def test_peers_pictures_are_judged_within_their_bounds(race: peers.Race) -> None:
    outside = 3 * race.noise - 1
    assert race.exact(outside) == race.exact(outside.clamp(0, 1)) != race.exact(race.noise)


def test_a_look_at_the_picture_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(peers.time, "perf_counter", lambda: now)

    def slow_look(picture: Tensor) -> float:
        nonlocal now
        now += 1000
        return picture.item()

    watch = peers.Watch(slow_look, limit=100)
    assert not watch.see(torch.tensor(1.0))  # before the start
    watch.start()
    for step, loss in enumerate((5.0, 4.0, 5e-3), start=1):
        now += 10
        assert not watch.see(torch.tensor(loss)), step
        now += 0.4
        assert not watch.see(torch.tensor(0.0))  # too soon to look again
    assert [loss for _, loss in watch.points] == pytest.approx([5, 4, 5e-3])
    assert [seconds for seconds, _ in watch.points] == pytest.approx([10, 20.4, 30.8])
    assert [watch.seconds_to(level) for level in (4.5, 1e-2, 1e-4)] == pytest.approx(
        [20.4, 30.8, None]
    )
    now += 100
    assert watch.see(torch.tensor(5e-3))


def test_peers_that_do_not_get_there_count_with_their_limit() -> None:
    """By hand: two rounds in which a rival takes 4 and 6 times as long, or ends at a limit."""

    def one(number: int, ours: list[float | None], theirs: list[float | None]) -> dict[str, Any]:
        methods = {
            "fast": {"limit": 9, "seconds": ours},
            "SciPy's L-BFGS-B": {"limit": 24, "seconds": theirs},
        }
        cell = {"size": 64, "layer": "relu_1_1", "loss": "gram", "round": number}
        return {**cell, "date": "2026-01-01", "methods": methods, "curves": {}}

    record = peers.collect([one(1, [1, 2, None], [4, None, 5]), one(2, [1, 3, 4], [6, 15, 5])])
    (cell,) = record["cells"]
    assert cell["ratios"]["SciPy's L-BFGS-B"] == [
        {"median": 5, "low": 4, "high": 6, "at_least": False},
        {"median": 8.5, "low": 5, "high": 12, "at_least": True},
        None,  # `fast` did not get there in every round
    ]
    assert cell["seconds"]["SciPy's L-BFGS-B"][1] is None
    assert cell["seconds"]["fast"][1] == {"median": 2.5, "low": 2, "high": 3}
    of_all = record["means"][-1]
    assert (of_all["size"], of_all["level"], of_all["bounds"], of_all["cells"]) == (
        None,
        None,
        1,
        2,
    )
    assert of_all["mean"] == pytest.approx((5 * 8.5) ** 0.5)


@pytest.mark.parametrize("name", peers.RIVALS)
def test_peers_lower_the_loss(race: peers.Race, name: str) -> None:
    if name in peers.PLENOPTIC:
        pytest.importorskip("plenoptic")
    watch = peers.Watch(race.exact, limit=0.5)
    peers.RIVALS[name](race, watch)
    assert watch.points[-1][1] < 0.99 * race.exact(race.noise)


def test_peers_race_goes_on_where_it_was(
    bundled: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is begun that could outlast the minutes, and nothing is measured twice."""
    cell = {"size": 32, "layer": "relu_1_1", "loss": "moment-2", "round": 1}
    small = {"in_order": lambda *_: [cell], "LEVELS": (1.0, 0.5, 0.2), "CURVES_OF": "relu_1_1"}
    for name, value in {**small, "WORK": tmp_path, "plenoptic_version": lambda: None}.items():
        monkeypatch.setattr(peers, name, value)
    record = tmp_path / "peers.json"
    assert peers.measure(bundled, cell, peers.OTHERS, seconds=1e-3) is None
    assert "left out" in capsys.readouterr().out
    for minutes, left_out in (("0", 1), ("1", 0), ("1", 0)):
        peers.main(["--minutes", minutes, "--record", str(record)])
        assert json.loads(record.read_text())["left_out"] == left_out
    assert capsys.readouterr().out.count("moment-2") == 1  # measured once
    (found,) = json.loads(record.read_text())["cells"]
    assert found["seconds"].keys() == {"fast", *peers.OTHERS}


def test_sizes_measure_until_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_the_goal(iterate: Iterate) -> bool:
        return iterate.loss <= sizes.LEVEL

    found = sizes.measure(32, "relu_1_1", "gram")
    run = invert("bundled:strokes", layer="relu_1_1", size=32, callback=at_the_goal)
    assert found["goal_evaluations"] == run.evaluations <= found["evaluations"]
    assert found["evaluations"] >= sizes.EVALUATIONS
    monkeypatch.setattr(sizes, "SECONDS", 0)
    assert sizes.measure(32, "relu_2_1", "mmd")["goal_seconds"] is None


def test_sizes_go_on_where_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cell is a process of its own; one that could outlast the minutes is left out."""
    small = {"SIZES": (16, 32), "LAYERS": ("relu_1_1",), "LOSSES": ("gram",), "WORK": tmp_path}
    for name, value in small.items():
        monkeypatch.setattr(sizes, name, value)
    record = tmp_path / "sizes.json"
    sizes.main(["--sizes", "16", "--record", str(record)])
    monkeypatch.setattr(sizes, "keep", None)  # cannot be called
    sizes.main(["--minutes", "0.001", "--record", str(record)])
    found = json.loads(record.read_text())
    (cell,) = found["cells"]
    assert (found["left_out"], cell["size"]) == (1, 16)
    assert cell["peak_bytes"] > 1e8
    assert sizes.expected({**cell, "size": 32}, [cell]) == 4 * cell["process_seconds"]


def test_batches_are_measured_against_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = {"SIZES": (16,), "LAYERS": ("relu_1_1",), "TOGETHER": (3,), "ITERATIONS": 6}
    for name, value in {**small, "ROUNDS": 1, "RECORD": tmp_path / "batches.json"}.items():
        monkeypatch.setattr(batches, name, value)
    batches.main()
    (row,) = json.loads((tmp_path / "batches.json").read_text(encoding="utf-8"))["rows"]
    assert (row["size"], row["layer"], list(row["together"])) == (16, "relu_1_1", ["1", "3"])
    alone, many = (row["together"][name] for name in ("1", "3"))
    ratio = alone["ms"]["median"] / many["ms"]["median"]
    assert many["times"]["median"] == pytest.approx(ratio)


def test_what_a_gpu_is_asked_can_be_rehearsed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And goes on: what has been made is not made again."""
    sweeps = "sweeps: {few: {styles: [bundled:dots], losses: [mmd, gram], protocol: chapter}}"
    (tmp_path / "chapter.yml").write_text(f"encoder_sha256: none\n{sweeps}\n")
    small = replace(device.IN_SMALL, together=(1, 2), iterations=24)
    layers = ("relu_1_1", "relu_1_2")
    names = {"FOLDER": tmp_path, "CHAPTER_RUNS": tmp_path / "chapter.yml", "LAYERS": layers}
    for name, value in {**names, "IN_SMALL": small, "LOSSES": ("gram", "mmd")}.items():
        monkeypatch.setattr(device, name, value)
    for _ in range(2):
        device.main(["--rehearse"])
        found = json.loads((tmp_path / "rehearsal" / "device.json").read_text(encoding="utf-8"))
    assert [(row["layer"], row["loss"]) for row in found["agreement"]] == list(
        itertools.product(layers, ("gram", "mmd"))
    )
    assert all(row["float32"] < 1e-4 for row in found["agreement"])
    assert all(len(set(row["theta_at"])) == 1 for row in found["agreement"])
    assert all(row["theta_same_image"] for row in found["agreement"])
    assert [row["together"] for row in found["speed"]] == [1, 2, 1, 2]
    made = list((tmp_path / "rehearsal" / "runs" / "few").iterdir())
    assert sorted(path.suffix for path in made) == [".json"] * 8 + [".png"] * 8


def test_measures_are_validated_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = {"SIZE": 48, "PIECES": (4, 24), "MOSAICS": 1, "STEPS": (1, 2), "CLEAN": 1}
    small |= {"PLANTED": (24,), "SHIFTS": (4, 16), "SIGMAS": (4, 16)}
    for name, value in (small | {"RECORD": tmp_path / "measures.json"}).items():
        monkeypatch.setattr(measures, name, value)
    measures.main(["bundled:marbling"])
    first = measures.RECORD.read_text(encoding="utf-8")
    found = json.loads(first)["styles"]["bundled:marbling"]
    (fine,), (coarse,) = found["mosaics"]
    assert fine < coarse
    assert found["planted"]["noise"][0] > found["clean"]
    (_, far), (_, further) = found["shifted"]
    assert far > further
    measures.main(["bundled:marbling"])
    assert measures.RECORD.read_text(encoding="utf-8") == first


@pytest.mark.browser
def test_the_browser_is_measured_beside_python(
    chromium: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = {"LAYERS": ("relu_1_1",), "EVALUATIONS": 2, "BUSY": {"size": 64, "layer": "relu_2_2"}}
    small["FIRST"] = {"size": 16, "layer": "relu_1_1"}
    monkeypatch.setattr("styleinv_book.live_page.SIZES", (64,))
    for name, value in small.items():
        monkeypatch.setattr(browser, name, value)
    options = ["--sizes", "16", "--rounds", "1", "--shares", "0.5", "--seconds", "0.5"]
    browser.main([*options, "--record", str(tmp_path / "browser.json")])
    found = json.loads((tmp_path / "browser.json").read_text(encoding="utf-8"))
    (rate,), (wait,) = found["rates"], found["waits"]
    assert (rate["size"], rate["layer"], wait["share"]) == (16, "relu_1_1", 0.5)
    for row in (rate, wait):
        ratio = row["browser"]["median"] / row["python"]["median"]
        assert row["ratio"]["median"] == pytest.approx(ratio)
    delays = found["answers"]["milliseconds"]
    assert found["answers"]["keys"] > 0 < delays["low"] <= delays["median"] <= delays["high"]


@pytest.mark.browser
def test_ends_of_recipes_are_compared_and_the_rest_of_the_record_stays(
    chromium: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("styleinv_book.live_page.SIZES", (64,))
    choice = {"style": "bundled:dots", "layer": "relu_1_1", "loss": "moment-1", "show": "one"}
    monkeypatch.setattr(browser, "RECIPES", [choice])
    record = tmp_path / "browser.json"
    record.write_text('{"rates": [1], "recipes": 0}', encoding="utf-8")
    browser.main(["--only", "recipes", "--record", str(record)])
    found = json.loads(record.read_text(encoding="utf-8"))
    assert found["rates"] == [1]
    (row,) = found["recipes"]["runs"]
    assert {name: row[name] for name in choice if name != "show"} == {
        name: value for name, value in choice.items() if name != "show"
    }
    assert row["page"][2] == row["python"][2] == "theta"
    assert row["ratio"] == row["page"][0] / row["python"][0]
    assert row["another seed"] < 0.6 < row["correlation"]


def test_pictures_correlate_as_far_as_they_are_alike() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 64, 64, 3), dtype="uint8")
    assert browser.correlation(one, one) == pytest.approx(1)
    assert browser.correlation(one, 255 - one) == pytest.approx(-1)
    assert abs(browser.correlation(one, other)) < 0.1
    # Noise that the blur takes away counts less than it would otherwise.
    smooth = np.repeat(np.linspace(0, 200, 64)[:, None, None], 64, 1).repeat(3, 2)
    noisy = (smooth + rng.integers(0, 56, smooth.shape)).astype("uint8")
    raw = np.corrcoef(smooth.ravel(), noisy.ravel())[0, 1]
    assert raw < browser.correlation(smooth.astype("uint8"), noisy) < 1


def test_a_run_that_ends_before_the_share_has_no_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the browser it ends at half of the first loss; in Python at its theta, far above none."""
    small = {"FIRST": {"size": 16, "layer": "relu_1_1"}, "LOSS": "moment-1"}
    for name, value in small.items():
        monkeypatch.setattr(browser, name, value)
    heard = [{"loss": 4.0, "after": 0.1}, {"loss": 2.0, "after": 0.3}]
    monkeypatch.setattr(browser, "in_browser", lambda *_, **__: heard)
    row = browser.wait(mock.Mock(), 0.0, rounds=1)
    assert row == {"share": 0.0, "browser": None, "python": None, "ratio": None}
    assert browser.wait(mock.Mock(), 0.5, rounds=1)["browser"]["median"] == 0.3
