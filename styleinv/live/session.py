"""A reader's runs: inversions in a separate thread, which can be paused, skipped and stopped.

A session knows nothing of widgets. The callback of `Task.run` makes a run wait or stop. A view may
read the session's attempts at any time.
"""

import math
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from styleinv.errors import InputError
from styleinv.images import Pixels, load_style, to_uint8
from styleinv.inversion import Inversion, Task, plan
from styleinv.machine import check_memory
from styleinv.optim import Iterate
from styleinv.runs import store
from styleinv.styles import MIN_SIZE

Phase = Literal["waiting", "loading", "running", "paused", "ended", "failed"]

# From one point of a curve to the next, the evaluations grow by at least this factor.
POINTS_APART = 1.03


@dataclass(eq=False)
class Attempt:
    """One run of a session.

    Attributes:
        asked_for: the arguments of `plan`.
        task: what is run; None until the style and the encoder are loaded.
        style: the style image.
        pixels: the latest picture that was taken, see `Session.want_pictures`.
        pictured: the (evaluations, loss) of that picture.
        stage: the loss that is descended now: an early stage's or the run's own.
        points: the loss curve as (evaluations, loss); the last point is the present.
        seconds: computing time, without the pauses.
        result: the inversion, once it has ended; its times, too, are without the pauses.
        message: what went wrong, in a sentence.
        notes: warnings about the style or the run, in sentences.
        pauses: (evaluations at the beginning, length in seconds).
    """

    asked_for: dict[str, Any]
    phase: Phase = "waiting"
    task: Task | None = None
    style: Pixels | None = None
    pixels: Pixels | None = None
    pictured: tuple[int, float] | None = None
    stage: str = ""
    iteration: int = 0
    points: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    result: Inversion | None = None
    message: str = ""
    notes: list[str] = field(default_factory=list)
    pauses: list[tuple[int, float]] = field(default_factory=list)

    def note(self, iterate: Iterate) -> None:
        """Note where the run is now."""
        self.phase, self.stage, self.iteration = "running", iterate.stage, iterate.iteration
        self.seconds = iterate.seconds - sum(length for _, length in self.pauses)
        if len(self.points) > 1 and self.points[-1][0] < POINTS_APART * self.points[-2][0]:
            self.points.pop()
        self.points.append((iterate.evaluations, iterate.loss))

    def take(self, iterate: Iterate) -> None:
        """Take the picture of where the run is now."""
        self.pixels = to_uint8(iterate.image)
        self.pictured = (iterate.evaluations, iterate.loss)

    def seconds_left(self) -> float | None:
        """Computing time until the budget is used up, at the speed so far; theta may come earlier.

        None if the run has ended, or has passed its budget and is in an extra round.
        """
        if self.task is None or self.result is not None or not self.points:
            return None
        protocol = self.task.protocol
        done = self.iteration if protocol.method == "adam" else self.points[-1][0]
        budget = protocol.budget(self.task.loss, self.task.layer)
        if not 0 < done <= budget:
            return None
        left = self.seconds * (budget - done) / done
        return left if protocol.seconds is None else min(left, protocol.seconds - self.seconds)

    def finish(self, result: Inversion) -> None:
        """Note the result, and take the pauses out of its times."""
        self.result = _without_pauses(result, self.pauses)
        self.pixels = to_uint8(result.image)
        self.seconds, self.iteration = self.result.seconds, result.iterations
        self.points[-1] = self.pictured = (result.evaluations, result.loss)
        self.phase = "ended"


