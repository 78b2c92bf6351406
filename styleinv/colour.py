"""What colours a picture's numbers mean: anything that Pillow opens -> opaque 8-bit sRGB.

littleCMS converts, without the tables that cost up to 10 levels of 255 in grey and 30 in CMYK. Its
intent is relative colorimetric with black-point compensation, as in Photoshop and GIMP: colours
that sRGB has stay what they are, and the darkest ink becomes black. A picture that says nothing of
its colours, or something that cannot be used, is taken as sRGB, as browsers take it.
"""

import io
import re
import struct
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
from PIL import Image, ImageCms
from PIL.ImageCms import Flags, ImageCmsProfile, ImageCmsTransform, Intent

from styleinv.errors import InputError

# The corners of a colour space: x and y of white (here D65), red, green and blue.
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_RGB = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
DISPLAY_P3 = (0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
REC_2020 = (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)
REC_601_625 = (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06)
REC_601_525 = (0.3127, 0.3290, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07)
D50 = np.array([0.9642, 1, 0.8249])
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)

# A curve from levels x to light: (a x + b)^g from x = d on, c x below; as (g, a, b, c, d).
Curve = tuple[float, float, float, float, float]
SRGB_CURVE: Curve = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def power(gamma: float) -> Curve:
    """The curve x^gamma."""
    return gamma, 1, 0, 0, 0


# The codes of ITU-T H.273 in PNG and AVIF files, with what Chromium makes of them: curves of video
# are a television's in PNG, sRGB's in AVIF.
CODES = {"PNG": rb"\0\0\0\x04cICP(.)(.)", "AVIF": rb"colrnclx\0(.)\0(.)"}
CODED_CORNERS = {1: ("Rec. 709", SRGB), 2: ("Rec. 709", SRGB), 5: ("Rec. 601", REC_601_625)}
CODED_CORNERS |= {6: ("Rec. 601", REC_601_525), 9: ("Rec. 2020", REC_2020)}
CODED_CORNERS |= {12: ("Display P3", DISPLAY_P3)}
CODED_CURVES = {2: SRGB_CURVE, 4: power(2.2), 5: power(2.8), 8: power(1), 13: SRGB_CURVE}
VIDEO, OF_VIDEO = (1, 6, 14, 15), {"PNG": power(2.4), "AVIF": SRGB_CURVE}
HDR = {16: "PQ", 18: "HLG"}

# A profile that changes no level by more than this is sRGB, rounded in another way.
SAME = 2
ITS = "its colour profile"


def to_srgb(picture: Image.Image, head: bytes = b"") -> tuple[Image.Image, list[str]]:
    """Convert a picture of any mode and profile to RGB; transparent parts become white.

    Args:
        picture: as Pillow opened it.
        head: the beginning of its file, for what Pillow does not read.

    Returns:
        the picture in mode RGB, and notes on what was done to it.

    Raises:
        InputError: it is HDR, or transparent everywhere; the sentence lacks its subject.
        ValueError: its numbers are no levels.
    """
    notes: list[str] = []
    levels, alpha = _split(picture, head, notes)
    rgb = _convert(levels, *_profile(picture, head, levels.mode), notes)
    if alpha is not None and (opacity := np.asarray(alpha)).min() < 255:
        if opacity.max() == 0:
            raise InputError("is transparent everywhere, so that there is nothing to see")
        notes.append("its transparent parts are composited on white")
        rgb.putalpha(alpha)
        white = Image.new("RGBA", rgb.size, "white")
        rgb = Image.alpha_composite(white, rgb).convert("RGB")
    return rgb, notes


