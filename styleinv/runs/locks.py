"""Let one process at a time do something."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from styleinv.files import cannot_write, make_folder


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
    make_folder(lock.parent)
    guard = FileLock(lock)
    try:
        _acquire(guard, waiting, stop)
    except Timeout:
        raise
    except OSError as error:
        raise cannot_write(lock.parent, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # or what went wrong inside would not be told
            lock.unlink()  # first: those who wait then lock a new file, all the same
        guard.release()


def _acquire(guard: BaseFileLock, waiting: str, stop: Callable[[], bool]) -> None:
    try:
        guard.acquire(blocking=False)
    except Timeout:
        warnings.warn(waiting, stacklevel=5)
        guard.acquire(cancel_check=stop)
