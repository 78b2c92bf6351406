"""What takes minutes, and what those tests share."""

from pathlib import Path

from msgspec import UNSET
from msgspec.structs import replace

from styleinv.inversion import Task
from styleinv.runs.record import Record, TracePoint
from styleinv.runs.store import read_folder, run_of


def timeless(record: Record) -> Record:
    """A record without what tells when, how fast and beside how many others the run was made."""
    return replace(
        record,
        sha256="",
        result=replace(record.result, seconds=0),
        made_with=replace(record.made_with, date="", together=UNSET),
        trace=tuple(replace(point, seconds=0) for point in record.trace),
    )


def outcome(folder: Path) -> dict[str, Record]:
    """The runs in `folder`, intact with their pictures and nothing else beside them, by name."""
    runs = read_folder(folder)
    assert all(run.pixels is not None for run in runs.values())
    expected = {path.with_suffix(suffix) for path in runs for suffix in (".json", ".png")}
    assert set(folder.iterdir()) == expected
    return {path.name: timeless(run.record) for path, run in runs.items()}


def trace_in(checkpoint: Path, task: Task) -> tuple[TracePoint, ...]:
    """What a checkpoint remembers of its run, which takes up one more iteration.

    A run that was made anew would not have the same times.
    """
    inversion = task.run(lambda iterate: True, task.checkpoint(checkpoint))
    return run_of(inversion).record.trace[:-1]
