"""Means over styles, how sure they are, and how sure several are at once.

A bootstrap in two levels (styles, then the seeds of each: Davison and Hinkley 1997, section 3.8),
widened for few styles (Hesterberg 2015, section 3.2), and Holm's correction for several findings.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from styleinv.runs.record import Plain

RESAMPLES, BOOTSTRAP_SEED = 100_000, 0
# How often an interval may miss: it is right in 95 of 100 cases.
ALPHA = 0.05


class Sample(Plain, frozen=True):
    """One of the numbers that are averaged, with its style and its seed (or its cell)."""

    style: str
    within: object
    value: float


class Means(Plain, frozen=True):
    """A mean over styles of the means over seeds, and the same of resamples.

    Each resample draws as many styles as there are, with replacement, and for each of them as many
    seeds as it has. Percentiles of few styles lie too close together, by sqrt((n - 1) / n) and
    because they know nothing of Student's t; both are made up for ("expanded percentiles",
    Hesterberg 2015).

    Attributes:
        styles: n; 1 where nothing has to be made up for.
    """

    mean: float
    resampled: NDArray[np.float64]
    styles: int

    def interval(self, level: float = ALPHA) -> tuple[float, float]:
        """The ends of the interval that misses the mean with a probability of `level`."""
        tail = level / 2
        if (n := self.styles) > 1:
            tail = ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, tail))
        low, high = np.quantile(self.resampled, (tail, 1 - tail))
        return float(low), float(high)

    def judged(self, above: float, below: float) -> tuple[float, bool]:
        """A two-sided p-value, and whether it says that the mean lies between the two bounds.

        If not, it says that the mean lies beyond one of them. It is the smallest level at which
        the `interval` does not reach across a bound.
        """
        x = self.resampled
        outside = np.sum((x <= above) | (x >= below))
        inside = min(np.sum(x > above), np.sum(x < below))
        tail = min(0.5, (min(outside, inside) + 1) / (len(x) + 1))
        if (n := self.styles) > 1:
            tail = stdtr(n - 1, math.sqrt((n - 1) / n) * ndtri(tail))
        return float(2 * tail), bool(outside < inside)


def resampled(samples: Sequence[Sample], is_share: bool = False) -> Means:
    """The mean of samples, and of its resamples.

    Where all runs say the same of a share, 0 or 1, resampling has nothing to draw from. Then the
    resamples are spread as the exact interval of so many runs is (Clopper and Pearson 1934).
    """
    grouped: dict[str, dict[object, list[float]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        grouped[sample.style][sample.within].append(sample.value)
    styles = [np.array([np.mean(x) for x in by_seed.values()]) for by_seed in grouped.values()]
    mean, n = float(np.mean([x.mean() for x in styles])), len(styles)
    if is_share and mean in (0, 1):
        tails = (np.arange(RESAMPLES) + 0.5) / RESAMPLES
        return Means(mean, np.abs(mean - (1 - tails ** (1 / len(samples)))), 1)
    if all(len(x) == 1 for x in styles):
        return Means(mean, np.concatenate(styles)[_drawn(n, RESAMPLES)].mean(axis=0), n)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    table = np.stack([x[rng.integers(len(x), size=(len(x), RESAMPLES))].mean(0) for x in styles])
    return Means(mean, np.take_along_axis(table, _drawn(n, RESAMPLES), axis=0).mean(axis=0), n)


@cache
def _drawn(n: int, resamples: int) -> NDArray[np.int64]:
    """For each resample n numbers below n: (n, resamples)."""
    return np.random.default_rng(BOOTSTRAP_SEED).integers(n, size=(n, resamples))


def bootstrap(samples: Sequence[Sample]) -> tuple[float, float, float]:
    """Mean over styles of the mean over seeds, and the ends of its 95% interval."""
    means = resampled(samples)
    return means.mean, *means.interval()


def holm(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """The level at which to judge each p-value so that all are right together (Holm 1979).

    The smallest of m is compared with alpha / m, the next with alpha / (m - 1), and so on, up to
    the first that is larger than its level; that level is the one of all others, too.
    """
    levels, level, goes_on = [alpha] * len(p_values), alpha, True
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if goes_on:
            level = alpha / (len(p_values) - rank)
            goes_on = p_values[number] <= level
        levels[number] = level
    return levels
