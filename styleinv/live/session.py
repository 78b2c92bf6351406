"""A reader's runs: inversions in a thread of their own, to pause, resume and stop.

Knows nothing of widgets. Every run goes through `Task.run` and its callback, which is where a run
waits while it is paused and where it is told to stop; the caller looks at the state when it likes.
"""

import math
import shutil
import tempfile
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from styleinv.errors import InputError
from styleinv.images import MIN_SIZE, Pixels, load_style, to_uint8
from styleinv.inversion import Inversion, Task, plan
from styleinv.memory import check_memory
from styleinv.optim import Iterate
from styleinv.runs import store

Phase = Literal["waiting", "loading", "running", "paused", "ended", "failed"]

# A curve keeps every evaluation at first, later one in so many per cent.
POINTS_APART = 1.03
# The rate is that of the last few seconds.
MARKS, MARKS_APART = 8, 0.5


@dataclass
class Attempt:
    """One run of a session, from the wish to the result.

    Attributes:
        asked_for: the arguments of `plan`.
        style: the style image, once it is loaded.
        pixels: the picture that was last asked for (`Session.want_pictures`).
        points: (evaluations, loss) of the curve; the last one is the present.
        seconds: computing time: without the pauses.
        result: the inversion, once it has ended; its times, too, are without the pauses.
        message: what went wrong, in a sentence.
    """

    asked_for: dict[str, Any]
    phase: Phase = "waiting"
    task: Task | None = None
    style: Pixels | None = None
    pixels: Pixels | None = None
    stage: str = ""
    iteration: int = 0
    points: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    result: Inversion | None = None
    message: str = ""
    notes: list[str] = field(default_factory=list)
    marks: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=MARKS))
    pauses: list[tuple[int, float]] = field(default_factory=list)

    @property
    def paused_seconds(self) -> float:
        return sum(length for _, length in self.pauses)

    def note(self, iterate: Iterate) -> None:
        """Take up where the run is now."""
        self.phase, self.stage, self.iteration = "running", iterate.stage, iterate.iteration
        self.seconds = iterate.seconds - self.paused_seconds
        if len(self.points) > 1 and self.points[-1][0] < POINTS_APART * self.points[-2][0]:
            self.points.pop()
        self.points.append((iterate.evaluations, iterate.loss))
        if not self.marks or self.seconds >= self.marks[-1][0] + MARKS_APART:
            self.marks.append((self.seconds, iterate.iteration, iterate.evaluations))

    def rates(self) -> tuple[float, float]:
        """Iterations and evaluations per second: of late, in the end on average; or NaN."""
        if self.result is not None and self.seconds > 0:
            return self.iteration / self.seconds, self.points[-1][0] / self.seconds
        if not self.marks or self.seconds <= self.marks[0][0]:
            return math.nan, math.nan
        seconds, iteration, evaluations = self.marks[0]
        elapsed = self.seconds - seconds
        return (self.iteration - iteration) / elapsed, (self.points[-1][0] - evaluations) / elapsed

    def seconds_left(self) -> float:
        """To the end of the budget at the present rate, or NaN; theta may come earlier."""
        if self.task is None or self.result is not None:
            return math.nan
        protocol = self.task.protocol
        by_iterations = protocol.method == "adam"
        rate = self.rates()[0 if by_iterations else 1]
        done = self.iteration if by_iterations else self.points[-1][0]
        left = protocol.budget(self.task.loss, self.task.layer) - done
        if left < 0 or not rate > 0:  # extra rounds go beyond the budget
            return math.nan
        wall = math.inf if protocol.seconds is None else protocol.seconds - self.seconds
        return min(left / rate, wall)

    def finish(self, result: Inversion) -> None:
        """Take up the result, its times without the pauses."""
        self.result = _without_pauses(result, self.pauses)
        self.pixels = to_uint8(result.image)
        self.seconds, self.iteration = self.result.seconds, result.iterations
        self.points[-1] = (result.evaluations, result.loss)
        self.phase = "ended"


