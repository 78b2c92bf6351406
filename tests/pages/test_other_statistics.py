"""Other statistics: what the page's table says of runs."""

from pathlib import Path
from statistics import median

from styleinv_book.figures import Album
from styleinv_book.pages.other_statistics import HEAD, columns, measured

from styleinv.encoder import Encoder
from styleinv.runs.sweeps import sweep

LAYERS = ["relu_1_1", "relu_1_2", "relu_2_1"]


def test_a_row_has_the_medians_before_and_after_the_pooling(
    bundled: Encoder, tmp_path: Path
) -> None:
    asked = {"layers": LAYERS, "encoder": bundled, "size": 16, "folder": tmp_path}
    trained = Album(sweep(["bundled:strokes"], losses=["gram", "histogram"], iterations=3, **asked))
    untrained = Album(sweep(["bundled:strokes"], losses=["gram"], iterations=2, **asked))
    rows = measured(columns(trained, untrained))
    assert [row[0] for row in rows] == ["Gram", "histograms", "Gram, random weights"]
    cells = dict(zip(HEAD, rows[0], strict=True))
    structure = [
        trained.runs["bundled:strokes", layer, "gram"].record.measures.structure for layer in LAYERS
    ]
    assert cells["structure kept, relu_1_x"] == f"{median(structure[:2]):.2f}"
    assert cells["relu_2_x"] != cells["structure kept, relu_1_x"]
    assert [row[-1] for row in rows] == ["3", "3", "2"]