class Session:
    """Runs of one reader, one after another; all methods but `join` return at once.

    Attributes:
        attempts: the runs; `start` and `clear` replace the list.
        batch: the number of starts so far.
        lock: hold it to read attempts while they run.
    """

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.attempts: list[Attempt] = []
        self.batch = 0
        self._thread: threading.Thread | None = None
        self._pausing = self._stepping = self._stopping = self._skipping = self._wanted = False
        self._uploads = tempfile.TemporaryDirectory(prefix="styleinv-")

    def start(self, wishes: Sequence[dict[str, Any]]) -> None:
        """Make one inversion after another.

        Args:
            wishes: the arguments of `plan` for each; `size` is needed.

        Raises:
            InputError: other runs are still going on.
        """
        with self.lock:
            if self.is_alive():
                raise InputError("a run is still going on; stop it before the next one")
            self.attempts = [Attempt(dict(wish)) for wish in wishes]
            self.batch += 1
            self._pausing = self._stepping = self._stopping = self._skipping = False
            self._wanted = True
            self._thread = threading.Thread(
                target=self._work, args=(self.attempts,), name="styleinv run", daemon=True
            )
            self._thread.start()

    def is_alive(self) -> bool:
        """Whether a run is going on, or held by a pause."""
        return self._thread is not None and self._thread.is_alive()

    def tell(self, wish: Literal["pause", "resume", "step", "skip", "stop"]) -> None:
        """Tell the present run what to do at its next iterate.

        Args:
            wish: ``pause``: wait; ``resume``: wait no longer; ``step``: go on to the next iterate,
                and wait there; ``skip``: end, and go on with the next run; ``stop``: end, and leave
                out the runs after it.
        """
        with self.lock:
            self._pausing = wish in ("pause", "step")
            # A run that is not waiting comes to its next iterate anyway.
            self._stepping = wish == "step" and any(a.phase == "paused" for a in self.attempts)
            self._skipping |= wish == "skip"
            self._stopping |= wish == "stop"
            self.lock.notify_all()

    def clear(self) -> None:
        """Stop the runs and forget them."""
        self.tell("stop")
        with self.lock:
            self.attempts = []

    def join(self, timeout: float | None = None) -> None:
        """Wait until the runs have ended, or for `timeout` seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def want_pictures(self) -> None:
        """Take the picture of the present run at its next iterate."""
        with self.lock:
            self._wanted = True

    def save(self, folder: Path) -> list[Path]:
        """Write picture and record of every run that has ended; returns the records' paths.

        Raises:
            InputError: no run has ended, or the folder cannot be written.
        """
        with self.lock:
            results = [one.result for one in self.attempts if one.result is not None]
        if not results:
            raise InputError("there is no picture to save until a run has ended")
        return [store.save(store.run_of(result), folder) for result in results]

    def take_upload(self, name: str, content: bytes) -> tuple[Path, list[str]]:
        """Keep an uploaded file until the session is gone.

        Returns:
            the path of the file, and warnings about it, in sentences.

        Raises:
            InputError: the file is not an image that can be inverted.
        """
        folder = Path(tempfile.mkdtemp(dir=self._uploads.name))
        path = folder / (Path(name.replace("\\", "/")).name or "upload")
        path.write_bytes(content)
        try:
            with _notes(folder) as notes:
                load_style(path, MIN_SIZE)
        except InputError as error:
            path.unlink()
            raise InputError(str(error).replace(f"{folder}/", "")) from error
        return path, notes

    def _work(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            if self._stopping:
                break
            try:
                self._run(attempt)
            except Exception as error:  # the page shows the error, and the session goes on
                attempt.phase, attempt.message = "failed", _reason(error)
                break

    def _run(self, attempt: Attempt) -> None:
        attempt.phase = "loading"
        wish = attempt.asked_for
        # Checked first, because painting a large style takes long.
        check_memory(wish["size"], wish["size"], wish["layer"], wish["loss"])
        folder = Path(wish["style"]).parent
        with _notes(folder) as notes:
            task = plan(**wish)
        with self.lock:
            attempt.notes = notes
            attempt.task, attempt.style = task, to_uint8(task.style)
            self._skipping = False
        with _notes(folder) as more:
            result = task.run(lambda iterate: self._see(attempt, iterate))
        with self.lock:
            attempt.notes += more
            attempt.finish(result)

    def _see(self, attempt: Attempt, iterate: Iterate) -> bool:
        """Note the run's progress, wait while it is paused, and return whether it has to stop."""
        with self.lock:
            attempt.note(iterate)
            if self._wanted or self._pausing:
                attempt.take(iterate)
                self._wanted = False
            if self._pausing and not self._stopping:
                attempt.phase = "paused"
                began = time.perf_counter()
                self.lock.wait_for(lambda: self._stepping or not self._pausing)
                self._stepping = False
                attempt.pauses.append((iterate.evaluations, time.perf_counter() - began))
                attempt.phase = "running"
            return self._stopping or self._skipping


def _without_pauses(result: Inversion, pauses: Sequence[tuple[int, float]]) -> Inversion:
    """The result with the times that it would have if it had never waited."""

    def own(evaluations: float, seconds: float) -> float:
        return seconds - sum(length for at, length in pauses if at < evaluations)

    trace = [replace(p, seconds=own(p.evaluations, p.seconds)) for p in result.trace[:-1]]
    # The last point was noted after the last pause, even if both are at the same evaluation.
    last = replace(result.trace[-1], seconds=own(math.inf, result.trace[-1].seconds))
    return replace(result, seconds=own(math.inf, result.seconds), trace=[*trace, last])


def _reason(error: Exception) -> str:
    """Why a run failed, in a line."""
    if isinstance(error, InputError):
        return str(error)
    traceback.print_exception(error)
    return " ".join(f"the run failed: {type(error).__name__}: {error}".split())


@contextmanager
def _notes(folder: Path) -> Iterator[list[str]]:
    """A list that, after the block, holds its warnings without the path of `folder`."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += [str(warning.message).replace(f"{folder}/", "") for warning in caught]
