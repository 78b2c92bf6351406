"""Runs on a Dask cluster: worker processes on this machine, or a scheduler that has its own.

A worker makes a run as `store.obtain` does, in the sweep's folder where it sees that folder: then
the run of a worker that was killed is taken up from its checkpoint by another one. A worker that
does not see it makes the run from its beginning. Either way the run lands in the folder once.

What Dask logs is not shown; what matters in it is raised, or warned of.
"""

import asyncio
import itertools
import logging
import signal
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, fields, replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleinv.encoder import Encoder
from styleinv.errors import InputError, whole_number
from styleinv.files import write_text
from styleinv.fingerprint import code_sha256
from styleinv.inversion import Task
from styleinv.memory import amount, available_memory
from styleinv.runs import store
from styleinv.runs.locks import alone
from styleinv.runs.store import Run
from styleinv.runs.sweeps import MOST_THREADS, Execution, Made

try:
    import dask
    import distributed
    from distributed.comm.core import connect
    from distributed.utils import silence_logging_cmgr
except ImportError as error:
    raise InputError(
        f"a cluster needs more packages ({error.name} is missing): pip install 'styleinv[cluster]'"
    ) from error

# Of a run, and whether it was found.
Future = distributed.Future[tuple[Run, bool]]

MOST_WORKERS = 1024
CONNECT_SECONDS = 10.0
# How often runs that have ended are collected here...
LOOK_SECONDS = 0.1
# ...and a worker asks whether to stop: a thousand of them ask the same scheduler.
ASK_SECONDS = 1.0
# How long the last iteration of a run may take that is to stop.
STOP_SECONDS = 600.0
# How many workers may die while they have the same run, before the run is blamed for it.
DEATHS_ALLOWED = 10
SETTINGS = {
    "distributed.scheduler.allowed-failures": DEATHS_ALLOWED,
    # A large style image is no mistake.
    "distributed.admin.large-graph-warning-threshold": "1GB",
}
# In the folder of a sweep: a worker that reads the same text there sees the same folder.
MARK = ".folder"


@dataclass(frozen=True)
class _Order:
    """What a worker has to know beside the task."""

    folder: Path
    mark: str
    pictures: bool
    every: float
    threads: int
    code: str
    stop: str


