"""Many inversions, in one process or on a cluster; finished ones are kept and taken up again."""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol as Interface

from filelock import Timeout

from styleinv.checkpoint import DEFAULT_SECONDS, checked_seconds
from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.errors import InputError, one_of
from styleinv.inversion import RESULTS_VERSION, Task, plan
from styleinv.losses import LOSSES
from styleinv.protocol import Protocol
from styleinv.runs import store
from styleinv.runs.record import duration
from styleinv.runs.store import Run

Key = tuple[str, str, str]
MOST_THREADS = 1024
# The number of a task, its run, and whether that was found.
Made = tuple[int, Run, bool]


class Cluster(Interface):
    """What makes runs elsewhere: `styleinv.cluster.DaskCluster`."""

    def runs(
        self, tasks: Sequence[Task], folder: Path, pictures: bool, execution: "Execution"
    ) -> Generator[Made, None, None]:
        """Make the runs in any order, and keep them in `folder`, until `execution.stop`."""
        ...


@dataclass(frozen=True)
class Execution:
    """How runs are carried out, which changes nothing about them.

    Attributes:
        stop: asked at every iteration; True ends the sweep. The run at work has a checkpoint then,
            if its protocol has any.
        checkpoint_every: seconds between two checkpoints of a run.
        cluster: where runs are made; None for this process.
    """

    stop: Callable[[], bool] = lambda: False
    checkpoint_every: float = DEFAULT_SECONDS
    cluster: Cluster | None = None

    def __post_init__(self) -> None:
        checked_seconds("checkpoint_every", self.checkpoint_every)


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
    """Invert every style through every loss at every layer; the other arguments as in `invert`.

    All arguments are checked before the first inversion starts. Runs land, one by one, in
    `folder`; what is there already is not computed again, whatever code made it (see `own_runs`).

    Args:
        folder: where records and images are kept.
        pictures: keep them, or only the records.
        report: called with one line of text per finished run.
        execution: how and where the runs are made.

    Returns:
        the runs by (style as given, layer, loss); fewer of them if `execution` was stopped.
    """
    tasks = plan_sweep(
        styles,
        layers=layers,
        losses=losses,
        encoder=encoder if isinstance(encoder, Encoder) else load_encoder(encoder, device=device),
        protocol=protocol,
        seeds=[seed],
        size=size,
        iterations=iterations,
    )
    keys = [(str(style), layer, loss) for style in styles for layer in layers for loss in losses]
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
    iterations: int | None = None,
) -> list[Task]:
    """The tasks of a sweep, checked: by seed, style, layer and loss, in this order."""
    for name, values in (("styles", styles), ("layers", layers), ("losses", losses)):
        if not values:
            raise InputError(f"{name} is empty, but must name at least one")
    for layer in layers:
        one_of("layers", layer, LAYERS)
    for loss in losses:
        one_of("losses", loss, tuple(LOSSES))
    first = [
        plan(
            style,
            encoder=encoder,
            protocol=protocol,
            seed=seeds[0],
            size=size,
            iterations=iterations,
        )
        for style in styles
    ]
    return [
        replace(task, seed=task.seed if seed is None else seed, layer=layer, loss=loss)
        for seed in seeds
        for task in first
        for layer in layers
        for loss in losses
    ]


def make_runs(
    tasks: Sequence[Task],
    folder: str | Path,
    *,
    pictures: bool = True,
    report: Callable[[str], object] = lambda line: None,
    execution: Execution = HERE,
) -> dict[int, Run]:
    """The runs of `tasks`, found in `folder` or made and kept there, by the task's number.

    Fewer than there are tasks if `execution` was stopped; the rest is left for another time.
    """
    elsewhere = execution.cluster
    made = (
        _one_by_one(tasks, Path(folder), pictures, execution)
        if elsewhere is None
        else elsewhere.runs(tasks, Path(folder), pictures, execution)
    )
    runs: dict[int, Run] = {}
    progress = _Progress(len(tasks))
    with closing(made):  # at once, whatever is raised here: there may be workers to stop
        for number, run, found in made:
            runs[number] = run
            report(progress.line(run, found))
    return runs


def own_runs(folder: str | Path) -> Path:
    """The sub-folder of `folder` for runs of this version of the results."""
    return Path(folder) / f"results-{RESULTS_VERSION}"


def _one_by_one(
    tasks: Sequence[Task], folder: Path, pictures: bool, execution: Execution
) -> Generator[Made, None, None]:
    for task in tasks:
        if not store.path_of(task, folder).exists():
            task.check_memory()
    for number, task in enumerate(tasks):
        if execution.stop():
            return
        try:
            run, found = store.obtain(
                task,
                folder,
                pictures=pictures,
                callback=lambda iterate: execution.stop(),
                stop=execution.stop,
                every=execution.checkpoint_every,
            )
        except Timeout:  # told to stop while another process was making this run
            return
        if run.was_stopped:
            return
        yield number, run, found


class _Progress:
    """Counts runs, and tells how long the rest will take."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.computed = total, 0, 0
        self.started = time.monotonic()

    def line(self, run: Run, found: bool) -> str:
        self.done += 1
        asked, result = run.record.asked, run.record.result
        label = f"[{self.done}/{self.total}] {run.record.style} {asked.layer} {asked.loss}"
        if found:
            return f"{label}: kept from an earlier run"
        self.computed += 1
        return (
            f"{label}: loss {result.loss:.2g} after {result.evaluations} evaluations, "
            f"{result.seconds:.1f} s, {result.stop_reason}{self._left()}"
        )

    def _left(self) -> str:
        """An estimate from the runs so far, over all workers, where some are left."""
        left = self.total - self.done
        seconds = (time.monotonic() - self.started) / self.computed * left
        return f"; about {duration(seconds)} left" if left else ""
