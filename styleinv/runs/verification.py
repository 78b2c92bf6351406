"""Check kept runs: every hash, every measure that can be taken here, and a few runs made again."""

import functools
import itertools
import random
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path

import numpy as np
from msgspec import UNSET, structs

from styleinv.encoder import Encoder, load_encoder
from styleinv.errors import InputError
from styleinv.images import Fit, Pixels, load_style, to_uint8
from styleinv.inversion import Task, pixels_sha256
from styleinv.runs import measures, store
from styleinv.runs.again import size_and_fit, task_again, threads_of
from styleinv.runs.record import Record
from styleinv.runs.reference import STYLES
from styleinv.runs.store import Run

# How far a measure of the same picture may be from the recorded one, because releases of NumPy and
# SciPy round differently, and processors multiply differently, which shows where a style is of one
# colour. The grid is recorded with three decimals.
MEASURES_WITHIN, GRID_WITHIN = 5e-3, 1.5e-3

# Runs that took more seconds than this are not made again.
LONGEST_RERUN = 60

# How far a run made again may be from the recorded one. Rounding on another machine makes errors
# that grow with the iterations: first losses agree closely, the final one only in its magnitude.
# A final loss is half to twice the recorded one.
FIRST_ITERATIONS, FIRST_LOSSES_WITHIN = 10, 0.01
FINAL_LOSS_WITHIN, FINAL_MEASURES_WITHIN = 0.5, 0.25


@dataclass
class Report:
    """What `verify` checked and what it found.

    Attributes:
        records: number of records, with or without a picture.
        pictures: number of intact pictures.
        measured: number of pictures that were measured again.
        unmeasured: number of intact runs that could not be measured, by reason.
        reruns: a line for each run that was made again.
        wrong: what is wrong, in sentences that name the file.
    """

    records: int = 0
    pictures: int = 0
    measured: int = 0
    unmeasured: Counter[str] = field(default_factory=Counter)
    reruns: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def verify(
    folder: Path,
    *,
    measure: int | None = None,
    rerun: int = 0,
    encoder: str | None = None,
    seed: int | None = None,
    report: Callable[[str], object] = lambda line: None,
) -> Report:
    """Check every record and picture in `folder` and below.

    Args:
        measure: how many pictures to measure again, drawn at random; all by default.
        rerun: how many runs to make again, drawn at random among the small ones.
        encoder: weights for runs whose encoder is a file; without it, these are not drawn.
        seed: seed of the draw; by default, it differs every time.
        report: called with a line per run that is made again.

    Raises:
        InputError: `folder` has no records, or fewer than `rerun` runs that can be made again.
    """
    found, intact = Report(), dict[Path, Run]()
    places = _places(folder, found)
    if not found.records:
        raise InputError(f"folder is {str(folder)!r}, but must hold run records")
    for path in sorted(places):
        try:
            run = store.read(path)
        except (InputError, FileNotFoundError) as error:
            found.wrong.append(str(error))
            continue
        intact[path] = run
        found.pictures += run.pixels is not None
        if path.stem[-8:] != run.record.address[:8]:
            found.wrong.append(f"record {str(path)!r} has the name of another run")
    shown = [path for path, run in intact.items() if run.pixels is not None]
    few = len(shown) if measure is None else min(measure, len(shown))
    drawn = {*random.Random(seed).sample(shown, few)}
    for path, run in intact.items():
        if run.pixels is None or path in drawn:
            _check_measures(run, path, places[path][-1], found)
        else:
            found.unmeasured["it was not drawn"] += 1
    named = {(path.parent, path.stem[-8:]) for path in places}
    for picture in store.files_in(folder, f"{store.NAMES}.png"):
        if (picture.parent, picture.stem[-8:]) not in named:
            found.wrong.append(f"picture {str(picture)!r} has no record")
    for run, task in _draw([*intact.values()], rerun, encoder, seed):
        kept, again, name = run.record, _make_again(run.record, task), f"record {str(run.path)!r}"
        differences = _differences(kept, again)
        found.wrong += [f"{name} made again has {what}" for what in differences]
        same = again.result.pixels_sha256 == kept.result.pixels_sha256
        judged = "bit for bit the same" if same else "the same within the tolerance"
        losses = f"final loss {again.result.loss:.3g} against {kept.result.loss:.3g}"
        found.reruns.append(f"{name}: {losses}, {'different' if differences else judged}")
        report(found.reruns[-1])
    return found


