"""Any still image -> (3, H, W) float32 in [0, 1], and back to a lossless PNG."""

import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError
from PIL.ExifTags import Base
from torch import Tensor

from styleinv.colour import to_srgb
from styleinv.errors import InputError, nearest, one_line, one_of, shorten, whole_number
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

# Compressed text in a PNG file may take this many bytes: a small file can claim any number.
MOST_TEXT = 2**26
HEAD = 2**20  # bytes of a file that are looked at

# How files begin that are often taken for pictures, as regular expressions; case does not matter.
OTHERS = {
    rb"\Z": "an empty file",
    rb"\0{64,}\Z": "a file of zeros, as an unfinished copy is",
    rb"version https://git-lfs": "a pointer of Git LFS; fetch the picture by `git lfs pull`",
    rb"....ftyp(?!.{0,80}avi[fs])(hei|hev|mif1|msf1)": "a HEIC picture",
    rb"....ftyp(crx|.{0,80}crx )|FUJIFILMCCD|II(RO|RS|U\0)|MMOR|FOVb|\0MRM": "a camera's raw file",
    rb"....ftyp(?!avi[fs]|mif1|msf1)|\x1a\x45\xdf\xa3|RIFF....AVI": "a video",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "a JPEG XL picture",
    rb"\xef?\xbb?\xbf?\s*(<[?!].*)?<svg[\s>]": "an SVG drawing",
    rb"\xef?\xbb?\xbf?\s*(<[?!].*)?<(!doctype )?html": "a web page",
    rb"%PDF-": "a PDF document",
    rb"%!PS|\xc5\xd0\xd3\xc6": "a PostScript document",
    rb"8BPS": "a Photoshop file",
    rb"gimp xcf": "a GIMP file",
    rb"v/1\x01": "an OpenEXR picture (HDR)",
    rb"#\?R": "a Radiance picture (HDR)",
    rb".{128}DICM": "a DICOM file",
    rb"\x93NUMPY": "a NumPy file; pass the array itself",
    rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf": "an archive or an office document",
    rb"bplist": "a property list, as iCloud has one for a picture that is elsewhere; download that",
    rb"\0\x05\x16\x07": "what macOS keeps beside a file; the picture's name lacks the ._",
    rb"\xef\xbf\xbd": "a file that a program has copied as text, which cannot be undone",
    rb"(?!P[1-7]\s)[\t\n\r\x20-\x7e\x80-\xff]+\Z": "a text",
}
# Pillow's settings and Python's filters of warnings are the whole process's, so one thread at a
# time may change them.
_global = threading.Lock()


# What is given as a style: a file, a name, or a picture that is open already.
Source = str | Path | Image.Image | Pixels
# What records have in place of a file's name, where only Python has the style.
ARRAY, IMAGE, TENSOR = UNNAMED = ("array", "image", "tensor")


def load_style(source: Source, size: int = 256, fit: Fit = "crop") -> Tensor:
    """Load a style image by its file, or by the name of a painted style or a photograph.

    Args:
        source: a file; ``bundled:NAME`` for a style of `PAINTED`, painted at `size`;
            ``skimage:NAME`` for a picture of `PHOTOGRAPHS`; a PIL image, read like its file; or a
            NumPy array of uint8: grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4).
        size: length of the shorter side of the result in pixels, 16 to 4096.
        fit: ``"crop"`` resizes the shorter side to `size` and cuts out the central square, as the
            chapter does; ``"keep"`` resizes only and keeps the aspect ratio.

    Colours are converted to sRGB (`styleinv.colour`), only the first frame or page of a file is
    used, transparent parts become white, and a picture smaller than `size` is enlarged; a warning
    tells of each. Files of more than 100 million pixels are refused before they are decoded; the
    environment variable ``STYLEINV_MAX_PIXELS`` sets another limit.

    Returns:
        (3, H, W), float32, RGB in [0, 1].

    Raises:
        InputError: the source is missing, not an image, damaged, transparent everywhere, smaller
            than 16 pixels, or larger than the limit.
    """
    return read_style(source, size, fit)[0]