@dataclass(frozen=True)
class DaskCluster:
    """Workers to make runs on.

    Attributes:
        client: connected to their scheduler.
        threads: of each run; another number can change a result's last digits.
        here: the workers share this machine's memory.
    """

    client: distributed.Client
    threads: int
    here: bool

    def runs(
        self, tasks: Sequence[Task], folder: Path, pictures: bool, execution: Execution
    ) -> Generator[Made, None, None]:
        """Each task's number, run, and whether it was found: as they come, until stopped.

        Raises:
            InputError: what a run raised, or it took many workers with it, or the scheduler is
                gone. What is at work then is stopped, and has a checkpoint.
        """
        numbers: dict[str, list[int]] = {}  # what is asked for twice is made once
        for number, task in enumerate(tasks):
            if execution.stop():
                return
            found = store.find(task, folder)
            if found is None:
                numbers.setdefault(store.path_of(task, folder).name, []).append(number)
            else:
                yield number, found, True
        if not numbers:
            return
        missing = [tasks[same[0]] for same in numbers.values()]
        if self.here:
            self._check_memory(missing)
        with _loss_explained(), self._deaths_told():
            stop = distributed.Event(f"stop-{uuid.uuid4().hex}", client=self.client)
            order = _Order(
                folder=folder.absolute(),
                mark=_marked(folder),
                pictures=pictures,
                every=execution.checkpoint_every,
                threads=self.threads,
                code=code_sha256(),
                stop=stop.name,
            )
            at_work: set[Future] = set()
            try:
                for future in self._finished(missing, order, at_work, stop, execution.stop):
                    run, found_there = _result(future)
                    if not store.was_stopped(run):
                        kept = _kept(run, folder)
                        for number in numbers[store.file_name(run.record)]:
                            yield number, kept, found_there
            finally:
                _end(at_work, stop)

    def _finished(
        self,
        tasks: Sequence[Task],
        order: _Order,
        at_work: set[Future],
        stop: distributed.Event,
        wish: Callable[[], bool],
    ) -> Iterator[Future]:
        """The futures of the tasks as they end, and of those at work when somebody wants to stop.

        Each worker has one at a time, and `at_work` has those: none waits behind a long one, few
        are to be stopped, and a worker that dies is held against the run that it had, no other.
        """
        futures = self._submitted(tasks, order)
        left = len(tasks)
        while left and not wish():
            free = len(self.client.nthreads()) - len(at_work)
            at_work.update(itertools.islice(futures, max(0, free)))
            for future in [future for future in at_work if future.done()]:
                at_work.remove(future)
                left -= 1
                yield future
            time.sleep(LOOK_SECONDS)
        _end(at_work, stop)
        while at_work:
            yield at_work.pop()

    def _check_memory(self, tasks: Sequence[Task]) -> None:
        """Refuse more workers than have memory for the largest runs at the same time."""
        needs = sorted((task.needed_memory() for task in tasks), reverse=True)
        available = available_memory()
        together = list(itertools.accumulate(needs[: len(self.client.nthreads())]))
        fit = sum(need <= available for need in together)
        if fit < len(together):
            raise InputError(
                f"workers is {len(together)}, but {len(together)} of these runs at a time need "
                f"about {amount(together[-1])} of memory and {amount(available)} are free; "
                f"{fit or 'not even one'} would fit"
            )

    def _submitted(self, tasks: Sequence[Task], order: _Order) -> Iterator[Future]:
        """A future per task; styles and encoders are futures too, made anew if a worker dies."""
        shared: dict[int, distributed.Future[Any]] = {}

        def once(value: Encoder | Tensor) -> distributed.Future[Any]:
            if id(value) not in shared:
                shared[id(value)] = self.client.submit(_same, value, pure=False)
            return shared[id(value)]

        for task in tasks:
            yield self.client.submit(
                _make,
                once(task.style),
                once(task.encoder),
                _without_data(task),
                order,
                key=f"run-{store.path_of(task, order.folder).stem}-{order.stop}",
            )

    @contextmanager
    def _deaths_told(self) -> Iterator[None]:
        """A warning for every worker that is gone without having been told to go."""

        def tell(event: tuple[float, dict[str, Any]]) -> None:
            _, said = event
            if said.get("action") == "remove-worker" and not said["expected"]:
                warnings.warn(
                    f"worker {said['worker']} died: another one makes its run", stacklevel=1
                )

        self.client.subscribe_topic("all", tell)
        try:
            yield
        finally:
            self.client.unsubscribe_topic("all")


@contextmanager
def local_cluster(workers: int, threads: int | None = None) -> Iterator[DaskCluster]:
    """So many worker processes on this machine, which nothing outside it can reach.

    They import the script that asks for them: it needs its ``if __name__ == "__main__":``.

    Args:
        workers: 1 to 1024.
        threads: of each run, 1 to 1024; by default those of this process, shared out.

    Raises:
        InputError: an argument is not allowed.
    """
    whole_number("workers", workers, 1, MOST_WORKERS)
    each = max(1, torch.get_num_threads() // workers) if threads is None else threads
    whole_number("threads", each, 1, MOST_THREADS)
    with _quiet(), dask.config.set(SETTINGS), ExitStack() as opened:
        with _ctrl_c_kept_from_children():
            cluster = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                # There is no dashboard; its server, which listens all the same, gets any port.
                dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
                memory_limit=None,
                silence_logs=logging.CRITICAL,
            )
            client = distributed.Client(opened.enter_context(cluster))
        yield DaskCluster(opened.enter_context(client), each, here=True)


@contextmanager
def remote_cluster(address: str, threads: int | None = None) -> Iterator[DaskCluster]:
    """The workers of the scheduler at `address`; each of them must take one run at a time.

    Args:
        address: such as tcp://host:8786.
        threads: of each run, 1 to 1024; by default as many as a run has here.

    Raises:
        InputError: an argument is not allowed, or nobody answers there.
    """
    each = torch.get_num_threads() if threads is None else threads
    whole_number("threads", each, 1, MOST_THREADS)
    with _quiet(), dask.config.set(SETTINGS):
        try:
            # `Client` waits for ever for somebody who listens and speaks something else.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, _greeted(address)).result()
            client = distributed.Client(address, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"scheduler {address!r} does not answer; it must be the address of a Dask "
                "scheduler, such as tcp://host:8786"
            ) from error
        with client:
            if not client.nthreads():
                warnings.warn(f"scheduler {address!r} has no worker yet: waiting", stacklevel=3)
            yield DaskCluster(client, each, here=False)


