"""Kept runs are what they say, or are named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import styleinv
from styleinv import InputError
from styleinv.encoder import Encoder
from styleinv.runs import store
from styleinv.runs.sweeps import sweep
from styleinv.runs.verification import verify
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, bundled: Encoder) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    options: dict[str, Any] = {"layers": ["relu_1_1"], "encoder": bundled, "size": 32}
    sweep(["bundled:dots"], losses=["gram", "moment-1"], folder=folder, iterations=9, **options)
    sweep(
        ["bundled:dots"],
        losses=["moment-2"],
        folder=folder / "small",
        pictures=False,
        iterations=9,
        **options,
    )
    return folder


@pytest.fixture
def runs(kept: Path, tmp_path: Path) -> Path:
    for path in kept.rglob("*.*"):
        target = tmp_path / path.relative_to(kept)
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    return tmp_path


def test_finds_nothing_wrong_with_what_was_written(runs: Path) -> None:
    found = verify(runs, rerun=3)
    assert (found.records, found.pictures, found.measured) == (3, 2, 2)
    assert found.wrong == []
    assert len(found.reruns) == 3
    assert all(line.endswith("bit for bit the same") for line in found.reruns)


def change(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(record: dict[str, Any]) -> None:
        *path, last = keys
        for key in path:
            record = record[key]
        record[last] = to

    return apply


@pytest.mark.parametrize(
    "edit",
    [
        change("metrics", "structure_size", to=9.0),
        change("result", "loss", to=1e-9),
        change("asked", "seed", to=5),
        change("made_with", "date", to="2000-01-01"),
        change("address", to="0" * 64),
        change("trace", to=[]),
    ],
)
def test_names_an_altered_record(runs: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    path = next(runs.glob("*gram*.json"))
    record = json.loads(path.read_text())
    edit(record)
    path.write_text(json.dumps(record))
    (wrong,) = verify(runs).wrong
    assert path.name in wrong
    assert "not as they were written" in wrong


def test_sees_through_a_new_seal(runs: Path) -> None:
    """Who alters a metric and seals the record again is found out by the picture."""
    path = next(runs.glob("*gram*.json"))
    record = json.loads(path.read_text())
    record["metrics"]["colour_distance"] *= 1.1
    path.write_text(json.dumps({**record, "sha256": store.seal(record)}))
    (wrong,) = verify(runs).wrong
    assert f"{path.name}' has colour_distance" in wrong


def test_sees_through_an_invented_result(runs: Path) -> None:
    """A result that was never computed is found out by running it again."""
    path = next((runs / "small").glob("*.json"))
    record = json.loads(path.read_text())
    record["result"]["pixels_sha256"] = "0" * 64
    record["trace"][1]["loss"] *= 1.5
    record["result"]["loss"] *= 10
    path.write_text(json.dumps({**record, "sha256": store.seal(record)}))
    assert verify(runs).wrong == []
    wrong = verify(runs, rerun=3).wrong
    assert any("at iteration 1" in x for x in wrong)
    assert all(path.name in x for x in wrong)


def test_names_an_altered_lost_or_lone_picture(runs: Path) -> None:
    path = next(runs.glob("*gram*.png"))
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    (wrong,) = verify(runs).wrong
    assert path.stem in wrong
    path.unlink()
    (wrong,) = verify(runs).wrong
    assert path.stem in wrong
    path.with_suffix(".json").unlink()
    Image.fromarray(pixels).save(path)
    assert verify(runs).wrong == [f"picture {str(path)!r} has no record"]


def test_names_a_record_that_is_another_ones(runs: Path) -> None:
    gram, moment = (next(runs.glob(f"*{x}*.json")) for x in ("gram", "moment-1"))
    for suffix in (".json", ".png"):
        gram.with_suffix(suffix).write_bytes(moment.with_suffix(suffix).read_bytes())
    assert verify(runs).wrong == [f"record {str(gram)!r} has the name of another run"]


def test_a_result_of_other_rounding_is_the_same_within_the_tolerance(runs: Path) -> None:
    """What another machine rounds differently, slightly other weights do here."""
    path = next((runs / "small").glob("*.json"))
    encoder = styleinv.load_encoder("bundled")
    for weights in encoder.state_dict().values():
        weights *= 1 + 1e-4
    run = styleinv.invert(
        "bundled:dots", layer="relu_1_1", loss="moment-2", encoder=encoder, size=32, iterations=9
    )
    store.save(store.without_picture(store.run_of(run)), path.parent)
    found = verify(runs, rerun=3)
    assert found.wrong == []
    assert sum("the same within the tolerance" in line for line in found.reruns) == 1


def test_refuses_what_it_cannot_check(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must hold run records"):
        verify(tmp_path / "nothing")
    with pytest.raises(InputError, match="rerun is 4, but only 3 runs are small enough"):
        verify(runs, rerun=4)


def test_the_committed_runs() -> None:
    found = verify(ROOT / "results")
    assert found.wrong == []
    assert found.measured == found.pictures > 200
