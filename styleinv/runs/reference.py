"""The reference runs: a manifest that asks for them, how they are made, and how pages read them.

`results/reference.yml` names sweeps; each is a folder of records in `results/runs`, with the style
images beside them in `results/runs/styles`. Unlike a reader's own runs, they stay when the code
changes: a record says which code made it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from styleinv.encoder import LAYERS, load_encoder
from styleinv.errors import InputError, one_of
from styleinv.images import load_style, save_png, to_uint8
from styleinv.inversion import DEFAULT_SIZE
from styleinv.runs import measures, store
from styleinv.runs.record import file_name
from styleinv.runs.store import Run
from styleinv.runs.sweeps import HERE, Execution, Key, make_runs, plan_sweep

MANIFEST, RUNS, STYLES = "reference.yml", "runs", "styles"


@dataclass(frozen=True)
class Entry:
    """One sweep of the manifest; every combination of its lists is a run.

    Attributes:
        encoder: a source that needs no file, or None for the manifest's encoder.
        iterations: budgets in place of the protocol's own; None for that.
        pictures: keep them, or only the records.
    """

    name: str
    styles: tuple[str, ...]
    losses: tuple[str, ...]
    layers: tuple[str, ...] = LAYERS
    protocol: str = "fast"
    encoder: str | None = None
    seeds: tuple[int, ...] = (0,)
    iterations: tuple[int | None, ...] = (None,)
    size: int = DEFAULT_SIZE
    pictures: bool = True


def read_manifest(file: Path) -> tuple[str, list[Entry]]:
    """The fingerprint of the encoder that the manifest is for, and its sweeps.

    Raises:
        InputError: the file is missing, not YAML, or has other fields than `Entry`.
    """
    try:
        content = yaml.safe_load(file.read_text())
        sha256: str = content["encoder_sha256"]
        entries = [_entry(name, fields) for name, fields in content["sweeps"].items()]
    except Exception as error:  # PyYAML passes on whatever a value's constructor raises
        raise InputError(f"manifest {str(file)!r} cannot be read: {error}") from error
    return sha256, entries


def _entry(name: str, fields: dict[str, Any]) -> Entry:
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    entry = Entry(name, **{**fields, **lists})
    for wanted in ("styles", "losses", "layers", "seeds", "iterations"):
        if not isinstance(getattr(entry, wanted), tuple):
            raise TypeError(f"{wanted} of sweep {name} must be a list")
    return entry


def make_reference_runs(
    manifest: Path,
    encoder_file: str,
    device: str = "cpu",
    report: Callable[[str], object] = lambda line: None,
    execution: Execution = HERE,
) -> bool:
    """Make what is missing of the manifest's runs, in runs/ beside it; whether all are there.

    Args:
        encoder_file: the weights that the manifest is for.
        report: called with one line of text per finished run.
        execution: how and where the runs are made; it may stop this, too.

    Raises:
        InputError: the weights are others than the manifest's.
    """
    sha256, entries = read_manifest(manifest)
    results = manifest.parent
    encoder = load_encoder(encoder_file, device=device)
    if encoder.sha256 != sha256:
        raise InputError(
            f"encoder {encoder_file!r} has the fingerprint {encoder.sha256[:12]}, but the manifest "
            f"is for {sha256[:12]}"
        )
    for entry in entries:
        report(f"Sweep {entry.name}")
        for style in entry.styles:
            _keep_style(style, entry.size, results)
        used = encoder if entry.encoder is None else load_encoder(entry.encoder, device=device)
        tasks = [
            task
            for iterations in entry.iterations
            for task in plan_sweep(
                entry.styles,
                layers=entry.layers,
                losses=entry.losses,
                encoder=used,
                protocol=entry.protocol,
                seeds=entry.seeds,
                size=entry.size,
                iterations=iterations,
            )
        ]
        folder = results / RUNS / entry.name
        made = make_runs(tasks, folder, pictures=entry.pictures, report=report, execution=execution)
        if len(made) < len(tasks):
            return False
        _measure(folder, report)
    return True


def entry_of(name: str, results: str | Path) -> Entry:
    """What the manifest in `results` asks for under `name`."""
    _, entries = read_manifest(Path(results) / MANIFEST)
    by_name = {entry.name: entry for entry in entries}
    return by_name[one_of("reference sweep", name, tuple(by_name))]


def reference_runs(
    name: str,
    results: str | Path,
    *,
    seed: int | None = None,
    iterations: int | None = None,
) -> dict[Key, Run]:
    """The runs of the manifest's sweep `name` by (style, layer, loss), as `sweep` returns them.

    Args:
        results: the folder with the manifest and its runs.
        seed, iterations: which, where the sweep has several; by default its first ones.

    Raises:
        InputError: the manifest has no such sweep, or a run is missing or altered.
    """
    entry = entry_of(name, results)
    seed = entry.seeds[0] if seed is None else seed
    budget = entry.iterations[0] if iterations is None else iterations
    found = {
        (run.record.source, run.record.asked.layer, run.record.asked.loss): run
        for run in store.read_folder(Path(results) / RUNS / name).values()
        if run.record.asked.seed == seed and budget in (None, run.record.asked.protocol.budget)
    }
    wanted = [
        (s, layer, loss) for s in entry.styles for layer in entry.layers for loss in entry.losses
    ]
    missing = [key for key in wanted if key not in found]
    if missing:
        raise InputError(
            f"reference sweep {name!r} lacks {len(missing)} runs, the first {missing[0]}; "
            "`styleinv sweep --reference` makes them"
        )
    return {key: found[key] for key in wanted}


def _measure(folder: Path, report: Callable[[str], object]) -> None:
    """Measure the pictures whose metrics other code has computed."""
    for run in store.read_folder(folder).values():
        if run.pixels is None or run.record.measures.version == measures.VERSION:
            continue
        style = load_style(run.record.source, min(run.pixels.shape[:2]))
        store.save(store.measured_anew(run, to_uint8(style)), folder)
        report(f"Measured anew: {file_name(run.record)}")


def _keep_style(style: str, size: int, results: Path) -> None:
    path = results / RUNS / STYLES / store.style_file_name(style, size)
    if not path.exists():
        save_png(load_style(style, size), path)
