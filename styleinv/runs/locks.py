"""A lock between processes, so that two of them do not do the same thing at once."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from styleinv.files import cannot_write, make_folder


@contextmanager
def alone(lock: Path, waiting: str, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Keep all other processes that use the same lock waiting. A killed process frees its lock.

    Args:
        lock: the file to lock, which is removed afterwards. Its folder is made if it is missing.
        waiting: a warning that this process gives if it has to wait.
        stop: called while this process waits; returns True to stop waiting.

    Raises:
        InputError: the folder cannot be made or written.
        filelock.Timeout: `stop` returned True.
    """
    make_folder(lock.parent)
    guard = FileLock(lock)
    try:
        guard.acquire(blocking=False)
    except Timeout:  # which is an OSError
        warnings.warn(waiting, stacklevel=4)
        guard.acquire(cancel_check=stop)
    except OSError as error:
        raise cannot_write(lock.parent, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # an error here would hide one from inside
            # Before the release: whoever waits then finds the file gone and locks a new one.
            lock.unlink()
        guard.release()
