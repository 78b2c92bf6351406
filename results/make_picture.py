"""Make the README's picture: `results/picture.png`, with the records of its runs beside it."""

import json
from pathlib import Path

from styleinv import LAYERS, figures, sweep

STYLES = ("bundled:strokes", "skimage:coffee", "bundled:mosaic")
HERE = Path(__file__).parent


def main() -> None:
    """Run what is not yet there in `_build/runs`, then draw."""
    runs = sweep(
        STYLES,
        layers=LAYERS,
        losses=["gram"],
        folder=HERE.parent / "_build" / "runs",
        size=256,
        report=print,
    )
    rows = [
        [figures.style_pixels(runs, style), *(runs[style, layer, "gram"].image for layer in LAYERS)]
        for style in STYLES
    ]
    grid = figures.image_grid(rows, [""] * len(rows), ["style image", *LAYERS])
    (HERE / "picture.png").write_bytes(figures.png(grid))
    records = [run.record for run in runs.values()]
    (HERE / "picture.json").write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
