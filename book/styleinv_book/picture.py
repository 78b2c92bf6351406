"""Draw the README's picture, `book/picture.png`, from the reference runs beside it."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from styleinv import LAYERS
from styleinv.runs import store
from styleinv.runs.reference import reference_runs
from styleinv_book.figures import DPI, INK

STYLES = ("bundled:strokes", "skimage:coffee", "bundled:mosaic")
SIZE, GAP, TOP = 256, 6, 24  # pixels: of an image, between images, above them
HERE = Path(__file__).parent


def picture() -> Figure:
    """A row per style: the style image, then the Gram inversion of every layer, pixel by pixel."""
    runs = reference_runs("chapter", HERE)
    columns = ("style image", *LAYERS)
    width = len(columns) * (SIZE + GAP) - GAP
    height = TOP + len(STYLES) * (SIZE + GAP)
    figure = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    plt.close(figure)
    for i, style in enumerate(STYLES):
        name = store.style_file_name(style, SIZE)
        images = [np.asarray(Image.open(HERE / "runs" / "styles" / name).convert("RGB"))]
        images += [runs[style, layer, "gram"].image for layer in LAYERS]
        for j, pixels in enumerate(images):
            left, bottom = j * (SIZE + GAP), height - TOP - (i + 1) * (SIZE + GAP) + GAP
            figure.figimage(pixels, left, bottom, origin="upper")
    for j, title in enumerate(columns):
        middle = (j * (SIZE + GAP) + SIZE / 2) / width
        figure.text(middle, 1 - TOP / 2 / height, title, ha="center", va="center", color=INK)
    return figure


if __name__ == "__main__":
    picture().savefig(HERE / "picture.png", dpi=DPI)
