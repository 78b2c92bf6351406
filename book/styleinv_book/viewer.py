"""The static viewer: every kept run on one page of the book, to choose and compare.

It is one HTML fragment with its style sheet, script and data inside, and needs neither a kernel nor
a network. Pictures and records are files beside the page: the Sphinx extension puts them there.
Without JavaScript a grid of all pictures remains.
"""

import itertools
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import numpy as np

from styleinv import live
from styleinv.encoder import LAYERS, NORMALISED_SHA256, SOURCES
from styleinv.errors import InputError
from styleinv.images import STYLE_NAMES, UNNAMED, short_name
from styleinv.live.labels import title_of
from styleinv.losses import LOSSES
from styleinv.protocol import PROTOCOLS
from styleinv.runs import store
from styleinv.runs.record import Asked, Record, TracePoint, budget_of
from styleinv_book.ablation import KNOWN
from styleinv_book.rendering import render

CURVE_POINTS = 60
SCRIPTS = (Path(live.__file__).with_name("parts.js"), Path(__file__).with_suffix(".js"))
SHEET = Path(live.__file__).with_name("viewer.css")


class Option(NamedTuple):
    """One value of a control, with its label and its place among the other values."""

    place: tuple[int, ...]
    value: str
    label: str


def link_to(record: Record) -> str:
    """The URL fragment, with its #, at which the viewer shows a record."""
    return "#" + urlencode({name: option.value for name, option in options_of(record).items()})


def options_of(record: Record) -> dict[str, Option]:
    """The option that a reader must choose in each control to see a record."""
    asked, source = record.asked, record.source
    layer, seed, encoder = asked.layer, str(asked.seed), asked.encoder
    size = str(asked.width) if asked.width == asked.height else f"{asked.width}x{asked.height}"
    return {
        "style": Option(_place(source, STYLE_NAMES), source, short_name(source)),
        "layer": Option(_place(layer, LAYERS), layer, layer),
        "loss": Option(_place(asked.loss, LOSSES), asked.loss, title_of(asked.loss)),
        "seed": Option((asked.seed,), seed, seed),
        "protocol": _protocol_of(asked),
        # The name of random weights ends in their seed.
        "encoder": Option(_place(encoder.partition(" ")[0], SOURCES), encoder, encoder),
        "size": Option((asked.width, asked.height), size, f"{size.replace('x', ' x ')} px"),
    }


def _protocol_of(asked: Asked) -> Option:
    """A protocol by its name; a budget other than the protocol's own is part of the choice."""
    name, budget = asked.protocol.name, asked.protocol.budget
    place, own = _place(name, KNOWN), KNOWN.get(name)
    if own is None or budget == own.budget(asked.loss, asked.layer):
        return Option((*place, 0), name, name)
    return Option((*place, budget), f"{name}-{budget}", f"{name}, {budget_of(asked.protocol)}")


def _place(name: str, known: Iterable[str]) -> tuple[int]:
    """Where `name` comes in the order of `known`; what is not known comes first."""
    return (list(known).index(name) + 1 if name in known else 0,)


def page(folder: Path, link: str) -> str:
    """The viewer of all runs in `folder` and below, as a fragment of HTML.

    Args:
        folder: records with their pictures, and the style images in `folder`/styles.
        link: where the page finds `folder`, as a URL.

    Raises:
        InputError: there is no run, or a record, a picture or a style image cannot be used.
    """
    kept = store.read_folder(folder)
    records = {path: run.record for path, run in kept.items() if run.pixels is not None}
    if not records:
        raise InputError(f"folder is {str(folder)!r}, but must hold run records")
    # Sweep by sweep, and within a sweep by what a reader can choose.
    options = {path: options_of(record) for path, record in records.items()}
    paths = sorted(records, key=lambda path: (path.parent, *options[path].values()))
    runs = {path: _run(path, records[path], folder, link) for path in paths}
    sweeps = [
        (sweep.relative_to(folder).as_posix(), [runs[path] for path in of_sweep])
        for sweep, of_sweep in itertools.groupby(paths, lambda path: path.parent)
    ]
    # Of runs that differ in nothing that can be chosen, the latest is shown.
    paths.sort(key=lambda path: records[path].made_with.date)
    latest = {link_to(records[path]): runs[path] for path in paths}
    choices = {
        name: [option[1:] for option in sorted({found[name] for found in options.values()})]
        for name in options[paths[0]]
    }
    return render(
        "viewer.html.j2",
        sheet=SHEET.read_text("utf-8"),
        script="\n".join(file.read_text("utf-8") for file in SCRIPTS),
        data={"options": choices, "runs": list(latest.values())},
        sweeps=sweeps,
    )


