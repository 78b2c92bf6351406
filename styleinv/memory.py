"""How much memory an inversion needs, how much there is, and how to reuse what is freed."""

import ctypes
import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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

# Parameters of glibc's mallopt (malloc.h) and their values: the kernel gives no block separately
# (M_MMAP_MAX) and gets none back (M_TRIM_THRESHOLD), and all threads share one arena, so that each
# can reuse what another has freed (M_ARENA_MAX).
_KEEP_FREED = ((-4, 0), (-1, 2**31 - 1), (-8, 1))


def needed_memory(height: int, width: int, layer: str, loss: str, itemsize: int = 4) -> float:
    """Estimate, in bytes, the most memory that inverting an image of this size takes.

    `itemsize` is the size in bytes of each number in the computation.
    """
    family = re.sub(r"^(moment|mmd)-(\d|random)$", r"\1", loss)
    per_pixel = _BYTES_PER_PIXEL[family][layer.startswith("relu_2")]
    return height * width * per_pixel * itemsize / 4


def available_memory(root: Path = Path("/")) -> float:
    """How many bytes this process could still take.

    On Linux, this is what the kernel calls available, or what a container's limit leaves (cgroup
    v2; Binder has 2 GB). On macOS it is all the memory of the machine, used or not. The kernel's
    files are read below `root`.
    """
    group = root / "sys" / "fs" / "cgroup"
    # The kernel gives the file cache back when memory is needed.
    cache = _number(group / "memory.stat", "inactive_file", 0)
    return min(
        float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        1024 * _number(root / "proc" / "meminfo", "MemAvailable:", math.inf),
        _number(group / "memory.max", "", math.inf)
        - _number(group / "memory.current", "", 0)
        + cache,
    )


def _number(file: Path, name: str, otherwise: float) -> float:
    """The number behind `name` at the start of a line of `file`; `otherwise` if there is none."""
    text = file.read_text() if file.is_file() else ""
    found = re.search(rf"^{name}\s*(\d+)", text, re.MULTILINE)
    return float(found[1]) if found else otherwise


def check_memory(height: int, width: int, layer: str, loss: str, itemsize: int = 4) -> str:
    """Say how much memory an inversion needs and how much there is; refuse one that does not fit.

    Raises:
        InputError: the inversion needs more memory than there is; the message gives the estimate
            and the largest size that fits.
    """
    needed = needed_memory(height, width, layer, loss, itemsize)
    available = available_memory()
    if needed <= available:
        return f"The run needs about {amount(needed)} of the {amount(available)} of memory"
    shorter = min(height, width)
    fits = int(shorter * math.sqrt(max(available, 0) / needed)) // 16 * 16
    raise InputError(
        f"size {shorter} with {loss} at {layer} needs about {amount(needed)} of memory, but "
        f"{amount(available)} are free; the largest size that fits is {fits or 'none'}"
    )


def amount(size: float) -> str:
    """Write a number of bytes as a person would, in GB or MB."""
    return f"{size / 1e9:.1f} GB" if size > 1e8 else f"{size / 1e6:.0f} MB"


@contextmanager
def reuse_freed_memory() -> Iterator[None]:
    """Have glibc keep large freed blocks for reuse, and give them back at the end.

    An inversion frees and takes the same few feature maps at every evaluation. By default each of
    them, tens of megabytes, goes back to the kernel, which clears every page again: at 256 x 256
    that costs more than the arithmetic of a loss. Another C library is left as it is.
    """
    with ExitStack() as at_the_end:
        if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
            for parameter, value in _KEEP_FREED:
                library.mallopt(parameter, value)
            at_the_end.callback(library.malloc_trim, 0)
        yield
