"""What an inversion needs and what this machine has: memory, processors, and other programs."""

import ctypes
import math
import os
import re
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager, suppress
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

# How a control group is asked for its limit, what it uses, and the cache in that: cgroup v2 and v1.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)

# Threads of OpenMP that wait for the next piece of work keep their processors busy, in case it
# comes at once. Beside another program, such as a browser that draws the live page, that costs far
# more than it gains. How long they wait is set for GNU's OpenMP, which PyTorch has on Linux, in
# turns of a loop, and for LLVM's and Intel's in milliseconds (benchmarks/busy.py compares).
SHORT_WAIT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
# With any of these the reader has decided already.
WAIT_VARIABLES = (*SHORT_WAIT, "OMP_WAIT_POLICY")
_HAS_AFFINITY = hasattr(os, "sched_getaffinity")

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

    On Linux, this is what the kernel calls available, or what a container's limit leaves (Binder
    has 2 GB). On macOS it is all the memory of the machine, used or not. The kernel's files are
    read below `root`.
    """
    left = [
        float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")),
        1024 * _number(root / "proc" / "meminfo", "MemAvailable:", math.inf),
    ]
    for group in _groups(root, "memory"):
        for limit, used, cache in _MEMORY_FILES:
            # The kernel gives the file cache back when memory is needed.
            taken = _number(group / used, "", 0) - _number(group / "memory.stat", cache, 0)
            left.append(_number(group / limit, "", math.inf) - taken)
    return min(left)


def available_processors(root: Path = Path("/")) -> float:
    """How many processors this process may keep busy: those it may run on, or a container's limit.

    The limit need not be whole: a container may have half a processor. The kernel's files are read
    below `root`.
    """
    allowed = [float(_processors())]
    for group in _groups(root, "cpu"):
        # "150000 100000": so many microseconds of processors in so many of time, or "max".
        words = _text(group / "cpu.max").split()
        words += [_text(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        numbers = [float(word) for word in words if word.isdecimal()]
        if len(numbers) == 2 and all(numbers):
            allowed.append(numbers[0] / numbers[1])
    return min(allowed)


def _processors() -> int:
    """How many processors this process may run on; where the system does not say, all there are."""
    return len(os.sched_getaffinity(0)) if _HAS_AFFINITY else os.cpu_count() or 1


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups: cgroup v2's, or v1's of one controller.

    A limit of a group holds for the groups in it. A container sees its own group as the root.
    """
    mounted = root / "sys" / "fs" / "cgroup"
    # Lines such as "0::/user.slice/session" (v2) and "4:cpu,cpuacct:/docker/4f3a" (v1).
    for line in _text(root / "proc" / "self" / "cgroup").splitlines() or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            base = mounted / controller if controllers else mounted
            own = base / path.lstrip("/")
            yield from (group for group in (own, *own.parents) if group.is_relative_to(base))


def _number(file: Path, name: str, otherwise: float) -> float:
    """The number behind `name` at the start of a line of `file`; `otherwise` if there is none."""
    found = re.search(rf"^{name}\s*(\d+)", _text(file), re.MULTILINE)
    return float(found[1]) if found else otherwise


def _text(file: Path) -> str:
    """The content of one of the kernel's files; empty if there is no such file."""
    with suppress(OSError):  # it need not exist, and a container may hide it
        return file.read_text(encoding="utf-8", errors="replace")
    return ""


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


def check_memory_together(argument: str, together: int, each: float, available: float) -> None:
    """Refuse so many runs at once, which `argument` asks for, if they do not fit; all in bytes.

    Raises:
        InputError: the message says how many would fit.
    """
    if together * each > available:
        raise InputError(
            f"{argument} is {together}, but {together} of these runs at a time need about "
            f"{amount(together * each)} of memory and {amount(available)} are free; "
            f"{int(available / each) or 'not even one'} would fit"
        )


def amount(size: float) -> str:
    """Write a number of bytes as a person would, in GB or MB."""
    return f"{size / 1e9:.1f} GB" if size > 1e8 else f"{size / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """Seconds as a short text, such as "0.5 s", "2:05 min" or "1:30 h"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,}:{minutes:02} h"
    if minutes:
        return f"{minutes}:{rest:02} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


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


def need_current_folder() -> None:
    """End the process if its current folder is gone: PyTorch's MKL would, without saying why."""
    try:
        os.getcwd()
    except FileNotFoundError:
        print("Error: the current folder is gone, but must be one that exists.", file=sys.stderr)
        sys.exit(2)


def share_processors(environment: MutableMapping[str, str]) -> None:
    """Set how OpenMP's threads wait and how many there are, where the reader has not.

    OpenMP reads the variables once, when PyTorch loads it; later processes inherit them. By itself
    it counts the processors that a process may run on, and not a container's limit.
    """
    if not any(name in environment for name in WAIT_VARIABLES):
        environment.update(SHORT_WAIT)
    threads = max(1, math.floor(available_processors()))
    if threads < _processors():
        environment.setdefault("OMP_NUM_THREADS", str(threads))
