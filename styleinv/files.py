"""Files that appear whole or not at all."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from styleinv.errors import InputError

# Writes a file to the path that it is given.
Write = Callable[[Path], object]


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as `write_atomically` does."""
    write_atomically(path, lambda part: part.write_text(text))


def write_atomically(path: Path, write: Write) -> None:
    """Let `write` make a file beside `path`, then move it there in one step.

    Raises:
        InputError: the folder cannot be made, or the file cannot be written.
    """
    write_together({path: write})


def write_together(writes: Mapping[Path, Write]) -> None:
    """Write files that belong together as `write_atomically` does, in their order.

    No file is moved before all of them are written. A full disk therefore changes none of them;
    a process that is killed between two moves leaves some of them new and some of them old.

    Raises:
        InputError: a folder cannot be made, or a file cannot be written.
    """
    parts = {path: path.with_name(f".{path.name}.{uuid4().hex[:8]}") for path in writes}
    try:
        for path, part in parts.items():
            make_folder(path.parent)
            with _naming(path):
                writes[path](part)
                with part.open("rb") as file:  # if the power fails, no name without its content
                    os.fsync(file.fileno())
        for path, part in parts.items():
            with _naming(path):
                os.replace(part, path)
    finally:
        for part in parts.values():
            with suppress(OSError):  # a failure here would hide the error that led to it
                part.unlink()


def remove_parts(*paths: Path) -> None:
    """Remove the unfinished parts that killed processes left beside these files."""
    for path in paths:
        for part in path.parent.glob(f".{glob.escape(path.name)}.*"):
            with suppress(OSError):
                part.unlink()


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents, where they are missing.

    Raises:
        InputError: the folder cannot be made.
    """
    with _naming(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise an `InputError` that names `path` in place of an `OSError`."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error to raise where a file or a folder cannot be written."""
    reason = error.strerror or error  # Pillow's errors have no `strerror`
    return InputError(f"{str(path)!r} cannot be written: {reason}")
