"""Many inversions, one after another; finished ones are kept and taken up again."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from styleinv import store
from styleinv.encoder import LAYERS, Encoder, load_encoder
from styleinv.errors import InputError, one_of
from styleinv.invert import Task, plan
from styleinv.losses import LOSSES
from styleinv.protocol import Protocol
from styleinv.store import Run

Key = tuple[str, str, str]


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
) -> dict[Key, Run]:
    """Invert every style through every loss at every layer; the other arguments as in `invert`.

    All arguments are checked before the first inversion starts. Runs land, one by one, in
    `folder`; what is there already is not computed again, whatever code made it (see `own_runs`).

    Args:
        folder: where records and images are kept.
        pictures: keep them, or only the records.
        report: called with one line of text per finished run.

    Returns:
        the runs by (style as given, layer, loss).
    """
    for name, values in (("styles", styles), ("layers", layers), ("losses", losses)):
        if not values:
            raise InputError(f"{name} is empty, but must name at least one")
    for layer in layers:
        one_of("layers", layer, LAYERS)
    for loss in losses:
        one_of("losses", loss, tuple(LOSSES))
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(encoder, device=device)
    tasks: dict[Key, Task] = {}
    for style in styles:
        task = plan(
            style, encoder=encoder, protocol=protocol, seed=seed, size=size, iterations=iterations
        )
        for layer in layers:
            for loss in losses:
                tasks[str(style), layer, loss] = replace(task, layer=layer, loss=loss)
    runs: dict[Key, Run] = {}
    for number, (key, task) in enumerate(tasks.items(), start=1):
        label = f"[{number}/{len(tasks)}] {task.style_name}"
        runs[key] = _run(task, Path(folder), label, pictures, report)
    return runs


def own_runs(folder: str | Path) -> Path:
    """The sub-folder of `folder` for the runs of this state of the code."""
    return Path(folder) / store.code_sha256()[:12]


def _run(
    task: Task, folder: Path, label: str, pictures: bool, report: Callable[[str], object]
) -> Run:
    found = store.find(task, folder)
    if found is not None:
        report(f"{label} {task.layer} {task.loss}: kept from an earlier run")
        return found
    inversion = task.run()
    run = store.run_of(inversion)
    store.save(run if pictures else store.without_picture(run), folder)
    report(
        f"{label} {task.layer} {task.loss}: loss {inversion.loss:.2g} after "
        f"{inversion.evaluations} evaluations, {inversion.seconds:.1f} s, {inversion.stop_reason}"
    )
    return run
