"""Runs kept in folders, each as a record and, where it is kept, a picture.

A fresh run is two files, `NAME.png` and `NAME.json`. `pack` moves the records of a folder into one
file, `runs.jsonl`, one line each, which `pandas.read_json(..., lines=True)` reads. A name ends in
the first digits of the address, a hash of everything that determines the result: whoever asks for
a run finds it by that.
"""

import codecs
import fnmatch
import hashlib
import os
import platform
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec import UNSET
from PIL import Image

from styleinv import __version__
from styleinv.checkpoint import DEFAULT_SECONDS, SUFFIX, Checkpoint
from styleinv.errors import InputError
from styleinv.files import (
    Write,
    check_writable,
    remove_parts,
    write_atomically,
    write_together,
)
from styleinv.images import Pixels, to_uint8
from styleinv.inversion import RESULTS_VERSION, Inversion, Task
from styleinv.optim import Iterate, Kept
from styleinv.runs.locks import alone
from styleinv.runs.measures import measure, other_sample
from styleinv.runs.record import (
    Along,
    MadeWith,
    Measures,
    Record,
    Result,
    TracePoint,
    asked_of,
    name_of,
    sealed,
)

# The packed records of a folder.
RECORDS = "runs.jsonl"
# A pattern for the names of records and pictures, without suffix. Other files are ignored, among
# them the ones beginning with a dot that macOS leaves beside every file on a foreign disk.
NAMES = "[!.]*-seed*-" + 8 * "[0-9a-f]"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        record: what was asked for, what came out, what computed it, the trace and the measures.
        pixels: the picture, (H, W, 3); None if only the record is kept.
        path: the record's own file, or the one it would have if it were not packed. The picture
            has the same path with the suffix .png. None if the run is not kept.
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
    """The run of an inversion: its record, with the measures, and its picture in 8 bits."""
    task, image, style = inversion.task, to_uint8(inversion.image), to_uint8(inversion.task.style)
    result = Result(
        loss=inversion.loss,
        iterations=inversion.iterations,
        evaluations=inversion.evaluations,
        seconds=round(inversion.seconds, 3),
        stop_reason=inversion.stop_reason,
        pixels_sha256=hash_of(image),
        not_finite=inversion.not_finite or UNSET,
        negative_psi=inversion.negative_psi or UNSET,
    )
    made_with = MadeWith(
        results=RESULTS_VERSION,
        styleinv=__version__,
        torch=str(torch.__version__),
        python=platform.python_version(),
        device=str(task.encoder.device),
        processor=f"{platform.system()} {platform.machine()}",
        threads=torch.get_num_threads(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        together=inversion.together if inversion.together > 1 else UNSET,
    )
    points = (replace(point, seconds=round(point.seconds, 4)) for point in inversion.trace)
    other = other_sample(task.source, min(style.shape[:2]))
    measured = partial(measure, style=style, other=other)
    record = Record(
        address=task.address,
        style=task.style_name,
        source=task.source,
        asked=asked_of(task),
        result=result,
        made_with=made_with,
        trace=tuple(TracePoint(*astuple(point)) for point in points),
        measures=measured(image),
        notes=task.notes,
        along=along_of(inversion.along, measured),
    )
    return Run(sealed(record), image)


def along_of(kept: Iterable[Kept], measured: Callable[[Pixels], Measures]) -> tuple[Along, ...]:
    """The measures of the iterates that a run has kept."""
    found = []
    for one in kept:
        pixels = one.image.permute(1, 2, 0).cpu().numpy()
        known = vars(one) | msgspec.structs.asdict(measured(pixels))
        found.append(Along(*(known[name] for name in Along.__struct_fields__)))
    return tuple(found)


def without_picture(run: Run) -> Run:
    """The run as it is kept for its numbers: without the picture, and with half of the trace."""
    *trace, last = run.record.trace
    shorter = sealed(run.record, picture=False, trace=(*trace[::2], last))
    return replace(run, record=shorter, pixels=None)


def save(run: Run, folder: str | Path) -> Path:
    """Write a run's record and picture into `folder`; returns the path of the record.

    Raises:
        InputError: they cannot be written; the message says where the run is instead.
    """
    path = Path(folder) / run.record.file_name
    with _claim(path):
        _write(run, path)
    return path


def _write(run: Run, path: Path) -> None:
    """Write the picture, then the record, so that a record always has its picture.

    If the process is killed between the two while it replaces another run, the old record is left
    with the new picture. `read` detects that, and `obtain` continues from the run's checkpoint,
    which is removed only later.

    Raises:
        InputError: the disk is full, or the folder is gone. What was there is unchanged, and the
            run is kept in a temporary folder, if that is possible.
    """
    try:
        write_together(_writes(run, path))
    except InputError as error:
        elsewhere = _rescued(run, path.name)
        raise (InputError(f"{error}; the run is in {elsewhere}") if elsewhere else error) from None


def _writes(run: Run, path: Path) -> dict[Path, Write]:
    writes: dict[Path, Write] = {}
    if run.pixels is not None:
        picture = Image.fromarray(run.pixels)
        writes[path.with_suffix(".png")] = lambda part: picture.save(part, format="PNG")
    text = msgspec.json.format(msgspec.json.encode(run.record), indent=1) + b"\n"
    writes[path] = lambda part: part.write_bytes(text)
    return writes


def _rescued(run: Run, name: str) -> str:
    """The temporary folder that has the run now, in quotes; empty if there is no room there."""
    with suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix="styleinv-"))
        try:
            write_together(_writes(run, folder / name))
        except InputError:
            folder.rmdir()
        else:
            return repr(str(folder))
    return ""


