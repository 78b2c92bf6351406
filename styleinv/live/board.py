"""What the live page shows of a session, as plain JSON values and pictures."""

import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from styleinv.encoder import LAYERS
from styleinv.errors import InputError, one_of, whole_number
from styleinv.images import MAX_SIZE, MIN_SIZE, Pixels
from styleinv.inversion import Task
from styleinv.live.session import Attempt, Session
from styleinv.losses import COLOURS, WITH_ALPHA, title_of
from styleinv.runs import measures, store
from styleinv.runs.record import Asked, Record, asked_of, duration
from styleinv.styles import LARGEST_SEED

MOMENTS = tuple(f"moment-{n}" for n in range(1, 5))
SHOWS = ("one", "compare", "layers", "moments")
GOING = ("loading", "running", "paused")

# Metrics take at most a tenth of the time, and are new at most once a second.
METRIC_SECONDS, METRIC_SHARE = 1.0, 0.1
# From light to dark: the runs of one loss at several layers.
SHADES = (40, 60, 80, 100)
# What tells the runs of a page apart.
NAMES = ("layer", "loss")


def wishes_of(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is to be run, one after another, as arguments of `plan`.

    Raises:
        InputError: a number is none, or there is no such way to show runs.
    """
    one_of("show", choice["show"], SHOWS)
    cells = {
        "one": [(choice["layer"], choice["loss"])],
        "compare": [
            (choice["layer"], choice["loss"]),
            (choice["other_layer"], choice["other_loss"]),
        ],
        "layers": [(layer, choice["loss"]) for layer in LAYERS],
        "moments": [(choice["layer"], loss) for loss in MOMENTS],
    }
    encoder = choice["encoder"]
    if encoder == "file":
        encoder = choice["weights"].strip()
        if not encoder:
            raise InputError("encoder is a weights file, but the field has no file's name")
    common = {
        "style": choice["style"],
        "protocol": choice["protocol"],
        "size": whole_number("size", choice["size"], MIN_SIZE, MAX_SIZE),
        "seed": whole_number("seed", choice["seed"], 0, LARGEST_SEED),
        "encoder": encoder,
    }
    return [
        {**common, "layer": layer, **_loss(loss, choice)} for layer, loss in cells[choice["show"]]
    ]


def _loss(loss: str, choice: Mapping[str, Any]) -> dict[str, Any]:
    """A loss with the kernel and the pairs that were chosen, where it has some."""
    if loss not in WITH_ALPHA:
        return {"loss": loss}
    if not isinstance(choice["alpha"], int | float):
        raise InputError("alpha, the kernel width, must be a number greater than 0")
    return {
        "loss": "mmd-random" if choice["pairing"] == "random" else "mmd",
        "alpha": choice["alpha"],
    }


class References:
    """The reference runs, to find that of a cell; read when first asked for."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @functools.cached_property
    def records(self) -> list[Record]:
        return [] if self.folder is None else list(store.read_records(self.folder).values())

    def curve(self, task: Task) -> dict[str, Any]:
        """The loss curve of the same cell, if there is one, and a sentence about it."""
        wanted = _cell(task.source, asked_of(task))
        try:
            if not self.records:
                return {"text": "There are no reference runs here to compare with."}
            found = [r for r in self.records if _cell(r.source, r.asked) == wanted]
        except (OSError, ValueError, LookupError, TypeError) as error:
            return {"text": f"The reference runs here cannot be read: {error!r}."}
        if not found:
            return {"text": "No reference run has the same style, encoder, size and so on."}
        points = [(point.evaluations, point.loss) for point in found[0].trace]
        date = found[0].made_with.date[:10]
        return {"points": points, "text": f"Dashed: the reference run of the same cell, {date}."}


def _cell(source: str, asked: Asked) -> tuple[Any, ...]:
    """What two runs must agree in to be compared: all but the machine."""
    names = ("layer", "loss", "alpha", "seed", "height", "width", "encoder_sha256")
    protocol = msgspec.structs.replace(asked.protocol, seconds=None)
    return source, *(getattr(asked, name) for name in names), protocol


@dataclass
class Board:
    """A session as the page shows it.

    Attributes:
        batch: counts the starts.
    """

    references: References
    session: Session = field(default_factory=Session)
    batch: int = 0

    def __post_init__(self) -> None:
        self._measured: dict[int, dict[str, str]] = {}
        self._measured_of: dict[int, Pixels] = {}
        self._curves: dict[int, dict[str, Any]] = {}
        self._next_measure = 0.0

    def start(self, wishes: Sequence[dict[str, Any]]) -> None:
        """Run them in place of what was there."""
        self.session.start(wishes)
        self.batch += 1
        self.__post_init__()

    def look(self) -> tuple[dict[str, Any], list[Pixels | None], Pixels | None]:
        """The state, the runs' pictures, and the style's."""
        # Both take longer than a run should wait for.
        self._find_references()
        self._measure()
        with self.session.lock:
            attempts = self.session.attempts
            tasks = [attempt.task for attempt in attempts if attempt.task is not None]
            failed = next((a.message for a in attempts if a.phase == "failed"), "")
            notes = dict.fromkeys(note for attempt in attempts for note in attempt.notes)
            state = {
                "batch": self.batch,
                "phase": self._phase(attempts),
                "runs": [self._run(i, attempt) for i, attempt in enumerate(attempts)],
                "size": _size(tasks[0]) if tasks else None,
                "savable": any(attempt.result for attempt in attempts),
                "message": sentence(failed) or " ".join(map(sentence, notes)),
                "bad": bool(failed),
            }
            pictures = [attempt.pixels for attempt in attempts]
            style = next((a.style for a in attempts if a.style is not None), None)
        return state, pictures, style

    def _phase(self, attempts: Sequence[Attempt]) -> str:
        if not self.session.is_alive():
            return "ended" if attempts else "idle"
        return next((a.phase for a in attempts if a.phase in GOING), "loading")

    def _run(self, number: int, attempt: Attempt) -> dict[str, Any]:
        """One run: names, curve, numbers."""
        layer, loss = attempt.asked_for["layer"], attempt.asked_for["loss"]
        several = {key: len({a.asked_for[key] for a in self.session.attempts}) > 1 for key in NAMES}
        only_layers = several["layer"] and not several["loss"]
        names = [layer] * several["layer"] + [title_of(loss)] * (not only_layers)
        task = attempt.task
        shade = SHADES[LAYERS.index(layer)] if only_layers else 100
        return {
            "title": f"{layer}, {title_of(loss)}",
            "short": ", ".join(names),
            "style": task.style_name if task is not None else "",
            "phase": attempt.phase,
            "status": _status(attempt),
            "colour": _colour(loss, shade),
            "points": attempt.points.copy(),
            "theta": None if task is None else _theta(task),
            "reference": self._curves.get(number),
            "numbers": {**_numbers(attempt), **self._measured.get(number, NOT_MEASURED)},
            "provenance": "" if task is None else _provenance(task),
        }

    def _find_references(self) -> None:
        for number, attempt in enumerate(self.session.attempts):
            if attempt.task is not None and number not in self._curves:
                self._curves[number] = self.references.curve(attempt.task)

    def _measure(self) -> None:
        """The metrics of the pictures that are new, not too often."""
        with self.session.lock:
            due = time.monotonic() >= self._next_measure
            pictures = {
                i: (attempt.pixels, attempt.style)
                for i, attempt in enumerate(self.session.attempts)
                if attempt.style is not None
                and attempt.pixels is not None
                and attempt.pixels is not self._measured_of.get(i)
                and (due or attempt.phase == "ended")
            }
        began = time.monotonic()
        for i, (pixels, style) in pictures.items():
            self._measured_of[i], self._measured[i] = pixels, _measures(pixels, style)
        if pictures:
            cost = time.monotonic() - began
            self._next_measure = time.monotonic() + max(METRIC_SECONDS, cost / METRIC_SHARE)


NOT_MEASURED = {"structure size": "", "of the style": "", "colour distance": ""}


def _measures(pixels: Pixels, style: Pixels) -> dict[str, str]:
    size, style_size = measures.structure_size(pixels), measures.structure_size(style)
    return {
        "structure size": f"{size:.1f} px",
        "of the style": f"{style_size:.1f} px",
        "colour distance": f"{measures.colour_distance(pixels, style):.1f}",
    }


def _numbers(attempt: Attempt) -> dict[str, str]:
    """What moves while a run goes on, in the page's words."""
    if not attempt.points:
        names = ("loss", "iterations", "evaluations", "iterations/s", "time", "time left")
        return dict.fromkeys(names, "")
    evaluations, loss = attempt.points[-1]
    rate, left = attempt.rates()[0], attempt.seconds_left()
    return {
        "loss": f"{loss:.3g}",
        "iterations": f"{attempt.iteration:,}",
        "evaluations": f"{evaluations:,}",
        "iterations/s": f"{rate:.1f}" if math.isfinite(rate) else "",
        "time": duration(attempt.seconds),
        "time left": f"≤ {duration(left)}" if math.isfinite(left) else "",
    }


STOP_REASONS = {
    "theta": "done: below θ",
    "budget": "done: budget used up",
    "time": "done: time used up",
    "stopped": "stopped",
    "not finite": "ended: the loss is no number",
    "stalled": "done: no step lowers the loss",
}


def _status(attempt: Attempt) -> str:
    """One or two words for under a picture."""
    if attempt.result is not None:
        return STOP_REASONS[attempt.result.stop_reason]
    loss = attempt.asked_for["loss"]
    if attempt.phase == "running" and attempt.stage != loss:
        return f"warm-up: {attempt.stage.replace(loss, title_of(loss))}"
    return attempt.phase


def _colour(loss: str, shade: int) -> str:
    """A CSS colour: the loss's own, as in the book's figures; Gram's is the ink's."""
    own = COLOURS.get(loss, "var(--accent)")
    ink = "var(--ink)" if loss == "gram" else own
    return ink if shade == 100 else f"color-mix(in srgb, {ink} {shade}%, var(--paper))"


def _theta(task: Task) -> float | None:
    theta = task.protocol.theta_of(task.loss)
    return None if theta is None else theta / task.protocol.weight(task.loss)


def _size(task: Task) -> dict[str, int]:
    _, height, width = task.style.shape
    return {"height": height, "width": width}


def _provenance(task: Task) -> str:
    """What made the runs, in a line."""
    encoder, size = task.encoder, _size(task)
    return (
        f"{task.style_name} · encoder {encoder.name} ({encoder.sha256[:12]}) · "
        f"{size['width']} x {size['height']} pixels · protocol {task.protocol.name} · "
        f"seed {task.seed} · {encoder.device.type}"
    )


def sentence(text: str) -> str:
    """A message with a capital letter and a full stop; nothing stays nothing."""
    text = text.strip()
    return text and f"{text[0].upper()}{text[1:].rstrip('.')}."
