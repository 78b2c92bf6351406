"""Runs kept in folders: a PNG and a record each, addressed by what was asked for.

A run that has just been made is a pair of files, `NAME.png` and `NAME.json`. `pack` gathers the
records of a folder in one file, `runs.jsonl`, a line each (`pandas.read_json(..., lines=True)`
reads it). Where runs are kept for their numbers only, there is no picture; the record says so, and
has the hash of the picture's pixels all the same.
"""

import functools
import hashlib
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from PIL import Image

from styleinv import __version__
from styleinv.checkpoint import DEFAULT_SECONDS, SUFFIX
from styleinv.errors import InputError
from styleinv.files import Write, remove_parts, write_atomically, write_together
from styleinv.images import Pixels, to_uint8
from styleinv.inversion import RESULTS_VERSION, Inversion, Task
from styleinv.optim import Iterate
from styleinv.runs import measures
from styleinv.runs.locks import alone
from styleinv.runs.record import Measures, Record, asked_of, file_name, name_of, sealed

# The records of a folder, a line each.
RECORDS = "runs.jsonl"
# What a record's file is called: other files beside it are nobody's business here.
NAMES = "[!.]*-seed*-" + 8 * "[0-9a-f]"


@dataclass(frozen=True)
class Run:
    """A finished inversion as figures see it.

    Attributes:
        record: what was asked, what came out, what computed it, its measures and the trace.
        pixels: the picture, or None where only the record is kept.
        path: where the run is kept: the record's file, or what it would be called if it were not
            a line of `RECORDS`; the picture has the same name and another suffix.
    """

    record: Record
    pixels: Pixels | None
    path: Path | None = None

    @property
    def image(self) -> Pixels:
        """The picture.

        Raises:
            InputError: only the record is kept.
        """
        if self.pixels is None:
            raise InputError(f"record {str(self.path)!r} is kept without its picture")
        return self.pixels

    @property
    def was_stopped(self) -> bool:
        """Whether somebody stopped the run before its end."""
        return self.record.result.stop_reason == "stopped"