def path_of(task: Task, folder: str | Path) -> Path:
    """The path of the record of a task's run in `folder`, whether or not it is there."""
    return Path(folder) / name_of(task.style_name, task, task.address)


def find(task: Task, folder: str | Path) -> Run | None:
    """The kept run of a task; None if there is none that is valid.

    A run is valid if its record and picture are unaltered, it was made by this version of the
    results, and neither a reader nor the clock stopped it. If it was altered, a warning says so.
    """
    path = path_of(task, folder)
    try:
        run = read(path)
    except FileNotFoundError:
        return None
    except InputError as error:
        warnings.warn(f"{error}: the run is made again", stacklevel=2)
        return None
    is_valid = run.record.is_repeatable and run.record.address == task.address
    return run if is_valid else None


def is_tidy(task: Task, folder: str | Path) -> bool:
    """Whether no checkpoint and no lock are left of a process that was killed after its run."""
    path = path_of(task, folder)
    return not (path.with_suffix(SUFFIX).exists() or _lock(path).exists())


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
    """Find the run of a task in `folder`, or make it and keep it there.

    If another process is making the same run, this one waits for it and takes the result. A run
    that was killed or stopped by the callback continues from its checkpoint beside the record.

    Args:
        pictures: whether to keep the picture with the record.
        callback: called with every `Iterate`; returns True to stop the run.
        stop: called while this process waits for another; returns True to stop waiting.
        every: seconds between two checkpoints.
        again: make the run even if it is there.
        unfinished: keep a stopped run as well, unless a finished one is there.

    Returns:
        the run, and whether it was found.

    Raises:
        InputError: `folder` cannot be written.
        filelock.Timeout: `stop` returned True.
    """
    with closing(
        obtaining(
            task,
            folder,
            pictures=pictures,
            stop=stop,
            every=every,
            again=again,
            unfinished=unfinished,
        )
    ) as steps:
        begun = next(steps)
        made = steps.send(task.run(callback, begun)) if isinstance(begun, Checkpoint) else begun
        assert isinstance(made, tuple)
        return made


def obtaining(
    task: Task,
    folder: str | Path,
    *,
    pictures: bool = True,
    stop: Callable[[], bool] = lambda: False,
    every: float = DEFAULT_SECONDS,
    again: bool = False,
    unfinished: bool = False,
) -> Generator[Checkpoint | tuple[Run, bool], Inversion, None]:
    """`obtain`, by whoever carries out the run: yields its checkpoint, and keeps what is sent back.

    The next, or the first, that it yields is what `obtain` returns. Until then no other process
    makes this run; to give up, close it. Arguments and errors as in `obtain`.
    """
    path = path_of(task, folder)
    with ExitStack() as claimed:
        try:
            claimed.enter_context(_claim(path, stop))
        except InputError:  # a folder that cannot be written may have the run
            if again or (found := find(task, folder)) is None:
                raise
            yield found, True
            return
        checkpoint = task.checkpoint(path.with_suffix(SUFFIX), every)
        if not again and (found := find(task, folder)) is not None:
            checkpoint.remove()
            yield found, True
            return
        check_writable(path)
        run = run_of((yield checkpoint))
        if run.was_stopped and (not unfinished or find(task, folder) is not None):
            yield run, False
            return
        kept = run if pictures else without_picture(run)
        _write(kept, path)
        if not run.was_stopped:
            checkpoint.remove()
    yield replace(kept, path=path), False