class Session:
    """Runs of one reader, one after another; all methods return at once.

    `attempts` is replaced by `start` and `clear`; read what is in them under `lock`.
    """

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.attempts: list[Attempt] = []
        self._thread: threading.Thread | None = None
        self._pausing = self._stopping = self._skipping = self._wanted = False
        self._uploads = tempfile.TemporaryDirectory(prefix="styleinv-")

    def start(self, wishes: Sequence[dict[str, Any]]) -> None:
        """Run inversions with these arguments of `plan`, one after another.

        Raises:
            InputError: others are still running.
        """
        with self.lock:
            if self.is_alive():
                raise InputError("a run is still going on; stop it before the next one")
            self.attempts = [Attempt(dict(wish)) for wish in wishes]
            self._pausing = self._stopping = self._skipping = False
            self._wanted = True
            self._thread = threading.Thread(
                target=self._work, args=(self.attempts,), name="styleinv run", daemon=True
            )
            self._thread.start()

    def is_alive(self) -> bool:
        """Whether there is a run that has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def pause(self) -> None:
        """Hold the run at its next iterate."""
        self._tell(pausing=True)

    def resume(self) -> None:
        self._tell(pausing=False)

    def skip(self) -> None:
        """End the present run at its next iterate, and go on with the one after it."""
        self._tell(pausing=False, skipping=True)

    def stop(self) -> None:
        """End the present run at its next iterate, and leave out those after it."""
        self._tell(stopping=True)

    def clear(self) -> None:
        """Stop, and forget the runs."""
        self.stop()
        with self.lock:
            self.attempts = []

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end of the runs."""
        if self._thread is not None:
            self._thread.join(timeout)

    def want_pictures(self) -> None:
        """Have the run's picture taken at its next iterate."""
        with self.lock:
            self._wanted = True

    def save(self, folder: Path) -> list[Path]:
        """Write picture and record of every run that has ended; the records' paths.

        Raises:
            InputError: there is none, or the folder cannot be written.
        """
        with self.lock:
            results = [one.result for one in self.attempts if one.result is not None]
        if not results:
            raise InputError("there is no picture to save before a run has ended or was stopped")
        return [store.save(store.run_of(result), folder) for result in results]

    def take_upload(self, name: str, content: bytes) -> tuple[Path, list[str]]:
        """Keep a file of the reader's; its path, and what there is to note about it.

        Raises:
            InputError: it is not a picture that can be inverted.
        """
        folder = Path(tempfile.mkdtemp(dir=self._uploads.name))
        path = folder / (Path(name.replace("\\", "/")).name or "upload")
        path.write_bytes(content)
        try:
            with _notes(folder) as notes:
                load_style(path, MIN_SIZE)
        except InputError as error:
            shutil.rmtree(folder)
            raise InputError(str(error).replace(f"{folder}/", "")) from error
        return path, notes

    def _tell(self, **wishes: bool) -> None:
        with self.lock:
            for name, wish in wishes.items():
                setattr(self, f"_{name}", wish)
            self.lock.notify_all()

    def _work(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            if self._stopping:
                break
            try:
                self._run(attempt)
            except InputError as error:
                _fail(attempt, str(error))
            except (MemoryError, RuntimeError) as error:  # PyTorch's word for too little memory
                _fail(attempt, f"the run failed: {_first_line(error)}")
            except Exception as error:  # whatever it is, the reader is told and the app goes on
                traceback.print_exc()
                _fail(attempt, f"the run failed: {type(error).__name__}: {_first_line(error)}")
            if attempt.phase == "failed":
                break

    def _run(self, attempt: Attempt) -> None:
        attempt.phase = "loading"
        asked_for = attempt.asked_for
        size = asked_for["size"]
        # Before a large style is painted, which takes long.
        check_memory(size, size, asked_for["layer"], asked_for["loss"])
        folder = Path(asked_for["style"]).parent
        with _notes(folder) as notes:
            task = plan(**asked_for)
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
        """The callback: note where the run is, wait while it is paused, say whether to stop."""
        with self.lock:
            attempt.note(iterate)
            if self._wanted or self._pausing:
                attempt.pixels = to_uint8(iterate.image)
                self._wanted = False
            if self._pausing and not self._stopping:
                attempt.phase = "paused"
                began = time.perf_counter()
                self.lock.wait_for(lambda: not self._pausing or self._stopping)
                attempt.pauses.append((iterate.evaluations, time.perf_counter() - began))
                attempt.phase = "running"
            return self._stopping or self._skipping


def _without_pauses(result: Inversion, pauses: Sequence[tuple[int, float]]) -> Inversion:
    """The result with the times at which it was computed, had it never waited."""
    if not pauses:
        return result

    def own(evaluations: float, seconds: float) -> float:
        return seconds - sum(length for at, length in pauses if at < evaluations)

    trace = [replace(p, seconds=own(p.evaluations, p.seconds)) for p in result.trace[:-1]]
    # The last row was written behind the last pause, also where it is of the same evaluation.
    last = replace(result.trace[-1], seconds=own(math.inf, result.trace[-1].seconds))
    return replace(result, seconds=own(math.inf, result.seconds), trace=[*trace, last])


def _fail(attempt: Attempt, message: str) -> None:
    attempt.phase, attempt.message = "failed", message


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _notes(folder: Path) -> Iterator[list[str]]:
    """Afterwards, what was warned of, without the folder that a file was put in."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes += [str(warning.message).replace(f"{folder}/", "") for warning in caught]