def _run(path: Path, record: Record, folder: Path, link: str) -> dict[str, Any]:
    """What the page shows of a record, and where it finds the files."""
    asked, options = record.asked, options_of(record)
    style = folder / "styles" / store.style_file_name(record.source, min(asked.height, asked.width))
    if not style.is_file():
        raise InputError(f"style image {str(style)!r} is not an existing file")
    files = {"style": style, "picture": path.with_suffix(".png"), "record": path}
    urls = {name: quote(file.relative_to(folder).as_posix()) for name, file in files.items()}
    return {
        **{name: f"{link}/{url}" for name, url in urls.items()},
        "choice": {name: option.value for name, option in options.items()},
        "labels": {name: option.label for name, option in options.items()},
        "width": asked.width,
        "height": asked.height,
        "trace": [
            (point.evaluations, float(f"{point.loss:.4g}"), title_of(point.stage))
            for point in thin(record.trace)
        ],
        "theta": record.theta,
        "facts": _facts(record),
        "command": command(record),
    }


def thin(trace: Sequence[TracePoint]) -> list[TracePoint]:
    """About 60 points, log-spaced, among them the first, the last and the first of each stage."""
    evaluations = [point.evaluations for point in trace]
    wanted = np.geomspace(evaluations[0], evaluations[-1], CURVE_POINTS)
    kept = {0, len(trace) - 1, *np.searchsorted(evaluations, wanted[1:-1]).tolist()}
    pairs = enumerate(itertools.pairwise(trace), start=1)
    kept |= {i for i, (before, after) in pairs if before.stage != after.stage}
    return [trace[i] for i in sorted(kept)]


def _facts(record: Record) -> dict[str, str]:
    """The numbers that the page shows beside a picture."""
    asked, result, made = record.asked, record.result, record.made_with
    protocol = asked.protocol
    return {
        "final loss": f"{result.loss:.3g}",
        "stopped by": result.stop_reason,
        "iterations": f"{result.iterations:,}",
        "evaluations": f"{result.evaluations:,}",
        "time": f"{result.seconds:,.1f} s",
        "protocol": f"{protocol.name} ({protocol.method})",
        "theta": "none" if protocol.theta is None else f"{protocol.theta:g}",
        "budget": budget_of(protocol),
        "first stages": ", ".join(map(title_of, asked.stages)) or "none",
        "encoder": f"{asked.encoder} ({asked.encoder_sha256[:12]})",
        "computed on": f"{made.device}, {made.processor}, {made.threads} threads",
        "torch": made.torch,
        "styleinv": f"{made.styleinv}, results {made.results}",
        "date": made.date[:10],
    }


def command(record: Record) -> str:
    """The command that makes a run again; empty if only Python has its style or its protocol."""
    asked, own = record.asked, PROTOCOLS.get(record.asked.protocol.name)
    if own is None or record.source in UNNAMED:
        return ""
    seconds, encoder = asked.protocol.seconds, asked.encoder
    if asked.encoder_sha256 == NORMALISED_SHA256:
        encoder = "vgg19-normalised"
    options = {
        "layer": asked.layer,
        "loss": asked.loss,
        "protocol": own.name,
        "seed": asked.seed,
        "size": min(asked.height, asked.width),
        "encoder": encoder if encoder in SOURCES else "FILE",
        "alpha": asked.alpha or None,
        "fit": None if asked.height == asked.width else "keep",
        "iterations": record.iterations_asked,
        "seconds": None if seconds == own.seconds else seconds,
        "device": None if asked.device == "cpu" else asked.device,
    }
    given = [(f"--{name}", str(value)) for name, value in options.items() if value is not None]
    return shlex.join(["styleinv", "invert", record.source, *itertools.chain(*given)])
