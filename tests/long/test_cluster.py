"""Sweeps on several processes: the same runs as in one, whatever becomes of the workers."""

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import dask
import distributed
import psutil
import pytest
import torch

from styleinv.checkpoint import SUFFIX, Checkpoint
from styleinv.errors import InputError
from styleinv.inversion import RESULTS_VERSION, Inversion, Task, plan
from styleinv.optim import Iterate
from styleinv.runs import cluster, store
from styleinv.runs.cluster import DaskCluster, local_cluster, remote_cluster
from styleinv.runs.sweeps import Execution, make_runs
from tests.conftest import PATIENCE, PROGRAM, ROOT, wait_for
from tests.long import outcome, trace_in

# As many as runs have in this process: another number may give other bits.
THREADS = torch.get_num_threads()
SWEEP = (
    "sweep --style bundled:dots --layer relu_1_1 --loss gram --protocol chapter --size 16 "
    f"--seeds 2 --threads {THREADS}"
)


@pytest.fixture(scope="module")
def workers() -> Iterator[DaskCluster]:
    with local_cluster(2, THREADS) as opened:
        yield opened


def planned(seeds: int, iterations: int, *losses: str) -> list[Task]:
    where = {"layer": "relu_1_1", "protocol": "chapter", "size": 16}
    task = plan("bundled:dots", **where, iterations=iterations)
    every = itertools.product(range(seeds), losses or ["gram"])
    return [replace(task, seed=seed, loss=loss) for seed, loss in every]


def kill_in_the_middle(copies: Path, pid: int | None = None) -> None:
    """Have a worker kill itself, or another process, at iteration 20 of a run.

    Before, it copies the run's checkpoint. Nobody is killed for a run that has a copy.
    """
    run = Task.run

    def run_with_kill(task: Task, callback: Any, checkpoint: Checkpoint) -> Inversion:
        copy = copies / checkpoint.path.name

        def kill(iterate: Iterate) -> object:
            if iterate.iteration == 20 and not copy.exists():
                copies.mkdir(exist_ok=True)
                shutil.copy(checkpoint.path, copy)
                os.kill(pid or os.getpid(), signal.SIGKILL)
            return callback(iterate)

        return run(task, kill, checkpoint)

    Task.run = run_with_kill


def taken_up(folder: Path, copies: Path, tasks: list[Task]) -> int:
    """How many of the copied checkpoints hold iterations, which the runs in `folder` share."""
    count = 0
    for task in tasks:
        path = store.path_of(task, folder)
        if (checkpoint := copies / path.with_suffix(SUFFIX).name).exists():
            trace = trace_in(checkpoint, task)
            assert store.read(path).record.trace[: len(trace)] == trace
            count += bool(trace)
    return count


def test_killed_workers_change_nothing(workers: DaskCluster, tmp_path: Path) -> None:
    """Six runs, both workers killed in the middle of one: each is there once, and the same."""
    tasks, lines = planned(3, 40, "gram", "moment-2"), list[str]()
    here, there, copies = (tmp_path / name for name in ("here", "there", "copies"))
    workers.client.run(kill_in_the_middle, copies)
    execution = Execution(cluster=workers, checkpoint_every=0)
    runs = make_runs(tasks, there, report=lines.append, execution=execution)
    assert sorted(runs) == list(range(6))
    assert len(lines) == 6
    make_runs(tasks, here)
    assert outcome(there) == outcome(here)
    assert taken_up(there, copies, tasks) == 2
    nobody = DaskCluster(client=None, threads=1, here=True)  # type: ignore[arg-type]
    found = make_runs(tasks, there, execution=Execution(cluster=nobody))
    assert found.keys() == runs.keys()
    workers.client.wait_for_workers(2)  # new ones, for the next test


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


def credentials(folder: Path) -> tuple[Path, Path, Path]:
    """Files with an authority, a certificate and a key that nobody else has."""
    made = distributed.Security.temporary()
    files = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    folder.mkdir()
    for file, text in zip(
        files, (made.tls_ca_file, made.tls_client_cert, made.tls_client_key), strict=True
    ):
        file.write_text(text)
    return files


