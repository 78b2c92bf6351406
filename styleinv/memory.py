"""Memory: what an inversion will need, what there is, and keeping what it frees in the process."""

import ctypes
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from styleinv.errors import InputError

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


# Bytes per pixel of the image, at relu_1_* and at relu_2_*, where there are a quarter as many
# positions. Measured on a CPU as the growth of the peak over the loaded process, at 256 and 512
# pixels, plus what the 40 pairs of L-BFGS grow to; Adam needs up to a third less.
_BYTES_PER_PIXEL = {
    "gram": (3700, 4200),
    "moment": (5500, 4900),
    "mmd": (5500, 4900),
    "mmd-vector": (25500, 10100),
    "histogram": (6400, 5100),
    "sliced-wasserstein": (10500, 5400),
    "central-moments": (5000, 5200),
}
_GB, _MB = 1e9, 1e6
# Limit, usage, and what of it the kernel gives back when it is needed: the cache of files.
_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    (
        *("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
        *("memory/memory.stat", "total_inactive_file"),
    ),
)


def needed_memory(height: int, width: int, layer: str, loss: str, itemsize: int = 4) -> float:
    """An estimate, in bytes, of what inverting an image of so many pixels takes at its peak.

    `itemsize` is that of the numbers computed with, in bytes.
    """
    return height * width * _bytes_per_pixel(layer, loss) * itemsize / 4


def available_memory(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> float:
    """Bytes that this process could still take; infinite where that is not known.

    On Linux what the kernel calls available, or what a container's limit leaves (Binder has 2 GB).
    Elsewhere, as on macOS, all the memory that the machine has: what others use of it is not known.
    """
    known = [_physical_memory()]
    if meminfo.is_file():
        found = re.search(r"MemAvailable:\s*(\d+) kB", meminfo.read_text())
        known += [1024.0 * int(found[1])] if found else []
    for limit, usage, statistics, cached in _CGROUPS:
        if (cgroup / limit).is_file() and (cgroup / usage).is_file():
            allowed = (cgroup / limit).read_text().strip()
            if allowed != "max":
                used = float((cgroup / usage).read_text()) - _entry(cgroup / statistics, cached)
                known.append(float(allowed) - used)
    return min(known)


def _entry(statistics: Path, name: str) -> float:
    """A number of a cgroup's statistics; 0 where it is not there."""
    text = statistics.read_text() if statistics.is_file() else ""
    found = re.search(rf"^{name} (\d+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def check_memory(height: int, width: int, layer: str, loss: str, itemsize: int = 4) -> str:
    """What an inversion needs and what there is, in words; one that will not fit is refused.

    Raises:
        InputError: it needs more memory than there is; the message has the estimate and the
            largest size that fits.
    """
    needed = needed_memory(height, width, layer, loss, itemsize)
    available = available_memory()
    if needed <= available:
        return f"The run needs about {amount(needed)} of the {amount(available)} of memory"
    shorter = min(height, width)
    fits = int(shorter * math.sqrt(max(available, 0) / needed)) // 16 * 16
    biggest = f"the largest size that fits is {fits}" if fits else "no size fits"
    raise InputError(
        f"size {shorter} with {loss} at {layer} needs about {amount(needed)} of memory, but "
        f"{amount(available)} are free; {biggest}"
    )


def amount(size: float) -> str:
    """So many bytes in words."""
    return f"{size / _GB:.1f} GB" if size > 0.1 * _GB else f"{size / _MB:.0f} MB"


def _bytes_per_pixel(layer: str, loss: str) -> int:
    family = re.sub(r"^(moment|mmd)-(\d|random)$", r"\1", loss)
    return _BYTES_PER_PIXEL[family][layer.startswith("relu_2")]


def _physical_memory() -> float:
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf
