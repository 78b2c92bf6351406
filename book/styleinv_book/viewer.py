"""The static viewer: every kept run on one page of the book, to choose and compare.

It is one HTML fragment with its style sheet, script and data inside, and needs neither a kernel nor
a network. Pictures and records are files beside the page. Without JavaScript a grid of all pictures
remains.
"""

import html
import itertools
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import numpy as np

from styleinv import live
from styleinv.encoder import LAYERS, SOURCES
from styleinv.errors import InputError
from styleinv.images import STYLE_NAMES, short_name
from styleinv.losses import LOSSES, title_of
from styleinv.protocol import KNOWN
from styleinv.runs import store
from styleinv.runs.record import Record, budget_of, iterations_of, theta_of

CURVE_POINTS = 60


class Option(NamedTuple):
    """One value of a control, what it is called, and its place among the others."""

    value: str
    label: str
    place: tuple[int, ...]


def link_to(record: Record) -> str:
    """The URL fragment, with its #, at which the viewer shows a record."""
    return "#" + urlencode({name: option.value for name, option in options_of(record).items()})


def options_of(record: Record) -> dict[str, Option]:
    """What a reader would have to choose to see a record, by control."""
    asked, source = record.asked, record.source
    layer, loss, seed, encoder = (asked[key] for key in ("layer", "loss", "seed", "encoder"))
    height, width = asked.height, asked.width
    size = str(width) if width == height else f"{width}x{height}"
    protocol, budget = asked.protocol.name, asked.protocol.budget
    place = _place(protocol, KNOWN)
    optimiser = Option(protocol, protocol, (*place, 0))
    if protocol in KNOWN and budget != KNOWN[protocol].budget(loss, layer):
        label = f"{protocol}, {budget_of(asked['protocol'])}"
        optimiser = Option(f"{protocol}-{budget}", label, (*place, budget))
    return {
        "style": Option(source, short_name(source), _place(source, STYLE_NAMES)),
        "layer": Option(layer, layer, _place(layer, LAYERS)),
        "loss": _loss_of(asked),
        "seed": Option(str(seed), str(seed), (seed,)),
        "protocol": optimiser,
        # A seed follows the name of random weights: the control comes last.
        "encoder": Option(encoder, encoder, _place(encoder.partition(" ")[0], SOURCES)),
        "size": Option(size, f"{size.replace('x', ' x ')} px", (width, height)),
    }


def _loss_of(asked: Record) -> Option:
    loss, place = asked.loss, _place(asked.loss, LOSSES)
    if "alpha" not in asked:
        return Option(loss, title_of(loss), place)
    alpha = f"{asked['alpha']:g}"
    return Option(f"{loss}-{alpha}", f"{title_of(loss)}, alpha {alpha}", (*place, 1))


def _place(name: str, known: Iterable[str]) -> tuple[int, ...]:
    """Where `name` comes in the order of `known`; what is not known comes first."""
    return (list(known).index(name) + 1 if name in known else 0, *name.encode())


def page(folder: Path, link: str) -> str:
    """The viewer of all runs in `folder` and below, as a fragment of HTML.

    Args:
        folder: records with their pictures, and the style images in `folder`/styles.
        link: where the page finds `folder`, as a URL.

    Raises:
        InputError: there is no run, or a record, a picture or a style image cannot be used.
    """
    runs_kept = store.read_folder(folder)
    records = {path: run.record for path, run in runs_kept.items() if run.pixels is not None}
    if not records:
        raise InputError(f"folder is {str(folder)!r}, but must hold run records")
    # Of runs that differ in nothing that can be chosen, the latest is shown.
    by_date = sorted(records.items(), key=lambda item: item[1].made_with.date)
    runs = {link_to(record): _run(path, record, folder, link) for path, record in by_date}
    options: dict[str, dict[str, Option]] = {}
    for record in records.values():
        for name, option in options_of(record).items():
            options.setdefault(name, {})[option.value] = option
    data = {
        "options": {
            name: [[o.value, o.label] for o in sorted(found.values(), key=lambda o: o.place)]
            for name, found in options.items()
        },
        "runs": list(runs.values()),
    }
    # In a script element only "<" could end the data.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    css, parts, js = (
        (Path(__file__).parent / name).read_text("utf-8")
        if name == "viewer.js"
        else (Path(live.__file__).parent / name).read_text("utf-8")
        for name in ("viewer.css", "parts.js", "viewer.js")
    )
    return (
        f'<div class="viewer"><style>{css}</style>'
        f'<div class="viewer-app" hidden></div>{_grid(records, folder, link)}'
        f'<script type="application/json">{text}</script>'
        f"<script>(() => {{ 'use strict';\n{parts}{js}}})();</script></div>"
    )


def _places(record: Record) -> list[tuple[int, ...]]:
    return [option.place for option in options_of(record).values()]


