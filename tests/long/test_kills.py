"""Kills at random moments, and before every change of a file; two processes at once; a full disk.

Nothing is lost, nothing is corrupt, and what goes on ends as if nothing had happened. Processes are
forked from a server that has imported everything, so that a kill costs a tenth of a second.
"""

import hashlib
import itertools
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
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
from tests.long import outcome, timeless, trace_in

FORKED = multiprocessing.get_context("forkserver")
# PyTorch's compiler, which is not used: its optimisers import it all the same, in a second.
FORKED.set_forkserver_preload(
    ["styleinv.cli", "styleinv_book.build", "torch._dynamo", "tests.long.test_kills"]
)

INVERSIONS: dict[str, dict[str, Any]] = {
    "fast": {"loss": "moment-4", "size": 16},
    "adam": {"loss": "gram", "protocol": "chapter", "size": 24},
    "random": {"loss": "mmd-random", "protocol": "chapter", "size": 16},
}
SWEEP = (
    "sweep --style bundled:dots --style bundled:strokes --layer relu_1_1 --layer relu_2_1 "
    "--loss moment-2 --loss moment-4 --size 16 --iterations 50 --checkpoint-every 0"
)
# A run of some changes to files and little else.
BRIEF = "invert bundled:dots --size 16 --iterations 2"
# A book of two pages.
PROJECT = {
    "_config.yml": "title: Tiny\nonly_build_toc_files: true\n",
    "_toc.yml": "format: jb-book\nroot: book/intro\nchapters:\n- file: notebooks/sum\n",
    "book/intro.md": "# Tiny\n",
    "notebooks/sum.md": """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
# Sum

```{code-cell} ipython3
:tags: [parameters]
seeds = [1, 2]
```
```{code-cell} ipython3
print(sum(seeds))
```
""",
}
ROUNDS = 3
KILLED = -signal.SIGKILL
# What a process does to files, as Python tells its audit hooks (Linux and macOS).
CHANGES = {"open", "os.chmod", "os.mkdir", "os.remove", "os.rename"}


