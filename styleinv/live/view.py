"""A session as the live page shows it: plain JSON values and pictures."""

import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from styleinv.encoder import LAYERS, SOURCES
from styleinv.errors import InputError
from styleinv.images import BUNDLED, SCIKIT_IMAGE, Pixels
from styleinv.inversion import Task
from styleinv.live.labels import COLOURS, title_of
from styleinv.live.session import Attempt, Session
from styleinv.losses import WITH_ALPHA
from styleinv.machine import duration
from styleinv.runs import measures, store
from styleinv.runs.record import Asked, Record, asked_of

# Measuring takes at most a tenth of the time.
MEASURE_SHARE = 0.1
# The arguments of `plan`, but for style and encoder, that all runs of a start share.
_IN_COMMON = ("protocol", "iterations", "size", "seed")
# The shades of a loss's colour, in per cent, that tell the four layers apart.
SHADES = dict(zip(LAYERS, (40, 60, 80, 100), strict=True))


class References:
    """The reference runs in a folder. They are read at the first look-up."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    @functools.cached_property
    def _runs(self) -> dict[tuple[str, Asked], Record]:
        records = {} if self.folder is None else store.read_records(self.folder)
        return {_cell(record.source, record.asked): record for record in records.values()}

    def curve(self, task: Task) -> dict[str, Any]:
        """The loss curve of the task's reference run.

        Returns:
            `text`: a sentence on which run it is, or why there is none; and if there is one,
            `points`: the curve as (evaluations, loss).
        """
        try:
            found = self._runs.get(_cell(task.source, asked_of(task)))
        except (OSError, InputError) as error:
            return {"text": f"The reference runs here cannot be read: {error}."}
        if found is None:
            return {"text": "No reference run here has the same style, encoder, size and so on."}
        return {
            "points": [(point.evaluations, point.loss) for point in found.trace],
            "text": f"Dashed: the reference run of the same cell, {found.made_with.date[:10]}.",
        }


def _cell(source: str, asked: Asked) -> tuple[str, Asked]:
    """The values that two comparable runs share: everything except the machine."""
    protocol = msgspec.structs.replace(asked.protocol, seconds=None)
    machine = {"style_sha256": "", "encoder": "", "device": "", "dtype": ""}
    return source, msgspec.structs.replace(asked, protocol=protocol, **machine)


class View:
    """The state of a session for display, with the reference runs to compare it with."""

    def __init__(self, session: Session, references: References) -> None:
        self.session, self.references = session, references
        # For each attempt, the last picture that was measured, and its measures.
        self._measured = WeakKeyDictionary[Attempt, tuple[Pixels, dict[str, str]]]()
        self._next_measure = 0.0

    def look(self) -> tuple[dict[str, Any], list[Pixels | None], Pixels | None]:
        """The state as JSON values, a picture for each run, and the style's picture."""
        attempts = self.session.attempts
        self._measure(attempts)  # takes longer than a run should wait for the lock
        with self.session.lock:
            failed = next((a.message for a in attempts if a.phase == "failed"), "")
            notes = dict.fromkeys(note for attempt in attempts for note in attempt.notes)
            state = {
                "batch": self.session.batch,
                "phase": self._phase(attempts),
                "runs": [self._run(attempt, attempts) for attempt in attempts],
                "asked": _asked(attempts[0]) if attempts else None,
                "message": sentence(failed) or " ".join(map(sentence, notes)),
                "bad": bool(failed),
            }
            pictures = [attempt.pixels for attempt in attempts]
            style = next((a.style for a in attempts if a.style is not None), None)
        return state, pictures, style

    def _phase(self, attempts: Sequence[Attempt]) -> str:
        if not self.session.is_alive():
            return "ended" if attempts else "idle"
        return next((a.phase for a in attempts if a.phase in ("running", "paused")), "loading")

    def _run(self, attempt: Attempt, attempts: Sequence[Attempt]) -> dict[str, Any]:
        task, layer, loss = attempt.task, attempt.asked_for["layer"], attempt.asked_for["loss"]
        several_layers = len({a.asked_for["layer"] for a in attempts}) > 1
        only_layers = several_layers and len({a.asked_for["loss"] for a in attempts}) == 1
        _, measured = self._measured.get(attempt, (None, {}))
        names = [layer] * several_layers + [title_of(loss)] * (not only_layers)
        return {
            "layer": layer,
            "loss": loss,
            **({"alpha": attempt.asked_for["alpha"]} if loss in WITH_ALPHA else {}),
            "title": f"{layer}, {title_of(loss)}",
            "short": ", ".join(names),
            "style": "" if task is None else task.style_name,
            "phase": attempt.phase,
            "status": _status(attempt),
            "colour": _colour(loss, SHADES[layer] if only_layers else 100),
            "stop": None if attempt.result is None else attempt.result.stop_reason,
            "points": attempt.points.copy(),
            "pictured": attempt.pictured,
            "theta": None if task is None else _theta(task),
            "reference": None if task is None else self.references.curve(task),
            "numbers": {**_numbers(attempt), **measured},
            "provenance": "" if task is None else _provenance(task),
        }

    def _measure(self, attempts: Sequence[Attempt]) -> None:
        """Measure new pictures: a run's last picture at once, others at most every so often."""
        began = time.monotonic()
        for attempt in attempts:
            pixels, style = attempt.pixels, attempt.style
            before, _ = self._measured.get(attempt, (None, {}))
            is_due = began >= self._next_measure or attempt.phase == "ended"
            if pixels is not None and style is not None and pixels is not before and is_due:
                self._measured[attempt] = pixels, _measures(pixels, style)
                now = time.monotonic()
                self._next_measure = now + (now - began) / MEASURE_SHARE