def run_of(inversion: Inversion) -> Run:
    """The record of an inversion, and its picture in 8 bits."""
    task, image = inversion.task, to_uint8(inversion.image)
    fields = {
        "address": task.address,
        "style": task.style_name,
        "source": task.source,
        "asked": task.asked(),
        "result": {
            "loss": inversion.loss,
            "iterations": inversion.iterations,
            "evaluations": inversion.evaluations,
            "seconds": round(inversion.seconds, 3),
            "stop_reason": inversion.stop_reason,
            "pixels_sha256": _pixels_sha256(image),
            **_exceptions(inversion),
        },
        "made_with": {
            "results": RESULTS_VERSION,
            "styleinv": __version__,
            "torch": str(torch.__version__),  # its own type of text cannot be written
            "python": platform.python_version(),
            "device": str(task.encoder.device),
            "processor": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "trace": [
            astuple(replace(point, seconds=round(point.seconds, 4))) for point in inversion.trace
        ],
        "measures": measured(image, to_uint8(task.style)),
    }
    return Run(sealed(msgspec.convert(fields, Record)), image)


def _exceptions(inversion: Inversion) -> dict[str, Any]:
    """What has to be said of some runs only."""
    found: dict[str, Any] = {}
    if inversion.not_finite is not None:
        found["not_finite"] = inversion.not_finite
    if inversion.negative_psi:
        found["negative_psi"] = inversion.negative_psi
    return found


def measured(image: Pixels, style: Pixels) -> dict[str, Any]:
    """What a record says of its picture, measured against its style image."""
    return {"version": measures.VERSION, **measures.measure(image, style)}


def measured_anew(run: Run, style: Pixels) -> Run:
    """The run with its picture measured by today's code."""
    found = msgspec.convert(measured(run.image, style), Measures)
    return replace(run, record=sealed(msgspec.structs.replace(run.record, measures=found)))


def without_picture(run: Run) -> Run:
    """The run as it is kept where its numbers are all that is needed, with half of its trace."""
    first, *trace = run.record.trace
    kept = [first]
    for point in trace:
        last = kept[-1].iteration
        # As `Monitor` has them, but twice as far apart.
        if point is trace[-1] or point.iteration >= max(1.1 * last, last + 1):
            kept.append(point)
    shorter = msgspec.structs.replace(run.record, picture=False, trace=tuple(kept))
    return replace(run, record=sealed(shorter), pixels=None)


def save(run: Run, folder: str | Path) -> Path:
    """Write picture and record into `folder`; returns the record's path, the picture's is `.png`.

    Raises:
        InputError: they cannot be written; what was there before is unchanged.
    """
    path = Path(folder) / file_name(run.record)
    with _claimed(path):
        return _write(run, path)


def _write(run: Run, path: Path) -> Path:
    """The record comes last, so that a record always has its picture.

    Where a run with another picture is replaced, a kill in the instant between the two leaves the
    old record with the new picture: `read` finds that out, and `obtain` makes the run again, from
    its checkpoint, which is still there.
    """
    writes: dict[Path, Write] = {}
    if run.pixels is not None:
        picture = Image.fromarray(run.pixels)
        writes[path.with_suffix(".png")] = lambda part: picture.save(part, format="PNG")
    text = msgspec.json.format(msgspec.json.encode(run.record), indent=1) + b"\n"
    writes[path] = lambda part: part.write_bytes(text)
    write_together(writes)
    return path


def find(task: Task, folder: str | Path) -> Run | None:
    """The kept run of a task, or None if there is none; a warning names one that was altered."""
    path = path_of(task, folder)
    try:
        run = read(path)
    except FileNotFoundError:
        return None
    except InputError as error:
        warnings.warn(f"{error}: the run is made again", stacklevel=2)
        return None
    is_current = run.record.made_with.results == RESULTS_VERSION
    is_same = run.record.address == task.address
    return run if is_current and is_same and run.record.is_repeatable else None


def path_of(task: Task, folder: str | Path) -> Path:
    """Where the record of a task is kept."""
    return Path(folder) / name_of(task.style_name, asked_of(task))


def obtain(
    task: Task,
    folder: str | Path,
    *,
    pictures: bool = True,
    callback: Callable[[Iterate], object] | None = None,
    stop: Callable[[], bool] = lambda: False,
    every: float = DEFAULT_SECONDS,
    again: bool = False,
    unfinished: bool = False,
) -> tuple[Run, bool]:
    """The run of a task: found in `folder`, or made and kept there; and whether it was found.

    Whoever asks for the same run meanwhile waits, and takes it up. A run that was killed, or that
    the callback stopped, goes on from its checkpoint, which is beside the record.

    Args:
        pictures: keep the picture, or only the record.
        callback: sees every `Iterate`; returns True to stop the run.
        stop: asked while waiting for another process; True ends that.
        every: seconds between two checkpoints.
        again: make the run even if it is there.
        unfinished: keep a run that was stopped, too, if no finished one is there.

    Raises:
        InputError: `folder` cannot be written.
        filelock.Timeout: `stop` returned True.
    """
    path = path_of(task, folder)
    # Where a lock is, somebody is at this run, or was killed and left something to tidy up.
    if not again and not _lock(path).exists():
        found = find(task, folder)
        if found is not None:
            return found, True
    with _claimed(path, stop):
        checkpoint = task.checkpoint(path.with_suffix(SUFFIX), every)
        found = None if again else find(task, folder)
        if found is not None:  # another process has just made it
            checkpoint.remove()
            return found, True
        run = run_of(task.run(callback, checkpoint))
        if run.was_stopped and (not unfinished or find(task, folder) is not None):
            return run, False
        kept = run if pictures else without_picture(run)
        _write(kept, path)
        if not run.was_stopped:
            checkpoint.remove()
    return replace(kept, path=path), False


@contextmanager
def _claimed(path: Path, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """While active, no other process writes the run whose record is at `path`."""
    with alone(_lock(path), f"another process is making {path.stem}: waiting for it", stop):
        remove_parts(*(path.with_suffix(suffix) for suffix in (".png", ".json", SUFFIX)))
        yield


def _lock(path: Path) -> Path:
    """The file that is locked by who writes the run whose record is at `path`."""
    return path.with_name(f".{path.stem}.lock")


def read(path: Path) -> Run:
    """The run whose record is at `path`, or a line of the folder's `RECORDS`.

    Raises:
        FileNotFoundError: it is in neither.
        InputError: record or picture cannot be read, or is not what was written.
    """
    record = read_record(path)
    try:
        pixels = _read_pixels(path.with_suffix(".png")) if record.picture else None
    except Exception as error:  # a damaged picture can raise anything
        raise InputError(f"picture of record {str(path)!r} cannot be read: {error}") from error
    same = pixels is None or record.result.pixels_sha256 == _pixels_sha256(pixels)
    if not (same and record.is_intact):
        raise InputError(f"record {str(path)!r} and its picture are not as they were written")
    return Run(record, pixels, path)


def read_record(path: Path) -> Record:
    """The record at `path` alone, whether or not it is what was written.

    Raises:
        FileNotFoundError: there is none.
        InputError: it cannot be read.
    """
    if path.is_file():
        return _decoded(path, _read_bytes(path))
    return read_packed(path.parent)[path]


def read_records(folder: Path) -> dict[Path, Record]:
    """Every `read_record` in `folder` and below, by its path, in the order of names."""
    packed = [read_packed(file.parent) for file in folder.rglob(RECORDS)]
    alone = {path: read_record(path) for path in folder.rglob(f"{NAMES}.json")}
    found = {path: record for records in packed for path, record in records.items()} | alone
    return dict(sorted(found.items()))


def read_folder(folder: Path) -> dict[Path, Run]:
    """Every run kept in `folder` and below, by its record's path, in the order of names."""
    return {path: read(path) for path in read_records(folder)}


class _Packed(dict[Path, Record]):
    def __missing__(self, path: Path) -> Record:
        raise FileNotFoundError(path)


def read_packed(folder: Path) -> dict[Path, Record]:
    """The records in the folder's `RECORDS`, by the paths of files that each would have alone."""
    file = folder / RECORDS
    try:
        status = file.stat()
    except FileNotFoundError:
        return _Packed()
    return _read_packed(file, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=64)
def _read_packed(file: Path, mtime: int, size: int) -> _Packed:
    """A file's records as they are now; `mtime` and `size` tell one state from another."""
    lines = _read_bytes(file).splitlines()
    records = (_decoded(f"{file}, line {n}", line) for n, line in enumerate(lines, start=1))
    return _Packed({file.with_name(file_name(record)): record for record in records})


def pack(folder: Path) -> None:
    """Gather the records that have files of their own in the folder's `RECORDS`.

    Killed halfway, it leaves some records in both; the file of its own counts, and the next call
    removes it.
    """
    single = {path: read_record(path) for path in folder.glob(f"{NAMES}.json")}
    if not single:
        return
    records = dict(sorted({**read_packed(folder), **single}.items()))
    lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records.values())
    write_atomically(folder / RECORDS, lambda part: part.write_bytes(lines))
    for path in single:
        path.unlink()


def style_file_name(source: str, size: int) -> str:
    """The file name of a style image that is kept beside its runs."""
    return f"{source.replace(':', '-')}-{size}.png"


def _decoded(place: object, content: bytes) -> Record:
    try:
        return msgspec.json.decode(content, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"record {str(place)!r} cannot be read: {error}") from error


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"record {str(path)!r} cannot be read: {error.strerror}") from error


def _read_pixels(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _pixels_sha256(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
