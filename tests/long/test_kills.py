"""Kills at random moments, and at every change of a file; two processes at once; a full disk.

Nothing is lost, nothing is corrupt, and what goes on ends as if nothing had happened. Processes are
forked from a server that has imported everything, so that a kill costs a tenth of a second.
"""

import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings
from collections import Counter
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from styleinv import InputError, cli
from styleinv.checkpoint import SUFFIX, Checkpoint
from styleinv.images import Pixels
from styleinv.runs import store
from styleinv.runs.store import Record, Run

FORKED = multiprocessing.get_context("forkserver")
# PyTorch's compiler, which is not used: its optimisers import it all the same, in a second.
FORKED.set_forkserver_preload(
    ["styleinv.cli", "styleinv.book", "torch._dynamo", "tests.test_kills"]
)

INVERSIONS = {
    "fast": "--loss moment-4 --size 16 --iterations 100 --checkpoint-every 0",
    "adam": "--loss gram --protocol chapter --size 24 --iterations 100 --checkpoint-every 0",
    "random": "--loss mmd-random --protocol chapter --size 16 --iterations 100 "
    "--checkpoint-every 0",
}
SWEEP = (
    "sweep --style bundled:dots --style bundled:strokes --layer relu_1_1 --layer relu_2_1 "
    "--loss moment-2 --loss moment-4 --size 16 --iterations 50 --checkpoint-every 0"
)
# A run of some changes to files and little else.
BRIEF = "invert bundled:dots --size 16 --iterations 2"
PROJECT = {
    "_config.yml": "title: Tiny\nonly_build_toc_files: true\n",
    "_toc.yml": "format: jb-book\nroot: book/intro\nchapters:\n- file: notebooks/runs\n",
    "book/intro.md": "# Tiny\n",
    "notebooks/runs.md": """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
# Runs

```{code-cell} ipython3
:tags: [parameters]
layers = ["relu_1_1", "relu_2_1"]
```
```{code-cell} ipython3
import styleinv
options = {"size": 16, "iterations": 20, "folder": "../_build/runs"}
runs = styleinv.sweep(["bundled:dots"], layers=layers, losses=["gram"], **options)
print([run.record["result"]["pixels_sha256"] for run in runs.values()])
```
""",
}
KILLS_PER_TEST = 9
KILLED = -signal.SIGKILL
# What a process does to files, as Python tells its audit hooks (Linux and macOS).
CHANGES = {"open", "os.chmod", "os.mkdir", "os.remove", "os.rename"}


