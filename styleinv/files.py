"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from styleinv.errors import InputError

# Fills a file that is there already.
Write = Callable[[Path], object]


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for a text."""
    write_atomically(path, lambda part: part.write_text(text))


def write_atomically(path: Path, write: Write) -> None:
    """Let `write` fill a file beside `path`, then move it there in one step.

    Raises:
        InputError: the folder cannot be created or written.
    """
    write_together({path: write})


def write_together(writes: Mapping[Path, Write]) -> None:
    """`write_atomically` for files that belong together, in their order.

    None is moved before all are filled: a full disk changes none of them, and a kill only in the
    instant between two moves leaves some of them new and some of them old.

    Raises:
        InputError: a folder cannot be created or written.
    """
    with ExitStack() as parts:
        filled = {path: parts.enter_context(_part(path, write)) for path, write in writes.items()}
        for path, part in filled.items():
            with _named(path):
                os.replace(part, path)


@contextmanager
def _part(path: Path, write: Write) -> Iterator[Path]:
    """A file beside `path`, filled and on the disk; removed afterwards, if it is still there."""
    folder_made(path.parent)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise unwritable(path.parent, error) from error
    part = Path(name)
    try:
        with _named(path):
            write(part)
            part.chmod(0o644)
            with part.open("rb") as written:  # before its name is: power may fail, too
                os.fsync(written.fileno())
        yield part
    finally:
        with suppress(OSError):  # what cannot be removed shall not hide what went wrong
            part.unlink()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors say that it is `path` that cannot be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error  # Pillow's have no number
        raise InputError(f"file {str(path)!r} cannot be written: {reason}") from error


def remove_parts(*paths: Path) -> None:
    """Remove what processes that were killed while they wrote files of one folder left there."""
    beginnings = tuple(f".{path.name}." for path in paths)
    with suppress(FileNotFoundError):  # where there is no folder yet, nothing is left
        for part in paths[0].parent.iterdir():
            if part.name.startswith(beginnings):
                with suppress(OSError):
                    part.unlink()


def folder_made(folder: Path) -> None:
    """Make `folder` and those above it, where they are missing.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> InputError:
    """What to raise where `folder` cannot be written."""
    return InputError(f"folder {str(folder)!r} cannot be written: {error.strerror}")
