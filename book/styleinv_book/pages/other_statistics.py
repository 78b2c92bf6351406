"""Other statistics: what came after the chapter, side by side, and what is measured of it."""

from collections.abc import Mapping, Sequence
from statistics import median

from styleinv.encoder import LAYERS
from styleinv.live.labels import TITLES
from styleinv.runs.record import Record
from styleinv_book.figures import Album, Panel, compared

# Before the pooling and after it.
FIRST, LAST = LAYERS[:2], LAYERS[2:]
HEAD = (
    "statistic",
    "structure kept, relu_1_x",
    "relu_2_x",
    "colour distance, relu_1_x",
    "relu_2_x",
    "patches in place",
    "evaluations",
)


def columns(trained: Album, untrained: Album) -> dict[str, tuple[Album, str]]:
    """Title -> album and loss: every loss of the encoder, and Gram with random weights."""
    losses = {TITLES[loss]: (trained, loss) for loss in trained.losses}
    return {**losses, "Gram, random weights": (untrained, "gram")}


def pictures(shown: Mapping[str, tuple[Album, str]], style_number: int) -> Panel | None:
    """A row per layer, a column per statistic beside the style; None if there is no such style."""
    first, loss = next(iter(shown.values()))
    if style_number >= len(first.styles):
        return None
    style = first.styles[style_number]
    return compared({layer: (style, layer, loss) for layer in first.layers}, shown)


def measured(shown: Mapping[str, tuple[Album, str]]) -> list[tuple[str, ...]]:
    """Per statistic the cells under `HEAD`: medians over styles and layers.

    `styleinv.runs.measures` explains the measures; colours are compared in CIELAB units.
    """
    rows = []
    for title, (album, loss) in shown.items():
        records = [run.record for key, run in album.runs.items() if key[2] == loss]
        cells = [
            f"{_median(records, measure, layers):{form}}"
            for measure, form, layers in (
                ("structure", ".2f", FIRST),
                ("structure", ".2f", LAST),
                ("colour_distance", ".1f", FIRST),
                ("colour_distance", ".1f", LAST),
                ("in_place", ".0%", LAYERS),
            )
        ]
        evaluations = median(record.result.evaluations for record in records)
        rows.append((title, *cells, f"{evaluations:.0f}"))
    return rows


def _median(records: Sequence[Record], measure: str, layers: Sequence[str]) -> float:
    own = [record.measures for record in records if record.asked.layer in layers]
    return float(median(getattr(one, measure) for one in own))
