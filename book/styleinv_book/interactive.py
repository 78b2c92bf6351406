"""What a reader can do within the text: play an inversion, edit feature maps, guess before seeing.

HTML that `book/style/interactive.js` and `interactive.css` bring to life. The player and the
editor are hidden without the script; a prediction needs the style sheet only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log
from string import ascii_uppercase

import numpy as np
import numpy.typing as npt

from styleinv.errors import InputError
from styleinv.live.labels import TITLES
from styleinv.runs.store import Run
from styleinv_book.figures import Panel, Picture
from styleinv_book.rendering import render_macro

# The values that a reader can give to a position of a toy feature map: whole numbers from 0.
GREATEST = 9


def played(panel: Panel, stops: Sequence[int]) -> Panel:
    """The tab of a figure whose columns are stops of inversions, with a player above them.

    Args:
        panel: row by row, a loss at every stop. The player shows the table's own pictures.
        stops: evaluations, ascending; the player's slider has them on a log scale.

    Raises:
        InputError: the panel has not a run for each stop in every row.
    """
    if not stops or not panel.runs or len(panel.runs) % len(stops):
        raise InputError(
            f"the panel has {len(panel.runs)} runs, but must have one for each of the stops "
            f"{list(stops)} in every row"
        )
    starts = range(0, len(panel.runs), len(stops))
    rows = [panel.runs[start : start + len(stops)] for start in starts]
    decades = log(stops[-1] / stops[0]) or 1
    data = {
        "stops": list(stops),
        "places": [round(100 * log(stop / stops[0]) / decades) for stop in stops],
        "losses": [list(map(_ended, row, stops)) for row in rows],
    }
    titles = [TITLES[row[0].record.asked.loss] for row in rows]
    player = render_macro("interactive.html.j2", "player", titles, data)
    return replace(panel, content=player + panel.content)


def _ended(run: Run, stop: int) -> str:
    """The loss that a run came to, and when, if that was before its last evaluation."""
    result = run.record.result
    early = f", ended after {result.evaluations}" if result.evaluations < stop else ""
    return f"loss {result.loss:.2g}{early}"


def toy_maps(style: npt.NDArray[np.integer], noise: npt.NDArray[np.integer]) -> str:
    """Feature maps to edit, and below them all three statistics and losses, as HTML.

    Args:
        style, noise: (C, h, 2), whole numbers from 0 to 9: a row of a map is a pair of the MMD.

    Raises:
        InputError: the two have different shapes, rows of other lengths, or other values.
    """
    for name, maps in (("style", style), ("noise", noise)):
        if maps.shape != style.shape or maps.ndim != 3 or maps.shape[2] != 2:
            raise InputError(
                f"{name} has shape {maps.shape}, but style and noise must have the same (C, h, 2)"
            )
        if not set(maps.flat) <= set(range(GREATEST + 1)):
            raise InputError(f"{name} must hold whole numbers from 0 to {GREATEST}")
    return render_macro(
        "interactive.html.j2", "toy_maps", {"s": style.tolist(), "n": noise.tolist()}, GREATEST
    )


def prediction(
    name: str,
    question: str,
    style: Picture,
    options: Mapping[str, Picture],
    right: str,
    answer: str,
) -> str:
    """A question whose answers are pictures, as HTML; a fold below them has the right one.

    Args:
        name: identifies the question within its page, in HTML ids.
        question, answer: HTML.
        style: what the options are inversions of.
        options: by what the pictures are, which is shown with the answer. They get letters.
        right: one of the options.

    Raises:
        InputError: `right` is none of the options.
    """
    if right not in options:
        raise InputError(f"right is {right!r}, but must be one of {', '.join(options)}")
    lettered = [
        (letter, label, replace(picture, alt=f"picture {letter}", link=""))
        for letter, (label, picture) in zip(ascii_uppercase, options.items(), strict=False)
    ]
    return render_macro(
        "interactive.html.j2", "prediction", name, question, style, lettered, right, answer
    )