@pytest.fixture(scope="module", autouse=True)
def _server(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Start what processes are forked from, which takes seconds, before anything is timed."""
    assert ended("--version", tmp_path_factory.mktemp("server")) == 0


@pytest.fixture(scope="module")
def kills() -> Counter[str]:
    """How many came in time, by what they hit."""
    return Counter()


def command(
    arguments: str,
    folder: Path,
    *,
    kill_before: int = 0,
    watched: str = "out",
    bytes_per_file: int | None = None,
) -> None:
    """In a process of its own: the command line, in `folder`, where what it says is kept.

    Args:
        kill_before: the process kills itself before so many changes of files...
        watched: ...in this folder in `folder`.
        bytes_per_file: how large a file may become: what a full disk is to a process.
    """
    os.setpgrp()
    torch.set_num_threads(1)
    os.chdir(folder)
    with open(f"log-{os.getpid()}", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if bytes_per_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, bytes_per_file))
    if kill_before:
        _kill_before_change(kill_before, str(folder / watched))
    sys.argv = ["styleinv", *arguments.split()]
    try:
        cli.main()
    finally:
        Path("seconds").write_text(str(time.process_time()))


def _kill_before_change(number: int, watched: str) -> None:
    left = number

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        paths = [os.path.abspath(str(argument)) for argument in arguments[:2]]  # a move has two
        if event in CHANGES and any(watched in path for path in paths):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def started(arguments: str, folder: Path, **conditions: Any) -> ForkServerProcess:
    folder.mkdir(parents=True, exist_ok=True)
    process = FORKED.Process(target=command, args=(arguments, folder), kwargs=conditions)
    process.start()
    return process


def ended(arguments: str, folder: Path, **conditions: Any) -> int | None:
    """The exit code of a process that nobody disturbs."""
    process = started(arguments, folder, **conditions)
    process.join()
    return process.exitcode


def killed(process: ForkServerProcess, seconds: float) -> bool:
    """Whether the process was still at it when it had used up so many seconds.

    Its own ones: by the clock, a busy machine would have it killed before it has begun.
    """
    try:
        own = psutil.Process(process.pid)
        while own.is_running() and sum(own.cpu_times()[:2]) < seconds:
            time.sleep(0.003)
    except psutil.NoSuchProcess:
        pass
    process.kill()
    process.join()
    assert process.exitcode in (0, KILLED)
    return process.exitcode == KILLED


def said(folder: Path) -> list[str]:
    return [log.read_text() for log in sorted(folder.glob("log-*"))]


def timeless(record: Record) -> Record:
    """A record without what tells when, and how fast, the run was made."""
    bare = json.loads(json.dumps(record))
    del bare["sha256"], bare["made_with"]["date"], bare["result"]["seconds"]
    for point in bare["trace"]:
        del point["seconds"]
    return bare


def outcome(folder: Path) -> dict[str, Record]:
    """The runs in `folder/out`, all intact and with nothing beside them."""
    runs = store.read_folder(folder / "out")
    expected = {path.with_suffix(suffix) for path in runs for suffix in (".json", ".png")}
    assert set((folder / "out").iterdir()) == expected
    return {path.name: timeless(run.record) for path, run in runs.items()}


def undisturbed(arguments: str, folder: Path) -> tuple[dict[str, Record], float]:
    """What a process that nobody disturbs makes, and in how many seconds of its own."""
    assert ended(arguments, folder) == 0, said(folder)
    return outcome(folder), float((folder / "seconds").read_text())


def iterations_kept(folder: Path) -> int:
    """Of a run that was killed: 0 before its first checkpoint, all of them after its end."""
    out = folder / "out"
    for path in out.glob("*.json"):
        return store.read(path).record["result"]["iterations"]
    for path in out.glob(f"*{SUFFIX}"):
        with np.load(path) as archive:
            return json.loads(archive["values.json"].tobytes())["values"]["iteration"]
    return 0


@pytest.mark.parametrize("name", INVERSIONS)
def test_an_inversion_goes_on_from_where_it_was_killed(
    name: str, tmp_path: Path, kills: Counter[str]
) -> None:
    arguments = f"invert bundled:mosaic {INVERSIONS[name]}"
    expected, seconds = undisturbed(arguments, tmp_path / "undisturbed")
    random, kept_at_kills = Random(name), []
    for number in itertools.count():
        folder, kept = tmp_path / str(number), [0]
        # A kill is as likely at one moment as at any other.
        while killed(started(arguments, folder), random.expovariate(3 / seconds)):
            kept.append(iterations_kept(folder))
        assert kept == sorted(kept)
        assert outcome(folder) == expected
        kept_at_kills += kept[1:]
        if len(kept_at_kills) >= KILLS_PER_TEST:
            break
    assert any(kept_at_kills)
    kills[name] = len(kept_at_kills)


def test_a_sweep_keeps_what_it_has_made(tmp_path: Path, kills: Counter[str]) -> None:
    expected, seconds = undisturbed(SWEEP, tmp_path / "undisturbed")
    assert len(expected) == 8
    random = Random("sweep")
    for number in itertools.count():
        folder, before = tmp_path / str(number), {}
        while killed(started(SWEEP, folder), random.expovariate(3 / seconds)):
            kills["sweep"] += 1
            runs = store.read_folder(folder / "out")
            after = {path: path.stat().st_mtime_ns for path in runs}
            assert before.items() <= after.items()
            before = after
        assert outcome(folder) == expected
        assert all(path.stat().st_mtime_ns == written for path, written in before.items())
        if kills["sweep"] >= KILLS_PER_TEST:
            break


def with_picture(run: Run, pixels: Pixels) -> Run:
    """The run as if another version of the code had come to another picture."""
    result = {**run.record["result"], "pixels_sha256": store._pixels_sha256(pixels)}
    record = {**run.record, "result": result}
    return Run({**record, "sha256": store.seal(record)}, pixels)


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of `BRIEF`, as it was kept."""
    folder = tmp_path_factory.mktemp("brief")
    undisturbed(BRIEF, folder)
    (run,) = store.read_folder(folder / "out").values()
    return run


@pytest.fixture(scope="module")
def other(brief: Run) -> Run:
    """Another version's run at the same address."""
    return with_picture(brief, 255 - brief.image)


def test_a_kill_before_any_change_of_a_file(brief: Run, tmp_path: Path) -> None:
    """The same command again tidies up, and ends the same."""
    arguments = f"{BRIEF} --checkpoint-every 0"
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        code = ended(arguments, folder, kill_before=number)
        assert code in (0, KILLED)
        assert ended(arguments, folder) == 0
        assert outcome(folder) == {brief.path.name: timeless(brief.record)}
        if code == 0:
            break
    assert number > 20


def _kept(path: Path, runs: dict[str, Run]) -> str:
    """Which of these runs is there, or neither."""
    try:
        found = timeless(store.read(path).record)
    except InputError:
        return "neither"
    return next(name for name, run in runs.items() if timeless(run.record) == found)


def test_a_kill_before_any_change_while_a_run_is_replaced(
    brief: Run, other: Run, tmp_path: Path
) -> None:
    """It is the old one, then the new one; in between, at one change, it is found out."""
    states = []
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        path = store.save(other, folder / "out")
        code = ended(f"{BRIEF} --again", folder, kill_before=number)
        states.append(_kept(path, {"old": other, "new": brief}))
        assert ended(BRIEF, folder) == 0
        ((_, record),) = outcome(folder).items()
        assert record == timeless((other if states[-1] == "old" else brief).record)
        if code == 0:
            break
    assert list(dict.fromkeys(states)) in (["old", "new"], ["old", "neither", "new"])
    assert states.count("neither") <= 1


def keep_saving(runs: list[Run], folder: Path) -> None:
    """In a process of its own."""
    for run in itertools.cycle(runs):
        store.save(run, folder)


def keep_checkpoints(states: list[dict[str, Any]], path: Path) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    checkpoint = Checkpoint(path, "run", 1)
    for state in itertools.cycle(states):
        checkpoint.write(state)


def test_a_record_is_there_in_full_or_not_at_all(
    brief: Run, tmp_path: Path, kills: Counter[str]
) -> None:
    """A large picture and a long record, for a process that does nothing but write them."""
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    large = with_picture(brief, pixels)
    longer = {**large.record, "trace": 2000 * large.record["trace"]}
    runs = [large, Run({**longer, "sha256": store.seal(longer)}, pixels)]
    saved = [run.record for run in runs]
    random, found = Random("record"), []
    for _ in range(KILLS_PER_TEST):
        process = FORKED.Process(target=keep_saving, args=(runs, tmp_path))
        process.start()
        kills["record"] += killed(process, random.uniform(0, 0.3))
        found += [store.read(path).record for path in tmp_path.glob("*.json")]
    assert found
    assert all(record in saved for record in found)


def test_a_checkpoint_is_there_in_full_or_not_at_all(tmp_path: Path, kills: Counter[str]) -> None:
    states = [{"number": n, "x": torch.full((300_000,), float(n))} for n in (1, 2)]
    random, found = Random("checkpoint"), []
    path = tmp_path / "a.checkpoint"
    for _ in range(KILLS_PER_TEST):
        process = FORKED.Process(target=keep_checkpoints, args=(states, path))
        process.start()
        kills["checkpoint"] += killed(process, random.uniform(0, 0.2))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found.append(Checkpoint(path, "run", 1).read())
    for state in filter(None, found):
        assert (state["x"] == state["number"]).all()
    assert any(found)


def test_two_that_ask_for_the_same_run_at_once(tmp_path: Path, kills: Counter[str]) -> None:
    """One makes it, the other takes it up; where one is killed, the other one does both."""
    arguments = f"invert bundled:mosaic {INVERSIONS['fast']}"
    expected, seconds = undisturbed(arguments, tmp_path / "undisturbed")
    random = Random("two")
    for number in range(5):
        folder = tmp_path / str(number)
        first, second = processes = [started(arguments, folder) for _ in range(2)]
        lost = number % 2 and killed(random.choice(processes), random.uniform(0, seconds))
        for process in processes:
            process.join()
        kills["two"] += lost
        assert sorted((first.exitcode, second.exitcode)) == ([KILLED, 0] if lost else [0, 0])
        assert outcome(folder) == expected
        if not lost:
            assert sum("kept from an earlier run" in text for text in said(folder)) == 1


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Every file with its time."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def refusal(folder: Path) -> str:
    """The only sentence that the last process said, and that it was one of refusal."""
    last = max(folder.glob("log-*"), key=lambda log: log.stat().st_mtime_ns).read_text()
    assert "Traceback" not in last
    (sentence,) = [line for line in last.splitlines() if line.startswith("Error: ")]
    return sentence


def test_a_full_disk_leaves_the_checkpoint(brief: Run, tmp_path: Path) -> None:
    arguments = f"{BRIEF} --checkpoint-every 0"
    assert ended(arguments, tmp_path, kill_before=20) == KILLED
    (checkpoint,) = (tmp_path / "out").glob(f"*{SUFFIX}")
    before = contents(checkpoint.parent)[checkpoint]
    assert ended(arguments, tmp_path, bytes_per_file=4000) == 2
    assert f"{checkpoint.name}' cannot be written: File too large" in refusal(tmp_path)
    assert contents(checkpoint.parent) == {checkpoint: before}
    assert ended(arguments, tmp_path) == 0
    assert outcome(tmp_path) == {brief.path.name: timeless(brief.record)}


@pytest.mark.parametrize(("size", "suffix"), [(64, ".png"), (16, ".json")])
def test_a_full_disk_leaves_the_run(size: int, suffix: str, tmp_path: Path) -> None:
    arguments = f"invert bundled:dots --size {size} --iterations 2"
    undisturbed(arguments, tmp_path)
    before = contents(tmp_path / "out")
    assert ended(f"{arguments} --again", tmp_path, bytes_per_file=1100) == 2
    assert f"{suffix}' cannot be written: File too large" in refusal(tmp_path)
    assert contents(tmp_path / "out") == before


def test_a_full_disk_leaves_what_a_sweep_has_made(tmp_path: Path) -> None:
    few = "sweep --style bundled:dots --layer relu_1_1 --iterations 2 --loss gram"
    undisturbed(f"{few} --size 16", tmp_path)
    before = contents(tmp_path / "out")
    assert ended(f"{few} --loss mmd --size 16", tmp_path, bytes_per_file=1100) == 2
    assert "cannot be written: File too large" in refusal(tmp_path)
    assert contents(tmp_path / "out") == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody can write")
def test_a_folder_that_nobody_can_write(tmp_path: Path) -> None:
    for arguments in (BRIEF, "sweep --style bundled:dots --size 16 --iterations 2"):
        assert ended(f"{arguments} --out /proc/self/fdinfo/out", tmp_path) == 2
        assert "/proc/self/fdinfo" in refusal(tmp_path)


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("call", ["replace", "fsync", "unlink"])
def test_a_disk_that_refuses_midway(
    call: str, reason: int, brief: Run, other: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save(other, tmp_path)
    before = contents(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(reason, os.strerror(reason))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        if call == "unlink":
            patched.setattr(os, "fsync", refuse)
        with pytest.raises(InputError, match=f"png' cannot be written: {os.strerror(reason)}"):
            store.save(brief, tmp_path)
    assert before.items() <= contents(tmp_path).items()
    if call != "unlink":
        assert contents(tmp_path) == before


def new_project(root: Path) -> Path:
    """A book of two pages; one of them makes two runs."""
    for page, text in PROJECT.items():
        (root / page).parent.mkdir(parents=True, exist_ok=True)
        (root / page).write_text(text)
    return root


def book_in(root: Path) -> dict[str, str]:
    """The pages' files by their hash; not the notebooks' sources, whose cells have random names."""
    html = root / "_build" / "html"
    return {
        str(path.relative_to(html)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in html.rglob("*")
        if path.is_file() and path.suffix != ".ipynb"
    }


def test_a_book_is_the_last_one_or_the_new_one(tmp_path: Path, kills: Counter[str]) -> None:
    """Whether or not what it had started outlives it; the next build puts things in order."""
    build = "book --root ."
    began = time.monotonic()
    assert ended(build, new_project(tmp_path / "undisturbed")) == 0
    seconds = time.monotonic() - began
    new = book_in(tmp_path / "undisturbed")
    root = new_project(tmp_path / "project")
    (root / "_build" / "html").mkdir(parents=True)
    (root / "_build" / "html" / "index.html").write_text("the last one")
    last = book_in(root)
    random = Random("book")
    for number in range(4):
        process = started(build, root)
        process.join(random.uniform(0, 0.5) * seconds)  # the later ones have no notebook to run
        if number % 2:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        assert process.exitcode in (0, KILLED), said(root)
        kills["book"] += process.exitcode == KILLED
        assert book_in(root) in (last, new)
    for change in (1, 2):
        code = ended(build, root, kill_before=change, watched="_build/html")
        kills["book"] += code == KILLED
        assert book_in(root) in (last, new, {})
    assert ended(build, root) == 0, said(root)
    assert book_in(root) == new


def test_fifty_kills_were_in_time(kills: Counter[str]) -> None:
    hit = {*INVERSIONS, "sweep", "record", "checkpoint", "two", "book"}
    if set(kills) != hit:
        pytest.skip("counts those of the tests above, all of them")
    assert kills.total() >= 50
