"""Run records: a PNG and a JSON file per inversion, addressed by what was asked for.

Where many runs are kept for their numbers, only the record is; it says so, and still has the hash
of the picture's pixels.
"""

import hashlib
import json
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from styleinv.checkpoint import DEFAULT_SECONDS, SUFFIX
from styleinv.errors import InputError
from styleinv.files import Write, alone, remove_parts, write_together
from styleinv.fingerprint import code_sha256, json_sha256
from styleinv.images import Pixels, to_uint8
from styleinv.inversion import Inversion, Task
from styleinv.optim import Iterate
from styleinv.runs import measures
from styleinv.version import __version__

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished inversion as figures see it.

    Attributes:
        record: what was asked, what came out, what computed it, its metrics and the trace.
        pixels: the picture, or None where only the record is kept.
        path: the record's file, where the run was read from one.
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


def seal(record: Record) -> str:
    """SHA-256 of everything else in a record, in canonical JSON: what its `sha256` says."""
    return json_sha256({key: value for key, value in record.items() if key != "sha256"})


def run_of(inversion: Inversion) -> Run:
    """The record (what was asked, what came out, what computed it, metrics) and the 8-bit image."""
    asked = inversion.task.asked()
    image = to_uint8(inversion.image)
    record = {
        "address": json_sha256(asked),
        "style": inversion.task.style_name,
        "source": inversion.task.source,
        "asked": asked,
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
            "styleinv": __version__,
            "code": code_sha256()[:12],
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(inversion.task.encoder.device),
            "processor": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "trace": [
            {**asdict(point), "seconds": round(point.seconds, 4)} for point in inversion.trace
        ],
    }
    return measured(Run(record, image), to_uint8(inversion.task.style))


def _exceptions(inversion: Inversion) -> Record:
    """What has to be said of some runs only."""
    found: Record = {}
    if inversion.not_finite is not None:
        found["not_finite"] = inversion.not_finite
    if inversion.negative_psi:
        found["negative_psi"] = list(inversion.negative_psi)
    return found


def measured(run: Run, style: Pixels) -> Run:
    """The run with its metrics, measured against its style image."""
    found = {"code": measures.code_sha256()[:12], **measures.measure(run.image, style)}
    return _with(run, metrics=found)


def without_picture(run: Run) -> Run:
    """The run as it is kept where its numbers are all that is needed, with half of its trace."""
    first, *trace = run.record["trace"]
    kept = [first]
    for point in trace:
        last = kept[-1]["iteration"]
        # As `Monitor` has them, but twice as far apart.
        if point is trace[-1] or point["iteration"] >= max(1.1 * last, last + 1):
            kept.append(point)
    return replace(_with(run, picture=False, trace=kept), pixels=None)


def _with(run: Run, **fields: Any) -> Run:
    record = {**run.record, **fields}
    return replace(run, record={**record, "sha256": seal(record)})


def save(run: Run, folder: str | Path) -> Path:
    """Write image and record into `folder`; returns the record's path, the image's is `.png`.

    Raises:
        InputError: they cannot be written; what was there before is unchanged.
    """
    path = Path(folder) / file_name(run.record)
    with _claimed(path):
        return _write(run, path)


def _write(run: Run, path: Path) -> Path:
    """The record comes last, so that a record always has its image.

    Where a run with another picture is replaced, a kill in the instant between the two leaves the
    old record with the new picture: `read` finds that out, and `obtain` makes the run again, from
    its checkpoint, which is still there.
    """
    writes: dict[Path, Write] = {}
    if run.pixels is not None:
        picture = Image.fromarray(run.pixels)
        writes[path.with_suffix(".png")] = lambda part: picture.save(part, format="PNG")
    writes[path] = lambda part: part.write_text(_to_json(run.record))
    write_together(writes)
    return path


def file_name(record: Record) -> str:
    """The name of a record's file."""
    return _file_name(record["style"], record["asked"])


def _to_json(record: Record) -> str:
    """Indented for readers, the long trace with a line per point."""
    text = json.dumps({**record, "trace": []}, indent=1, allow_nan=False)
    points = ",\n  ".join(
        json.dumps(point, allow_nan=False, separators=(",", ":")) for point in record["trace"]
    )
    return text.replace('"trace": []', f'"trace": [\n  {points}\n ]') + "\n"


def _file_name(style: str, asked: dict[str, Any]) -> str:
    """The record's file name: readable in front, the address's first digits behind."""
    cell = f"{asked['layer']}-{asked['loss']}-seed{asked['seed']}"
    # File systems allow 255 bytes; a character can take four of them.
    return f"{style[:40]}-{cell}-{json_sha256(asked)[:8]}.json"


def find(task: Task, folder: str | Path) -> Run | None:
    """The saved run of a task, or None if there is none; a warning names one that was altered."""
    path = path_of(task, folder)
    if not path.exists():
        return None
    try:
        run = read(path)
    except InputError as error:
        warnings.warn(f"{error}: the run is made again", stacklevel=2)
        return None
    return run if is_repeatable(run.record) and run.record["address"] == task.address else None


def is_repeatable(record: Record) -> bool:
    """Whether a run is what was asked for: not what a reader stopped, or the clock cut off."""
    return record["result"]["stop_reason"] not in ("time", "stopped")


def path_of(task: Task, folder: str | Path) -> Path:
    """Where the record of a task is kept."""
    return Path(folder) / _file_name(task.style_name, task.asked())


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
        if was_stopped(run) and (not unfinished or find(task, folder) is not None):
            return run, False
        kept = run if pictures else without_picture(run)
        _write(kept, path)
        if not was_stopped(run):
            checkpoint.remove()
    return replace(kept, path=path), False


def was_stopped(run: Run) -> bool:
    """Whether somebody stopped the run before its end."""
    return bool(run.record["result"]["stop_reason"] == "stopped")


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
    """The run whose record is at `path`.

    Raises:
        InputError: record or image cannot be read, or is not what was written.
    """
    record = read_record(path)
    try:
        pixels = _read_pixels(path.with_suffix(".png")) if has_picture(record) else None
        intact = (
            record["sha256"] == seal(record)
            and record["address"] == json_sha256(record["asked"])
            and (pixels is None or record["result"]["pixels_sha256"] == _pixels_sha256(pixels))
        )
    except Exception as error:  # a damaged picture, or other fields, can raise anything
        raise InputError(f"record {str(path)!r} or its image cannot be read: {error}") from error
    if not intact:
        raise InputError(f"record {str(path)!r} and its image are not as they were written")
    return Run(record, pixels, path)


def read_record(path: Path) -> Record:
    """The record at `path` alone, whether or not it is what was written.

    Raises:
        InputError: it cannot be read.
    """
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"record {str(path)!r} or its image cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"record {str(path)!r} holds no JSON object")
    return record


def read_records(folder: Path) -> dict[Path, Record]:
    """`read_record` for all in `folder` and below, by their paths, in the order of names."""
    return {path: read_record(path) for path in sorted(folder.rglob("*.json"))}


def has_picture(record: Record) -> bool:
    """Whether the run's picture is kept beside its record."""
    return bool(record.get("picture", True))


def read_folder(folder: Path) -> dict[Path, Run]:
    """Every run kept in `folder` and below, by its record's path, in the order of names."""
    return {path: read(path) for path in sorted(folder.rglob("*.json"))}


def style_file_name(source: str, size: int) -> str:
    """The file name of a style image that is kept beside its runs."""
    return f"{source.replace(':', '-')}-{size}.png"


def _read_pixels(path: Path) -> Pixels:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _pixels_sha256(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
