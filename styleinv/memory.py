"""How much memory an inversion needs, how much there is, and how to reuse what is freed."""

import ctypes
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from styleinv.errors import InputError

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

# How cgroups of version 2 and 1 tell a container's memory: the folder, the names of its limit and
# its usage, and what the kernel gives back of the usage when it is needed, its cache of files.
_CGROUPS = (
    (".", "max", "current", "inactive_file"),
    ("memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
)

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
# The largest threshold, and the largest that older releases of glibc accept.
_LARGEST, _OLDER_LARGEST = 2**31 - 1, 32 * 2**20


def needed_memory(height: int, width: int, layer: str, loss: str, itemsize: int = 4) -> float:
    """Estimate, in bytes, how much memory it takes at most to invert an image of this size.

    `itemsize` is the number of bytes of each number that is computed with.
    """
    family = re.sub(r"^(moment|mmd)-(\d|random)$", r"\1", loss)
    per_pixel = _BYTES_PER_PIXEL[family][layer.startswith("relu_2")]
    return height * width * per_pixel * itemsize / 4


def available_memory(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")
) -> float:
    """How many bytes this process could still take; infinite where that is not known.

    On Linux, this is what the kernel calls available, or what a container's limit leaves (Binder
    has 2 GB). Elsewhere, as on macOS, it is all the memory of the machine, used or not.
    """
    known = [1024 * _number(meminfo, r"MemAvailable:\s*(\d+) kB", math.inf)]
    with suppress(AttributeError, ValueError, OSError):  # which not every system knows
        known.append(float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
    for folder, limit, usage, cached in _CGROUPS:
        allowed = _number(cgroup / folder / f"memory.{limit}", r"(\d+)", math.inf)
        used = _number(cgroup / folder / f"memory.{usage}", r"(\d+)", 0)
        given_back = _number(cgroup / folder / "memory.stat", rf"^{cached} (\d+)$", 0)
        known.append(allowed - used + given_back)
    return min(known)


def _number(file: Path, pattern: str, otherwise: float) -> float:
    """The number that `pattern` finds in `file`; `otherwise` where there is none."""
    found = re.search(pattern, file.read_text(), re.MULTILINE) if file.is_file() else None
    return float(found[1]) if found else otherwise


def check_memory(height: int, width: int, layer: str, loss: str, itemsize: int = 4) -> str:
    """Say in words what an inversion needs and what there is; refuse one that will not fit.

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
    largest = f"the largest size that fits is {fits}" if fits else "no size fits"
    raise InputError(
        f"size {shorter} with {loss} at {layer} needs about {amount(needed)} of memory, but "
        f"{amount(available)} are free; {largest}"
    )


def amount(size: float) -> str:
    """Write a number of bytes as a person would, in GB or MB."""
    return f"{size / 1e9:.1f} GB" if size > 1e8 else f"{size / 1e6:.0f} MB"


@contextmanager
def reuse_freed_memory() -> Iterator[None]:
    """Have glibc keep large freed blocks for reuse, and give them back at the end.

    An inversion frees and takes the same few feature maps at every evaluation. By default each of
    them, tens of megabytes, goes back to the kernel, which clears every page anew: at 256 x 256
    that costs more than the arithmetic of a loss. Another C library is left as it is.
    """
    glibc = _glibc()
    try:
        yield
    finally:
        if glibc is not None:
            glibc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc; the first call has it keep what is freed from then on."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "malloc_trim"):  # as musl
        return None
    if any(library.mallopt(_M_MMAP_THRESHOLD, most) for most in (_LARGEST, _OLDER_LARGEST)):
        library.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
        # Threads, too, take their blocks where freed ones are kept.
        library.mallopt(_M_ARENA_MAX, 1)
    return library