async def _greeted(address: str) -> None:
    security = distributed.Security().get_connection_args("client")
    greeting = connect(address, timeout=CONNECT_SECONDS, **security)
    comm = await asyncio.wait_for(greeting, CONNECT_SECONDS)
    comm.abort()


@contextmanager
def _quiet() -> Iterator[None]:
    with silence_logging_cmgr(logging.CRITICAL):
        yield


@contextmanager
def _ctrl_c_kept_from_children() -> Iterator[None]:
    """A terminal sends Ctrl-C to all processes; only this one, told later, is to act on it.

    Threads and processes that start here inherit that it is blocked, and so do theirs.
    """
    resource_tracker.ensure_running()  # starting it later would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _loss_explained() -> Iterator[None]:
    try:
        yield
    except (OSError, CancelledError) as error:
        raise InputError(
            "the cluster does not answer any more; the same sweep again makes what is left"
        ) from error


def _end(at_work: Collection[Future], stop: distributed.Event) -> None:
    """Have the workers stop their runs, which then have a checkpoint, and wait for that."""
    if at_work:
        stop.set()
        distributed.wait(at_work, timeout=STOP_SECONDS)


def _same(value: Any) -> Any:
    return value


def _without_data(task: Task) -> dict[str, Any]:
    """A task's fields but for those that many tasks share."""
    names = [field.name for field in fields(Task) if field.name not in ("style", "encoder")]
    return {name: getattr(task, name) for name in names}


def _make(
    style: Tensor, encoder: Encoder, other: dict[str, Any], order: _Order
) -> tuple[Run, bool]:
    """On a worker: the run, and whether it was found; a stopped one if nobody wants it any more."""
    _check_worker(order)
    torch.set_num_threads(order.threads)
    task = Task(style=style, encoder=encoder, **other)
    stop = _Wish(order.stop)
    with _folder_here(order) as folder:
        return store.obtain(
            task,
            folder,
            pictures=order.pictures,
            callback=lambda iterate: stop(),
            stop=stop,
            every=order.every,
        )


def _check_worker(order: _Order) -> None:
    worker = distributed.get_worker()
    if worker.state.nthreads != 1:
        raise InputError(
            f"worker {worker.name!r} takes {worker.state.nthreads} runs at once, but must take "
            "one: start it with --nthreads 1"
        )
    if code_sha256() != order.code:
        raise InputError(
            f"worker {worker.name!r} has another version of styleinv, PyTorch or SciPy than the "
            "sweep; they must be the same"
        )


class _Wish:
    """On a worker: whether the sweep is to stop, asked over the network once in a while."""

    def __init__(self, name: str) -> None:
        self.event = distributed.Event(name, client=distributed.get_client())
        self.asked = -ASK_SECONDS

    def __call__(self) -> bool:
        if time.monotonic() - self.asked < ASK_SECONDS:
            return False
        self.asked = time.monotonic()
        return bool(self.event.is_set())


def _marked(folder: Path) -> str:
    """The text that marks the folder, written there the first time."""
    mark = folder / MARK
    with alone(folder / f"{MARK}.lock", f"another sweep marks {folder}: waiting for it"):
        if not mark.is_file():
            write_text(mark, uuid.uuid4().hex)
    return mark.read_text()


@contextmanager
def _folder_here(order: _Order) -> Iterator[Path]:
    """On a worker: the sweep's folder if it is seen from here, else one for the moment."""
    mark = order.folder / MARK
    if mark.is_file() and mark.read_text() == order.mark:
        yield order.folder
        return
    with tempfile.TemporaryDirectory(prefix="styleinv-") as folder:
        yield Path(folder)


def _result(future: Future) -> tuple[Run, bool]:
    try:
        result: tuple[Run, bool] = future.result()
    except distributed.KilledWorker as error:
        raise InputError(
            f"{error.allowed_failures + 1} workers died while they had the same run; they may need "
            "more memory, or the run a smaller size"
        ) from error
    return result


def _kept(run: Run, folder: Path) -> Run:
    """The run as it is in the folder, where the worker may have put it already."""
    path = folder / store.file_name(run.record)
    with suppress(InputError):
        if store.read_record(path)["sha256"] == run.record.sha256:
            return replace(run, path=path)
    return replace(run, path=store.save(run, folder))
