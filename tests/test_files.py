"""File systems that refuse: what is done without, refused before the run, kept elsewhere."""

import errno
import os
import resource
import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import Timeout

from styleinv import InputError, invert
from styleinv.checkpoint import Checkpoint
from styleinv.encoder import Encoder
from styleinv.inversion import Inversion, Task, plan
from styleinv.runs import store
from styleinv.runs.locks import alone

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def task(bundled: Encoder) -> Task:
    return plan("bundled:dots", layer="relu_1_1", encoder=bundled, size=16, iterations=4)


def refuse(patch: Patch, call: str, code: int, part: str = "") -> None:
    """Have a call of the system fail, where its first argument has this part."""
    module, _, name = call.partition(".")
    real = getattr(__import__(module), name)

    def refused(*arguments: Any, **options: Any) -> Any:
        if part in str(arguments[0]):
            raise OSError(code, os.strerror(code))
        return real(*arguments, **options)

    patch.setattr(call, refused)


def seen(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("os.chmod", errno.EPERM),
        ("os.fchmod", errno.EPERM),
        ("os.utime", errno.EPERM),
        ("os.link", errno.EPERM),
        ("os.unlink", errno.EPERM),
        *(("os.fsync", code) for code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)),
    ],
)
def test_what_a_file_system_lacks_is_done_without(
    call: str, code: int, task: Task, tmp_path: Path, monkeypatch: Patch
) -> None:
    refuse(monkeypatch, call, code)
    run, _ = store.obtain(task, tmp_path, every=0)
    path = store.path_of(task, tmp_path)
    assert store.read(path).record == run.record
    if call != "os.unlink":
        assert seen(tmp_path) == [path.name, path.with_suffix(".png").name]
    again, found = store.obtain(task, tmp_path)
    assert (again.record, found) == (run.record, True)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_locks_a_file_is_one(code: int, tmp_path: Path, monkeypatch: Patch) -> None:
    refuse(monkeypatch, "fcntl.flock", code)
    lock, answers = tmp_path / ".lock", iter((False, True))

    def wait() -> None:
        with pytest.raises(Timeout), alone(lock, "another one has it", stop=partial(next, answers)):
            pass

    warned = pytest.warns(UserWarning, match="without locks|another one has it")
    with warned as said, alone(lock, ""), ThreadPoolExecutor() as other:
        other.submit(wait).result()
    assert [str(note.message).endswith("has it") for note in said] == [False, False, True]
    assert seen(tmp_path) == []


@pytest.mark.parametrize(
    ("call", "code"),
    [
        *(("os.replace", code) for code in (errno.EXDEV, errno.EPERM, errno.ENOSYS, errno.EBUSY)),
        *(("os.fsync", code) for code in (errno.EIO, errno.ENOSPC, errno.EDQUOT)),
        ("fcntl.flock", errno.EIO),
    ],
)
def test_what_cannot_be_done_without_ends_before_the_run(
    call: str, code: int, task: Task, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(Task, "run", lambda *_: pytest.fail("this would take hours"))
    refuse(monkeypatch, call, code)
    with pytest.raises(InputError, match=f"cannot be written: {os.strerror(code)}$") as refused:
        store.obtain(task, tmp_path)
    assert "trial" not in str(refused.value)
    checkpoint = tmp_path / "a.checkpoint"
    if call != "fcntl.flock":
        with pytest.raises(InputError, match=f"'{checkpoint}' cannot be written"):
            invert("bundled:dots", encoder=task.encoder, size=16, checkpoint=checkpoint)
    assert seen(tmp_path) == []


def at_its_end(patch: Patch, do: Callable[[], object]) -> None:
    """Have something happen when a run has ended, before it is written."""
    run = Task.run

    def run_then(task: Task, *arguments: Any) -> Inversion:
        inversion = run(task, *arguments)
        do()
        return inversion

    patch.setattr(Task, "run", run_then)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS])
