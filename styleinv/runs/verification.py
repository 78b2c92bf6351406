"""Whether kept runs are what they say: every hash, every metric, and a few of them made again."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path

import torch
from msgspec import UNSET

from styleinv.encoder import SOURCES, Encoder, load_encoder
from styleinv.errors import InputError
from styleinv.images import Pixels, load_style, to_uint8
from styleinv.inversion import Task, pixels_sha256, plan
from styleinv.losses import ALPHA
from styleinv.protocol import get_protocol
from styleinv.runs import measures, store
from styleinv.runs.record import Record, file_name
from styleinv.runs.store import Run

RUN_FILES = "*-seed*-" + 8 * "[0-9a-f]"

# Larger runs are not made again: they would take minutes.
LARGEST_RERUN, MOST_EVALUATIONS = 128, 3000

# What another machine's rounding may do to a run made again. It grows from step to step: the first
# ones agree closely, the last ones only in what they reach.
FIRST_ITERATIONS, FIRST_LOSSES_WITHIN = 10, 0.01
FINAL_LOSS_WITHIN, METRICS_WITHIN = 2.0, 0.25
COMPARED_METRICS = ("structure_size", "colour_distance")


@dataclass
class Report:
    """What was looked at, and what is wrong, each in a sentence that names the file."""

    records: int = 0
    pictures: int = 0
    measured: int = 0
    reruns: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def verify(
    folder: Path,
    *,
    rerun: int = 0,
    encoder: str | None = None,
    seed: int | None = None,
    report: Callable[[str], object] = lambda line: None,
) -> Report:
    """Check every record and picture in `folder` and below.

    Args:
        rerun: so many runs, drawn at random among the small ones, are made again.
        encoder: weights for runs whose encoder is a file; without them, those are not drawn.
        seed: of the draw; by default it differs every time.
        report: called with a line per run made again.

    Raises:
        InputError: `folder` holds no records, or there are not so many runs to make again.
    """
    paths = sorted(folder.rglob(f"{RUN_FILES}.json"))
    if not paths:
        raise InputError(f"folder is {str(folder)!r}, but must hold run records")
    found, styles, intact = Report(), _Styles(), []
    for path in paths:
        try:
            run = _checked(path, found)
            if run is not None:
                found.wrong += list(_wrong_metrics(run, styles, found))
                intact.append(run)
        except (InputError, LookupError, TypeError, AttributeError, ValueError) as error:
            found.wrong.append(f"record {str(path)!r} has other fields than a run's: {error!r}")
    found.wrong += _without_record(folder, set(paths))
    if rerun:
        for run, task in _drawn(intact, rerun, encoder, seed):
            wrong, line = _made_again(run, task)
            found.wrong += wrong
            found.reruns.append(line)
            report(line)
    return found


def _checked(path: Path, found: Report) -> Run | None:
    found.records += 1
    try:
        run = store.read(path)
    except InputError as error:
        found.wrong.append(str(error))
        return None
    found.pictures += run.pixels is not None
    if path.name != file_name(run.record):
        found.wrong.append(f"record {str(path)!r} has the name of another run")
    return run


class _Styles:
    """Style images, each loaded once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], tuple[str, Pixels]] = {}

    def of(self, record: Record) -> Pixels | None:
        """The style image of a record, if it is one that can be made again here."""
        asked, source = record.asked, record.source
        if asked.height != asked.width or ":" not in source:
            return None
        key = (source, asked.width)
        if key not in self._known:
            image = load_style(*key)
            self._known[key] = pixels_sha256(image), to_uint8(image)
        sha256, pixels = self._known[key]
        return pixels if sha256 == asked.style_sha256 else None


def _wrong_metrics(run: Run, styles: _Styles, found: Report) -> Iterator[str]:
    """Metrics that are not those of the picture, where this code has measured them."""
    kept = run.record.measures
    style = styles.of(run.record)
    if run.pixels is None or style is None or kept.version != measures.VERSION:
        return
    found.measured += 1
    for name, value in measures.measure(run.pixels, style).items():
        noted = getattr(kept, name)
        same = list(noted) == value if isinstance(value, list) else _close(value, noted, 1e-3)
        if not same:
            yield f"record {str(run.path)!r} has {name} {noted}, but its picture has {value}"


