"""Kills before changes of files, two processes at once, a full disk.

Nothing is lost, nothing is corrupt, and what goes on ends as if nothing had happened. Files are all
that a killed process leaves behind, so changes of files tell its moments apart, however busy the
machine is. Processes are forked from a server that has imported everything, so that a kill costs a
tenth of a second.
"""

import hashlib
import itertools
import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import torch
from msgspec.structs import replace

from styleinv import InputError, cli
from styleinv.checkpoint import SUFFIX
from styleinv.inversion import plan
from styleinv.runs import store
from styleinv.runs.record import Record, sealed
from tests.conftest import wait_for
from tests.long import outcome, timeless, trace_in
from tests.test_book import new_project

FORKED = multiprocessing.get_context("forkserver")
# PyTorch's compiler, which is not used: its optimisers import it all the same, in a second.
FORKED.set_forkserver_preload(
    ["styleinv.cli", "styleinv_book.build", "torch._dynamo", "tests.long.test_kills"]
)
BUILD = "book --root ."
KILLED = -signal.SIGKILL
# What a process does to files, as Python tells its audit hooks (Linux and macOS).
CHANGES = {"open", "os.chmod", "os.mkdir", "os.remove", "os.rename"}


def command(
    arguments: str, folder: Path, kill_before: int = 0, watched: str = "out", largest: int = -1
) -> None:
    """In a process of its own: the command line, in `folder`, where what it says is kept.

    Args:
        kill_before: the process kills itself before so many changes of files...
        watched: ...in this folder in `folder`.
        largest: how many bytes a file may have: what a full disk is to a process.
    """
    os.setpgrp()
    torch.set_num_threads(1)
    os.chdir(folder)
    with open("log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    changes = itertools.count(1)

    def kill(event: str, arguments: tuple[Any, ...]) -> None:
        paths = [os.path.abspath(str(argument)) for argument in arguments[:2]]  # a move has two
        is_change = event in CHANGES and any(str(folder / watched) in path for path in paths)
        if is_change and next(changes) == kill_before:
            if event == "os.rename" and os.path.isfile(paths[0]):  # as if still being written
                os.truncate(paths[0], os.path.getsize(paths[0]) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    sys.argv = ["styleinv", *arguments.split()]
    try:
        cli.main()
    finally:
        Path("changes").write_text(str(next(changes)))


def started(arguments: str, folder: Path, **conditions: Any) -> ForkServerProcess:
    folder.mkdir(parents=True, exist_ok=True)
    process = FORKED.Process(target=command, args=(arguments, folder), kwargs=conditions)
    process.start()
    return process


def ended(arguments: str, folder: Path, **conditions: Any) -> int | None:
    """The exit code of a process."""
    process = started(arguments, folder, **conditions)
    process.join()
    return process.exitcode


def undisturbed(arguments: str, folder: Path) -> tuple[dict[str, Record], int]:
    """What a process that nobody disturbs makes, and in how many changes of files."""
    assert ended(arguments, folder) == 0, (folder / "log").read_text()
    return outcome(folder / "out"), int((folder / "changes").read_text())


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "moment-4", "size": 16},
        {"loss": "gram", "protocol": "chapter", "size": 24},
        {"loss": "mmd-random", "protocol": "chapter", "size": 16},
    ],
    ids=["fast", "adam", "random"],
)
def test_an_inversion_goes_on_from_where_it_was_killed(
    options: dict[str, Any], tmp_path: Path
) -> None:
    options = {**options, "iterations": 100}
    words = " ".join(f"--{option} {value}" for option, value in options.items())
    arguments = f"invert bundled:mosaic {words} --checkpoint-every 0"
    task = plan("bundled:mosaic", **options)
    expected, changes = undisturbed(arguments, tmp_path / "undisturbed")
    random, folder, traces = Random(0), tmp_path / "killed", []
    path, copy = store.path_of(task, folder / "out"), tmp_path / f"copy{SUFFIX}"
    while ended(arguments, folder, kill_before=random.randrange(1, changes // 3)) == KILLED:
        if path.with_suffix(SUFFIX).exists():
            shutil.copy(path.with_suffix(SUFFIX), copy)
            traces.append(trace_in(copy, task))
    assert outcome(folder / "out") == expected
    made = store.read(path).record.trace
    assert all(made[: len(trace)] == trace for trace in traces)
    assert any(traces)


def test_a_sweep_keeps_what_it_has_made(tmp_path: Path) -> None:
    arguments = (
        "sweep --style bundled:dots --style bundled:strokes --layer relu_1_1 --layer relu_2_1 "
        "--loss moment-2 --loss moment-4 --size 16 --iterations 50 --checkpoint-every 0"
    )
    expected, changes = undisturbed(arguments, tmp_path / "undisturbed")
    assert len(expected) == 8
    random, folder, kept = Random(0), tmp_path / "killed", dict[Path, int]()
    while ended(arguments, folder, kill_before=random.randrange(1, changes // 3)) == KILLED:
        found = {path: path.stat().st_mtime_ns for path in store.read_folder(folder / "out")}
        assert kept.items() <= found.items()
        kept = found
    assert outcome(folder / "out") == expected
    assert kept
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def test_a_batch_goes_on_from_where_it_was_killed(tmp_path: Path) -> None:
    """24 runs of all the chapter's losses side by side, killed three times: each as if alone."""
    arguments = (
        "sweep --style bundled:dots --style bundled:strokes --seeds 2 --layer relu_1_2 --size 32 "
        "--protocol chapter --iterations 30 --checkpoint-every 0"
    )
    alone, _ = undisturbed(f"{arguments} --batch 1", tmp_path / "alone")
    assert len(alone) == 24
    together, changes = undisturbed(f"{arguments} --batch 24", tmp_path / "together")
    assert together == alone
    random, folder = Random(0), tmp_path / "killed"
    for _ in range(3):
        moment = random.randrange(1, changes // 4)
        assert ended(f"{arguments} --batch 24", folder, kill_before=moment) == KILLED
    assert list((folder / "out").glob(f"*{SUFFIX}"))
    assert ended(f"{arguments} --batch 24", folder) == 0, (folder / "log").read_text()
    assert outcome(folder / "out") == alone


@pytest.mark.parametrize("before", ["nothing", "old"])
def test_a_kill_before_any_change_of_a_file(before: str, tmp_path: Path) -> None:
    """There is what was there, then the new run; in between, at one change, it is found out.

    The same command again tidies up, and ends the same.
    """
    brief = "invert bundled:dots --size 16 --iterations 2"
    ((name, new),) = undisturbed(brief, tmp_path)[0].items()
    made = store.read(tmp_path / "out" / name)
    pixels = 255 - made.image
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    result = replace(made.record.result, pixels_sha256=sha256)
    old = store.Run(sealed(replace(made.record, result=result)), pixels)
    records, states = {"old": timeless(old.record), "new": new}, list[str]()
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        if before == "old":
            store.save(old, folder / "out")
        code = ended(f"{brief} --checkpoint-every 0 --again", folder, kill_before=number)
        state = "nothing"
        with suppress(InputError, FileNotFoundError):
            record = timeless(store.read(folder / "out" / name).record)
            (state,) = (state for state in records if records[state] == record)
        states.append(state)
        assert ended(brief, folder) == 0
        assert outcome(folder / "out") == {name: records["old" if state == "old" else "new"]}
        if code == 0:
            break
        assert code == KILLED
    assert list(dict.fromkeys(states)) in ([before, "new"], ["old", "nothing", "new"])
    assert before == "nothing" or states.count("nothing") <= 1


@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.98])
def test_two_that_ask_for_the_same_run_at_once(share: float, tmp_path: Path) -> None:
    """One makes it, the other takes it up; where one is killed, the other one does both."""
    arguments = "invert bundled:mosaic --loss moment-4 --size 16 --iterations 100"
    arguments += " --checkpoint-every 0"
    expected, changes = undisturbed(arguments, tmp_path / "undisturbed")
    folder = tmp_path / "together"
    victim = started(arguments, folder, kill_before=int(share * changes))
    assert ended(arguments, folder) == 0
    victim.join()
    assert victim.exitcode in ([0, KILLED] if share else [0])
    assert outcome(folder / "out") == expected


@pytest.mark.parametrize(("size", "suffix"), [(64, ".png"), (16, ".json")])
def test_a_full_disk_leaves_the_run(size: int, suffix: str, tmp_path: Path) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    arguments = f"invert bundled:dots --size {size} --iterations 2"
    undisturbed(arguments, tmp_path)
    before = contents()
    assert ended(f"{arguments} --again", tmp_path, largest=1100) == 2
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith("Error: ")
    assert last.endswith(f"{suffix}' cannot be written: File too large.")
    assert contents() == before


def tiny_project(root: Path) -> Path:
    """A book of two pages."""
    toc = (new_project(root) / "_toc.yml").read_text()
    (root / "_toc.yml").write_text(toc.replace("- file: notebooks/pictures\n", ""))
    (root / "book" / "intro.md").write_text("# Tiny\n")
    return root


def pages_in(root: Path) -> dict[str, bytes]:
    """The book's files; not the notebooks' sources, whose cells have random names."""
    html = root / "_build" / "html"
    files = [path for path in html.rglob("*") if path.is_file() and path.suffix != ".ipynb"]
    return {str(path.relative_to(html)): path.read_bytes() for path in files}


def kill_build(root: Path, file: str, kill: Callable[[int, int], None]) -> None:
    """Build the book; kill that as soon as there are a child of it and such a file in `_build`."""
    process = started(BUILD, root)
    own = psutil.Process(process.pid)
    wait_for(lambda: own.children() and [*(root / "_build").glob(file)])
    kill(own.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == KILLED, (root / "log").read_text()


def test_a_book_is_the_last_one_or_the_new_one(tmp_path: Path) -> None:
    """Whether or not what it had started outlives it; the next build puts things in order."""
    assert ended(BUILD, tiny_project(tmp_path / "undisturbed")) == 0
    new, root = pages_in(tmp_path / "undisturbed"), tiny_project(tmp_path / "project")
    (root / "_build" / "html").mkdir(parents=True)
    (root / "_build" / "html" / "index.html").write_text("the last one")
    last = pages_in(root)
    # Its child is a notebook's kernel until there is an executed one; then it is jupyter-book.
    for file, kill in itertools.product((".lock", "executed/*.ipynb"), (os.kill, os.killpg)):
        kill_build(root, file, kill)
        assert pages_in(root) == last
    for change in (1, 2):
        assert ended(BUILD, root, kill_before=change, watched="_build/html") == KILLED
        assert pages_in(root) in (last, {})
    assert ended(BUILD, root) == 0, (root / "log").read_text()
    assert pages_in(root) == new
