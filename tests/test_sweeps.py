"""Runs are made once: by a sweep, or one by one, whatever stops them on the way."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from styleinv import InputError
from styleinv.encoder import Encoder
from styleinv.inversion import plan
from styleinv.protocol import PROTOCOLS
from styleinv.runs import store
from styleinv.runs.store import Run
from styleinv.runs.sweeps import sweep


def test_sweep_computes_each_run_once(bundled: Encoder, tmp_path: Path) -> None:
    def swept() -> tuple[dict[tuple[str, str, str], Run], list[str]]:
        lines: list[str] = []
        runs = sweep(
            ["bundled:mosaic", "skimage:brick"],
            layers=["relu_1_1", "relu_1_2"],
            losses=["moment-1"],
            folder=tmp_path,
            encoder=bundled,
            protocol=PROTOCOLS["fast"].limited_to(4),
            size=32,
            report=lines.append,
        )
        return runs, lines

    (first, first_lines), (second, second_lines) = swept(), swept()
    styles, layers = ("bundled:mosaic", "skimage:brick"), ("relu_1_1", "relu_1_2")
    assert list(first) == list(product(styles, layers, ["moment-1"]))
    assert all("4 evaluations" in line for line in first_lines)
    assert all("kept" in line for line in second_lines)
    for key, run in first.items():
        assert second[key].record == run.record
        assert np.array_equal(second[key].image, run.image)


def test_what_another_process_is_making_comes_last(bundled: Encoder, tmp_path: Path) -> None:
    """So that two sweeps of the same runs share them, instead of waiting for each other."""
    task = plan("bundled:dots", layer="relu_1_1", size=16, encoder=bundled, iterations=2)
    path = store.path_of(task, tmp_path)
    elsewhere = FileLock(path.with_name(f".{path.stem}.lock"))
    elsewhere.acquire()
    made: list[str] = []

    def note(line: str) -> None:
        made.append(line)
        elsewhere.release()

    layers = ["relu_1_1", "relu_1_2", "relu_2_1"]
    runs = sweep(
        ["bundled:dots"],
        layers=layers,
        losses=["gram"],
        folder=tmp_path,
        encoder=bundled,
        size=16,
        iterations=2,
        report=note,
    )
    assert [layer for _, layer, _ in runs] == layers
    assert [line.split()[2] for line in made] == ["relu_1_2", "relu_2_1", "relu_1_1"]


@pytest.mark.parametrize("empty", ["styles", "layers", "losses"])
def test_sweep_refuses_nothing_to_do(bundled: Encoder, tmp_path: Path, empty: str) -> None:
    grid = {"styles": ["bundled:mosaic"], "layers": ["relu_1_1"], "losses": ["gram"], empty: []}
    with pytest.raises(InputError, match=f"{empty} is empty"):
        sweep(**grid, encoder=bundled, folder=tmp_path)


def test_a_checkpoint_that_cannot_be_written_changes_nothing(
    bundled: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once; the one before stays until the end, for a run that is killed meanwhile."""
    task = plan("bundled:dots", size=24, encoder=bundled, iterations=30)
    path = store.path_of(task, tmp_path).with_suffix(".checkpoint")
    stopped, _ = store.obtain(task, tmp_path, callback=lambda i: i.iteration == 5)
    assert stopped.path is None
    before, seen = path.read_bytes(), set[bytes]()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.warns(UserWarning, match=r"checkpoint' cannot be written: No space left on device"):
        run, found = store.obtain(
            task, tmp_path, every=0, callback=lambda _: seen.add(path.read_bytes())
        )
    assert (seen, found) == ({before}, False)
    same = store.run_of(task.run())
    assert run.record.result.pixels_sha256 == same.record.result.pixels_sha256
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".png"}


def test_made_anew_on_request(bundled: Encoder, tmp_path: Path) -> None:
    task = plan("bundled:dots", size=24, encoder=bundled, iterations=3)
    path = store.path_of(task, tmp_path)
    for again, was_found in ((False, False), (False, True), (True, False)):
        before = path.stat().st_mtime_ns if path.exists() else None
        run, found = store.obtain(task, tmp_path, again=again)
        assert (run.record, run.path, found) == (store.read_record(path), path, was_found)
        assert (path.stat().st_mtime_ns == before) == was_found


def test_an_interrupted_second_time_leaves_the_first(bundled: Encoder, tmp_path: Path) -> None:
    task = plan("bundled:dots", size=24, encoder=bundled, iterations=9)
    first, _ = store.obtain(task, tmp_path)
    stopped, _ = store.obtain(
        task, tmp_path, callback=lambda i: i.iteration == 3, again=True, unfinished=True
    )
    assert stopped.was_stopped
    assert stopped.path is None
    seen: list[int] = []
    again, found = store.obtain(
        task, tmp_path, callback=lambda i: seen.append(i.iteration), again=True
    )
    assert (seen[0], found) == (3, False)
    assert np.array_equal(again.image, first.image)


def test_what_a_process_leaves_that_is_killed_after_its_run_is_removed(
    bundled: Encoder, tmp_path: Path
) -> None:
    cell: dict[str, Any] = {"layers": ["relu_1_1"], "losses": ["gram"], "encoder": bundled}
    lines: list[str] = []
    for name in ("", ".checkpoint", ".lock"):
        if lines:
            (record,) = tmp_path.glob("*.json")
            hidden = "." * (name == ".lock")
            (tmp_path / f"{hidden}{record.stem}{name}").touch()
        sweep(["bundled:dots"], folder=tmp_path, size=16, iterations=2, report=lines.append, **cell)
        assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".png"]
    assert ["kept" in line for line in lines] == [False, True, True]