@pytest.mark.parametrize("room", [True, False])
def test_a_finished_run_is_kept_elsewhere(
    room: bool, code: int, task: Task, tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    full = tmp_path / "out" if room else tmp_path
    at_its_end(monkeypatch, lambda: refuse(monkeypatch, "os.replace", code, str(full)))
    with pytest.raises(InputError, match=f"cannot be written: {os.strerror(code)}") as refused:
        store.obtain(task, tmp_path / "out")
    kept = [*(tmp_path / "temporary").iterdir()]
    if room:
        assert str(refused.value).endswith(f"; the run is in {str(kept[0])!r}")
        run = store.read(kept[0] / store.path_of(task, "out").name)
        assert torch.equal(torch.tensor(run.image), torch.tensor(store.run_of(task.run()).image))
    else:
        assert kept == []
    assert seen(tmp_path / "out") == []


def test_a_folder_that_is_gone_is_made_again(
    task: Task, tmp_path: Path, monkeypatch: Patch
) -> None:
    out = tmp_path / "out"
    at_its_end(monkeypatch, lambda: out.rename(tmp_path / "elsewhere"))
    run, _ = store.obtain(task, out)
    assert run.path is not None
    assert store.read(run.path).record == run.record


def test_a_full_disk_costs_a_checkpoint_and_no_run(tmp_path: Path) -> None:
    """The one before is still there. The limit is real: PyTorch has errors of its own for it."""
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", "a run", 1)
    checkpoint.write({"x": torch.zeros(10)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))
    try:
        with pytest.warns(UserWarning, match="File too large: the run goes on, without this check"):
            checkpoint.write({"x": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    state = checkpoint.read()
    assert state is not None
    assert len(state["x"]) == 10
    assert seen(tmp_path) == ["a.checkpoint"]


def test_a_checkpoint_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: Patch) -> None:
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", "a run", 1)
    checkpoint.write({})
    refuse(monkeypatch, "torch.load", errno.EIO)
    with pytest.warns(UserWarning, match=r"cannot be read \(Input/output error\): the run starts"):
        assert checkpoint.read() is None


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_run_is_found_where_nothing_can_be_written(
    code: int, task: Task, tmp_path: Path, monkeypatch: Patch
) -> None:
    made, _ = store.obtain(task, tmp_path)
    refuse(monkeypatch, "os.open", code, ".lock")
    found, was_found = store.obtain(task, tmp_path)
    assert (found.record, was_found) == (made.record, True)
    with pytest.raises(InputError, match=f"'{tmp_path}' cannot be written: {os.strerror(code)}"):
        store.obtain(task, tmp_path, again=True)


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o002])
def test_files_have_the_rights_that_the_reader_gives_files(
    mask: int, bundled: Encoder, tmp_path: Path
) -> None:
    """And the group of a folder that is shared by a group."""
    shared, modes = tmp_path / "shared", dict[str, int]()
    shared.mkdir()
    if os.geteuid() == 0:
        os.chown(shared, -1, 12345)
    shared.chmod(0o2770)
    cell: dict[str, Any] = {"layer": "relu_1_1", "encoder": bundled, "size": 16, "iterations": 3}

    def look(*_: object) -> None:
        for path in (shared / "runs").rglob("*"):
            assert path.stat().st_gid == shared.stat().st_gid
            modes[path.suffix] = stat.S_IMODE(path.stat().st_mode)

    before = os.umask(mask)
    try:
        store.obtain(plan("bundled:dots", **cell), shared / "runs", every=0, callback=look)
        look()
        store.pack(shared / "runs")
        look()
    finally:
        os.umask(before)
    wanted = dict.fromkeys((".png", ".json", ".jsonl", ".lock", ".checkpoint"), 0o666 & ~mask)
    assert modes == wanted
    assert stat.S_IMODE((shared / "runs").stat().st_mode) == 0o2000 | 0o777 & ~mask
