"""The reference runs that the book shows: the file that lists them, making them, reading them.

`results/reference.yml` lists sweeps. The runs of each are a folder in `results/runs`, and their
style images are in `results/runs/styles`. They are committed and made again only when
`RESULTS_VERSION` is raised.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import msgspec.yaml
from msgspec import UNSET

from styleinv.encoder import LAYERS, NORMALISED_NAME, NORMALISED_SHA256, load_encoder
from styleinv.errors import InputError, one_of
from styleinv.images import load_style, save_png, to_uint8
from styleinv.inversion import DEFAULT_SIZE
from styleinv.protocol import PROTOCOLS, Protocol
from styleinv.runs import measures, store
from styleinv.runs.record import Plain, sealed
from styleinv.runs.store import Run
from styleinv.runs.sweeps import HERE, Execution, Key, make_runs, plan_sweep

REFERENCE, CHAPTER, RUNS, STYLES = "reference.yml", "chapter.yml", "runs", "styles"
# The fields of an `Entry` that are arguments of `plan_sweep`.
GRID = ("styles", "layers", "losses", "seeds", "size", "iterations")


class Entry(Plain, frozen=True):
    """One sweep of the file; every combination of its lists is a run.

    Attributes:
        encoder: one of `styleinv.encoder.SOURCES` that needs no file, or None for the weights that
            `Reference.encoder_sha256` names.
        iterations: budgets that replace the protocol's own; None keeps it.
        pictures: whether to keep the pictures with the records.
        along: whether to measure iterates on the way (`Record.along`), which takes seconds each.
    """

    styles: tuple[str, ...]
    losses: tuple[str, ...]
    layers: tuple[str, ...] = LAYERS
    protocol: str = "fast"
    encoder: str | None = None
    seeds: tuple[int, ...] = (0,)
    iterations: tuple[int | None, ...] = (None,)
    size: int = DEFAULT_SIZE
    pictures: bool = True
    along: bool = False


class Reference(Plain, frozen=True):
    """The content of the file: the hash of the encoder's weights, and the sweeps by name."""

    encoder_sha256: str
    sweeps: dict[str, Entry]


def read_reference(file: Path) -> Reference:
    """Read `results/reference.yml` or another file of its kind.

    Raises:
        InputError: the file is missing, not YAML, or has fields other than `Reference`'s.
    """
    try:
        return msgspec.yaml.decode(file.read_bytes(), type=Reference)
    except Exception as error:  # PyYAML passes on whatever the constructor of a value raises
        raise InputError(f"reference {str(file)!r} cannot be read: {error}") from error


def entry_of(name: str, results: str | Path, file: str = REFERENCE) -> Entry:
    """The sweep `name` of `file` in the folder `results`.

    Raises:
        InputError: the file cannot be read or has no such sweep.
    """
    sweeps = read_reference(Path(results) / file).sweeps
    return sweeps[one_of("reference sweep", name, tuple(sweeps))]