def _without_record(folder: Path, records: set[Path]) -> Iterator[str]:
    for picture in sorted(folder.rglob(f"{RUN_FILES}.png")):
        if picture.with_suffix(".json") not in records:
            yield f"picture {str(picture)!r} has no record"


def _drawn(
    runs: list[Run], count: int, encoder: str | None, seed: int | None
) -> Iterator[tuple[Run, Task]]:
    weights = None if encoder is None else load_encoder(encoder)
    candidates = [run for run in runs if _can_be_made_again(run.record, weights)]
    if len(candidates) < count:
        raise InputError(
            f"rerun is {count}, but only {len(candidates)} runs are small enough and have an "
            "encoder at hand; give the others' weights with --encoder"
        )
    for run in random.Random(seed).sample(candidates, count):
        yield run, _task_of(run.record, weights)


def _can_be_made_again(record: Record, weights: Encoder | None) -> bool:
    asked = record.asked
    known = _source_of(asked.encoder) is not None or (
        weights is not None and weights.sha256 == asked.encoder_sha256
    )
    return (
        known
        and ":" in record.source
        and asked.height == asked.width <= LARGEST_RERUN
        and record.result.evaluations <= MOST_EVALUATIONS
        and asked.device == "cpu"
        and record.is_repeatable
    )


def _source_of(encoder: str) -> str | None:
    """What loads an encoder of this name without a file or a download, if anything does."""
    name = encoder.partition(" ")[0]
    return name if name in SOURCES and name != "vgg19" else None


def _task_of(record: Record, weights: Encoder | None) -> Task:
    asked = record.asked
    protocol = get_protocol(asked.protocol.name)
    source = _source_of(asked.encoder)
    return plan(
        record.source,
        layer=asked.layer,
        loss=asked.loss,
        encoder=weights if source is None and weights is not None else source or "",
        protocol=protocol,
        seed=asked.seed,
        size=asked.width,
        iterations=record.iterations_asked,
        alpha=ALPHA if asked.alpha is UNSET else asked.alpha,
    )


def _made_again(run: Run, task: Task) -> tuple[list[str], str]:
    """What differs beyond the tolerance, and a line on how close the two are."""
    kept = run.record
    # Sums over other numbers of threads are rounded otherwise.
    threads = torch.get_num_threads()
    torch.set_num_threads(kept.made_with.threads)
    try:
        again = store.run_of(task.run()).record
    finally:
        torch.set_num_threads(threads)
    name = f"record {str(run.path)!r}"
    if again.address != kept.address:
        return [f"{name} cannot be asked for again: its style or settings differ here"], name
    if again.result.pixels_sha256 == kept.result.pixels_sha256:
        return [], f"{name}: bit for bit the same"
    wrong = list(_differences(kept, again))
    judged = "other" if wrong else "the same within the tolerance"
    losses = f"final loss {again.result.loss:.3g} against {kept.result.loss:.3g}"
    return [f"{name} made again has {reason}" for reason in wrong], f"{name}: {judged}, {losses}"


def _differences(kept: Record, again: Record) -> Iterator[str]:
    first = range(FIRST_ITERATIONS)
    ours, theirs = ({x.iteration: x.loss for x in record.trace} for record in (again, kept))
    for iteration in first:
        if iteration in ours and iteration in theirs:
            a, b = ours[iteration], theirs[iteration]
            if not _close(a, b, FIRST_LOSSES_WITHIN):
                yield f"loss {a:.6g} instead of {b:.6g} at iteration {iteration}"
                return
    a, b = again.result.loss, kept.result.loss
    theta = kept.theta
    both_below = theta is not None and max(a, b) < theta
    if not both_below and abs(a - b) > (FINAL_LOSS_WITHIN - 1) * min(abs(a), abs(b)):
        yield f"final loss {a:.3g} instead of {b:.3g}"
    for name in COMPARED_METRICS:
        a, b = (getattr(x.measures, name) for x in (again, kept))
        if not _close(a, b, METRICS_WITHIN):
            yield f"{name} {a:.3g} instead of {b:.3g}"


def _close(a: float, b: float, within: float) -> bool:
    return isclose(a, b, rel_tol=within, abs_tol=1e-6)
