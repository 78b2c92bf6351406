"""What the page on provenance shows: the folders of the reference runs, and what made them."""

import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from styleinv.inversion import RESULTS_VERSION
from styleinv.runs import measures
from styleinv.runs.record import Record
from styleinv_book import figures
from styleinv_book.artifacts import Check
from styleinv_book.rendering import render_macro

PACKAGES = ("styleinv", "torch", "torchvision", "numpy", "scipy", "matplotlib", "scikit-image")


def folders_table(records: Mapping[Path, Record]) -> str:
    """The folders, a sweep each: its runs, their pictures, sizes, protocols and hours."""
    folders = defaultdict(list)
    for path, record in records.items():
        folders[path.parent.name].append(record)
    rows = [
        (
            name,
            len(own),
            sum(record.picture for record in own),
            counted([record.asked.width for record in own]),
            counted([record.asked.protocol.name for record in own]),
            f"{hours(own):.1f}",
        )
        for name, own in folders.items()
    ]
    return figures.html_table(("folder", "runs", "pictures", "px", "protocol", "hours"), rows)


def hours(records: Iterable[Record]) -> float:
    """What the runs took in all."""
    return sum(record.result.seconds for record in records) / 3600


def counted(values: Sequence[object]) -> str:
    """Each value, and how often it is there if there are several."""
    return ", ".join(
        f"{value} ({count})" if count < len(values) else str(value)
        for value, count in Counter(values).items()
    )


def made_with_table(records: Iterable[Record]) -> str:
    """How many runs each encoder, results version and PyTorch has made, and when."""
    groups: dict[tuple[str, int, str], list[str]] = defaultdict(list)
    for record in records:
        made = record.made_with
        groups[record.asked.encoder, made.results, made.torch].append(made.date[:10])
    rows = [(*key, len(dates), f"{min(dates)} to {max(dates)}") for key, dates in groups.items()]
    return figures.html_table(("encoder", "results version", "torch", "runs", "dates"), rows)


def checks_table(checks: Sequence[Check]) -> str:
    """The claims, each with its verdict, the commands that check it, and what they take."""
    return render_macro("artifacts.html.j2", "checks", checks)


def versions_table() -> str:
    """What makes the runs of this build."""
    rows = [
        ("Python", platform.python_version()),
        *((name, version(name)) for name in PACKAGES),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("threads", torch.get_num_threads()),
        ("results version", RESULTS_VERSION),
        ("measures version", measures.VERSION),
    ]
    return figures.html_table(("what", "version"), rows)
