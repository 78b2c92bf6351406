"""Keep large freed blocks of memory in the process while inversions run."""

import ctypes
import sys
from functools import cache

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST_INT = 2**31 - 1


@cache
def keep_freed_memory() -> None:
    """Ask glibc not to hand large freed blocks back to the kernel; elsewhere do nothing.

    An inversion frees and takes the same few feature maps at every evaluation. By default each of
    them, tens of megabytes, goes back to the kernel, which clears every page anew: at 256 x 256
    that costs more than the arithmetic of a loss. For the life of the process, once called.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # musl has none
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_INT)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
        # Threads, too, take their blocks where freed ones are kept.
        libc.mallopt(_M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Return to the kernel what is free now."""
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
