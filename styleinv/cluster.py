"""Runs on a Dask cluster: worker processes on this machine, or a scheduler that has its own.

A worker makes a run as `store.obtain` does, in the sweep's folder where it sees that folder: then
the run of a worker that was killed is taken up from its checkpoint by another one. A worker that
does not see it makes the run from its beginning. Either way the run lands in the folder once.
"""

import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleinv import store
from styleinv.encoder import Encoder
from styleinv.errors import InputError, whole_number
from styleinv.files import folder_made, write_text
from styleinv.fingerprint import code_sha256
from styleinv.invert import Task
from styleinv.store import Run
from styleinv.sweep import MOST_THREADS, Execution, Made, was_stopped

try:
    import dask
    import distributed
except ImportError as error:
    raise InputError(
        f"a cluster needs more packages ({error.name} is missing): pip install 'styleinv[cluster]'"
    ) from error

# Of a run, and whether it was found.
Future = distributed.Future[tuple[Run, bool]]

MOST_WORKERS = 1024
CONNECT_SECONDS = 10.0
# How often the wish to stop travels: to here, and from here to the workers.
LOOK_SECONDS = 0.2
# How many workers may die while they have the same run, before the run is blamed for it.
DEATHS_ALLOWED = 10
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
    """

    client: distributed.Client
    threads: int

    def runs(
        self, tasks: Sequence[Task], folder: Path, pictures: bool, execution: Execution
    ) -> Iterator[Made]:
        """Each task's number, run, and whether it was found: as they come, until stopped.

        Raises:
            InputError: what a run raised, or it took many workers with it.
        """
        numbers: dict[str, list[int]] = {}  # what is asked for twice is made once
        for number, task in enumerate(tasks):
            found = store.find(task, folder)
            if found is None:
                numbers.setdefault(task.address, []).append(number)
            else:
                yield number, found, True
        if not numbers:
            return
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
        futures = self._submit([tasks[same[0]] for same in numbers.values()], order)
        try:
            for future in self._finished(futures, execution.stop):
                run, found_there = _result(future)
                if was_stopped(run):
                    continue
                address = run.record["address"]
                for number in numbers[address]:
                    yield number, _kept(tasks[number], run, folder), found_there
        finally:
            self._end(futures, stop)

    def _submit(self, tasks: Sequence[Task], order: _Order) -> list[Future]:
        """A future per task; styles and encoders are futures too, made anew if a worker dies."""
        shared: dict[int, distributed.Future[Any]] = {}

        def once(value: Encoder | Tensor) -> distributed.Future[Any]:
            if id(value) not in shared:
                shared[id(value)] = self.client.submit(_same, value, pure=False)
            return shared[id(value)]

        return [
            self.client.submit(
                _make,
                once(task.style),
                once(task.encoder),
                _without_data(task),
                order,
                key=f"run-{task.address}-{order.stop}",
            )
            for task in tasks
        ]

    def _finished(self, futures: Sequence[Future], stop: Callable[[], bool]) -> Iterator[Future]:
        """The futures as they end, until somebody wants to stop."""
        ended = distributed.as_completed(futures)
        left = len(futures)
        while left and not stop():
            batch = ended.next_batch(block=False)
            if not batch:
                time.sleep(LOOK_SECONDS)
            for future in batch:
                left -= 1
                yield future
                future.release()

    def _end(self, futures: Sequence[Future], stop: distributed.Event) -> None:
        """Have the workers write a checkpoint of what they are at, and forget the rest."""
        at_work = {key for keys in self.client.processing().values() for key in keys}
        open_ones = [future for future in futures if not future.done()]
        if open_ones:
            stop.set()
            self.client.cancel([future for future in open_ones if future.key not in at_work])
            distributed.wait([future for future in open_ones if future.key in at_work])


@contextmanager
def local_cluster(workers: int, threads: int | None = None) -> Iterator[DaskCluster]:
    """So many worker processes on this machine, which nothing outside it can reach.

    Args:
        workers: 1 to 1024.
        threads: of each run; by default the machine's processors, shared out.
    """
    whole_number("workers", workers, 1, MOST_WORKERS)
    each = max(1, torch.get_num_threads() // workers) if threads is None else threads
    whole_number("threads", each, 1, MOST_THREADS)
    with (
        _patience(),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=None,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield DaskCluster(client, each)


@contextmanager
def remote_cluster(address: str, threads: int | None = None) -> Iterator[DaskCluster]:
    """The workers of the scheduler at `address`.

    Args:
        address: such as tcp://host:8786.
        threads: of each run; by default as many as a run has here.

    Raises:
        InputError: nobody answers there, or a worker would make several runs at once.
    """
    each = torch.get_num_threads() if threads is None else threads
    whole_number("threads", each, 1, MOST_THREADS)
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"scheduler {address!r} does not answer; it must be an address such as tcp://host:8786"
        ) from error
    with client:
        busy = [
            worker["name"]
            for worker in client.scheduler_info(n_workers=-1)["workers"].values()
            if worker["nthreads"] != 1
        ]
        if busy:
            raise InputError(
                f"worker {busy[0]!r} of scheduler {address!r} takes several runs at once, but must "
                "take one: start it with --nthreads 1"
            )
        yield DaskCluster(client, each)


@contextmanager
def _patience() -> Iterator[None]:
    with dask.config.set({"distributed.scheduler.allowed-failures": DEATHS_ALLOWED}):
        yield


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
    if code_sha256() != order.code:
        raise InputError(
            f"worker {distributed.get_worker().name!r} has another version of styleinv or PyTorch "
            "than the sweep; they must be the same"
        )
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


class _Wish:
    """On a worker: whether the sweep is to stop, asked over the network once in a while."""

    def __init__(self, name: str) -> None:
        self.event = distributed.Event(name, client=distributed.get_client())
        self.asked = -10.0

    def __call__(self) -> bool:
        if time.monotonic() - self.asked < LOOK_SECONDS:
            return False
        self.asked = time.monotonic()
        return bool(self.event.is_set())


def _marked(folder: Path) -> str:
    """The text that marks the folder, written there the first time."""
    folder_made(folder)
    mark = folder / MARK
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
            f"{DEATHS_ALLOWED + 1} workers died while they had the same run; do they have enough "
            "memory"
        ) from error
    return result


def _kept(task: Task, run: Run, folder: Path) -> Run:
    """The run as it is in the folder, where the worker may have put it already."""
    found = store.find(task, folder)
    return replace(run, path=store.save(run, folder)) if found is None else found