def test_only_who_has_its_credentials_reaches_a_scheduler_here(
    workers: DaskCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user of this machine has neither them nor pages that tell what is being made."""
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2.0)
    address = workers.client.scheduler.address
    assert address.startswith("tls://127.0.0.1:")
    for place, tls in (
        (address.replace("tls", "tcp"), ()),
        (address, ()),
        (address, credentials(tmp_path / "others")),
    ):
        refused = pytest.raises(InputError, match="does not answer, or not with these certificates")
        with refused, remote_cluster(place, None, *tls):
            pass
    infos = workers.client.scheduler_info()
    pages = [infos["services"]["dashboard"]]
    pages += [each["services"]["dashboard"] for each in infos["workers"].values()]
    for port, page in itertools.product(pages, ("info/main/workers.html", "info/logs.html")):
        with pytest.raises(HTTPError, match="404"):
            urlopen(f"http://127.0.0.1:{port}/{page}", timeout=PATIENCE)


def test_a_scheduler_elsewhere_takes_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given in files, or by Dask's configuration."""
    tasks, own, others = planned(1, 5), credentials(tmp_path / "a"), credentials(tmp_path / "b")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2.0)
    with dask_processes(tmp_path, tls=own) as (there, _):
        address = there.client.scheduler.address
        make_runs(tasks, tmp_path / "files", execution=Execution(cluster=there))
        for tls in ((), others):
            with pytest.raises(InputError, match="not with these certificates"):
                remote_cluster(address, None, *tls).__enter__()
        names = "ca-file", "client.cert", "client.key"
        pairs = zip(names, map(str, own), strict=True)
        with (
            dask.config.set({f"distributed.comm.tls.{name}": file for name, file in pairs}),
            remote_cluster(address) as configured,
        ):
            make_runs(tasks, tmp_path / "set", execution=Execution(cluster=configured))
        words = zip(("--tls-ca", "--tls-cert", "--tls-key"), map(str, own), strict=True)
        options = " ".join(word for pair in words for word in pair)
        where = f"--iterations 5 --scheduler {address} {options} --out line"
        assert command_line(f"{SWEEP} {where}", tmp_path)[0] == 0
    expected = outcome(tmp_path / "files")
    assert outcome(tmp_path / "set") == expected
    assert expected.items() <= outcome(tmp_path / "line").items()


def test_the_readers_configuration_of_dask_changes_nothing_here(tmp_path: Path) -> None:
    tasks = planned(1, 5)
    configured = {
        "distributed.comm.default-scheme": "ws",
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.ca-file": str(tmp_path / "absent.pem"),
        "distributed.nanny.preload": ["absent_module"],
        "distributed.scheduler.preload": ["absent_module"],
        "distributed.worker.preload": ["absent_module"],
        "distributed.worker.resources": {"GPU": 1},
        "distributed.worker.memory.terminate": 0.01,
        "distributed.scheduler.default-task-durations": {"_make": "1h"},
        "distributed.nanny.pre-spawn-environ.OMP_NUM_THREADS": 7,
        "scheduler-address": "tcp://127.0.0.1:1",
    }
    with dask.config.set(configured):
        with local_cluster(1, THREADS) as opened:
            make_runs(tasks, tmp_path / "there", execution=Execution(cluster=opened))
        assert dask.config.get("distributed.comm.default-scheme") == "ws"
    make_runs(tasks, tmp_path / "here")
    assert outcome(tmp_path / "there") == outcome(tmp_path / "here")


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
def dask_processes(
    folder: Path, nthreads: int = 1, tls: tuple[Path, ...] = ()
) -> Iterator[tuple[DaskCluster, int]]:
    """`dask scheduler` and `dask worker` on this machine; the process id is the scheduler's."""
    file = folder / "scheduler.json"
    with ExitStack() as opened:

        def start(name: str, *options: object) -> int:
            names = ("--tls-ca-file", "--tls-cert", "--tls-key")[: len(tls)]
            words = itertools.chain(*zip(names, tls, strict=True))
            options = ("--host", "127.0.0.1", "--scheduler-file", file, *words, *options)
            command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *map(str, options)]
            process = subprocess.Popen(command, cwd=ROOT)  # where a worker can import this file
            opened.callback(process.wait)
            opened.callback(process.kill)
            return process.pid

        scheduler = start("scheduler", "--port", 0, "--dashboard-address", "127.0.0.1:0")
        start("worker", "--no-nanny", "--no-dashboard", "--nthreads", nthreads)
        wait_for(lambda: file.is_file() and file.read_text())
        there = opened.enter_context(
            remote_cluster(json.loads(file.read_text())["address"], None, *tls)
        )
        there.client.wait_for_workers(1)
        yield there, scheduler


