"""Why MMD reconstructs: what the page's table says of runs."""

from pathlib import Path

from styleinv_book.figures import Album
from styleinv_book.pages import why_mmd

from styleinv.encoder import Encoder
from styleinv.runs.sweeps import sweep

STYLE, LAYER, SIZE = "bundled:strokes", "relu_1_2", 16


def test_only_the_layers_of_the_figure_count(bundled: Encoder, tmp_path: Path) -> None:
    def album(layers: list[str], losses: list[str]) -> Album:
        asked = {"encoder": bundled, "size": SIZE, "iterations": 2, "folder": tmp_path}
        return Album(sweep([STYLE], layers=layers, losses=losses, **asked))

    signed, losses = album([LAYER], ["mmd"]), ["histogram", "mmd-vector"]
    same = why_mmd.comparisons(signed, signed, album([LAYER], losses))
    more = why_mmd.comparisons(signed, signed, album(["relu_2_2", LAYER, "relu_1_1"], losses))
    assert why_mmd.closeness(same) == why_mmd.closeness(more)
    assert why_mmd.pictures(same).content == why_mmd.pictures(more).content
