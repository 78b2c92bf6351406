"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from styleinv.errors import InputError


def write_text(path: Path, text: str) -> None:
    """`write_atomically` for a text."""
    write_atomically(path, lambda part: part.write_text(text))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then move it there in one step.

    Raises:
        InputError: the folder cannot be created or written.
    """
    folder_made(path.parent)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
    except OSError as error:
        raise _unwritable(path.parent, error) from error
    part = Path(name)
    try:
        write(part)
        part.chmod(0o644)
        with part.open("rb") as written:  # on the disk before the name is: power may fail, too
            os.fsync(written.fileno())
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"file {str(path)!r} cannot be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def folder_made(folder: Path) -> None:
    """Make `folder` and those above it, where they are missing.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(f"folder {str(folder)!r} cannot be written: {error.strerror}")