@contextmanager
def _claim(path: Path, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Keep other processes from writing the run whose record is at `path`."""
    with alone(_lock(path), f"another process is making {path.stem}: waiting for it", stop):
        remove_parts(*(path.with_suffix(suffix) for suffix in (".png", ".json", SUFFIX)))
        yield


def _lock(path: Path) -> Path:
    return path.with_name(f".{path.stem}.lock")


def read(path: Path) -> Run:
    """The run whose record is at `path` or packed beside it.

    Raises:
        FileNotFoundError: there is no such record.
        InputError: record or picture cannot be read or was altered.
    """
    place, content = _written(path)
    record = decoded(place, content)
    try:
        pixels = _read_pixels(_picture(path)) if record.picture else None
    except Exception as error:  # Pillow can raise anything on a damaged picture
        raise InputError(f"picture of record {place!r} cannot be read: {error}") from error
    same = pixels is None or record.result.pixels_sha256 == hash_of(pixels)
    if not (same and record.is_intact):
        raise InputError(f"record {place!r} and its picture are not as they were written")
    return Run(record, pixels, path)


def read_record(path: Path) -> Record:
    """The record at `path` or packed beside it, even if it was altered; errors as in `read`."""
    return decoded(*_written(path))


def read_folder(folder: Path) -> dict[Path, Run]:
    """Every run in `folder` and below by its record's path, sorted; errors as in `read`."""
    return {path: read(path) for path in read_records(folder)}


def read_records(folder: Path) -> dict[Path, Record]:
    """Every record in `folder` and below by its path, sorted; errors as in `read_record`."""
    records: dict[Path, Record] = {}
    for file in files_in(folder, RECORDS):
        for place, line in packed_lines(file.parent):
            record = decoded(place, line)
            records[file.with_name(record.file_name)] = record
    # Last, because a file of its own counts in place of a packed record.
    records |= {path: read_record(path) for path in files_in(folder, f"{NAMES}.json")}
    named = {(path.parent, x.address) for path, x in records.items() if path.name == x.file_name}
    return {
        path: record
        for path, record in sorted(records.items())
        # The other names are of copies, unless a file was renamed.
        if path.name == record.file_name or (path.parent, record.address) not in named
    }


def files_in(folder: Path, pattern: str) -> Iterator[Path]:
    """The files in `folder` and below whose names match; a folder that cannot be read is noted.

    Not in hidden folders, where programs have their trash and their copies; no pipes, which would
    never end. A link without its file is one: what is kept there has been lost.
    """

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            warnings.warn(f"{error.filename} cannot be read: {error.strerror}", stacklevel=4)

    for place, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (Path(place, name) for name in sorted(fnmatch.filter(names, pattern)))
        yield from (path for path in paths if path.is_file() or not path.exists())


def _written(path: Path) -> tuple[str, bytes]:
    """The place of the record that belongs to `path`, in words, and its JSON."""
    with suppress(FileNotFoundError), _naming(path):
        return str(path), _content(path)
    if path.is_symlink():
        raise InputError(
            f"record {str(path)!r} cannot be read: it links to a file that is not there"
        )
    start = f'{{"address":"{path.stem[-8:]}'.encode()  # nothing else needs to be parsed
    for place, line in reversed(packed_lines(path.parent)):
        if line.startswith(start):
            return place, line
    raise FileNotFoundError(path)


def packed_lines(folder: Path) -> list[tuple[str, bytes]]:
    """The lines of a folder's `runs.jsonl`, if it has one, each with its place in words.

    Empty lines are left out, and no byte-order mark and no carriage return remains: editors and
    version control add them.
    If several lines are for the same run, the last one counts.
    """
    file, lines = folder / RECORDS, list[bytes]()
    if file.is_file():
        with suppress(FileNotFoundError), _naming(file):
            lines = _content(file).splitlines()
    return [(f"{file}, line {i}", line) for i, line in enumerate(lines, start=1) if line.strip()]


def _content(file: Path) -> bytes:
    return file.read_bytes().removeprefix(codecs.BOM_UTF8)


def decoded(place: object, content: bytes) -> Record:
    """The record in JSON; `place` names it if it cannot be read.

    Raises:
        InputError: it is not JSON, or its fields are not those of `Record`.
    """
    with _naming(place):
        return msgspec.json.decode(content, type=Record)


@contextmanager
def _naming(place: object) -> Iterator[None]:
    """Raise an `InputError` that names the place of a record, unless there is no file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"record {str(place)!r} cannot be read: {error}") from error


def pack(folder: Path) -> None:
    """Move the records of a folder that have files of their own into its `runs.jsonl`.

    If the process is killed, some records are left in both places, and the next call finishes.

    Raises:
        InputError: a record cannot be read or written; then nothing is changed.
    """
    lock = folder / f".{RECORDS}.lock"
    with alone(lock, f"another process is packing {str(folder)!r}: waiting for it"):
        remove_parts(folder / RECORDS)
        kept = read_records(folder).items()
        # Without a record under another run's name, which is left for `verify` to name.
        records = {path: record for path, record in kept if path == folder / record.file_name}
        single = [path for path in records if path.exists()]
        if not single:
            return
        lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records.values())
        write_atomically(folder / RECORDS, lambda part: part.write_bytes(lines))
        for path in single:
            path.unlink()


def style_file_name(source: str, size: int) -> str:
    """The name of the file in which a style image is kept beside the reference runs."""
    return f"{source.replace(':', '-')}-{size}.png"


def _picture(path: Path) -> Path:
    """The picture of the record at `path`, also where a copy of it has got another name."""
    own = path.with_suffix(".png")
    if own.exists():
        return own
    return next(own.parent.glob(f"[!.]*{own.name[-len('-01234567.png') :]}"), own)


def _read_pixels(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def hash_of(pixels: Pixels) -> str:
    """SHA-256 of a picture in 8 bits, as records have it."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