def command_line(
    arguments: str, folder: Path, interrupt_when: Callable[[], bool] | None = None
) -> tuple[int, list[str]]:
    """The exit code, and the lines that it said, without those on the images and the machine.

    Ctrl-C comes as a terminal sends it, to the whole group, as soon as `interrupt_when` is true.
    """
    command, pipe = [str(PROGRAM), *arguments.split()], subprocess.PIPE
    with subprocess.Popen(
        command, cwd=folder, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            if interrupt_when:
                wait_for(interrupt_when)
                os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, re.findall(r"^(?:\[|Run |Error).*", said, re.M)


def test_the_same_runs_anywhere(tmp_path: Path) -> None:
    """Also on a worker that has a disk of its own in place of the sweep's folder."""
    tasks = planned(2, 30)
    make_runs(tasks, tmp_path / "alone")
    expected, disk = outcome(tmp_path / "alone"), tmp_path / "disk"

    def obtain_elsewhere(
        task: Task, folder: Path, obtain: Callable[..., Any] = store.obtain, **options: Any
    ) -> Any:
        return obtain(task, disk, **options)

    with dask_processes(tmp_path) as (there, _):
        address = there.client.scheduler.address
        for place in ("--workers 2 --out local", f"--scheduler {address} --out remote"):
            code, lines = command_line(f"{SWEEP} --iterations 30 {place}", tmp_path)
            assert (code, [line[:5] for line in lines]) == (0, ["[1/2]", "[2/2]"])
        there.client.run(setattr, store, "obtain", obtain_elsewhere)
        make_runs(tasks, tmp_path / "far", execution=Execution(cluster=there))
    for name in ("local", "remote", "far", "disk"):
        assert outcome(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("nthreads", "version", "sentence"),
    [(2, RESULTS_VERSION, "takes 2 runs at once"), (1, 0, "makes results of version 0, but must")],
)
def test_workers_that_cannot_be_used_are_refused(
    nthreads: int, version: int, sentence: str, tmp_path: Path
) -> None:
    with dask_processes(tmp_path, nthreads) as (there, _):
        there.client.run(setattr, cluster, "RESULTS_VERSION", version)
        with pytest.raises(InputError, match=sentence):
            make_runs(planned(1, 5), tmp_path, execution=Execution(cluster=there))


def test_a_scheduler_that_dies_is_one_sentence(tmp_path: Path) -> None:
    """What its worker was at has a checkpoint, from which the same sweep goes on."""
    tasks, out, copies = planned(1, 40), tmp_path / "runs", tmp_path / "copies"
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        dask_processes(tmp_path) as (there, scheduler),
    ):
        there.client.run(kill_in_the_middle, copies, scheduler)
        with pytest.raises(InputError, match="does not answer any more"):
            make_runs(tasks, out, execution=Execution(cluster=there, checkpoint_every=0))
    make_runs(tasks, out)
    assert len(outcome(out)) == 1
    assert taken_up(out, copies, tasks) == 1


def test_ctrl_c_leaves_checkpoints_and_the_same_command_goes_on(tmp_path: Path) -> None:
    out, copies, tasks = tmp_path / "runs", tmp_path / "copies", planned(2, 800)
    command = f"{SWEEP} --iterations 800 --workers 2 --checkpoint-every 0 --out runs"
    written = set[int]()

    def is_in_the_middle() -> bool:
        written.update(path.stat().st_mtime_ns for path in out.glob(f"*{SUFFIX}"))
        return len(written) > 5

    said = command_line(command, tmp_path, is_in_the_middle)
    assert said == (130, ["Run the same command again to continue from here."])
    shutil.copytree(out, copies)
    assert not [*out.glob(".*.lock")]
    code, lines = command_line(command, tmp_path)
    assert (code, len(lines)) == (0, 2)
    make_runs(tasks, tmp_path / "alone")
    assert outcome(out) == outcome(tmp_path / "alone")
    assert taken_up(out, copies, tasks) > 0


def test_the_benchmark_keeps_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scaling  # a worker that imports this file does not find it

    small = {"SIZE": 16, "SEEDS": 2, "EVALUATIONS": 3, "ROUNDS": 1, "WORKERS": (1,)}
    for name, value in {**small, "RECORD": tmp_path / "scaling.json"}.items():
        monkeypatch.setattr(scaling, name, value)
    scaling.main()
    ways = json.loads((tmp_path / "scaling.json").read_text())["ways"]
    assert ways.keys() == {"one process", "workers: 1"}
    assert ways["one process"]["times"]["median"] == 1