def _split(
    picture: Image.Image, head: bytes, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """The levels in mode L, I;16, RGB, CMYK or LAB, and the alpha channel in mode L."""
    alpha = None
    if picture.mode.startswith(("I", "F")):
        return _deep(picture, notes)
    if picture.format == "TGA" and head[17:] and not head[17] & 15:
        picture = picture.convert("RGB")  # of its fourth channel, no bit is alpha
    if picture.has_transparency_data:
        if picture.mode in ("La", "RGBa"):  # multiplied by alpha
            picture = picture.convert(picture.mode.upper())
        # Of grey and alpha in 16 bits, Pillow makes RGBA.
        is_grey = picture.mode in ("1", "L", "LA") or _png_kind(head) == (16, 4)
        rgba = _with_key_of_8_bits(picture, head).convert("RGBA")
        alpha = rgba.getchannel("A")
        levels = rgba.getchannel("R") if is_grey else rgba.convert("RGB")
    elif picture.mode in ("CMYK", "LAB"):
        return picture, None
    else:
        levels = picture.convert("L" if picture.mode in ("1", "L") else "RGB")
        # Around a frame that does not fill its GIF, Pillow has a colour that browsers ignore.
        if frame := getattr(picture, "dispose_extent", None):
            alpha = Image.new("L", picture.size)
            alpha.paste(255, frame)
    _say_if_dim(int(np.max(levels.getextrema())), 255, notes)
    return levels, alpha


def _png_kind(head: bytes) -> tuple[int, int]:
    """Bits per channel and colour type of a PNG file; zeros for other files."""
    return (head[24], head[25]) if head.startswith(b"\x89PNG") else (0, 0)


def _with_key_of_8_bits(picture: Image.Image, head: bytes) -> Image.Image:
    """The picture with its transparent level in 8 bits, as Pillow has the others."""
    right, key = picture.copy(), picture.info.get("transparency")
    bits, colour_type = _png_kind(head)
    if isinstance(key, int) and colour_type == 0 and bits in (2, 4):
        right.info["transparency"] = key * 255 // (2**bits - 1)
    elif isinstance(key, tuple) and bits == 16:
        right.info["transparency"] = tuple(level >> 8 for level in key)
    return right


def _deep(picture: Image.Image, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    """Grey levels of more than 8 bits in mode I;16, and the alpha channel of a transparent one."""
    deep, tags, alpha = np.asarray(picture), getattr(picture, "tag_v2", {}), None
    if picture.mode == "F" or deep.min() < 0 or deep.max() > 65535:
        raise ValueError("its levels must be of 8 or 16 bits")
    if "transparency" in picture.info:
        opaque = deep != picture.info["transparency"]
        alpha = Image.fromarray(opaque.astype(np.uint8) * 255)
    if tags.get(258) == (12,):  # bits per sample
        deep = (deep * np.float32(65535 / 4095)).round()
    if picture.mode == "I" and tags:
        notes.append("its levels, signed or of 32 bits, are taken as 0 to 65,535")
    deep = deep.astype(np.uint16)
    if tags.get(262) == 0:  # white is zero, which Pillow overlooks in 16 bits
        deep = 65535 - deep
    _say_if_dim(int(deep.max()), 65535, notes)
    return Image.fromarray(deep), alpha


def _say_if_dim(brightest: int, most: int, notes: list[str]) -> None:
    if 0 < brightest <= most / 4:
        notes.append(
            f"its levels reach only {brightest:,} of {most:,}, so that it is dark (stretch them "
            "if they are from another range)"
        )


def _profile(picture: Image.Image, head: bytes, mode: str) -> tuple[str, bytes | None]:
    """Name and ICC profile of the picture's colours; None if it has none or says sRGB."""
    info, kind = picture.info, picture.format or ""
    coded = re.search(CODES[kind], head, re.DOTALL) if kind in CODES else None
    if coded and not (kind == "AVIF" and "icc_profile" in info):
        return _coded(kind, coded[1][0], coded[2][0], mode)
    if "icc_profile" in info:  # it is None where Pillow found it damaged
        return "", info["icc_profile"] or b""
    if kind == "JPEG2000" and (box := re.search(rb"(....)colr\x02..", head, re.DOTALL)):
        return "", head[box.end() : box.start() + int.from_bytes(box[1], "big")]
    if "srgb" in info:
        return "", None
    if "gamma" in info:
        corners = info.get("chromaticity", SRGB)
        # So is sRGB written for programs that do not know its name.
        if np.allclose(corners, SRGB, atol=0.002) and abs(info["gamma"] * 2.2 - 1) < 0.05:
            return "", None
        with suppress(Exception):  # any numbers may be there, such as 0
            gamma = 1 / info["gamma"]
            return f"gamma {gamma:.2f}", matrix_profile(corners, power(gamma), mode)
        return "its gamma", b""
    with suppress(Exception):  # damaged metadata can raise anything
        exif = picture.getexif()
        if exif.get_ifd(0xA005).get(1) == "R03" or exif.get_ifd(0x8769).get(0xA001) == 2:
            return "Adobe RGB", matrix_profile(ADOBE_RGB, power(563 / 256), mode)
    return "", None


def _coded(kind: str, corners: int, curve: int, mode: str) -> tuple[str, bytes]:
    if curve in HDR:
        raise InputError(
            f"is an HDR picture ({HDR[curve]}), but must be an ordinary one; save it as SDR"
        )
    curves = CODED_CURVES | dict.fromkeys(VIDEO, OF_VIDEO[kind])
    if corners not in CODED_CORNERS or curve not in curves:
        return f"the colour space of CICP {corners}/{curve}", b""
    name, xy = CODED_CORNERS[corners]
    return name, matrix_profile(xy, curves[curve], mode)


def matrix_profile(corners: Iterable[float], curve: Curve, mode: str) -> bytes:
    """An ICC profile of a colour space by its corners and its curve; for grey, of the curve alone.

    Source: ICC.1:2010; Bradford's matrix adapts the white point to D50.
    """
    x, y = np.reshape(list(corners), (4, 2)).T
    cones = BRADFORD @ np.array([x, y, 1 - x - y]) / y
    white, rgb = cones[:, 0], cones[:, 1:]
    rgb *= np.linalg.solve(rgb, white)  # together they are white
    rgb *= (BRADFORD @ D50 / white)[:, None]
    light = b"para\0\0\0\0\0\3\0\0" + _fixed(curve)
    space, tags = b"GRAY", {b"wtpt": _xyz(D50), b"kTRC": light}
    if mode == "RGB":
        columns = zip("rgb", np.linalg.solve(BRADFORD, rgb).T, strict=True)
        space, tags = b"RGB ", {b"wtpt": _xyz(D50)}
        for name, column in columns:
            tags |= {f"{name}XYZ".encode(): _xyz(column), f"{name}TRC".encode(): light}
    table, content = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, 132 + 12 * len(tags) + len(content), len(value))
        content += value
    kinds = (0x04200000, b"mntr", space, b"XYZ ", b"acsp", _fixed(D50))
    header = struct.pack(">I4xI4s4s4s12x4s28x12s48x", 128 + len(table + content), *kinds)
    return header + table + content


def _fixed(values: Iterable[float]) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values: Iterable[float]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _convert(levels: Image.Image, name: str, icc: bytes | None, notes: list[str]) -> Image.Image:
    """Convert mode L, I;16, RGB, CMYK or LAB to RGB, by the profile if it can be used."""
    if levels.mode == "LAB" and icc is None:
        name, icc = "CIELAB", ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    if icc is not None:
        try:
            profile = ImageCmsProfile(io.BytesIO(icc))
            name = name or profile.profile.profile_description or ITS
            if (converted := _by_profile(levels, profile)) is not None:
                notes.append(f"its colours are converted from {name} to sRGB")
                return converted
        except Exception as error:  # a damaged profile can raise anything
            reason = error if isinstance(error, InputError) else "is damaged or not known"
            notes.append(f"{name or ITS} {reason}, so it is left out")
    elif levels.mode == "CMYK":
        notes.append("its inks (CMYK) have no profile, so that their colours are a guess")
    return _plain(levels).convert("RGB")


def _plain(levels: Image.Image) -> Image.Image:
    """Mode I;16 as mode L; other modes as they are."""
    if levels.mode != "I;16":
        return levels
    return Image.fromarray((np.asarray(levels) / np.float32(257)).round().astype(np.uint8))


def _by_profile(levels: Image.Image, profile: ImageCmsProfile) -> Image.Image | None:
    """Convert to RGB by a profile; None if it is sRGB, by what it does and not by its name."""
    space = profile.profile.xcolor_space.strip()
    if space == "RGB" and levels.mode in ("L", "I;16"):
        levels = _plain(levels).convert("RGB")
    fits = {"GRAY": ("L", "I;16"), "RGB": ("RGB",), "CMYK": ("CMYK",), "Lab": ("LAB",)}
    if levels.mode not in fits.get(space, ()):
        raise InputError(f"is for {space} and not for {levels.mode}")
    srgb = ImageCmsProfile(ImageCms.createProfile("sRGB"))
    # For a matrix and curves, littleCMS has integers that are as good, and ten times as fast.
    is_matrix = space == "RGB" and profile.profile.is_matrix_shaper
    flags = Flags.BLACKPOINTCOMPENSATION | (Flags.NONE if is_matrix else Flags.NOOPTIMIZE)

    def convert(picture: Image.Image) -> Image.Image:
        how = (picture.mode, "RGB", Intent.RELATIVE_COLORIMETRIC)
        return ImageCmsTransform(profile, srgb, *how, flags=flags).apply(picture)

    probes = {"GRAY": Image.linear_gradient("L"), "RGB": _colour_cube()}
    if space in probes:
        probe = np.asarray(probes[space].convert("RGB"), dtype=int)
        if np.abs(np.asarray(convert(probes[space])) - probe).max() <= SAME:
            return None
    return convert(levels)


def _colour_cube() -> Image.Image:
    """Every 17th level of each channel with those of the others."""
    cube = 17 * np.indices((16, 16, 16), dtype=np.uint8)
    return Image.fromarray(cube.reshape(3, 16, -1).transpose(1, 2, 0).copy())
