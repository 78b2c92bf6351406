"""Kept runs are what they say, or are named."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs
from PIL import Image
from safetensors.torch import load_file, save_file

import styleinv
from styleinv import InputError
from styleinv.encoder import BUNDLED_WEIGHTS, Encoder
from styleinv.images import save_png
from styleinv.runs import measures, store
from styleinv.runs.record import sealed
from styleinv.runs.sweeps import sweep
from styleinv.runs.verification import verify

CELL: dict[str, Any] = {"size": 32, "iterations": 9}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, bundled: Encoder) -> Path:
    """Two runs with pictures, fresh; one without, packed."""
    folder = tmp_path_factory.mktemp("kept")
    cell = {**CELL, "layers": ["relu_1_1"], "encoder": bundled}
    sweep(["bundled:dots"], losses=["gram", "moment-1"], folder=folder / "shown", **cell)
    sweep(["bundled:dots"], losses=["moment-2"], folder=folder / "bare", pictures=False, **cell)
    store.pack(folder / "bare")
    return folder


@pytest.fixture
def runs(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "runs"))


def gram(runs: Path) -> Path:
    return next(runs.glob("shown/*gram*.json"))


def alter(path: Path, *, seal: bool = True, **parts: Any) -> None:
    """Give a record in its own file other values, a dictionary for those of one of its parts."""
    record = store.read_record(path)
    values = {
        name: structs.replace(getattr(record, name), **value) if isinstance(value, dict) else value
        for name, value in parts.items()
    }
    other = sealed(record, **values) if seal else structs.replace(record, **values)
    path.write_bytes(msgspec.json.encode(other))


def test_finds_nothing_wrong_with_what_was_written(runs: Path) -> None:
    (runs / "shown" / "._a-relu_1_1-gram-seed0-01234567.json").write_bytes(b"\x00\x05\x16\x07")
    (runs / "shown" / "notes.json").write_text("{}")
    found = verify(runs, rerun=3)
    assert (found.records, found.pictures, found.measured) == (3, 2, 2)
    assert found.wrong == []
    assert found.unmeasured == Counter({"the picture is not kept": 1})
    assert len(found.reruns) == 3
    assert all(line.endswith("bit for bit the same") for line in found.reruns)


@pytest.mark.parametrize(
    "parts",
    [
        {"result": {"loss": 1e-9}},
        {"asked": {"seed": 5}},
        {"made_with": {"date": "2000-01-01"}},
        {"address": 64 * "0"},
        {"trace": ()},
    ],
)
def test_names_an_altered_record(runs: Path, parts: dict[str, Any]) -> None:
    alter(gram(runs), seal=False, **parts)
    (wrong,) = verify(runs).wrong
    assert f"record '{gram(runs)}' and its picture are not as they were written" in wrong


@pytest.mark.parametrize("name", ["colour_distance", "artefact_grid"])
def test_sees_through_a_new_seal(runs: Path, name: str) -> None:
    """Who alters a measure and seals the record again is found out by the picture."""
    kept = getattr(store.read(gram(runs)).record.measures, name)
    other = tuple(x + 0.01 for x in kept) if isinstance(kept, tuple) else 1.01 * kept
    alter(gram(runs), measures={name: other})
    (wrong,) = verify(runs).wrong
    assert f"{gram(runs).name}' has {name}" in wrong


def test_other_rounding_of_measures_is_not_wrong(runs: Path) -> None:
    """NumPy and SciPy may differ in last digits from release to release."""
    kept = structs.asdict(store.read_record(gram(runs)).measures)
    others = {name: x * (1 + 1e-5) for name, x in kept.items() if isinstance(x, float)}
    alter(gram(runs), measures=others)
    found = verify(runs)
    assert (found.wrong, found.measured) == ([], 2)


def test_says_what_it_cannot_measure(runs: Path) -> None:
    alter(gram(runs), measures={"version": measures.VERSION + 1})
    alter(next(runs.glob("shown/*moment-1*.json")), source="lost.png")
    found = verify(runs)
    assert (found.measured, found.wrong) == (0, [])
    assert sorted(found.unmeasured.values()) == [1, 1, 1]
    assert any(f"version {measures.VERSION + 1} of the measures" in x for x in found.unmeasured)
    assert found.unmeasured["the style image is not in the current folder"] == 1


def test_takes_the_style_image_that_is_kept_beside_the_runs(runs: Path) -> None:
    """As where another release of a library makes the style image with other last bits."""
    save_png(styleinv.load_style("bundled:dots", 32), runs / "styles" / "bundled-dots-32.png")
    for path in runs.glob("shown/*.json"):
        alter(path, asked={"style_sha256": 64 * "0"})
        alter(path, address=store.read_record(path).asked.address)
        for file in (path.with_suffix(".png"), path):
            file.rename(path.with_name(store.read_record(path).file_name).with_suffix(file.suffix))
    found = verify(runs)
    assert (found.measured, found.wrong) == (2, [])
    with pytest.raises(InputError, match="rerun is 3, but only 1 runs are small enough"):
        verify(runs, rerun=3)


def test_sees_through_an_invented_result(runs: Path) -> None:
    """A result that was never computed is found out by making the run again."""
    ((path, record),) = store.read_records(runs / "bare").items()
    first, second, *rest = record.trace
    invented = sealed(
        record,
        result=structs.replace(record.result, pixels_sha256=64 * "0", loss=10 * record.result.loss),
        trace=(first, structs.replace(second, loss=1.5 * second.loss), *rest),
    )
    (runs / "bare" / store.RECORDS).write_bytes(msgspec.json.encode(invented) + b"\n")
    assert verify(runs).wrong == []
    wrong = verify(runs, rerun=3).wrong
    assert ["at iteration" in wrong[0], "has final loss" in wrong[1]] == [True, True]
    assert all(path.name in sentence for sentence in wrong)


def test_sees_through_an_invented_loss_however_small(tmp_path: Path) -> None:
    """Weights of almost zero make a loss like the smallest of the committed ones."""
    weights = str(tmp_path / "weights.safetensors")
    whole = load_file(BUNDLED_WEIGHTS)
    save_file({name: 1e-7 * x for name, x in whole.items()}, weights)
    cell = {**CELL, "layers": ["relu_1_1"], "losses": ["histogram"], "encoder": weights}
    (kept,) = sweep(["bundled:dots"], folder=tmp_path, **cell).values()
    assert kept.path is not None
    assert 0 < kept.record.result.loss < 1e-9
    alter(kept.path, result={"loss": 3 * kept.record.result.loss})
    (wrong,) = verify(tmp_path, rerun=1, encoder=weights).wrong
    assert "made again has final loss" in wrong


def test_names_an_altered_lost_or_lone_picture(runs: Path) -> None:
    path = gram(runs).with_suffix(".png")
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    (wrong,) = verify(runs).wrong
    assert f"{path.stem}.json' and its picture are not as they were" in wrong
    for spoil in (lambda: path.write_bytes(b"\x89PNG"), path.unlink):
        spoil()
        (wrong,) = verify(runs).wrong
        assert f"{path.stem}.json' cannot be read" in wrong
    path.with_suffix(".json").unlink()
    Image.fromarray(pixels).save(path)
    assert verify(runs).wrong == [f"picture {str(path)!r} has no record"]


def test_names_damaged_and_repeated_lines(runs: Path) -> None:
    lines = runs / "bare" / store.RECORDS
    whole = lines.read_bytes()
    lines.write_bytes(whole + b"<<<<<<< HEAD\n" + whole)
    found = verify(runs)
    assert found.records == 5
    assert any(f"record '{lines}, line 2' cannot be read" in x for x in found.wrong)
    assert any(f"several records: {lines}, line 1 and {lines}, line 3" in x for x in found.wrong)
    assert len(found.wrong) == 2


def test_names_a_record_that_is_another_ones(runs: Path) -> None:
    path, other = gram(runs), next(runs.glob("shown/*moment-1*.json"))
    for suffix in (".json", ".png"):
        shutil.copy(other.with_suffix(suffix), path.with_suffix(suffix))
    assert verify(runs).wrong == [f"record {str(path)!r} has the name of another run"]


def test_a_result_of_other_rounding_is_the_same_within_the_tolerance(runs: Path) -> None:
    """Slightly different weights do here what another machine's rounding does."""
    encoder = styleinv.load_encoder("bundled")
    for weights in encoder.state_dict().values():
        weights *= 1 + 1e-4
    run = styleinv.invert(
        "bundled:dots", layer="relu_1_1", loss="moment-2", encoder=encoder, **CELL
    )
    store.save(store.without_picture(store.run_of(run)), runs / "bare")
    store.pack(runs / "bare")
    found = verify(runs, rerun=3)
    assert found.wrong == []
    assert sum("the same within the tolerance" in line for line in found.reruns) == 1


def test_refuses_a_folder_without_records(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must hold run records"):
        verify(tmp_path / "nothing")
