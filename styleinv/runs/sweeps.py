"""Many inversions, made here or on a cluster. Finished runs are kept and not made again."""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from styleinv.batch import MOST_TOGETHER, Batch, how_many, kind_of
from styleinv.checkpoint import DEFAULT_SECONDS, Checkpoint
from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.errors import InputError, one_of, whole_number
from styleinv.inversion import RESULTS_VERSION, Inversion, Task, plan
from styleinv.losses import LOSSES
from styleinv.machine import duration
from styleinv.protocol import Protocol
from styleinv.runs import store
from styleinv.runs.store import Run

if TYPE_CHECKING:  # Dask is an extra
    from styleinv.runs.cluster import DaskCluster

# A run of a sweep by (style as given, layer, loss).
Key = tuple[str, str, str]
# The number of a task, its run, and whether the run was found rather than made.
Made = tuple[int, Run, bool]
# `store.obtain` and `store.obtaining` for one folder.
Obtain = Callable[..., tuple[Run, bool]]
Obtaining = Callable[..., Generator[Checkpoint | tuple[Run, bool], Inversion, None]]
MOST_THREADS = 1024


@dataclass(frozen=True)
class Execution:
    """How runs are carried out. It does not change their results.

    Attributes:
        stop: called at every iteration; returns True to stop the sweep. The current run then has a
            checkpoint, unless its protocol has none.
        checkpoint_every: seconds between two checkpoints of a run.
        cluster: where to make the runs, each by itself; None for this process.
        batch: how many runs of one kind (`styleinv.batch.kind_of`) this process makes side by
            side, at most; None: as many as is fast, 1: one after the other.
    """

    stop: Callable[[], bool] = lambda: False
    checkpoint_every: float = DEFAULT_SECONDS
    cluster: "DaskCluster | None" = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.batch is not None:
            whole_number("batch", self.batch, 1, MOST_TOGETHER)
            if self.batch > 1 and self.cluster is not None:
                raise InputError(
                    f"batch is {self.batch}, but the workers of a cluster make one run at a time; "
                    "leave one of the two out"
                )


HERE = Execution()


def sweep(
    styles: Sequence[str | Path],
    *,
    layers: Sequence[str],
    losses: Sequence[str],
    folder: str | Path,
    encoder: str | Path | Encoder = "bundled",
    protocol: str | Protocol = "fast",
    seed: int | None = None,
    size: int | None = None,
    iterations: int | None = None,
    device: str = "cpu",
    pictures: bool = True,
    report: Callable[[str], object] = lambda line: None,
    execution: Execution = HERE,
) -> dict[Key, Run]:
    """Invert every style through every loss at every layer.

    All arguments are checked before the first inversion starts. Each run is written to `folder` as
    soon as it is finished, and runs that are there already are not made again.

    Args:
        folder: where records and pictures are kept, see `own_runs`.
        pictures: whether to keep the pictures with the records.
        report: called with one line of text per finished run.
        execution: how and where the runs are made.

    The other arguments are those of `styleinv.invert`.

    Returns:
        the runs by (style as given, layer, loss); only the finished ones if `execution` stopped.

    Raises:
        InputError: an argument is not allowed; the message names it and says what is.
    """
    tasks = plan_sweep(
        styles,
        layers=layers,
        losses=losses,
        encoder=encoder if isinstance(encoder, Encoder) else load_encoder(encoder, device=device),
        protocol=protocol,
        seeds=[seed],
        size=size,
        iterations=[iterations],
    )
    keys = list(product(map(str, styles), layers, losses))
    made = make_runs(tasks, folder, pictures=pictures, report=report, execution=execution)
    return {keys[number]: made[number] for number in sorted(made)}


def plan_sweep(
    styles: Sequence[str | Path],
    *,
    layers: Sequence[str],
    losses: Sequence[str],
    encoder: Encoder,
    protocol: str | Protocol = "fast",
    seeds: Sequence[int | None] = (None,),
    size: int | None = None,
    iterations: Sequence[int | None] = (None,),
) -> list[Task]:
    """The checked tasks of a sweep, ordered by seed, budget, style, layer and loss.

    Raises:
        InputError: an argument is not allowed; the message names it and says what is.
    """
    for name, values in (("styles", styles), ("layers", layers), ("losses", losses)):
        if not values:
            raise InputError(f"{name} is empty, but must name at least one")
    for name, values, allowed in (("layers", layers, LAYERS), ("losses", losses, tuple(LOSSES))):
        for value in values:
            one_of(name, value, allowed)
    planned = [
        plan(style, encoder=encoder, protocol=protocol, size=size, iterations=budget)
        for budget, style in product(iterations, styles)
    ]
    return [
        replace(task, seed=task.seed if seed is None else seed, layer=layer, loss=loss)
        for seed, task, layer, loss in product(seeds, planned, layers, losses)
    ]


