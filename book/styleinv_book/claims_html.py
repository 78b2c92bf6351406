"""The claims as the book shows them: a summary, a section per claim, verdicts beside figures."""

import math
from collections.abc import Sequence

from styleinv_book.claims import Effect, Row, judge
from styleinv_book.figures import RESULTS
from styleinv_book.rendering import render_macro

# The path as seen from a page; all pages are one folder down.
CLAIMS = "../book/claims.yml"
MARGIN = 4  # percent of a drawing's width


def summary(rows: Sequence[Row]) -> str:
    """A table of the claims with their verdicts; each row links to the claim's section."""
    return render_macro("claims.html.j2", "summary", rows)


def beside(*ids: str) -> str:
    """The claims that a figure is about: a line each, with the verdict."""
    rows, _ = judge(RESULTS, CLAIMS, ids)
    return render_macro("claims.html.j2", "beside", rows)


def section(row: Row) -> str:
    """A claim: its parts with effect, interval and rule, its reading, how to compute it."""
    places = [
        None if effect.finding == "too few runs" else _places(effect) for effect in row.effects
    ]
    return render_macro("claims.html.j2", "section", row, places)


def _places(effect: Effect) -> tuple[float, ...]:
    """Positions of low, high, estimate and the ends of the allowed range, in percent of the width.

    A rule without a lower, or an upper, bound allows everything up to that edge.
    """
    rule = effect.rule
    bounds = [bound for bound in (rule.above, rule.below) if math.isfinite(bound)]
    # On a log scale, a factor and its reciprocal are equally far from 1.
    scale = math.log if effect.part.is_factor and min(bounds) > 0 else float
    interval = [scale(x) for x in (effect.low, effect.high, effect.estimate)]
    shown = [*interval, *map(scale, bounds)]
    slack = 0.25 * (max(shown) - min(shown)) or 1.0
    low, high = min(shown) - slack, max(shown) + slack
    start = scale(rule.above) if math.isfinite(rule.above) else low
    end = scale(rule.below) if math.isfinite(rule.below) else high
    per_unit = (100 - 2 * MARGIN) / (high - low)
    return tuple(round(MARGIN + per_unit * (x - low), 1) for x in (*interval, start, end))
