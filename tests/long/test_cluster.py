"""Sweeps on several processes: the same runs as in one, whatever becomes of the workers."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from styleinv import cli
from styleinv.encoder import Encoder
from styleinv.errors import InputError
from styleinv.inversion import Task
from styleinv.runs import cluster
from styleinv.runs.cluster import MARK, DaskCluster, local_cluster, remote_cluster
from styleinv.runs.store import read_folder
from styleinv.runs.sweeps import Execution, make_runs, plan_sweep
from tests.conftest import PATIENCE, PROGRAM, ROOT, interrupted, wait_for

SWEEP = ("sweep", "--style", "bundled:dots", "--layer", "relu_1_1", "--size", "16")
# Two long runs.
LONG = ("--loss", "gram", "--protocol", "chapter", "--seeds", "2", "--threads", "1")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the workers have: another number of threads may give other bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a worker that does not see the sweep's folder makes its runs."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def workers(elsewhere: Path) -> Iterator[DaskCluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(elsewhere))
        with local_cluster(2, threads=1) as opened:
            yield opened


def planned(encoder: Encoder, seeds: int, iterations: int, *losses: str) -> list[Task]:
    return plan_sweep(
        ["bundled:dots"],
        layers=["relu_1_1"],
        losses=losses or ["gram"],
        encoder=encoder,
        protocol="chapter",
        seeds=range(seeds),
        size=16,
        iterations=iterations,
    )


def comparable(folder: Path) -> dict[str, Any]:
    """The runs in a folder, intact, by file name: their pixels, and all but when and how long."""
    found = {}
    for path, run in read_folder(folder).items():
        record = {name: value for name, value in run.record.items() if name != "sha256"}
        for part, name in (("result", "seconds"), ("made_with", "date")):
            record[part] = {key: value for key, value in record[part].items() if key != name}
        record["trace"] = [{**point, "seconds": None} for point in record["trace"]]
        found[path.name] = (record, run.image.tobytes())
    return found


def assert_nothing_is_left_over(folder: Path) -> None:
    """A picture for each record, and the mark."""
    records = {path.stem for path in folder.glob("*.json")}
    expected = {f"{stem}{end}" for stem in records for end in (".json", ".png")} | {MARK}
    assert {path.name for path in folder.iterdir()} == expected


def pids(workers: DaskCluster) -> list[int]:
    found: dict[str, int] = workers.client.run(os.getpid)
    return list(found.values())


@contextmanager
def meanwhile(act: Any, *arguments: Any) -> Iterator[list[Any]]:
    """`act` in a thread; what it returned is in the list afterwards."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(act(*arguments)))
    thread.start()
    yield results
    thread.join(PATIENCE)
    assert results, "it never came to that"


def kill_in_the_middle(pid: int) -> tuple[str, list[dict[str, Any]]]:
    """SIGKILL a worker while its run has a checkpoint: the run's name and its trace so far."""
    worker = psutil.Process(pid)

    def held() -> Path | None:
        """The checkpoint of the run whose lock this worker has; then the worker stands still."""
        worker.suspend()
        locks = [Path(file.path) for file in worker.open_files() if file.path.endswith(".lock")]
        for lock in locks:
            checkpoint = lock.with_name(f"{lock.stem[1:]}.checkpoint")
            if checkpoint.exists() and len(trace_in(checkpoint)) > 1:
                return checkpoint
        worker.resume()
        return None

    checkpoint = wait_for(held)
    trace = trace_in(checkpoint)
    worker.kill()
    return checkpoint.stem, trace


def trace_in(checkpoint: Path) -> list[dict[str, Any]]:
    with np.load(checkpoint) as archive:
        values = json.loads(archive["values.json"].tobytes())
    return [
        {**point, "seconds": round(point["seconds"], 4)}
        for point in values["values"]["monitor"]["trace"]
    ]


def record_of(folder: Path, stem: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / f"{stem}.json").read_text())
    return record


