"""Before a run: what is inverted, how much memory it needs, how long it takes on this machine.

The seconds of one evaluation are measured by a few; how many evaluations a run takes until it ends
is known for two encoders from finished runs (`evaluations.json`, which benchmarks/evaluations.py
makes). For others there is only the budget. Where no finished run got to theta, that is said
(`out_of_reach.json`, which benchmarks/out_of_reach.py makes).
"""

import dataclasses
import functools
import json
import math
import statistics
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from pathlib import Path

from styleinv.images import Fit, describe
from styleinv.inversion import Task
from styleinv.machine import duration
from styleinv.protocol import FAST

KNOWN = Path(__file__).with_name("evaluations.json")
OUT_OF_REACH = Path(__file__).with_name("out_of_reach.json")
# A probe is a run of so many evaluations, or of so many seconds if these are over first.
PROBE, PROBE_SECONDS = 10, 5.0


@dataclass(frozen=True)
class Range:
    """The lowest, the likeliest and the highest of a number that is not known exactly."""

    low: float
    likely: float
    high: float

    def times(self, other: "Range") -> "Range":
        return Range(self.low * other.low, self.likely * other.likely, self.high * other.high)

    def at_most(self, limit: float) -> "Range":
        return Range(min(self.low, limit), min(self.likely, limit), min(self.high, limit))


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take.

    Attributes:
        evaluations: of loss and gradient until the run ends.
        each: seconds of one evaluation, with the optimiser's own work.
        limit: of the wall time in seconds; infinite if there is none.
        is_known: whether finished runs say how many evaluations such a run takes.
    """

    evaluations: Range
    each: Range
    limit: float
    is_known: bool

    @property
    def seconds(self) -> Range:
        return self.evaluations.times(self.each).at_most(self.limit)

    def __str__(self) -> str:
        """A sentence without a full stop."""
        found, number, ms = self.seconds, self.evaluations.likely, 1000 * self.each.likely
        between = f"{duration(found.low)} to {duration(found.high)}"
        if (without := self.evaluations.times(self.each).likely) > self.limit:
            return (
                f"The run ends at its limit of {duration(self.limit)}: {number:,.0f} evaluations "
                f"of {ms:,.0f} ms would take {duration(without)}"
            )
        if not self.is_known:
            return (
                f"The run takes at most about {duration(found.likely)}: {number:,.0f} evaluations "
                f"of {ms:,.0f} ms; it ends earlier where it reaches theta"
            )
        if self.evaluations.low < self.evaluations.high:
            return (
                f"The run takes {between}, because pictures differ: {self.evaluations.low:,.0f} to "
                f"{self.evaluations.high:,.0f} evaluations of {ms:,.0f} ms"
            )
        return (
            f"The run takes about {duration(found.likely)} ({between}): {number:,.0f} evaluations "
            f"of {ms:,.0f} ms"
        )


def preflight(tasks: Sequence[Task], styles: Iterable[str | Path], fit: Fit = "crop") -> list[str]:
    """What there is to know before the runs of `tasks`, whose styles were given as `styles`.

    Raises:
        InputError: a run needs more memory than there is, or its first loss is not finite.
    """
    largest = max(tasks, key=Task.needed_memory)
    memory, size = largest.check_memory(), min(largest.style.shape[1:])
    return [
        *(describe(style, size, fit) for style in styles),
        f"{memory}.",
        *dict.fromkeys(f"{warning}." for task in tasks if (warning := out_of_reach(task))),
        f"{forecast(tasks[0]) if len(tasks) == 1 else _together(tasks)}.",
    ]


def out_of_reach(task: Task) -> str | None:
    """A sentence without a full stop where no finished run like this one got to theta, or None.

    It counts what is known of pictures of this size or larger: smaller ones have fewer values for
    the same Gram matrix, and end at higher losses.
    """
    protocol, theta = task.protocol, task.protocol.theta_of(task.loss)
    if task.loss != "gram" or protocol.convention != FAST.convention or theta is None:
        return None
    sizes = _known_out_of_reach().get(task.encoder.sha256, {}).get(task.layer, {})
    side = math.sqrt(task.style[0].numel())
    if (size := min((int(size) for size in sizes if int(size) >= side), default=None)) is None:
        return None
    known = sizes[str(size)]
    if known["least"] < theta:
        return None
    return (
        f"Theta, {theta:g}, is hardly in reach: at {size} x {size}, none of {known['runs']} runs "
        f"of `{FAST.name}` brought the Gram matrix of {task.layer} to it. They ended at "
        f"{known['least']:.0e} to {known['most']:.0e}, and smaller pictures end higher"
    )


def _together(tasks: Sequence[Task]) -> str:
    """How long runs of one size take one after another; one of each layer and loss is probed."""
    cells = Counter((task.layer, task.loss) for task in tasks)
    of_cells = {(task.layer, task.loss): task for task in reversed(tasks)}
    found = {cell: forecast(task) for cell, task in of_cells.items()}
    each = [
        found[cell].seconds.times(Range(number, number, number)) for cell, number in cells.items()
    ]
    low, likely, high = (sum(bounds) for bounds in zip(*map(astuple, each), strict=True))
    runs = f"The {len(tasks)} runs, one after another, take"
    if not all(one.is_known for one in found.values()):
        return f"{runs} at most about {duration(likely)}"
    return f"{runs} {duration(low)} to {duration(high)}, most likely {duration(likely)}"


def forecast(task: Task) -> Forecast:
    """Probe this machine with the first evaluations of a run, and look up how many there will be.

    Raises:
        InputError: the run cannot be made.
    """
    protocol = task.protocol
    # Of evaluations, or of Adam's iterations with all extra rounds.
    most = protocol.budget(task.loss, task.layer)
    if protocol.method == "adam":
        most += protocol.extra_rounds * protocol.extra_iterations
    known = _known_evaluations(task)
    return Forecast(
        evaluations=(known or Range(most, most, most)).at_most(most),
        each=_seconds_of_an_evaluation(task),
        limit=math.inf if protocol.seconds is None else protocol.seconds,
        is_known=known is not None or protocol.theta_of(task.loss) is None,
    )


def _seconds_of_an_evaluation(task: Task) -> Range:
    """Make the first evaluations; the quickest, the median and the slowest of them."""
    short = dataclasses.replace(task.protocol, warmups={}).limited_to(PROBE, PROBE_SECONDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself will say it
        trace = dataclasses.replace(task, protocol=short).run().trace
    each = [
        (after.seconds - before.seconds) / (after.evaluations - before.evaluations)
        for before, after in pairwise(trace)
    ]
    # The first one is slow: memory is taken, and the convolutions are set up.
    each = each[1:] or each or [trace[0].seconds]
    return Range(min(each), statistics.median(each), max(each))


def _known_evaluations(task: Task) -> Range | None:
    """How many evaluations such runs took at the nearest size that was measured."""
    sizes = _known().get(task.encoder.sha256, {})
    cells = {
        int(size): layers[task.layer][task.loss]
        for size, layers in sizes.items()
        if task.loss in layers.get(task.layer, {})
    }
    own = task.protocol.settings(task.loss, task.layer)
    usual = FAST.settings(task.loss, task.layer)
    # Another budget does not change how the run goes until then.
    unlike = {name for name in usual if own.get(name) != usual[name]} - {"budget", "seconds"}
    if not cells or unlike:
        return None
    side = math.sqrt(task.style[0].numel())
    nearest = min(cells, key=lambda size: abs(math.log(size / side)))
    return Range(*cells[nearest])


@functools.cache
def _known_out_of_reach() -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Encoder's SHA-256, layer and size -> number of runs, their least and highest loss."""
    found = json.loads(OUT_OF_REACH.read_text(encoding="utf-8"))
    return dict(found)


@functools.cache
def _known() -> dict[str, dict[str, dict[str, dict[str, Sequence[float]]]]]:
    """Encoder's SHA-256, size, layer and loss -> fewest, median and most evaluations."""
    found = json.loads(KNOWN.read_text(encoding="utf-8"))["evaluations"]
    return dict(found)
