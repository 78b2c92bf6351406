"""The claims as the book shows them: a summary, a section per claim, verdicts beside figures."""

import html
import math
from collections.abc import Iterable, Sequence

from styleinv_book.claims import Effect, Row, judge
from styleinv_book.figures import RESULTS

# As seen from every page: they all lie one folder down.
CLAIMS_PAGE = "../notebooks/claims.html"
CLAIMS = "../book/claims.yml"
MARKS = {
    "supported": "✓",
    "partly supported": "◐",
    "not supported": "✗",
    "undecided": "?",
}
WIDTH, HEIGHT, MARGIN = 160, 18, 6


def summary(rows: Iterable[Row]) -> str:
    """Every claim with its verdict, each a link to its section."""
    body = "".join(
        f'<tr><td><a href="{_link(row)}">{row.claim.id}</a></td>'
        f"<td>{html.escape(row.claim.claim)}</td><td>{_verdict(row)}</td></tr>"
        for row in rows
    )
    return (
        '<div class="scroll"><table class="table claims"><thead><tr><th scope="col">claim</th>'
        '<th scope="col">what the chapter says, in our words</th><th scope="col">verdict</th></tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def beside(*ids: str) -> str:
    """The claims that a figure is about: a line each, with the verdict."""
    rows, _ = judge(RESULTS, CLAIMS, ids)
    items = "".join(
        f'<li><a href="{_link(row)}">{row.claim.id}</a> {html.escape(row.claim.claim)} '
        f"{_verdict(row)}</li>"
        for row in rows
    )
    return f'<ul class="verdicts">{items}</ul>'


def section(row: Row) -> str:
    """A claim: its parts with effect, interval and rule, what follows, how to compute it."""
    claim = row.claim
    parts = "".join(_part(effect) for effect in row.effects)
    note = f"<p>Note: {html.escape(claim.note)}</p>" if claim.note else ""
    return (
        f'<section class="claim" id="{claim.id.lower()}">'
        f"<p><strong>{html.escape(claim.claim)}</strong> {_verdict(row)}</p>"
        '<div class="scroll"><table class="table claims"><thead><tr>'
        '<th scope="col">measured</th><th scope="col">effect (95% interval)</th>'
        '<th scope="col">rule</th><th scope="col">interval and rule</th>'
        '<th scope="col">finding</th><th scope="col">from</th></tr></thead>'
        f"<tbody>{parts}</tbody></table></div>"
        f"<p>{html.escape(row.reading)}</p>{note}"
        f"<p>In the chapter: {html.escape(claim.where)}. "
        f'Seen in: <a href="../{claim.figure}.html">the figure</a>. '
        f"Computed by: <code>styleinv claims {claim.id}</code>.</p></section>"
    )


def _link(row: Row) -> str:
    return f"{CLAIMS_PAGE}#{row.claim.id.lower()}"


def _verdict(row: Row) -> str:
    name = row.verdict.replace(" ", "-")
    return (
        f'<span class="verdict {name}"><span aria-hidden="true">{MARKS[row.verdict]}</span> '
        f"{row.verdict}</span>"
    )


def _part(effect: Effect) -> str:
    finding = f"{effect.finding} (does not count)" if effect.part.beside else effect.finding
    cells = (
        html.escape(effect.part.says),
        html.escape(str(effect)),
        html.escape(_rule(effect)),
        _plot(effect),
        finding,
        f"{effect.comparisons} comparisons, {effect.styles} styles",
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _rule(effect: Effect) -> str:
    ((how, bound),) = effect.part.rule.items()
    return f"{bound[0]:g} to {bound[1]:g}" if how == "within" else f"{how} {bound:g}"


def _plot(effect: Effect) -> str:
    """The interval on a line, with what the rule allows behind it."""
    if effect.comparisons == 0:
        return ""
    ((how, bound),) = effect.part.rule.items()
    bounds: Sequence[float] = bound if how == "within" else [bound]
    # Ratios are as far from 1 upwards as downwards.
    is_ratio = effect.part.effect in ("ratio", "factor between seeds")
    scale = math.log if is_ratio and min(bounds) > 0 else float
    values = [scale(x) for x in (effect.low, effect.high, effect.estimate, *bounds)]
    low, high = min(values), max(values)
    slack = 0.25 * (high - low) or 1.0
    low, high = low - slack, high + slack

    def x(value: float) -> float:
        return round(MARGIN + (WIDTH - 2 * MARGIN) * (value - low) / (high - low), 1)

    ends = [scale(b) for b in bounds]
    start = low if how == "below" else ends[0]
    end = high if how == "above" else ends[-1]
    middle = HEIGHT / 2
    alt = f"interval {effect.low:.3g} to {effect.high:.3g}, rule {_rule(effect)}"
    return (
        f'<svg class="interval" role="img" aria-label="{html.escape(alt)}" width="{WIDTH}" '
        f'height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f'<rect class="allowed" x="{x(start)}" width="{round(x(end) - x(start), 1)}" '
        f'height="{HEIGHT}"/>'
        f'<line x1="{x(values[0])}" x2="{x(values[1])}" y1="{middle}" y2="{middle}"/>'
        f'<circle cx="{x(values[2])}" cy="{middle}" r="3.5"/></svg>'
    )
