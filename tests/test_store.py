"""Runs are kept, found, packed, and refused if they were altered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from styleinv import InputError
from styleinv.encoder import Encoder
from styleinv.inversion import RESULTS_VERSION, Task, plan
from styleinv.machine import duration
from styleinv.protocol import CHAPTER_ITERATIONS, PROTOCOLS
from styleinv.runs import store
from styleinv.runs.record import Record, asked_of, sealed
from styleinv.runs.store import Run


@pytest.fixture(scope="module")
def tasks(bundled: Encoder) -> list[Task]:
    cell: dict[str, Any] = {"encoder": bundled, "size": 16, "iterations": 12, "layer": "relu_1_1"}
    return [plan("bundled:dots", loss=loss, **cell) for loss in ("gram", "moment-1", "mmd")]


@pytest.fixture(scope="module")
def runs(tasks: list[Task]) -> list[Run]:
    return [store.run_of(task.run()) for task in tasks]


@pytest.fixture
def path(runs: list[Run], tmp_path: Path) -> Path:
    """The record of the first run, in a folder of its own."""
    return store.save(runs[0], tmp_path)


def test_a_run_is_read_and_found_as_it_was_written(
    tasks: list[Task], runs: list[Run], path: Path
) -> None:
    for run in (store.read(path), store.find(tasks[0], path.parent)):
        assert run is not None
        assert run.record == runs[0].record
        assert np.array_equal(run.image, runs[0].image)
        assert run.path == path == store.path_of(tasks[0], path.parent)
    assert store.find(tasks[1], path.parent) is None


def test_packed_runs_are_the_same_runs(tasks: list[Task], runs: list[Run], tmp_path: Path) -> None:
    paths = [store.save(run, tmp_path) for run in runs[:2]]
    paths.append(store.save(store.without_picture(runs[2]), tmp_path))
    before = store.read_folder(tmp_path)
    store.pack(tmp_path)
    assert sorted(x.suffix for x in tmp_path.iterdir()) == [".jsonl", ".png", ".png"]
    after = store.read_folder(tmp_path)
    assert list(after) == list(before) == sorted(paths)
    for task, path in zip(tasks, paths, strict=True):
        found, was_found = store.obtain(task, tmp_path)
        assert was_found
        assert found.record == before[path].record
    assert not found.record.picture
    with pytest.raises(InputError, match="kept without its picture"):
        _ = found.image


def test_packing_adds_and_replaces(runs: list[Run], tmp_path: Path) -> None:
    """As after a kill, one record is in both places; its own file counts."""
    path = store.save(runs[0], tmp_path)
    store.pack(tmp_path)
    newer = altered(runs[0].record, "made_with", date="2030-01-01")
    store.save(Run(newer, runs[0].pixels), tmp_path)
    store.save(runs[1], tmp_path)
    (tmp_path / "strange-seed0-01234567.json").write_bytes(msgspec.json.encode(runs[2].record))
    assert store.read_record(path) == newer
    for _ in range(2):
        store.pack(tmp_path)
        assert [x.name for x in tmp_path.glob("*.json")] == ["strange-seed0-01234567.json"]
        assert store.read_record(path) == newer
        assert len(store.packed_lines(tmp_path)) == 2


def altered(record: Record, part: str, **values: object) -> Record:
    """The record with other values in one of its parts, sealed again."""
    return sealed(record, **{part: msgspec.structs.replace(getattr(record, part), **values)})


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("made_with", {"results": RESULTS_VERSION - 1}),
        ("result", {"stop_reason": "time"}),
        ("result", {"stop_reason": "stopped"}),
    ],
)
def test_a_run_of_another_version_or_without_its_end_is_not_found(
    tasks: list[Task], runs: list[Run], tmp_path: Path, part: str, values: dict[str, object]
) -> None:
    other = Run(altered(runs[0].record, part, **values), runs[0].pixels)
    assert store.read(store.save(other, tmp_path)).record == other.record
    assert store.find(tasks[0], tmp_path) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace(b'"seed":0', b'"seed":1'),
        lambda text: text.replace(b'"seed":0', b'"seed":0,"colour":1'),
        lambda text: text.replace(b'"seed":0,', b""),
        lambda text: text.replace(b'"relu_1_1"', b'"../relu_1_1"'),
        lambda text: text.replace(b'"artefacts":', b'"artefacts":1' + 400 * b"0"),
        lambda text: text[:-9],
        lambda text: text.replace(b"dots", b"d\xffts"),
        lambda text: 100_000 * b"[",
    ],
)
def test_a_damaged_record_is_named_and_made_again(
    tasks: list[Task], runs: list[Run], path: Path, damage: Callable[[bytes], bytes]
) -> None:
    path.write_bytes(damage(msgspec.json.encode(runs[0].record)))
    with pytest.raises(InputError, match=r"cannot be read|not as they were") as refused:
        store.read_folder(path.parent)
    assert str(path) in str(refused.value)
    with pytest.warns(UserWarning, match="the run is made again"):
        assert store.find(tasks[0], path.parent) is None


def test_a_damaged_line_is_named_and_leaves_the_others(
    tasks: list[Task], runs: list[Run], tmp_path: Path
) -> None:
    whole = msgspec.json.encode(store.without_picture(runs[2]).record)
    (tmp_path / store.RECORDS).write_bytes(whole + b"\n" + whole[:-9] + b"\n")
    with pytest.raises(InputError, match=rf"'{tmp_path / store.RECORDS}, line 2' cannot be read"):
        store.read_folder(tmp_path)
    (tmp_path / store.RECORDS).write_bytes(whole[9:] + b"\n" + whole + b"\n")
    assert store.find(tasks[2], tmp_path) is not None


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("loss", CHAPTER_ITERATIONS)
def test_a_record_has_the_address_of_its_task(bundled: Encoder, protocol: str, loss: str) -> None:
    task = plan("bundled:dots", loss=loss, encoder=bundled, protocol=protocol, size=16)
    assert asked_of(task).address == task.address


def test_a_record_knows_what_iterations_were_asked_for(runs: list[Run], bundled: Encoder) -> None:
    record = runs[0].record
    assert record.iterations_asked == 12
    own = asked_of(plan("bundled:dots", layer="relu_1_1", encoder=bundled, size=16))
    assert msgspec.structs.replace(record, asked=own).iterations_asked is None


def test_the_name_of_a_file_is_short_enough(runs: list[Run]) -> None:
    record = msgspec.structs.replace(runs[0].record, style=300 * chr(0x1F3A8))
    assert len(record.file_name.encode()) <= 255 - len(".12345678")


def test_half_of_a_trace_keeps_its_ends(runs: list[Run]) -> None:
    trace = runs[0].record.trace
    shorter = store.without_picture(runs[0]).record.trace
    assert (shorter[0], shorter[-1]) == (trace[0], trace[-1])
    assert set(shorter) < set(trace)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.46, "0.5 s"), (59.6, "1:00 min"), (36_061, "10:01 h")]
)
def test_durations_are_short_texts(seconds: float, text: str) -> None:
    assert duration(seconds) == text
