"""Many inversions, made here or on a cluster. Finished runs are kept and not made again."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import Timeout

from styleinv.checkpoint import DEFAULT_SECONDS
from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.errors import InputError, one_of
from styleinv.inversion import RESULTS_VERSION, Task, plan
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
# `store.obtain` for one folder.
Obtain = Callable[..., tuple[Run, bool]]
MOST_THREADS = 1024


@dataclass(frozen=True)
class Execution:
    """How runs are carried out. It does not change their results.

    Attributes:
        stop: called at every iteration; returns True to stop the sweep. The current run then has a
            checkpoint, unless its protocol has none.
        checkpoint_every: seconds between two checkpoints of a run.
        cluster: where to make the runs; None for this process.
    """

    stop: Callable[[], bool] = lambda: False
    checkpoint_every: float = DEFAULT_SECONDS
    cluster: "DaskCluster | None" = None


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
    every, shared = execution.checkpoint_every, folder.absolute()
    obtain = partial(store.obtain, folder=shared, pictures=pictures, every=every)
    make = _in_this_process if execution.cluster is None else execution.cluster.runs
    with closing(make(missing, obtain, execution.stop)) as made:
        for number, run, found in made:
            # A worker with a disk of its own has not put the run into this folder.
            kept = store.find(tasks[number], folder)
            yield number, kept or replace(run, path=store.save(run, folder)), found


def _in_this_process(
    tasks: Mapping[int, Task], obtain: Obtain, stop: Callable[[], bool]
) -> Generator[Made, None, None]:
    for task in tasks.values():
        task.check_memory()
    # What another process is making comes last: sweeps that ask for the same runs share the work.
    made_elsewhere = {}
    for number, task in tasks.items():
        try:
            run, found = obtain(task, callback=lambda _: stop(), stop=lambda: True)
        except Timeout:
            made_elsewhere[number] = task
            continue
        if run.was_stopped:
            return
        yield number, run, found
    for number, task in made_elsewhere.items():
        if (made := obtain_unless_stopped(number, task, obtain, stop)) is None:
            return
        yield made


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