def read_style(source: Source, size: int, fit: Fit) -> tuple[Tensor, tuple[str, ...]]:
    """What `load_style` returns, and what it warns of, in sentences without the name."""
    whole_number("size", size, MIN_SIZE, MAX_SIZE)
    one_of("fit", fit, ("crop", "keep"))
    name = _name(source)
    if name.startswith(BUNDLED):
        return _to_tensor(paint(name.removeprefix(BUNDLED), size)), ()
    with _own_settings():
        picture, notes = _open(source, name)
        resized = _resize(picture, size, fit, name)
    if min(picture.size) < size:
        notes.append(f"its shorter side of {min(picture.size)} pixels is enlarged to {size}")
    for note in notes:
        warnings.warn(one_line(f"{name}: {note}"), stacklevel=3)
    image = _to_tensor(np.asarray(resized).astype(np.float32) / np.float32(255))
    return image, tuple(map(one_line, notes))


def describe(source: str | Path, size: int, fit: Fit = "crop") -> str:
    """What a style image that can be read is, and what of it is inverted, in two sentences.

    The arguments are those of `load_style`, whose warnings tell the rest.
    """
    name = _name(source)
    if name.startswith(BUNDLED):
        return f"{name}: a painted style, {size} x {size} pixels, made at this size."
    if name.startswith(SCIKIT_IMAGE):
        picture, _ = _open(source, name)
        said, (width, height) = "a photograph, RGB", picture.size
    else:
        with _own_settings(), Image.open(name, formats=_formats()) as picture:
            frames = getattr(picture, "n_frames", 1) if _has_frames(picture) else 1
            orientation = _orientation(picture)
            width, height = picture.size[::-1] if orientation in range(5, 9) else picture.size
            facts = {
                # A JPEG file with previews or gain maps in it is MPO for Pillow.
                f"{str(picture.format).replace('MPO', 'JPEG')}, {picture.mode}": True,
                "colour profile" if picture.info.get("icc_profile") else "no colour profile": True,
                "alpha" if picture.has_transparency_data else "no alpha": True,
                "turned as its EXIF data says": orientation != 1,
                f"{frames} frames or pages": frames > 1,
            }
        said = ", ".join(fact for fact, holds in facts.items() if holds)
    wide, high = (size * side // min(width, height) for side in (width, height))
    cut = 100 * (1 - size * size / (wide * high)) if fit == "crop" else 0.0
    where = "left and right" if wide > high else "top and bottom"
    # Neither "0% of it" nor all of it.
    rest = (
        f"{min(max(cut, 1), 99):.0f}% of it, {where}, is cut off" if cut else "nothing is cut off"
    )
    return one_line(
        f"{name}: {said}, {width:,} x {height:,} pixels. It is resized to {wide:,} x {high:,}; "
        f"{rest}."
    )


def short_name(source: Source) -> str:
    """The name of a style in figures: what follows the prefix, or the stem of the file."""
    text = _name(source)
    is_named = text.startswith((BUNDLED, SCIKIT_IMAGE))
    return text.partition(":")[2] if is_named else Path(text).stem


def public_name(source: Source) -> str:
    """The source as records and pages show it: without a file's folder, which may be private.

    Bytes that are not UTF-8 are escaped, because records are. A file with a gallery's prefix keeps
    its ./, which tells it apart.
    """
    text = _name(source)
    if text.startswith((BUNDLED, SCIKIT_IMAGE)):
        return text
    name = Path(text).name.encode(errors="backslashreplace").decode()
    return f"./{name}" if name.startswith((BUNDLED, SCIKIT_IMAGE)) else name


def _name(source: Source) -> str:
    """The source as messages have it."""
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, np.ndarray):
        return ARRAY
    if isinstance(source, Image.Image):
        return IMAGE
    raise InputError(
        f"style is {shorten(source)}, but must be a file, a name of `styleinv styles`, a PIL image "
        "or a NumPy array"
    )


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


def _open(source: Source, name: str) -> tuple[Image.Image, list[str]]:
    """Read a photograph, a file or an open picture as 8-bit RGB, with notes on what was done."""
    if isinstance(source, np.ndarray):
        source = _of_array(source)
    if name.startswith(SCIKIT_IMAGE):
        return Image.fromarray(photograph(name.removeprefix(SCIKIT_IMAGE))), []
    try:
        if isinstance(source, Image.Image):
            return _decode(source)
        with _open_file(name) as file:
            head = file.read(HEAD)
            _refuse_others(head)
            with Image.open(file, formats=_formats()) as picture:
                return _decode(picture, head)
    except InputError as error:  # a sentence without its subject
        raise InputError(f"image {name!r} {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"image {name!r} has more than {_most_pixels():,} pixels, which takes much memory; the "
            f"environment variable {PIXELS_VARIABLE} can be set to allow more"
        ) from error
    except Exception as error:  # a damaged file can raise anything
        reason = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "it is damaged, of a kind that is not known here, or no picture"
        raise InputError(
            f"image {name!r} must be one of {', '.join(_formats())}, but cannot be read: {reason}"
        ) from error


