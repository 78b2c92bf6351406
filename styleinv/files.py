"""Files that appear whole or not at all, and what one process at a time may do with them."""

import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

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


@contextmanager
def alone(lock: Path, waiting: str, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Let one process at a time in. The lock of a process that was killed holds nobody up.

    Args:
        lock: a file that is there only meanwhile; its folder is made if it is absent.
        waiting: a warning for those who have to wait.
        stop: asked while waiting; True ends that.

    Raises:
        InputError: the folder cannot be made or written.
        filelock.Timeout: `stop` returned True.
    """
    folder_made(lock.parent)
    guard = FileLock(lock)
    try:
        guard.acquire(blocking=False)
    except Timeout:
        warnings.warn(waiting, stacklevel=4)
        guard.acquire(cancel_check=stop)
    except OSError as error:
        raise _unwritable(lock.parent, error) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # first: those who wait then lock a new file, all the same
        guard.release()


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