def _places(folder: Path, found: Report) -> dict[Path, list[str]]:
    """The places of all records by path; reports what cannot be read and what is there twice."""
    places = defaultdict(list)
    for file in store.files_in(folder, store.RECORDS):
        for place, line in store.packed_lines(file.parent):
            found.records += 1
            try:
                places[file.with_name(store.decoded(place, line).file_name)].append(place)
            except InputError as error:
                found.wrong.append(str(error))
    for path in store.files_in(folder, f"{store.NAMES}.json"):
        found.records += 1
        places[path].append(str(path))
    repeated = (" and ".join(several) for several in places.values() if len(several) > 1)
    found.wrong += [f"one run has several records: {several}" for several in repeated]
    return places


def _check_measures(run: Run, path: Path, place: str, found: Report) -> None:
    """Measure a run's picture again and compare, or note why that is not possible."""
    kept, source = run.record.measures, run.record.source
    if run.pixels is None or kept is UNSET:
        found.unmeasured["the picture is not kept"] += 1
    elif kept.version != measures.VERSION:
        found.unmeasured[f"version {kept.version} of the measures took them"] += 1
    elif (style := _style_of(run.record, path)) is None or style.shape != run.pixels.shape:
        found.unmeasured["the style image is not in the current folder"] += 1
    else:
        found.measured += 1
        other = measures.other_sample(source, min(style.shape[:2]))
        for name, value in structs.asdict(measures.measure(run.pixels, style, other)).items():
            noted, slack = getattr(kept, name), GRID_WITHIN if name == "artefact_grid" else 1e-6
            # A field that came later is absent from some records.
            if noted is not UNSET and not np.allclose(value, noted, MEASURES_WITHIN, slack):
                found.wrong.append(f"record {place!r} has {name} {noted}, but its picture {value}")


def _style_of(record: Record, path: Path) -> Pixels | None:
    """The style image of a record: loaded again, or else the one kept beside reference runs."""
    asked, source = record.asked, record.source
    size, fit = size_and_fit(record)
    with suppress(InputError):  # there is no such image here, or it is damaged
        sha256, pixels = _style(source, size, fit)
        if sha256 == asked.style_sha256:
            return pixels
    with suppress(InputError):
        # Another release of a library may round the style image differently.
        kept = path.parent.parent / STYLES / store.style_file_name(source, size)
        return _style(str(kept), size, fit)[1]
    return None


@functools.lru_cache(maxsize=64)
def _style(source: str, size: int, fit: Fit) -> tuple[str, Pixels]:
    with warnings.catch_warnings(action="ignore"):  # they were given when the run was made
        image = load_style(source, size, fit)
    return pixels_sha256(image), to_uint8(image)


def _draw(
    runs: list[Run], count: int, encoder: str | None, seed: int | None
) -> list[tuple[Run, Task]]:
    """Draw some of the runs at random; return them with the tasks that make them again."""
    weights = None if encoder is None else load_encoder(encoder)
    shuffled = random.Random(seed).sample(runs, len(runs))
    tasks = ((run, _task_of(run.record, weights)) for run in shuffled)
    drawn = list(itertools.islice(((run, task) for run, task in tasks if task is not None), count))
    if len(drawn) < count:
        raise InputError(
            f"rerun is {count}, but only {len(drawn)} runs are small enough and have style and "
            "encoder at hand; --encoder gives the weights of others"
        )
    return drawn


def _task_of(record: Record, weights: Encoder | None) -> Task | None:
    """The task that makes a run again; None if that takes too long or something is not at hand."""
    if record.result.seconds <= LONGEST_RERUN:
        with suppress(InputError):
            return task_again(record, weights)
    return None


def _make_again(kept: Record, task: Task) -> Record:
    with threads_of(kept):
        return store.run_of(task.run()).record


def _differences(kept: Record, again: Record) -> list[str]:
    """What differs beyond the tolerance."""
    new, old = ({point.iteration: point.loss for point in x.trace} for x in (again, kept))
    first = sorted(new.keys() & old.keys() & set(range(FIRST_ITERATIONS)))
    pairs = [(f"at iteration {i} loss", new[i], old[i], FIRST_LOSSES_WITHIN) for i in first]
    a, b = again.result.loss, kept.result.loss
    if kept.theta is None or max(a, b) >= kept.theta:
        pairs.append(("final loss", a, b, FINAL_LOSS_WITHIN))
    if again.measures and kept.measures:
        for name in ("largest_kept", "colour_distance"):
            a, b = getattr(again.measures, name), getattr(kept.measures, name)
            pairs.append((name, a, b, FINAL_MEASURES_WITHIN))
    # Every tolerance is relative: some final losses are as small as 1e-14.
    return [
        f"{what} {a:.4g} instead of {b:.4g}"
        for what, a, b, within in pairs
        if not isclose(a, b, rel_tol=within)
    ]
