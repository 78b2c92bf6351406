"""What the page on many runs shows: what runs, folders and checkpoints cost."""

import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec

import styleinv
from styleinv import LAYERS
from styleinv.machine import duration
from styleinv.protocol import CHAPTER_ITERATIONS, FAST
from styleinv.runs.record import Record
from styleinv_book import figures
from styleinv_book.pages.measured import Json
from styleinv_book.pages.performance import with_range

PROTOCOLS = ("fast", "chapter", "released")
WORKERS = (1, 10, 100)
BLOCK = 4096  # bytes: what a file takes of most file systems is a multiple of this
# Where a record holds what the tables tell apart.
FACTS = {
    "protocol": "asked.protocol.name",
    "size": "asked.width",
    "threads": "made_with.threads",
    "layer": "asked.layer",
    "loss": "asked.loss",
}


def timed(records: Iterable[Record]) -> list[Record]:
    """The records whose seconds count: not those of a batch, whose seconds are shared."""
    return [
        record
        for record in records
        if record.asked.protocol.name in PROTOCOLS and record.made_with.together is msgspec.UNSET
    ]


def grouped(records: Iterable[Record], *facts: str) -> dict[tuple[Any, ...], list[Record]]:
    """The records by the values of two or more of the `FACTS`, in order."""
    values = attrgetter(*(FACTS[fact] for fact in facts))
    groups = defaultdict(list)
    for record in records:
        groups[values(record)].append(record)
    return dict(sorted(groups.items()))


def workers_table(record: Json) -> str:
    """How long the same runs take in one process and by several workers."""
    head = ("where", "seconds", "times as fast as one process")
    rows = [
        (name, with_range(way["seconds"]), with_range(way["times"]))
        for name, way in record["ways"].items()
    ]
    return figures.html_table(head, rows)


def batches_table(record: Json) -> str:
    """What an iteration of Adam takes per picture, alone and side by side with others."""
    many = [name for name in record["rows"][0]["together"] if name != "1"]
    head = ("size", "layer", "ms alone", *(f"{name} at once: times as fast" for name in many))
    rows = [
        (
            row["size"],
            row["layer"],
            f"{row['together']['1']['ms']['median']:.1f}",
            *(with_range(row["together"][name]["times"]) for name in many),
        )
        for row in record["rows"]
    ]
    return figures.html_table(head, rows)


def costs_table(records: Iterable[Record]) -> str:
    """Evaluations and seconds of finished runs, by protocol, size and number of threads."""
    facts = ("protocol", "size", "threads")
    rows = [
        (
            *group,
            len(own),
            f"{statistics.median(record.result.evaluations for record in own):,.0f}",
            f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})",
        )
        for group, own in grouped(records, *facts).items()
        for times in [[float(record.result.seconds) for record in own]]
    ]
    return figures.html_table((*facts, "runs", "evaluations", "seconds: median (range)"), rows)


def mean_seconds(records: Iterable[Record]) -> float:
    """Mean over losses and layers, which all count alike, of the mean over their runs."""
    return statistics.mean(
        statistics.mean(record.result.seconds for record in own)
        for own in grouped(records, "loss", "layer").values()
    )


def whole_groups(records: Iterable[Record]) -> dict[tuple[int, int], list[Record]]:
    """Runs of `fast` with its whole budget, by size and threads, where no loss or layer is missing.

    MMD is left out.
    """
    losses = [loss for loss in CHAPTER_ITERATIONS if loss != "mmd"]
    chosen = [record for record in records if record.asked.loss in losses and _is_whole(record)]
    return {
        (size, threads): own
        for (size, threads), own in grouped(chosen, "size", "threads").items()
        if len(grouped(own, "loss", "layer")) == len(losses) * len(LAYERS)
    }


def _is_whole(record: Record) -> bool:
    asked = record.asked
    budget = FAST.budget(asked.loss, asked.layer)
    return asked.protocol.name == "fast" and asked.protocol.budget == budget


def many_table(records: Iterable[Record], runs: int) -> str:
    """Processor hours and wall time of so many runs, if all workers are always at work."""
    names = [f"{count} worker{'s' * (count > 1)}" for count in WORKERS]
    head = ("size", "threads", "reference runs", "s per run", "processor hours", *names)
    rows = [
        (
            *group,
            len(own),
            f"{mean:.1f}",
            f"{runs * mean * group[1] / 3600:,.1f}",
            *(duration(runs * mean / count) for count in WORKERS),
        )
        for group, own in whole_groups(records).items()
        for mean in [mean_seconds(own)]
    ]
    return figures.html_table(head, rows)


def of_runs(runs: Sized) -> str:
    """Where the numbers of a table come from, folded."""
    return figures.folded_origin(
        figures.provenance_line(f"{len(runs):,} reference runs in <code>results/runs</code>")
    )


def on_disk(size: int) -> int:
    """What a file of so many bytes takes."""
    return math.ceil(size / BLOCK) * BLOCK


def disk_table(records: Mapping[Path, Record], runs: int) -> str:
    """What a run keeps on disk, with its picture or without, and what so many runs keep."""
    rows = [
        (
            width,
            "record and picture" if has_picture else "record alone",
            f"{each / 1e3:.0f}",
            f"{runs * each / 1e9:.2f}",
            f"{runs * (1 + has_picture):,}",
        )
        for has_picture in (True, False)
        for width, sizes in _sizes_on_disk(records, has_picture)
        for each in [statistics.median(sizes)]
    ]
    return figures.html_table(("size", "kept", "kB", f"GB for {runs:,}", "files"), rows)


def _sizes_on_disk(
    records: Mapping[Path, Record], has_picture: bool
) -> Iterator[tuple[int, Sequence[int]]]:
    """The bytes of each run's files, by the width of its picture."""
    by_width = defaultdict(list)
    for path, record in records.items():
        if record.picture == has_picture:
            text = msgspec.json.format(msgspec.json.encode(record), indent=1)
            picture = path.with_suffix(".png").stat().st_size if has_picture else 0
            by_width[record.asked.width].append(on_disk(len(text)) + on_disk(picture))
    yield from sorted(by_width.items())


def checkpoint_bytes(protocol: str, size: int, iterations: int) -> int:
    """What a run has on disk that is stopped after so many iterations."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.checkpoint"
        styleinv.invert(
            "bundled:strokes",
            layer="relu_1_1",
            protocol=protocol,
            size=size,
            checkpoint=path,
            callback=lambda iterate: iterate.iteration >= iterations,
        )
        return path.stat().st_size