def make_runs(
    tasks: Sequence[Task],
    folder: str | Path,
    *,
    pictures: bool = True,
    report: Callable[[str], object] = lambda line: None,
    execution: Execution = HERE,
) -> dict[int, Run]:
    """The runs of `tasks` by the task's number, found in `folder` or made and kept there.

    If `execution` stopped, only the runs that were finished. Arguments as in `sweep`.
    """
    runs: dict[int, Run] = {}
    began, computed = time.monotonic(), 0
    # Whatever is raised here, closing stops the workers at once.
    with closing(_find_or_make(tasks, Path(folder), pictures, execution)) as made:
        for number, run, found in made:
            runs[number] = run
            computed += not found
            left = len(tasks) - len(runs)
            seconds = (time.monotonic() - began) / max(computed, 1) * left
            rest = f"; about {duration(seconds)} left" if computed and left else ""
            report(f"[{len(runs)}/{len(tasks)}] {summary(run, found)}{rest}")
    return runs


def own_runs(folder: str | Path) -> Path:
    """The sub-folder of `folder` for runs of this version of the results."""
    return Path(folder) / f"results-{RESULTS_VERSION}"


def _find_or_make(
    tasks: Sequence[Task], folder: Path, pictures: bool, execution: Execution
) -> Generator[Made, None, None]:
    """Yield the runs in `folder`, then the others as they finish, until `execution` stops."""
    missing = {}
    for number, task in enumerate(tasks):
        if execution.stop():
            return
        if (run := store.find(task, folder)) and store.is_tidy(task, folder):
            yield number, run, True
        else:
            missing[number] = task
    options: dict[str, Any] = {"folder": folder.absolute(), "pictures": pictures}
    options["every"] = execution.checkpoint_every
    obtain = partial(store.obtain, **options)
    if execution.cluster is None:
        obtaining = partial(store.obtaining, **options)
        made_here = _in_this_process(missing, obtain, obtaining, execution)
    else:
        made_here = execution.cluster.runs(missing, obtain, execution.stop)
    with closing(made_here) as made:
        for number, run, found in made:
            # A worker with a disk of its own has not put the run into this folder.
            kept = store.find(tasks[number], folder)
            yield number, kept or replace(run, path=store.save(run, folder)), found


def _in_this_process(
    tasks: Mapping[int, Task], obtain: Obtain, obtaining: Obtaining, execution: Execution
) -> Generator[Made, None, None]:
    """Make runs in order; where one can be made side by side with later ones, those with it.

    What another process is making comes last: sweeps that ask for the same runs share the work.
    """
    for task in tasks.values():
        task.check_memory()
    stop = execution.stop
    kinds = defaultdict[Hashable, dict[int, Task]](dict)
    for number, task in tasks.items():
        kinds[kind_of(task)][number] = task
    sizes = {kind: how_many(list(same.values()), execution.batch) for kind, same in kinds.items()}
    made, made_elsewhere = set[int](), dict[int, Task]()
    for number, task in tasks.items():
        if (most := sizes.pop(kind := kind_of(task), 1)) > 1:
            with closing(_side_by_side(kinds[kind], most, obtaining, stop)) as together:
                for one in together:
                    made.add(one[0])
                    yield one
        if number in made:
            continue
        if stop():
            return
        try:
            run, found = obtain(task, callback=lambda _: stop(), stop=lambda: True)
        except Timeout:
            made_elsewhere[number] = task
            continue
        if run.was_stopped:
            return
        yield number, run, found
    for number, task in made_elsewhere.items():
        if (last := obtain_unless_stopped(number, task, obtain, stop)) is None:
            return
        yield last


def _side_by_side(
    tasks: Mapping[int, Task], most: int, obtaining: Obtaining, stop: Callable[[], bool]
) -> Generator[Made, None, None]:
    """Make runs of one kind as a batch: whenever one is finished, the next one enters.

    Left out is what another process is making.
    """
    batch, at_work = Batch(), dict[int, Generator[Any, Inversion, None]]()
    waiting, claimed = list(tasks.items()), set[str]()
    try:
        while waiting or at_work:
            while waiting and len(batch) < most and not stop():
                number, task = waiting.pop(0)
                if task.address in claimed:  # asked for twice
                    continue
                claimed.add(task.address)
                steps = obtaining(task, stop=lambda: True)
                try:
                    begun = next(steps)
                except Timeout:
                    continue
                if isinstance(begun, Checkpoint):
                    at_work[number] = steps
                    batch.enter(number, task, lambda iterate: stop(), begun)
                else:
                    yield number, *begun
            if not at_work:
                return
            for number, inversion in batch.run().items():
                run, found = at_work.pop(number).send(inversion)
                if not run.was_stopped:
                    yield number, run, found
    finally:
        for steps in at_work.values():
            steps.close()


def obtain_unless_stopped(
    number: int, task: Task, obtain: Obtain, stop: Callable[[], bool]
) -> Made | None:
    """Find a run or make it; None if `stop` returned True at an iteration or while waiting."""
    try:
        run, found = obtain(task, callback=lambda iterate: stop(), stop=stop)
    except Timeout:  # another process was making this run
        return None
    return None if run.was_stopped else (number, run, found)


def summary(run: Run, found: bool) -> str:
    """One line on a run, without a full stop."""
    record, result = run.record, run.record.result
    cell = f"{record.style} {record.asked.layer} {record.asked.loss}"
    if found:
        return f"{cell}: kept from an earlier run"
    return (
        f"{cell}: loss {result.loss:.2g} after {result.evaluations} evaluations, "
        f"{result.seconds:.1f} s, {result.stop_reason}"
    )