def _of_array(pixels: Pixels) -> Image.Image:
    shape = pixels.shape
    is_picture = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not is_picture or 0 in shape:
        raise InputError(
            f"style is an array of {pixels.dtype} and shape {shape}, but must be of uint8 and "
            "(H, W), (H, W, 3) or (H, W, 4)"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def _open_file(name: str) -> BinaryIO:
    """Open a file; whatever else has a name might never end, or is no picture."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        raise InputError("is a URL, but must be a file; download it first")
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):  # the latter for a null character
        known = f"{', '.join(STYLE_NAMES)}{nearest(name, STYLE_NAMES)}"
        raise InputError(f"is not an existing file, nor one of: {known}") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise InputError(f"is {kind}, but must be a file")
    try:
        return open(name, "rb")
    except OSError as error:
        raise InputError(f"cannot be opened: {error.strerror}") from error


def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow can read."""
    Image.init()  # or it does not know which it has
    return [format for format in FORMATS if format in Image.OPEN]


def _refuse_others(head: bytes) -> None:
    """Say what a file is that is no picture, or one of another format."""
    for pattern, kind in OTHERS.items():
        if re.match(pattern, head[:4096], re.DOTALL | re.IGNORECASE):
            raise InputError(f"is {kind}, but must be one of {', '.join(_formats())}")


@contextmanager
def _own_settings() -> Iterator[None]:
    """Pillow without the settings that another library may have changed; they come back."""
    own = {
        (Image, "MAX_IMAGE_PIXELS"): _most_pixels(),  # above it Pillow warns; here that is an error
        (ImageFile, "LOAD_TRUNCATED_IMAGES"): False,
        (ImageFile, "MAXBLOCK"): 2**16,
        (PngImagePlugin, "MAX_TEXT_CHUNK"): MOST_TEXT,
        (PngImagePlugin, "MAX_TEXT_MEMORY"): MOST_TEXT,
    }
    with _global, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        others = {place: getattr(*place) for place in own}
        try:
            for place, value in own.items():
                setattr(*place, value)
            yield
        finally:
            for place, value in others.items():
                setattr(*place, value)


def _decode(picture: Image.Image, head: bytes = b"") -> tuple[Image.Image, list[str]]:
    tags = getattr(picture, "tag_v2", {})
    # A smaller copy of another page, by the new or the old tag; Adobe's and Canon's raw files.
    if tags.get(254, 0) & 1 or tags.get(255) == 2 or 50706 in tags or head[8:10] == b"CR":
        raise InputError(
            "is a camera's raw file, or its first page is only a preview; export the picture "
            "itself as PNG, JPEG or TIFF"
        )
    if tags.get(284) == 2 and tags.get(259) == 1 and max(tags[258]) > 8:  # Pillow takes 8 bits
        raise ValueError("its channels of 16 bits are stored apart; save it with compression")
    if 2 in tags.get(339, ()) and picture.mode == "L":
        raise ValueError("its levels of 8 bits are signed")
    picture.load()
    rgb, notes = to_srgb(picture, head)
    if _has_frames(picture):
        notes.append("only the first of its frames or pages is used")
    try:
        rgb.getexif()[Base.Orientation] = picture.getexif().get(Base.Orientation, 1)
        rgb = ImageOps.exif_transpose(rgb)
    except Exception:  # damaged metadata can raise anything; the picture is intact
        notes.append("its EXIF data is damaged, so it may need to be turned")
    kept = (picture.info.get(name) for name in ("dpi", "aspect", "jfif_density"))
    density = next(filter(None, kept), (1, 1))
    if max(density) > 1.02 * min(density):
        notes.append("its pixels are not square, but are taken as square")
    return rgb, notes


def _orientation(picture: Image.Image) -> int:
    """How the picture is to be turned or mirrored to be upright: 1 to 8, as EXIF has it."""
    with suppress(Exception):  # damaged metadata can raise anything
        return int(picture.getexif().get(Base.Orientation, 1))
    return 1


def _has_frames(picture: Image.Image) -> bool:
    """Whether there are more pictures in the file than one, a camera's previews and gain maps."""
    parts = getattr(picture, "mpinfo", {}).get(0xB002, [])
    others = ["Multi-Frame" in part["Attribute"]["MPType"] for part in parts[1:]]
    return getattr(picture, "is_animated", False) and (any(others) or not parts)
