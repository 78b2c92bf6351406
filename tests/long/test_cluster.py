"""Sweeps on several processes: the same runs as in one, whatever becomes of the workers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import dask
import psutil
import pytest
import torch

from styleinv.checkpoint import SUFFIX
from styleinv.encoder import load_encoder
from styleinv.errors import InputError
from styleinv.inversion import Task
from styleinv.runs import cluster, store
from styleinv.runs.cluster import DaskCluster, local_cluster, remote_cluster
from styleinv.runs.sweeps import Execution, make_runs, plan_sweep
from tests.conftest import PATIENCE, PROGRAM, ROOT, wait_for
from tests.long import outcome, trace_in

SWEEP = "sweep --style bundled:dots --layer relu_1_1 --protocol chapter --size 16 --seeds 2"
pytestmark = pytest.mark.filterwarnings("ignore:.* has no worker yet")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the workers have: another number of threads may give other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskCluster]:
    with local_cluster(2, threads=1) as opened:
        yield opened


def planned(seeds: int, iterations: int, *losses: str) -> list[Task]:
    return plan_sweep(
        ["bundled:dots"],
        layers=["relu_1_1"],
        losses=losses or ["gram"],
        encoder=load_encoder("bundled"),
        protocol="chapter",
        seeds=range(seeds),
        size=16,
        iterations=iterations,
    )


def assert_taken_up(folder: Path, copies: Path, tasks: list[Task]) -> None:
    """The runs in `folder` went on from the copies of their checkpoints; there are some."""
    named = {store.path_of(task, folder).stem: task for task in tasks}
    assert checkpoints(copies)
    for checkpoint in checkpoints(copies):
        trace = trace_in(checkpoint, named[checkpoint.stem])
        assert trace
        assert store.read(folder / f"{checkpoint.stem}.json").record.trace[: len(trace)] == trace


@contextmanager
def killed_in_the_middle(pids: Sequence[int], folder: Path, copies: Path) -> Iterator[None]:
    """Kill processes once there is a checkpoint for each of them, which is copied before."""

    def kill() -> None:
        found = wait_for(lambda: len(times := checkpoints(folder)) == len(pids) and times)
        # The first ones may have been written before the end of the first iteration.
        wait_for(lambda: all(time < path.stat().st_mtime_ns for path, time in found.items()))
        copies.mkdir()
        for path in found:
            shutil.copy(path, copies)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    with ThreadPoolExecutor(1) as thread:
        killed = thread.submit(kill)
        yield
        killed.result()


def checkpoints(folder: Path) -> dict[Path, int]:
    """When each of them was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob(f"*{SUFFIX}")}


def test_killed_workers_change_nothing(workers: DaskCluster, tmp_path: Path) -> None:
    """Six runs, both workers killed in the middle of one: each is there once, and the same."""
    tasks, lines = planned(3, 300, "gram", "moment-2"), list[str]()
    here, there, copies = (tmp_path / name for name in ("here", "there", "copies"))
    pids = [*workers.client.run(os.getpid).values()]
    execution = Execution(cluster=workers, checkpoint_every=0.05)
    with killed_in_the_middle(pids, there, copies):
        runs = make_runs(tasks, there, report=lines.append, execution=execution)
    assert sorted(runs) == list(range(6))
    assert len(lines) == 6
    make_runs(tasks, here)
    assert outcome(there) == outcome(here)
    assert_taken_up(there, copies, tasks)


def test_only_what_is_missing_is_made(workers: DaskCluster, tmp_path: Path) -> None:
    """What is found needs no worker, and what is asked for twice is made once."""
    tasks, lines = planned(3, 5), list[str]()
    first = make_runs(tasks[:1], tmp_path)
    nobody = DaskCluster(client=None, threads=1, here=True)  # type: ignore[arg-type]
    assert make_runs(tasks[:1], tmp_path, execution=Execution(cluster=nobody)).keys() == {0}
    execution = Execution(cluster=workers)
    runs = make_runs([*tasks, tasks[1]], tmp_path, report=lines.append, execution=execution)
    assert sorted(runs) == [0, 1, 2, 3]
    assert runs[0].record == first[0].record
    assert runs[1].record == runs[3].record
    assert sum("kept from an earlier run" in line for line in lines) == 2
    assert len(outcome(tmp_path)) == 3