@pytest.fixture(scope="module", autouse=True)
def _server(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Start what processes are forked from, which takes seconds, before anything is timed."""
    assert ended("--version", tmp_path_factory.mktemp("server")) == 0


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
    sys.addaudithook(_killer(kill_before, str(folder / watched)))
    sys.argv = ["styleinv", *arguments.split()]
    try:
        cli.main()
    finally:
        Path("seconds").write_text(str(time.process_time()))


def _killer(number: int, watched: str) -> Callable[[str, tuple[Any, ...]], None]:
    """A hook that kills the process before its change `number` of a file."""
    changes = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        paths = [os.path.abspath(str(argument)) for argument in arguments[:2]]  # a move has two
        if event in CHANGES and any(watched in path for path in paths) and next(changes) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


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
    with suppress(psutil.NoSuchProcess):
        own = psutil.Process(process.pid)
        while own.is_running() and sum(own.cpu_times()[:2]) < seconds:
            time.sleep(0.003)
    process.kill()
    process.join()
    assert process.exitcode in (0, KILLED)
    return process.exitcode == KILLED


def undisturbed(arguments: str, folder: Path) -> tuple[dict[str, Record], float]:
    """What a process that nobody disturbs makes, and in how many seconds of its own."""
    assert ended(arguments, folder) == 0, (folder / "log").read_text()
    return outcome(folder / "out"), float((folder / "seconds").read_text())


@pytest.mark.parametrize("name", INVERSIONS)
def test_an_inversion_goes_on_from_where_it_was_killed(name: str, tmp_path: Path) -> None:
    options = {**INVERSIONS[name], "iterations": 100}
    words = " ".join(f"--{option} {value}" for option, value in options.items())
    arguments = f"invert bundled:mosaic {words} --checkpoint-every 0"
    task = plan("bundled:mosaic", **options)
    expected, seconds = undisturbed(arguments, tmp_path / "undisturbed")
    random, copy, traces = Random(name), tmp_path / f"copy{SUFFIX}", []
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        path, traces = store.path_of(task, folder / "out"), []
        # A kill is as likely at one moment as at any other.
        while killed(started(arguments, folder), random.expovariate(3 / seconds)):
            if path.with_suffix(SUFFIX).exists():
                shutil.copy(path.with_suffix(SUFFIX), copy)
                traces.append(trace_in(copy, task))
        assert outcome(folder / "out") == expected
        made = store.read(path).record.trace
        assert all(made[: len(trace)] == trace for trace in traces)
        copy.unlink(missing_ok=True)
    assert any(traces)


def test_a_sweep_keeps_what_it_has_made(tmp_path: Path) -> None:
    expected, seconds = undisturbed(SWEEP, tmp_path / "undisturbed")
    assert len(expected) == 8
    random, kept = Random("sweep"), dict[Path, int]()
    for number in range(ROUNDS):
        folder, before = tmp_path / str(number), dict[Path, int]()
        while killed(started(SWEEP, folder), random.expovariate(3 / seconds)):
            after = {path: path.stat().st_mtime_ns for path in store.read_folder(folder / "out")}
            assert before.items() <= after.items()
            before = after
        assert outcome(folder / "out") == expected
        assert all(path.stat().st_mtime_ns == written for path, written in before.items())
        kept |= before
    assert kept


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> store.Run:
    """The run of `BRIEF`, as it was kept."""
    folder = tmp_path_factory.mktemp("brief")
    undisturbed(BRIEF, folder)
    (run,) = store.read_folder(folder / "out").values()
    return run


@pytest.mark.parametrize("before", ["nothing", "old"])
def test_a_kill_before_any_change_of_a_file(before: str, brief: store.Run, tmp_path: Path) -> None:
    """There is what was there, then the new run; in between, at one change, it is found out.

    The same command again tidies up, and ends the same.
    """
    pixels = 255 - brief.image
    sha256 = hashlib.sha256(pixels.tobytes()).hexdigest()
    result = replace(brief.record.result, pixels_sha256=sha256)
    old = store.Run(sealed(replace(brief.record, result=result)), pixels)
    records, states = {"old": timeless(old.record), "new": timeless(brief.record)}, []
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        if before == "old":
            store.save(old, folder / "out")
        code = ended(f"{BRIEF} --checkpoint-every 0 --again", folder, kill_before=number)
        state = "nothing"
        with suppress(InputError, FileNotFoundError):
            record = timeless(store.read(folder / "out" / brief.path.name).record)
            (state,) = (name for name in records if records[name] == record)
        states.append(state)
        assert ended(BRIEF, folder) == 0
        made = outcome(folder / "out")
        assert made == {brief.path.name: records["old" if state == "old" else "new"]}
        if code == 0:
            break
        assert code == KILLED
    assert number > 20
    assert list(dict.fromkeys(states)) in ([before, "new"], ["old", "nothing", "new"])
    assert before == "nothing" or states.count("nothing") <= 1


def test_two_that_ask_for_the_same_run_at_once(tmp_path: Path) -> None:
    """One makes it, the other takes it up; where one is killed, the other one does both."""
    arguments = "invert bundled:mosaic --loss moment-4 --size 16 --iterations 100"
    expected, seconds = undisturbed(arguments, tmp_path / "undisturbed")
    random = Random("two")
    for number in range(4):
        folder = tmp_path / str(number)
        processes = [started(arguments, folder) for _ in range(2)]
        lost = number % 2 and killed(random.choice(processes), random.uniform(0, seconds))
        for process in processes:
            process.join()
        assert sorted(x.exitcode for x in processes) == ([KILLED, 0] if lost else [0, 0])
        assert outcome(folder / "out") == expected


@pytest.mark.parametrize(("size", "suffix"), [(64, ".png"), (16, ".json")])
def test_a_full_disk_leaves_the_run(size: int, suffix: str, tmp_path: Path) -> None:
    def contents() -> dict[Path, tuple[bytes, int]]:
        files = (tmp_path / "out").iterdir()
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    arguments = f"invert bundled:dots --size {size} --iterations 2"
    undisturbed(arguments, tmp_path)
    before = contents()
    assert ended(f"{arguments} --again", tmp_path, largest=1100) == 2
    last = (tmp_path / "log").read_text().splitlines()[-1]
    assert last.startswith("Error: ")
    assert last.endswith(f"{suffix}' cannot be written: File too large.")
    assert contents() == before


def new_project(root: Path) -> Path:
    for page, text in PROJECT.items():
        (root / page).parent.mkdir(parents=True, exist_ok=True)
        (root / page).write_text(text)
    return root


def pages_in(root: Path) -> dict[str, bytes]:
    """The book's files; not the notebooks' sources, whose cells have random names."""
    html = root / "_build" / "html"
    files = [path for path in html.rglob("*") if path.is_file() and path.suffix != ".ipynb"]
    return {str(path.relative_to(html)): path.read_bytes() for path in files}


def test_a_book_is_the_last_one_or_the_new_one(tmp_path: Path) -> None:
    """Whether or not what it had started outlives it; the next build puts things in order."""
    build, began = "book --root .", time.monotonic()
    assert ended(build, new_project(tmp_path / "undisturbed")) == 0
    seconds, new = time.monotonic() - began, pages_in(tmp_path / "undisturbed")
    root = new_project(tmp_path / "project")
    (root / "_build" / "html").mkdir(parents=True)
    (root / "_build" / "html" / "index.html").write_text("the last one")
    last, random = pages_in(root), Random("book")
    for number in range(3):
        process = started(build, root)
        process.join(random.uniform(0, 0.5) * seconds)  # the later ones have no notebook to run
        if number % 2:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        assert process.exitcode in (0, KILLED), (root / "log").read_text()
        assert pages_in(root) in (last, new)
    for change in (1, 2):
        assert ended(build, root, kill_before=change, watched="_build/html") in (0, KILLED)
        assert pages_in(root) in (last, new, {})
    assert ended(build, root) == 0, (root / "log").read_text()
    assert pages_in(root) == new
