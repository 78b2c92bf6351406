"""Draw the README's picture, which previews of links show as well, from the reference runs."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from styleinv import LAYERS
from styleinv.runs.reference import reference_runs
from styleinv.runs.store import style_file_name
from styleinv_book.figures import DPI, INK

STYLES = ("skimage:coffee", "bundled:strokes")
SIZE, GAP, TOP = 256, 6, 159  # in pixels: an image's side, between images, above them
ROOT = Path(__file__).parents[2]
# Previews want about 1.9 times as wide as high, and at most some 300 kB: hence no PNG.
FILE, QUALITY = ROOT / "book" / "style" / "picture.jpg", 75


def picture(results: Path) -> Figure:
    """A row per style: the style image, then the Gram inversion of every layer, pixel by pixel."""
    runs = reference_runs("chapter", results)
    columns = ("style image", *LAYERS)
    width = len(columns) * (SIZE + GAP) - GAP
    height = TOP + len(STYLES) * (SIZE + GAP)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    for i, style in enumerate(STYLES):
        image = Image.open(results / "runs" / "styles" / style_file_name(style, SIZE))
        inversions = [runs[style, layer, "gram"].image for layer in LAYERS]
        for j, pixels in enumerate((np.asarray(image.convert("RGB")), *inversions)):
            left, bottom = j * (SIZE + GAP), height - TOP - (i + 1) * (SIZE + GAP) + GAP
            figure.figimage(pixels, left, bottom, origin="upper")
    title = "What does a neural network call style?"
    figure.text(0.5, 1 - 62 / height, title, ha="center", va="center", color=INK, size=32)
    for j, label in enumerate(columns):
        middle = (j * (SIZE + GAP) + SIZE / 2) / width
        above = 1 - (TOP - 24) / height
        figure.text(middle, above, label, ha="center", va="center", color=INK, size=18)
    return figure


if __name__ == "__main__":
    picture(ROOT / "results").savefig(FILE, dpi=DPI, pil_kwargs={"quality": QUALITY})
