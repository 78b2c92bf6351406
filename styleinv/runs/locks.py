"""A lock between processes, so that two of them do not do the same thing at once."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from styleinv.files import MISSING, cannot_write, make_folder


@contextmanager
def alone(lock: Path, waiting: str, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Keep all other processes that use the same lock waiting. A killed process frees its lock.

    Args:
        lock: the file to lock, which is removed afterwards. Its folder is made if it is missing.
        waiting: a warning that this process gives if it has to wait.
        stop: called while this process waits; returns True to stop waiting. If it does so at once,
            there is no warning.

    Raises:
        InputError: the folder cannot be made or written.
        filelock.Timeout: `stop` returned True.
    """
    make_folder(lock.parent)
    try:
        guard = _acquired(FileLock(lock, fallback_to_soft=False), waiting, stop)
    except Timeout:  # which is an OSError
        raise
    except OSError as error:
        with suppress(OSError):  # what the attempt has left: a lock that somebody holds has content
            if not lock.stat().st_size:
                lock.unlink()
        if error.errno not in MISSING:
            raise cannot_write(lock if lock.exists() else lock.parent, error) from error
        warnings.warn(
            f"{lock.parent} is on a file system without locks: a process that is killed on another "
            f"machine leaves {lock.name} behind, and others then wait for it",
            stacklevel=4,
        )
        guard = _acquired(SoftFileLock(lock), waiting, stop)
    try:
        yield
    finally:
        # An error here would hide one from inside, or that everything went well.
        with suppress(OSError):
            # Before the release: whoever waits then finds the file gone and locks a new one.
            lock.unlink()
        with suppress(OSError):
            guard.release()


def _acquired(guard: BaseFileLock, waiting: str, stop: Callable[[], bool]) -> BaseFileLock:
    try:
        guard.acquire(blocking=False)
    except Timeout:
        if stop():
            raise
        warnings.warn(waiting, stacklevel=5)
        guard.acquire(cancel_check=stop)
    return guard
