"""Inverting feature responses: the same inversions, stopped earlier and later."""

from collections.abc import Mapping

from styleinv.live.labels import TITLES
from styleinv.runs.reference import entry_of
from styleinv_book import figures, interactive
from styleinv_book.figures import Album, Panel

# The sweep of reference runs.
SWEEP = "filmstrip"


def reference() -> dict[int, Album]:
    """The reference runs, by the evaluations after which they were stopped."""
    stops = entry_of(SWEEP, figures.RESULTS).iterations
    return {n: figures.reference(SWEEP, iterations=n) for n in stops if n is not None}


def strip(albums: Mapping[int, Album]) -> Panel:
    """A row per loss and a column per stop, for the first style and layer, with a player above."""
    style, layer, _ = next(iter(next(iter(albums.values())).runs))
    losses = dict.fromkeys(loss for album in albums.values() for _, _, loss in album.runs)
    cells: figures.Cells = {
        TITLES[loss]: {str(n): (album, (style, layer, loss)) for n, album in albums.items()}
        for loss in losses
    }
    return interactive.played(figures.panel(cells), list(albums))
