"""Keep large freed blocks of memory in the process while an inversion runs."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST_INT = 2**31 - 1
# The largest threshold that older releases of glibc accept.
_OLDER_LARGEST = 32 * 2**20


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Have glibc keep large freed blocks for reuse, and give them back at the end.

    An inversion frees and takes the same few feature maps at every evaluation. By default each of
    them, tens of megabytes, goes back to the kernel, which clears every page anew: at 256 x 256
    that costs more than the arithmetic of a loss. Does nothing where the C library is another.
    """
    glibc = _glibc()
    try:
        yield
    finally:
        if glibc is not None:
            glibc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, told once for the life of the process to keep what is freed, if it can."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):  # musl
        return None
    accepted = any(
        libc.mallopt(_M_MMAP_THRESHOLD, largest) for largest in (_LARGEST_INT, _OLDER_LARGEST)
    )
    if accepted:
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
        # Threads, too, take their blocks where freed ones are kept.
        libc.mallopt(_M_ARENA_MAX, 1)
    return libc
