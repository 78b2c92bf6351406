"""Why MMD reconstructs: one pair of distributions, compared in several ways."""

from collections.abc import Mapping
from statistics import median

from styleinv_book.figures import Album, Panel, compared

# Title of a comparison -> the runs that it is among, and the name of its loss.
Comparisons = Mapping[str, tuple[Album, str]]


def comparisons(signed: Album, absolute: Album, others: Album) -> Comparisons:
    """The four comparisons of the page, each with its runs and its loss."""
    return {
        "neighbours, signed": (signed, "mmd"),
        "neighbours, absolute": (absolute, "mmd"),
        "sorted values": (others, "histogram"),
        "whole vectors": (others, "mmd-vector"),
    }


def pictures(shown: Comparisons) -> Panel:
    """A row per style and layer of the first comparison, a column per comparison."""
    first, loss = next(iter(shown.values()))
    labels = first.labels()
    rows = {
        f"{labels[style]}, {layer}": (style, layer, loss)
        for style in first.styles
        for layer in first.layers
    }
    return compared(rows, shown)


def closeness(shown: Comparisons) -> list[tuple[str, str, str, str]]:
    """Per comparison the medians over the styles and layers of the first one.

    They are the PSNR in dB, the PSNR after averaging neighbours, and the share of patches that are
    most like the style image at their own place; see `styleinv.runs.measures`.
    """
    first, _ = next(iter(shown.values()))
    rows = []
    for title, (album, loss) in shown.items():
        records = [album.runs[style, layer, loss].record for style, layer, _ in first.runs]
        plain, averaged, in_place = (
            median(getattr(record.measures, name) for record in records)
            for name in ("psnr", "psnr_of_pairs", "in_place")
        )
        rows.append((title, f"{plain:.1f}", f"{averaged:.1f}", f"{100 * in_place:.0f}%"))
    return rows
