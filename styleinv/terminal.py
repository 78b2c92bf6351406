"""The terminal: the words typed, the lines printed, signals, and streams that are lost."""

import codecs
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import torch
import typer
from filelock import Timeout
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from styleinv.errors import InputError, one_line, shorten
from styleinv.inversion import Task

console = Console(stderr=True)


def report(*lines: str) -> None:
    """Print lines for the person at the keyboard; results go to the standard output instead."""
    for line in lines:
        console.print(one_line(line), highlight=False, markup=False, soft_wrap=True)


def report_notes() -> None:
    """Print every note as a line, whatever PYTHONWARNINGS is."""
    if sys.warnoptions:
        warnings.resetwarnings()
        for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", kind)
    warnings.showwarning = lambda message, *_, **__: report(f"Note: {one_line(str(message))}")


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """End the program with one sentence and exit code 2 if something inside is not allowed."""
    try:
        yield
    except InputError as error:
        _fail(str(error))
    except typer.TyperException as error:
        _fail(error.format_message())
    except (typer.Abort, KeyboardInterrupt, Timeout):
        sys.exit(130)
    except OSError as error:
        sys.stdout = io.StringIO()  # or Python would try again to print what is left
        if isinstance(error, BrokenPipeError):
            sys.exit(1)  # as Typer does where it sees one
        name = "the output" if error.filename is None else shorten(error.filename)
        _fail(f"{name} cannot be used: {error.strerror or error}")
    except (MemoryError, RuntimeError) as error:
        # PyTorch has an error type for a lack of GPU memory, but none for the computer's memory.
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "can't allocate memory" not in str(error):
            raise
        _fail("the memory is used up; a smaller --size needs less")


def _fail(sentence: str) -> NoReturn:
    print(f"Error: {one_line(sentence).rstrip('.')}.", file=sys.stderr)
    sys.exit(2)


@contextmanager
def progress(task: Task) -> Iterator[Callable[[int, int, float], None]]:
    """A bar with the loss and the time left to the end of the budget (theta may come earlier).

    Yields the function that updates the bar, given the iterations, the evaluations (the budget
    counts one of the two) and the loss.
    """
    # This text follows the description, the bar, the percentage and the time that is left.
    text = "left at most, {task.completed}/{task.total}, loss {task.fields[loss]:.2e}"
    label = escape(one_line(f"{task.style_name} {task.layer} {task.loss}"))
    budget = task.protocol.budget(task.loss, task.layer)
    with Progress(*Progress.get_default_columns(), text, console=console) as progress:
        bar = progress.add_task(label, total=budget, loss=float("nan"))

        def show(iterations: int, evaluations: int, loss: float) -> None:
            done = iterations if task.protocol.method == "adam" else evaluations
            # Extra rounds go beyond the budget.
            progress.update(bar, completed=done, total=max(budget, done), loss=loss)

        yield show


def end_as_by_ctrl_c() -> None:
    """Let SIGTERM and the end of the terminal leave as little behind as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup, one is ignored
            signal.signal(number, signal.default_int_handler)


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Take the first Ctrl-C or SIGTERM as a request to stop; the second one stops at once.

    So is SIGHUP, which comes when the terminal is closed, unless nohup has it ignored.

    Yields a function that tells whether the request has come.
    """
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Patient(io.FileIO):
    """A standard error whose terminal or disk may be gone: that ends no run."""

    def write(self, content: Any) -> int:
        with suppress(OSError):
            return super().write(content)
        return len(content)


def prepare_streams() -> None:
    """Let everything be printed whatever the names of files, the locale and the streams are."""
    codecs.register_error("as it can be", _as_it_can_be)
    # A file that we open must not get the number of a standard stream that is closed.
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)
    if (own := sys.__stderr__) is not None and sys.stderr is own:
        raw = io.BufferedWriter(_Patient(own.fileno(), "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, own.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="as it can be")


def _as_it_can_be(error: UnicodeError) -> tuple[str | bytes, int]:
    """Names of files need not be UTF-8, and a terminal need not have every letter."""
    with suppress(UnicodeError):
        return codecs.lookup_error("surrogateescape")(error)
    return codecs.backslashreplace_errors(error)


def words() -> list[str]:
    """The words of the command line, with the home folder where the shell left --out=~/x alone.

    So it does with "~/My pictures", and where no shell is, as in a list of a program's arguments.
    """
    typed = sys.argv[1:]
    for before, word in zip(["", *typed], typed, strict=False):
        if word == "" or re.fullmatch("--[a-z-]+=", word):
            name = word or (before if before.startswith("-") else "an argument")
            raise InputError(f"{name.strip('-=')} is empty, but must have a value")
    return [re.sub("(^|(?<==))~[^/]*", lambda x: os.path.expanduser(x[0]), word) for word in typed]
