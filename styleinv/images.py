"""Any still image -> (3, H, W) float32 in [0, 1], and back to a lossless PNG."""

import os
import re
import threading
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from styleinv.errors import InputError, nearest, one_line, one_of, whole_number
from styleinv.files import write_atomically
from styleinv.styles import MAX_SIZE, MIN_SIZE, PAINTED, PHOTOGRAPHS, paint, photograph

Fit = Literal["crop", "keep"]
Pixels = NDArray[np.uint8]  # (H, W, 3), 0 to 255
BUNDLED, SCIKIT_IMAGE = "bundled:", "skimage:"
# Styles that need no file.
STYLE_NAMES = (
    *(BUNDLED + name for name in PAINTED),
    *(SCIKIT_IMAGE + name for name in PHOTOGRAPHS),
)

# The formats that Pillow decodes by itself, the most common first. For others, such as EPS, it
# starts programs.
FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "ICO", "TGA"]
# A small file can claim any number of pixels, and decoding takes memory for each of them.
PIXELS_VARIABLE, MOST_PIXELS, MOST_PIXELS_ALLOWED = "STYLEINV_MAX_PIXELS", 10**8, 10**10

# Warnings are filtered for the whole process, so one thread at a time may change the filters.
_filters = threading.Lock()


def load_style(source: str | Path, size: int = 256, fit: Fit = "crop") -> Tensor:
    """Load a style image by its file, or by the name of a painted style or a photograph.

    Args:
        source: a file; ``bundled:NAME`` for a style of `PAINTED`, painted at `size`; or
            ``skimage:NAME`` for a picture of `PHOTOGRAPHS`.
        size: length of the shorter side of the result in pixels, 16 to 4096.
        fit: ``"crop"`` resizes the shorter side to `size` and cuts out the central square, as the
            chapter does; ``"keep"`` resizes only and keeps the aspect ratio.

    Only the first frame or page of a file is used, transparent parts become white, and a picture
    smaller than `size` is enlarged; a warning tells of each. Files of more than 100 million pixels
    are refused before they are decoded; the environment variable ``STYLEINV_MAX_PIXELS`` sets
    another limit.

    Returns:
        (3, H, W), float32, RGB in [0, 1].

    Raises:
        InputError: the source is missing, not an image, damaged, smaller than 16 pixels, or larger
            than the limit.
    """
    whole_number("size", size, MIN_SIZE, MAX_SIZE)
    one_of("fit", fit, ("crop", "keep"))
    text = str(source)
    if text.startswith(BUNDLED):
        return _to_tensor(paint(text.removeprefix(BUNDLED), size))
    picture, notes = _open(text)
    if min(picture.size) < size:
        notes.append(f"its shorter side of {min(picture.size)} pixels is enlarged to {size}")
    resized = _resize(picture, size, fit, text)
    for note in notes:
        warnings.warn(one_line(f"{text}: {note}"), stacklevel=2)
    return _to_tensor(np.asarray(resized).astype(np.float32) / np.float32(255))


def short_name(source: str | Path) -> str:
    """The name of a style in figures: what follows the prefix, or the stem of the file."""
    text = str(source)
    is_named = text.startswith((BUNDLED, SCIKIT_IMAGE))
    return text.partition(":")[2] if is_named else Path(text).stem


def public_name(source: str | Path) -> str:
    """The source as records and pages show it: without a file's folder, which may be private."""
    text = str(source)
    return text if text.startswith((BUNDLED, SCIKIT_IMAGE)) else Path(text).name


def save_png(image: Tensor, path: str | Path) -> None:
    """Write (3, H, W) in [0, 1] as an 8-bit PNG; the file appears whole or not at all."""
    picture = Image.fromarray(to_uint8(image))
    write_atomically(Path(path), lambda part: picture.save(part, format="PNG"))


def to_uint8(image: Tensor) -> Pixels:
    """Round (3, H, W) in [0, 1] to the nearest of 0 to 255, as (H, W, 3)."""
    scaled = image.detach().cpu().float().clamp(0, 1).mul(255).round()
    pixels: Pixels = scaled.to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels


def _to_tensor(pixels: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _resize(picture: Image.Image, size: int, fit: Fit, name: str) -> Image.Image:
    """Bring the shorter side to `size` (bilinear, antialiased), then cut out the middle.

    The result is, pixel for pixel, that of torchvision's `Resize` and `CenterCrop`. Importing
    torchvision would take two seconds.
    """
    width, height = picture.size
    if min(width, height) < MIN_SIZE:
        raise InputError(
            f"image {name!r} is {width} x {height} pixels, but each side must have {MIN_SIZE} "
            "or more"
        )
    width, height = (size * side // min(picture.size) for side in picture.size)
    if width * height > (most := _most_pixels()):
        raise InputError(
            f"image {name!r} would be resized to {width:,} x {height:,} pixels, but at most "
            f"{most:,} are allowed; choose a smaller size, or a part of the image"
        )
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    if fit == "keep":
        return picture
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def _most_pixels() -> int:
    text = os.environ.get(PIXELS_VARIABLE, str(MOST_PIXELS))
    number = int(text) if re.fullmatch(r"\d{1,20}", text) else text
    return whole_number(PIXELS_VARIABLE, number, MIN_SIZE**2, MOST_PIXELS_ALLOWED)


def _open(name: str) -> tuple[Image.Image, list[str]]:
    """Read a photograph or a file as 8-bit RGB, with notes on what was done to it."""
    if name.startswith(SCIKIT_IMAGE):
        return Image.fromarray(photograph(name.removeprefix(SCIKIT_IMAGE))), []
    if not os.path.isfile(name):  # reading from a pipe, for one, might never end
        raise InputError(
            f"image {name!r} is not an existing file (a folder, a pipe or a URL cannot be read), "
            f"nor one of: {', '.join(STYLE_NAMES)}{nearest(name, STYLE_NAMES)}"
        )
    # Pillow keeps its limit in a global variable and warns above it; here the warning is an error.
    Image.MAX_IMAGE_PIXELS = most = _most_pixels()
    Image.init()  # or Pillow does not know which formats it has
    formats = [format for format in FORMATS if format in Image.OPEN]
    try:
        with _filters, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(name, formats=formats) as picture:
                return _decode(picture)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"image {name!r} has more than {most:,} pixels, which takes much memory; the "
            f"environment variable {PIXELS_VARIABLE} can be set to allow more"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        raise InputError(
            f"image {name!r} must be one of {', '.join(formats)}, but cannot be read: "
            f"{str(error) or type(error).__name__}"
        ) from error


def _decode(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    notes = []
    if getattr(picture, "is_animated", False):
        notes.append("only the first of its frames or pages is used")
    picture.load()
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:  # damaged metadata can raise anything; the picture is intact
        notes.append("its EXIF data is damaged, so it may need to be turned")
    if picture.has_transparency_data:
        notes.append("its transparent parts are composited on white")
    return _to_rgb(picture), notes


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Convert a grey, palette, CMYK, 16-bit or transparent picture to 8-bit RGB."""
    if picture.mode.startswith(("I", "F")):  # Pillow's own conversion would clip these at 255
        picture = _to_8_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _to_8_bits(picture: Image.Image) -> Image.Image:
    deep = np.asarray(picture)
    if picture.mode == "F" or deep.min() < 0 or deep.max() > 65535:
        raise ValueError("its levels must be of 8 or 16 bits")
    grey = Image.fromarray((deep / np.float32(257)).round().astype(np.uint8))
    if picture.has_transparency_data:  # one of the 16-bit levels
        transparent = deep == picture.info["transparency"]
        grey.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
    return grey
