"""Any still image -> (3, H, W) float32 in [0, 1], and back to a lossless PNG."""

import os
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from styleinv import gallery
from styleinv.errors import InputError, one_of, whole_number
from styleinv.files import write_atomically

MIN_SIZE, MAX_SIZE = gallery.SMALLEST_SIZE, gallery.LARGEST_SIZE

Fit = Literal["crop", "keep"]
Pixels = NDArray[np.uint8]  # (H, W, 3), 0 to 255
BUNDLED, SCIKIT_IMAGE = "bundled:", "skimage:"


def load_style(source: str | Path, size: int = 256, fit: Fit = "crop") -> Tensor:
    """A style image by file path, gallery name or scikit-image name.

    Args:
        source: a file; ``bundled:NAME`` for a procedural style of `gallery.STYLES`, painted at
            `size`; or ``skimage:NAME`` for a picture of `gallery.SCIKIT_IMAGE`.
        size: length of the shorter side of the result in pixels, 16 to 4096.
        fit: ``"crop"`` resizes the shorter side to `size` and cuts out the central square, as the
            chapter does; ``"keep"`` resizes only and keeps the aspect ratio.

    Returns:
        (3, H, W), float32, RGB in [0, 1].

    Raises:
        InputError: the source is missing, not an image, or smaller than 16 pixels.
    """
    whole_number("size", size, MIN_SIZE, MAX_SIZE)
    one_of("fit", fit, ("crop", "keep"))
    text = str(source)
    if text.startswith(BUNDLED):
        return _to_tensor(gallery.paint(text.removeprefix(BUNDLED), size))
    if text.startswith(SCIKIT_IMAGE):
        picture = Image.fromarray(gallery.photograph(text.removeprefix(SCIKIT_IMAGE)))
    else:
        picture = _open(Path(source))
    if min(picture.size) < MIN_SIZE:
        width, height = picture.size
        raise InputError(
            f"image {text!r} is {width} x {height} pixels, but each side must have {MIN_SIZE} "
            "or more"
        )
    if min(picture.size) < size:
        warnings.warn(
            f"{text}: its shorter side of {min(picture.size)} pixels is enlarged to {size}",
            stacklevel=2,
        )
    return _to_tensor(np.asarray(_resize(picture, size, fit)).astype(np.float32) / np.float32(255))


def short_name(source: str | Path) -> str:
    """What a figure calls a style: the name behind the prefix, or the file's stem."""
    text = str(source)
    for prefix in (BUNDLED, SCIKIT_IMAGE):
        if text.startswith(prefix):
            return text.removeprefix(prefix)
    return Path(text).stem


def public_name(source: str | Path) -> str:
    """The source without the folder that a file lies in, which is the reader's own business."""
    text = str(source)
    return text if text.startswith((BUNDLED, SCIKIT_IMAGE)) else Path(text).name


def save_png(image: Tensor, path: str | Path) -> None:
    """Write (3, H, W) in [0, 1] as an 8-bit PNG; the file appears whole or not at all."""
    write_png(to_uint8(image), Path(path))


def write_png(pixels: Pixels, path: Path) -> None:
    """Write (H, W, 3) in 0 to 255 as a PNG; the file appears whole or not at all."""
    write_atomically(path, lambda part: Image.fromarray(pixels).save(part, format="PNG"))


def to_uint8(image: Tensor) -> Pixels:
    """(3, H, W) in [0, 1] -> (H, W, 3) of 0 to 255, rounded to nearest."""
    scaled = image.detach().cpu().float().clamp(0, 1).mul(255).round()
    pixels: Pixels = scaled.to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels


def _to_tensor(pixels: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _resize(picture: Image.Image, size: int, fit: Fit) -> Image.Image:
    """Pixel for pixel torchvision's `Resize` (bilinear, antialiased) and `CenterCrop`."""
    shorter = min(picture.size)
    width, height = (int(size * side / shorter) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    if fit == "keep":
        return picture
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.crop((left, top, left + size, top + size))


def _open(path: Path) -> Image.Image:
    if not os.path.isfile(path):
        known = ", ".join(f"{BUNDLED}{name}" for name in gallery.STYLES)
        raise InputError(f"image {str(path)!r} is not an existing file (or one of: {known})")
    try:
        with Image.open(path) as picture:
            picture.load()
            return _to_rgb(ImageOps.exif_transpose(picture), path)
    except InputError:  # a ValueError that says what is wrong already
        raise
    except UnidentifiedImageError as error:
        raise InputError(
            f"image {str(path)!r} is in no format that can be read, such as PNG, JPEG, WebP or TIFF"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"image {str(path)!r} is damaged or too large to decode: {error}"
        ) from error


def _to_rgb(picture: Image.Image, path: Path) -> Image.Image:
    """Grey, palette, CMYK, 16-bit and transparent pictures as 8-bit RGB."""
    if picture.mode.startswith(("I", "F")):  # Pillow's own conversion would clip these at 255
        deep = np.asarray(picture)
        if picture.mode == "F" or deep.min() < 0 or deep.max() > 65535:
            raise InputError(f"image {str(path)!r} must have 8 or 16 bits per channel")
        return Image.fromarray((deep / 257).round().astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        warnings.warn(f"{path}: its transparent parts are composited on white", stacklevel=4)
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")
