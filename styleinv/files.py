"""Files that appear whole or not at all."""

import errno
import glob
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from styleinv.errors import InputError

# Writes a file to the path that it is given.
Write = Callable[[Path], object]
# What file systems answer to a call that they do not have: some on the network or in user space
# have no locks, or cannot be told to write at once.
MISSING = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK}


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as `write_atomically` does."""
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def check_writable(path: Path) -> None:
    """Find out now, with a small file, what would only be found out when `path` is written.

    Raises:
        InputError: no file of such a name can be made in this folder.
    """
    part, trial = _hidden(path, "part"), _hidden(path, "trial")
    make_folder(path.parent)
    try:
        with _naming(path):
            part.write_text("to be removed\n", encoding="utf-8")
            _to_disk(part)
            os.replace(part, trial)
    finally:
        for file in (part, trial):
            with suppress(OSError):
                file.unlink()


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
    parts = {path: _hidden(path, uuid4().hex[:8]) for path in writes}
    try:
        for path, part in parts.items():
            make_folder(path.parent)
            with _naming(path):
                writes[path](part)
                _to_disk(part)
        for path, part in parts.items():
            with _naming(path):
                os.replace(part, path)
    finally:
        for part in parts.values():
            with suppress(OSError):  # a failure here would hide the error that led to it
                part.unlink()


def _hidden(path: Path, end: str) -> Path:
    """The name of a file that belongs to `path` for a while."""
    return path.with_name(f".{path.name.lstrip('.')}.{end}")


def _to_disk(part: Path) -> None:
    """See to it that a power failure leaves no name without its content."""
    with part.open("r+b") as file:  # some network file systems do this to writable files only
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in MISSING:
                raise


def remove_parts(*paths: Path) -> None:
    """Remove the unfinished parts that killed processes left beside these files."""
    for path in paths:
        for part in path.parent.glob(f"{glob.escape(_hidden(path, '').name)}*"):
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