def _asked(attempt: Attempt) -> dict[str, Any]:
    """What all runs of a start have in common; files are not named, because names may be private.

    `style` is None for an image of the reader's own.
    """
    asked = attempt.asked_for
    is_named = str(asked["style"]).startswith((BUNDLED, SCIKIT_IMAGE))
    return {
        "style": asked["style"] if is_named else None,
        **{name: asked[name] for name in _IN_COMMON if name in asked},
        "encoder": asked["encoder"] if asked["encoder"] in SOURCES else "file",
    }


def _measures(pixels: Pixels, style: Pixels) -> dict[str, str]:
    kept = measures.largest_kept(measures.structures(pixels, style))
    return {
        "structure kept up to": f"{kept:.0f} px",
        "another part of the style": f"{measures.own_largest(style):.0f} px",
        "colour distance": f"{measures.colour_distance(pixels, style):.1f}",
    }


def _numbers(attempt: Attempt) -> dict[str, str]:
    """The progress of a run, as texts for the table."""
    if not attempt.points:
        return {}
    evaluations, loss = attempt.points[-1]
    left = attempt.seconds_left()
    return {
        "loss": f"{loss:.3g}",
        "iterations": f"{attempt.iteration:,}",
        "evaluations": f"{evaluations:,}",
        "time": duration(attempt.seconds),
        "time left": "" if left is None else f"≤ {duration(left)}",
    }


def _status(attempt: Attempt) -> str:
    """A few words below a picture that say what its run is doing."""
    if attempt.result is not None:
        return f"ended: {attempt.result.stop_reason}"
    loss = attempt.asked_for["loss"]
    if attempt.phase == "running" and attempt.stage != loss:
        return f"stage: {title_of(attempt.stage)}"
    return attempt.phase


def _colour(loss: str, percent: int) -> str:
    """A CSS colour: that of the loss in the book's figures, mixed with the page's."""
    own = "var(--ink)" if loss == "gram" else COLOURS.get(loss, "var(--accent)")
    return own if percent == 100 else f"color-mix(in srgb, {own} {percent}%, var(--paper))"


def _theta(task: Task) -> float | None:
    """Theta on the scale of the curve, see `styleinv.runs.record.Record.theta`."""
    theta = task.protocol.theta_of(task.loss)
    return None if theta is None else theta / task.protocol.weight(task.loss)


def _provenance(task: Task) -> str:
    encoder, size = task.encoder, task.style.shape[-1]
    return (
        f"{task.style_name} · encoder {encoder.name} ({encoder.sha256[:12]}) · "
        f"{size} x {size} pixels · protocol {task.protocol.name} · "
        f"seed {task.seed} · {encoder.device.type}"
    )


def sentence(text: str) -> str:
    """The text with a capital letter and a full stop; an empty text stays empty."""
    text = text.strip()
    return text and f"{text[0].upper()}{text[1:].rstrip('.')}."
