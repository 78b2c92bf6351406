"""Make runs on a Dask cluster: on worker processes of this machine, or on a scheduler's workers.

A worker makes a run by `store.obtain`, in the sweep's folder. If workers share that folder and one
of them is killed, another continues its run from the checkpoint. A worker with a disk of its own
starts the run from the beginning, and the sweep saves the result here as well.

Dask's log is not shown; its errors are raised as `InputError`. Dask comes with the package's extra
`cluster`.

Whoever can speak to a scheduler can run programs as the user who started it. On this machine it
therefore takes certificates that are made for the sweep and are in the memory of its processes
only. What Dask's configuration files and variables say counts for a remote scheduler, not here.
"""

import logging
import signal
import time
import warnings
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import resource_tracker
from pathlib import Path

import cryptography  # noqa: F401  # Dask makes certificates with it
import dask
import distributed
import torch
from distributed.comm.core import connect
from distributed.utils import LoopRunner, silence_logging_cmgr

from styleinv.errors import InputError, whole_number
from styleinv.inversion import RESULTS_VERSION, Task
from styleinv.machine import available_memory, check_memory_together
from styleinv.runs.sweeps import MOST_THREADS, Made, Obtain, obtain_unless_stopped

# The answer of a worker: one run, or None if the sweep was stopped.
Future = distributed.Future[Made | None]

MOST_WORKERS = 1024
CONNECT_SECONDS = 10.0
LOOK_SECONDS = 0.1
SETTINGS = {
    # How many workers may die while they make the same run; the next death ends the sweep.
    "distributed.scheduler.allowed-failures": 10,
    # Dask takes a large style image for a mistake.
    "distributed.admin.large-graph-warning-threshold": "1GB",
}
# Pages that tell what the processes do, and that ask for no credentials.
NO_PAGES: dict[str, list[str]] = {
    f"distributed.{part}.http.routes": [] for part in ("scheduler", "nanny", "worker")
}


@dataclass(frozen=True)
class DaskCluster:
    """Workers that make runs, each of them one at a time.

    Attributes:
        client: connected to their scheduler.
        threads: number of threads of each run; it can change the last digits of a result.
        here: whether the workers share this machine's memory.
    """

    client: distributed.Client
    threads: int
    here: bool

    def runs(
        self, tasks: Mapping[int, Task], obtain: Obtain, stop: Callable[[], bool]
    ) -> Generator[Made, None, None]:
        """Yield the runs of `tasks`, whose keys are their numbers, as the runs finish.

        Raises:
            InputError: a run or a worker cannot be used, too many workers died while they made the
                same run, or the scheduler is gone. Unfinished runs then stop with a checkpoint.
        """
        if self.here and tasks:
            self._check_memory(tasks.values())
        try:
            yield from self._make_all(tasks, obtain, stop)
        except distributed.KilledWorker as error:
            raise InputError(
                f"{error.allowed_failures + 1} workers died while they had the same run; they may "
                "need more memory, or the run a smaller size"
            ) from error
        except (OSError, CancelledError) as error:
            raise InputError(
                "the cluster does not answer any more; the same sweep again makes what is left"
            ) from error

    def _make_all(
        self, tasks: Mapping[int, Task], obtain: Obtain, stop: Callable[[], bool]
    ) -> Generator[Made, None, None]:
        """Have the workers make the runs.

        Each worker gets one run at a time. No run then waits behind a long one, few runs are
        unfinished when the sweep stops, and a worker's death counts only against its own run.
        """
        stopped = distributed.Event(client=self.client)
        order = (obtain, stopped, self.threads, RESULTS_VERSION)
        waiting, at_work = list(tasks.items()), set[Future]()
        try:
            while (waiting or at_work) and not stop():
                while waiting and len(at_work) < len(self.client.nthreads()):
                    at_work.add(self.client.submit(_make, *waiting.pop(0), *order, pure=False))
                ended = {future for future in at_work if future.done()}
                at_work -= ended
                yield from filter(None, (future.result() for future in ended))
                time.sleep(LOOK_SECONDS)
        finally:
            if at_work:
                stopped.set()
                distributed.wait(at_work)
        # Workers answer None for runs that were stopped.
        yield from filter(None, (future.result() for future in at_work))

    def _check_memory(self, tasks: Collection[Task]) -> None:
        """Refuse more workers than the memory allows for as many runs like the largest."""
        together = min(len(self.client.nthreads()), len(tasks))
        need = max(task.needed_memory() for task in tasks)
        check_memory_together("workers", together, need, available_memory())