def test_what_a_run_refuses_is_said_here(
    workers: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the workers are good for the next sweep, unless there is too little memory for it."""
    execution, tasks = Execution(cluster=workers), planned(3, 5)
    wrong = replace(tasks[0], style=torch.full((3, 16, 16), torch.nan))
    with pytest.raises(InputError, match="the loss of the noise image is nan, because"):
        make_runs([wrong], tmp_path, execution=execution)
    assert make_runs(tasks[:1], tmp_path, execution=execution).keys() == {0}
    monkeypatch.setattr(cluster, "available_memory", lambda: 1.5 * tasks[0].needed_memory())
    with pytest.raises(InputError, match=r"^workers is 2, but 2 of these .* free; 1 would fit$"):
        make_runs(tasks, tmp_path, execution=execution)


def test_only_this_machine_reaches_the_workers(workers: DaskCluster) -> None:
    listening = [
        connection.laddr.ip
        for process in (psutil.Process(), *psutil.Process().children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


def test_a_run_that_kills_its_workers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cluster.SETTINGS, "distributed.scheduler.allowed-failures", 1)
    monkeypatch.setattr(cluster, "_make", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    sentence = "^2 workers died while they had the same run"
    with local_cluster(1) as fragile, pytest.raises(InputError, match=sentence):
        make_runs(planned(1, 5), tmp_path, execution=Execution(cluster=fragile))


@pytest.mark.parametrize("listens", [True, False])
def test_an_address_without_scheduler_is_refused(
    listens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        if not listens:
            silent.close()
        with pytest.raises(InputError, match="does not answer"), remote_cluster(address):
            pass


@contextmanager
def dask_process(folder: Path, name: str, *options: object) -> Iterator[subprocess.Popen[bytes]]:
    """`dask scheduler` or `dask worker` on this machine, killed at the end."""
    module = ("-m", f"distributed.cli.dask_{name}", "--host", "127.0.0.1")
    with (folder / "log").open("a") as log:
        command = [sys.executable, *module, *map(str, options)]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its address, and its process."""
    file = folder / "scheduler.json"
    options = ("--port", 0, "--dashboard-address", "127.0.0.1:0", "--scheduler-file", file)
    with dask_process(folder, "scheduler", *options) as process:
        wait_for(lambda: file.is_file() and file.read_text())
        yield json.loads(file.read_text())["address"], process


@contextmanager
def worker(folder: Path, address: str, preload: str = "", threads: int = 1) -> Iterator[None]:
    """A worker that executes `preload` before it does anything."""
    script = folder / "preload.py"
    script.write_text(preload)
    options = ("--no-nanny", "--no-dashboard", "--nthreads", threads, "--preload", script)
    with dask_process(folder, "worker", address, *options):
        yield


def command_line(arguments: str, folder: Path) -> list[str]:
    """The lines that it said."""
    command = [str(PROGRAM), *arguments.split()]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=10 * PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if "no worker yet" not in line]


def test_the_same_runs_anywhere(tmp_path: Path) -> None:
    """Also on a worker that has a disk of its own in place of the sweep's folder."""
    tasks = planned(2, 30)
    make_runs(tasks, tmp_path / "alone")
    expected, disk = outcome(tmp_path / "alone"), tmp_path / "disk"
    what = f"{SWEEP} --loss gram --iterations 30 --threads 1"
    other_disk = (
        "from styleinv.runs import store\n"
        f"store.obtain = lambda task, folder, obtain=store.obtain, **options: "
        f"obtain(task, {str(disk)!r}, **options)\n"
    )
    with scheduler(tmp_path) as (address, _):
        said = [command_line(f"{what} --workers 2 --out local", tmp_path)]
        with worker(tmp_path, address):
            said.append(command_line(f"{what} --scheduler {address} --out remote", tmp_path))
        with worker(tmp_path, address, other_disk), remote_cluster(address, threads=1) as there:
            make_runs(tasks, tmp_path / "far", execution=Execution(cluster=there))
    for lines in said:
        assert [line[:5] for line in lines] == ["[1/2]", "[2/2]"]
    for name in ("local", "remote", "far", "disk"):
        assert outcome(tmp_path / name) == expected


def test_workers_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    other = "from styleinv.runs import cluster\ncluster.RESULTS_VERSION = 0\n"
    ways = {
        "takes 2 runs at once": {"threads": 2},
        "makes results of version 0, but must": {"preload": other},
    }
    with scheduler(tmp_path) as (address, _), remote_cluster(address) as there:
        for sentence, options in ways.items():
            with worker(tmp_path, address, **options), pytest.raises(InputError, match=sentence):
                make_runs(planned(1, 5), tmp_path, execution=Execution(cluster=there))


def test_a_scheduler_that_dies_is_one_sentence(tmp_path: Path) -> None:
    """What its worker was at has a checkpoint, from which the same sweep goes on."""
    tasks, out, copies = planned(1, 3000), tmp_path / "runs", tmp_path / "copies"
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        scheduler(tmp_path) as (address, process),
        worker(tmp_path, address),
        remote_cluster(address, threads=1) as there,
        killed_in_the_middle([process.pid], out, copies),
        pytest.raises(InputError, match="does not answer any more"),
    ):
        make_runs(tasks, out, execution=Execution(cluster=there, checkpoint_every=0))
    make_runs(tasks, out)
    assert len(outcome(out)) == 1
    assert_taken_up(out, copies, tasks)


def interrupted(
    when: Callable[[], bool], arguments: Sequence[str], folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run the command line in `folder`, with Ctrl-C as a terminal sends it: to the whole group."""
    command = [str(PROGRAM), *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, cwd=folder, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            wait_for(when)
            os.killpg(process.pid, signal.SIGINT)
            printed = process.communicate(timeout=PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, *printed)


def test_ctrl_c_leaves_checkpoints_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out, copies, tasks = tmp_path / "runs", tmp_path / "copies", planned(2, 800)
    command = f"{SWEEP} --loss gram --iterations 800 --workers 2 --threads 1 --out runs"
    arguments = [*command.split(), "--checkpoint-every", "0"]
    done = interrupted(lambda: len(checkpoints(out)) == 2, arguments, tmp_path)
    printed = done.stdout + done.stderr
    assert (done.returncode, printed) == (
        130,
        "Run the same command again to continue from here.\n",
    )
    shutil.copytree(out, copies)
    assert not [*out.glob(".*.lock")]
    assert len(command_line(command, tmp_path)) == 2
    make_runs(tasks, tmp_path / "alone")
    assert outcome(out) == outcome(tmp_path / "alone")
    assert_taken_up(out, copies, tasks)


def test_the_benchmark_keeps_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scaling

    small = {"SIZE": 16, "SEEDS": 2, "EVALUATIONS": 3, "ROUNDS": 1, "WORKERS": (1,)}
    for name, value in {**small, "RECORD": tmp_path / "scaling.json"}.items():
        monkeypatch.setattr(scaling, name, value)
    scaling.main()
    ways = json.loads((tmp_path / "scaling.json").read_text())["ways"]
    assert ways.keys() == {"one process", "workers: 1"}
    assert ways["one process"]["times"]["median"] == 1