@pytest.mark.filterwarnings("ignore:worker .* died")
def test_killed_workers_change_nothing(
    workers: DaskCluster, bundled: Encoder, tmp_path: Path
) -> None:
    """Forty runs, two workers killed in the middle of one: each there once, as from one process."""
    tasks = planned(bundled, 20, 120, "gram", "moment-2")
    lines: list[str] = []

    def kill_both() -> list[tuple[str, list[dict[str, Any]]]]:
        return [kill_in_the_middle(pid) for pid in pids(workers)]

    with meanwhile(kill_both) as killed:
        runs = make_runs(
            tasks,
            tmp_path / "cluster",
            report=lines.append,
            execution=Execution(cluster=workers, checkpoint_every=0.05),
        )
    assert sorted(runs) == list(range(40))
    assert len(lines) == 40
    assert_nothing_is_left_over(tmp_path / "cluster")
    make_runs(tasks, tmp_path / "alone")
    assert comparable(tmp_path / "cluster") == comparable(tmp_path / "alone")
    # A run made anew would have taken other times.
    for stem, trace in killed[0]:
        assert record_of(tmp_path / "cluster", stem)["trace"][: len(trace)] == trace


@pytest.mark.filterwarnings("ignore:worker .* died")
def test_a_worker_that_does_not_see_the_folder_makes_the_run_anew(
    workers: DaskCluster,
    elsewhere: Path,
    bundled: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_marked", lambda folder: "of another folder")
    tasks = planned(bundled, 1, 600)

    def kill_the_one_at_work() -> tuple[str, list[dict[str, Any]]]:
        found = wait_for(lambda: [*elsewhere.glob("styleinv-*/.*.lock")])
        holds = [
            pid
            for pid in pids(workers)
            if str(found[0]) in [file.path for file in psutil.Process(pid).open_files()]
        ]
        return kill_in_the_middle(holds[0])

    with meanwhile(kill_the_one_at_work) as killed:
        make_runs(tasks, tmp_path / "far", execution=Execution(cluster=workers, checkpoint_every=0))
    stem, trace = killed[0]
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == [
        f"{stem}.json",
        f"{stem}.png",
    ]
    assert record_of(tmp_path / "far", stem)["trace"][: len(trace)] != trace
    make_runs(tasks, tmp_path / "alone")
    assert comparable(tmp_path / "far") == comparable(tmp_path / "alone")


@pytest.mark.filterwarnings("error")
def test_what_is_found_needs_no_worker(bundled: Encoder, tmp_path: Path) -> None:
    tasks = planned(bundled, 3, 5)
    make_runs(tasks, tmp_path)
    nobody = DaskCluster(client=None, threads=1, here=True)  # type: ignore[arg-type]
    runs = make_runs(tasks, tmp_path, execution=Execution(cluster=nobody))
    assert sorted(runs) == [0, 1, 2]


def test_only_what_is_missing_is_computed(
    workers: DaskCluster, bundled: Encoder, tmp_path: Path
) -> None:
    """What is asked for twice is made once; the same pixels under another name are another run."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for name in ("one.png", "two.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    tasks = plan_sweep(
        [tmp_path / "one.png", tmp_path / "two.png", tmp_path / "one.png"],
        layers=["relu_1_1"],
        losses=["gram", "moment-1"],
        encoder=bundled,
        size=16,
        iterations=5,
    )
    make_runs(tasks[:1], tmp_path / "runs")
    kept = (tmp_path / "runs").glob("*.json")
    before = {path: path.stat().st_mtime_ns for path in kept}
    lines: list[str] = []
    runs = make_runs(
        tasks, tmp_path / "runs", report=lines.append, execution=Execution(cluster=workers)
    )
    assert sorted(runs) == list(range(6))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sum("kept from an earlier run" in line for line in lines) == 2
    make_runs(tasks, tmp_path / "alone")
    assert comparable(tmp_path / "runs") == comparable(tmp_path / "alone")


def test_what_a_run_refuses_is_said_here(
    workers: DaskCluster, bundled: Encoder, tmp_path: Path
) -> None:
    """And the workers are good for the next sweep."""
    task = planned(bundled, 1, 5)[0]
    wrong = replace(task, style=torch.full((3, 16, 16), torch.nan))
    with pytest.raises(InputError, match="the loss of the noise image is nan, because"):
        make_runs([wrong], tmp_path, execution=Execution(cluster=workers))
    assert make_runs([task], tmp_path, execution=Execution(cluster=workers)).keys() == {0}


def test_only_this_machine_reaches_the_workers(workers: DaskCluster) -> None:
    here = psutil.Process()
    listening = [
        connection.laddr.ip
        for process in (here, *here.children(recursive=True))
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


def test_a_run_that_kills_its_workers_is_given_up(
    bundled: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setitem(cluster.SETTINGS, "distributed.scheduler.allowed-failures", 1)
    monkeypatch.setattr(cluster, "_make", deadly)
    with local_cluster(1, threads=1) as fragile:
        execution = Execution(cluster=fragile)
        with (
            pytest.warns(UserWarning, match="died: another one makes its run"),
            pytest.raises(InputError, match=r"^2 workers died while they had the same run"),
        ):
            make_runs(planned(bundled, 1, 5), tmp_path, execution=execution)
    assert [path.name for path in tmp_path.iterdir()] == [MARK]


@pytest.mark.parametrize(
    ("workers_asked", "threads", "sentence"),
    [
        (0, 1, "workers is 0, but must be a whole number from 1 to 1,024"),
        (1, 0, "threads is 0, but must be a whole number from 1 to 1,024"),
    ],
)
def test_refuses(workers_asked: int, threads: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence), local_cluster(workers_asked, threads):
        pass


def test_somebody_who_is_no_scheduler_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match="does not answer"), remote_cluster(address):
            pass


@contextmanager
def dask_process(
    log: Path, *arguments: object, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`dask scheduler` or `dask worker`, stopped at the end."""
    command = [sys.executable, "-m", *(str(argument) for argument in arguments)]
    with (
        log.open("a") as output,
        subprocess.Popen(
            command,
            cwd=log.parent,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def scheduler(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    file = folder / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0")
    with dask_process(
        folder / "log", "distributed.cli.dask_scheduler", *options, "--scheduler-file", file
    ) as process:
        wait_for(file.is_file)
        yield json.loads(file.read_text())["address"], process


@contextmanager
def worker(folder: Path, address: str, threads: int = 1, **environment: str) -> Iterator[None]:
    options = ("--host", "127.0.0.1", "--no-nanny", "--no-dashboard", "--nthreads", threads)
    with dask_process(
        folder / "log", "distributed.cli.dask_worker", address, *options, **environment
    ):
        yield


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def error_of(finished: subprocess.CompletedProcess[str]) -> str:
    """Its one sentence: nothing else on either stream but that there is no worker yet."""
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    *notes, sentence = finished.stderr.splitlines()
    assert all(line.endswith("has no worker yet: waiting") for line in notes), finished.stderr
    assert sentence.startswith("Error: ")
    return sentence


def test_the_command_line_makes_the_same_runs_anywhere(tmp_path: Path) -> None:
    what = (*SWEEP, "--loss", "gram", "--loss", "moment-1", "--seeds", "2", "--iterations", "30")
    with scheduler(tmp_path) as (address, _), worker(tmp_path, address):
        finished = [
            run(*what, "--threads", "1", "--out", name, *how, cwd=tmp_path)
            for name, how in {
                "alone": (),
                "here": ("--workers", "2"),
                "there": ("--scheduler", address),
            }.items()
        ]
    assert [done.returncode for done in finished] == [0, 0, 0], finished
    for done in finished[1:]:
        reports = [line for line in done.stderr.splitlines() if "no worker yet" not in line]
        assert len(reports) == 4
        assert all(line.startswith("[") for line in reports)
    for name in ("here", "there"):
        assert_nothing_is_left_over(tmp_path / name)
        assert comparable(tmp_path / name) == comparable(tmp_path / "alone")


def test_workers_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "styleinv", other / "styleinv")
    with (other / "styleinv" / "losses.py").open("a") as code:
        code.write("# changed\n")
    with scheduler(tmp_path) as (address, _):
        what = (*SWEEP, "--loss", "gram", "--iterations", "5", "--scheduler", address)
        with worker(tmp_path, address, threads=2):
            sentence = error_of(run(*what, cwd=tmp_path))
            assert "takes 2 runs at once, but must take one: start it with --nthreads 1" in sentence
        with worker(tmp_path, address, PYTHONPATH=str(other)):
            sentence = error_of(run(*what, cwd=tmp_path))
            assert "has another version of styleinv, PyTorch or SciPy" in sentence


def test_a_scheduler_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    done = run(*SWEEP, "--scheduler", address, cwd=tmp_path)
    assert time.monotonic() - began < cluster.CONNECT_SECONDS + 10  # to start and end
    assert f"scheduler {address!r} does not answer" in error_of(done)
    assert list(tmp_path.iterdir()) == []


def test_a_scheduler_that_dies_is_one_sentence(bundled: Encoder, tmp_path: Path) -> None:
    """What its worker was at has a checkpoint, from which the same sweep goes on."""
    tasks = planned(bundled, 1, 3000)
    out = tmp_path / "runs"
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        scheduler(tmp_path) as (address, process),
        worker(tmp_path, address),
        remote_cluster(address, threads=1) as there,
    ):

        def kill() -> bool:
            wait_for(lambda: [*out.glob("*.checkpoint")])
            process.kill()
            return True

        execution = Execution(cluster=there, checkpoint_every=0)
        with meanwhile(kill), pytest.raises(InputError, match="does not answer any more"):
            make_runs(tasks, out, execution=execution)
    assert len([*out.glob("*.checkpoint")]) == 1
    make_runs(tasks, out)
    assert_nothing_is_left_over(out)


def test_one_place_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    both = ("--workers", "2", "--scheduler", "tcp://127.0.0.1:1")
    monkeypatch.setattr(sys, "argv", ["styleinv", *SWEEP, *both])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "Error: sweep takes --workers or --scheduler, not both.\n"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_checkpoints_and_the_same_command_goes_on(
    bundled: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    command = (*SWEEP, *LONG, "--iterations", "1500", "--workers", "2", "--out", "runs")

    def both_are_at_work(_: object) -> bool:
        return len([*out.glob(".*.lock")]) == 2

    done = interrupted(both_are_at_work, command, tmp_path)
    printed = done.stdout + done.stderr
    assert (done.returncode, printed) == (130, "The same command again goes on from here.\n")
    left = [*out.glob("*.checkpoint")]
    assert len(left) == 2
    traces = {checkpoint.stem: trace_in(checkpoint) for checkpoint in left}
    assert not [*out.glob(".*.lock")]
    finished = run(*command, cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert_nothing_is_left_over(out)
    for stem, trace in traces.items():
        assert record_of(out, stem)["trace"][: len(trace)] == trace
    make_runs(planned(bundled, 2, 1500), tmp_path / "alone")
    assert comparable(out) == comparable(tmp_path / "alone")


def test_the_benchmark_keeps_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import scaling

    small = {"SIZE": 16, "SEEDS": 2, "EVALUATIONS": 3, "ROUNDS": 1, "WORKERS": (1,)}
    for name, value in {**small, "RECORD": tmp_path / "scaling.json"}.items():
        monkeypatch.setattr(scaling, name, value)
    scaling.main()
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert found["ways"].keys() == {"one process", "workers: 1"}
    assert found["ways"]["one process"]["times"]["median"] == 1
    assert capsys.readouterr().out.count("times as fast") == 2


def test_ctrl_c_while_the_workers_start_is_quiet(tmp_path: Path) -> None:
    command = (*SWEEP, *LONG, "--workers", "2", "--out", "runs")

    def has_children(process: subprocess.Popen[str]) -> bool:
        children = psutil.Process(process.pid).children()
        with suppress(psutil.NoSuchProcess):  # others come and go while Python imports
            return any("multiprocessing" in " ".join(child.cmdline()) for child in children)
        return False

    done = interrupted(has_children, command, tmp_path)
    assert done.returncode == 130
    assert done.stdout + done.stderr in ("", "The same command again goes on from here.\n")