def _run(path: Path, record: Record, folder: Path, link: str) -> dict[str, Any]:
    """What the page needs of a record."""
    asked = record.asked
    size = min(asked.height, asked.width)
    style = folder / "styles" / store.style_file_name(record.source, size)
    if not style.is_file():
        raise InputError(f"style image {str(style)!r} is not an existing file")
    return {
        "choice": {name: option.value for name, option in options_of(record).items()},
        "style": _url(style, folder, link),
        "picture": _url(path.with_suffix(".png"), folder, link),
        "record": _url(path, folder, link),
        "width": asked.width,
        "height": asked.height,
        "trace": [
            (point.evaluations, float(f"{point['loss']:.4g}"), _stage(point.stage, asked))
            for point in _thinned(record.trace)
        ],
        "theta": theta_of(record),
        "facts": _facts(record),
        "command": _command(record),
    }


def _stage(name: str, asked: Record) -> str:
    """A stage as readers see it; some are called after the exact loss: "moment-3 compressed"."""
    return name.replace(asked.loss, title_of(asked.loss))


def _thinned(trace: Sequence[Record]) -> list[Record]:
    """About 60 points, log-spaced; with the first, the last and the first of each stage."""
    evaluations = [point.evaluations for point in trace]
    wanted = np.geomspace(evaluations[0], evaluations[-1], CURVE_POINTS)
    kept = {0, len(trace) - 1, *np.searchsorted(evaluations, wanted[1:-1]).tolist()}
    pairs = enumerate(itertools.pairwise(trace), start=1)
    kept |= {i for i, (before, after) in pairs if before["stage"] != after["stage"]}
    return [trace[i] for i in sorted(kept)]


def _facts(record: Record) -> dict[str, str]:
    """The numbers that the page shows beside a picture."""
    asked, result, made = record.asked, record.result, record.made_with
    protocol = asked.protocol
    theta = "none" if protocol.theta is None else f"{protocol['theta']:g}"
    facts = {
        "final loss": f"{result['loss']:.3g}",
        "stopped by": result.stop_reason,
        "iterations": f"{result['iterations']:,}",
        "evaluations": f"{result['evaluations']:,}",
        "time": f"{result['seconds']:,.1f} s",
        "size": f"{asked['width']} x {asked['height']} pixels",
        "seed": str(asked.seed),
        "protocol": f"{protocol['name']} ({protocol['method']})",
        "theta": theta,
        "budget": budget_of(protocol),
        "warm-ups": ", ".join(_stage(x.loss, asked) for x in protocol.get("warmups", [])),
        "encoder": f"{asked['encoder']} ({asked['encoder_sha256'][:12]})",
        "computed on": f"{made['device']}, {made['processor']}, {made['threads']} threads",
        "torch": made.torch,
        "styleinv": f"{made['styleinv']}, code {made['code']}",
        "date": made.date[:10],
    }
    return {name: fact for name, fact in facts.items() if fact}


def _command(record: Record) -> str:
    """The command that makes a run again; empty if it was made from what only Python has."""
    asked, protocol = record.asked, record.asked.protocol
    if protocol.name not in KNOWN or record.source == "tensor":
        return ""
    own = KNOWN[protocol.name]
    encoder = asked.encoder if asked.encoder in SOURCES else "FILE"
    options = {
        "layer": asked.layer,
        "loss": asked.loss,
        "protocol": own.name,
        "seed": asked.seed,
        "size": min(asked.height, asked.width),
        "encoder": encoder,
    }
    if "alpha" in asked:
        options["alpha"] = asked["alpha"]
    if asked.height != asked.width:
        options["fit"] = "keep"
    if (iterations := iterations_of(record)) is not None:
        options["iterations"] = iterations
    if protocol.seconds not in (None, own.seconds):
        options["seconds"] = protocol.seconds
    if asked.device != "cpu":
        options["device"] = asked.device
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return shlex.join(["styleinv", "invert", record.source, *words])


def _grid(records: Mapping[Path, Record], folder: Path, link: str) -> str:
    """All pictures, sweep by sweep: what remains without JavaScript."""
    parts = []
    ordered = sorted(records, key=lambda path: (path.parent, _places(records[path])))
    for sweep, paths in itertools.groupby(ordered, key=lambda path: path.parent):
        items = "".join(_figure(path, records[path], folder, link) for path in paths)
        name = sweep.relative_to(folder).as_posix() if sweep != folder else "runs"
        parts.append(f'<h3>{html.escape(name)}</h3><ul class="viewer-grid">{items}</ul>')
    return f"<details open><summary>All runs as a plain grid</summary>{''.join(parts)}</details>"


def _figure(path: Path, record: Record, folder: Path, link: str) -> str:
    asked = record.asked
    style, layer, loss, seed, *others = (option.label for option in options_of(record).values())
    alt = html.escape(", ".join([style, layer, loss, f"seed {seed}", *others]))
    picture, source = (_url(x, folder, link) for x in (path.with_suffix(".png"), path))
    return (
        f'<li><a href="{picture}"><img class="dark-light" loading="lazy" src="{picture}" '
        f'width="{asked.width}" height="{asked.height}" alt="{alt}"></a>'
        f'{html.escape(f"{layer}, {loss}")}, <a href="{source}" '
        f'aria-label="record of {alt}">record</a></li>'
    )


def _url(path: Path, folder: Path, link: str) -> str:
    return f"{link}/{quote(path.relative_to(folder).as_posix())}"