@contextmanager
def local_cluster(workers: int, threads: int | None = None) -> Iterator[DaskCluster]:
    """Start worker processes on this machine, which nothing outside it can reach.

    The workers import the script that calls this; it needs ``if __name__ == "__main__":``.

    Args:
        workers: 1 to 1024.
        threads: threads of each run, 1 to 1024; by default the workers share this process's number.

    Raises:
        InputError: an argument is not allowed.
    """
    whole_number("workers", workers, 1, MOST_WORKERS)
    each = max(1, torch.get_num_threads() // workers) if threads is None else threads
    whole_number("threads", each, 1, MOST_THREADS)
    own = {**dask.config.merge(*dask.config.defaults), **SETTINGS, **NO_PAGES}
    with silence_logging_cmgr(logging.CRITICAL), dask.config.set(own):
        with _keep_ctrl_c_from_children():
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                # The dashboard is off, but its server still listens: on any free port.
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=None,
                security=distributed.Security.temporary(),
                silence_logs=logging.CRITICAL,
            )
        with cluster, distributed.Client(cluster) as client:
            yield DaskCluster(client, each, here=True)


@contextmanager
def remote_cluster(
    address: str,
    threads: int | None = None,
    tls_ca: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> Iterator[DaskCluster]:
    """Connect to the scheduler at `address`, whose workers must take one run at a time each.

    Args:
        address: such as tls://host:8786, or tcp://host:8786 for one without credentials.
        threads: threads of each run, 1 to 1024; by default as many as a run has here.
        tls_ca, tls_cert, tls_key: PEM files: the authority that signed the certificates of the
            scheduler, and our own certificate and key. By default those of Dask's configuration.

    Raises:
        InputError: an argument is not allowed, nobody answers there, or the certificates are not
            accepted.
    """
    each = torch.get_num_threads() if threads is None else threads
    whole_number("threads", each, 1, MOST_THREADS)
    files = {"tls_ca_file": tls_ca, "tls_client_cert": tls_cert, "tls_client_key": tls_key}
    given = {name: str(file) for name, file in files.items() if file is not None}
    with silence_logging_cmgr(logging.CRITICAL), dask.config.set(SETTINGS):
        try:
            security = distributed.Security(**given, require_encryption=True if given else None)
            ours = security.get_connection_args("client")
            # `Client` would wait for ever for a server that is not Dask's.
            LoopRunner().run_sync(connect, address, callback_timeout=CONNECT_SECONDS, **ours)
            client = distributed.Client(address, timeout=CONNECT_SECONDS, security=security)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"scheduler {address!r} does not answer, or not with these certificates; it must "
                "be the address of a Dask scheduler, such as tls://host:8786 with --tls-ca, "
                "--tls-cert and --tls-key, or tcp://host:8786"
            ) from error
        with client:
            if not client.nthreads():
                warnings.warn(f"scheduler {address!r} has no worker yet: waiting", stacklevel=3)
            yield DaskCluster(client, each, here=False)


@contextmanager
def _keep_ctrl_c_from_children() -> Iterator[None]:
    """Keep a terminal's Ctrl-C from new processes, because this process is the one to stop them.

    Threads and processes that start here inherit the blocked signal, and pass it on to theirs.
    """
    resource_tracker.ensure_running()  # starting it later would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _make(
    number: int, task: Task, obtain: Obtain, stopped: distributed.Event, threads: int, results: int
) -> Made | None:
    """Make a run on a worker, or find it. None if the sweep was stopped.

    Raises:
        InputError: the run cannot be made, or the worker does not make version `results`.
    """
    worker = distributed.get_worker()
    if (worker.state.nthreads, RESULTS_VERSION) != (1, results):
        raise InputError(
            f"worker {worker.name!r} takes {worker.state.nthreads} runs at once and makes results "
            f"of version {RESULTS_VERSION}, but must take one (--nthreads 1) and make version "
            f"{results}, as this styleinv does"
        )
    torch.set_num_threads(threads)

    @lru_cache(maxsize=1)  # once a second: a thousand workers ask the same scheduler
    def is_stopped(second: int) -> bool:
        return bool(stopped.is_set())

    return obtain_unless_stopped(number, task, obtain, lambda: is_stopped(int(time.monotonic())))