def make_reference_runs(
    file: Path,
    encoder_file: str,
    device: str = "cpu",
    report: Callable[[str], object] = lambda line: None,
    execution: Execution = HERE,
    protocols: Mapping[str, Protocol] = PROTOCOLS,
    only: Sequence[str] = (),
) -> bool:
    """Make the runs that are missing, in runs/ beside the file, and pack their records.

    Runs of an older `RESULTS_VERSION` are made again. Pictures that were measured by an older
    version of the measures are measured again.

    Args:
        file: a file such as `results/reference.yml`.
        encoder_file: the weights that the file names; for `results/reference.yml` these are the
            source ``vgg19-normalised``.
        report: called with one line of text per finished run.
        execution: how and where the runs are made.
        protocols: the protocols by name.
        only: the names of the sweeps to make; all by default.

    Returns:
        whether all runs are there; False if `execution` stopped.

    Raises:
        InputError: the file cannot be read, has no such sweep, names an unknown protocol, or names
            other weights than a sweep needs.
    """
    reference = read_reference(file)
    names = tuple(reference.sweeps)
    sweeps = {one_of("only", x, names): reference.sweeps[x] for x in only or names}
    encoder = load_encoder(encoder_file, device=device)
    needed = any(entry.encoder is None for entry in sweeps.values())
    if needed and encoder.sha256 != reference.encoder_sha256:
        raise InputError(
            f"encoder {encoder_file!r} has the fingerprint {encoder.sha256[:12]}, but the runs of "
            f"{str(file)!r} need {reference.encoder_sha256[:12]}"
        )
    if encoder.sha256 == NORMALISED_SHA256:  # whatever the file is called here
        encoder = encoder.named(NORMALISED_NAME)
    for name, entry in sweeps.items():
        protocol = protocols[one_of(f"protocol of sweep {name}", entry.protocol, tuple(protocols))]
        report(f"Sweep {name}")
        for style in entry.styles:
            path = file.parent / RUNS / STYLES / store.style_file_name(style, entry.size)
            if not path.exists():
                save_png(load_style(style, entry.size), path)
        used = encoder if entry.encoder is None else load_encoder(entry.encoder, device=device)
        grid = {field: getattr(entry, field) for field in GRID}
        planned = plan_sweep(**grid, encoder=used, protocol=protocol)
        tasks = [replace(task, along=entry.along) for task in planned]
        folder = file.parent / RUNS / name
        made = make_runs(tasks, folder, pictures=entry.pictures, report=report, execution=execution)
        if len(made) < len(tasks):
            return False
        _measure_again(folder, report)
        store.pack(folder)
    return True


def reference_runs(
    name: str, results: str | Path, *, seed: int | None = None, iterations: int | None = None
) -> dict[Key, Run]:
    """The runs of the reference sweep `name` by (style, layer, loss), as `sweep` returns them.

    Args:
        results: the folder with `reference.yml` and the runs.
        seed, iterations: the seed and the budget, if the sweep has several; by default the first.

    Raises:
        InputError: there is no such sweep, or a run is missing or altered.
    """
    found = _cells(entry_of(name, results), Path(results) / RUNS / name, seed, iterations)
    if missing := [key for key, path in found.items() if path is None]:
        raise InputError(
            f"reference sweep {name!r} lacks {len(missing)} runs, the first {missing[0]}; "
            "`styleinv sweep --reference` makes them"
        )
    return {key: store.read(path) for key, path in found.items() if path is not None}


def chapter_runs(name: str, results: str | Path) -> dict[Key, Run | None]:
    """The runs of the sweep `name` of `results/chapter.yml`; None where one is not made yet.

    Raises:
        InputError: there is no such sweep, or a run is altered.
    """
    found = _cells(entry_of(name, results, CHAPTER), Path(results) / RUNS / name)
    return {key: None if path is None else store.read(path) for key, path in found.items()}


def _cells(
    entry: Entry, folder: Path, seed: int | None = None, iterations: int | None = None
) -> dict[Key, Path | None]:
    """The record of each run that an entry asks for, by default with its first seed and budget."""
    seed = entry.seeds[0] if seed is None else seed
    budget = entry.iterations[0] if iterations is None else iterations
    found = {
        (record.source, record.asked.layer, record.asked.loss): path
        for path, record in store.read_records(folder).items()
        if record.asked.seed == seed and budget in (None, record.asked.protocol.budget)
    }
    return {key: found.get(key) for key in product(entry.styles, entry.layers, entry.losses)}


def _measure_again(folder: Path, report: Callable[[str], object]) -> None:
    """Measure the pictures that another version of the measures has measured."""
    for path, record in store.read_records(folder).items():
        known = record.measures
        if record.picture and (known is UNSET or known.version != measures.VERSION):
            size = min(record.asked.height, record.asked.width)
            style = to_uint8(load_style(record.source, size))
            run, other = store.read(path), measures.other_sample(record.source, size)
            found = measures.measure(run.image, style, other)
            store.save(replace(run, record=sealed(record, measures=found)), folder)
            report(f"Measured again: {path.stem}")
