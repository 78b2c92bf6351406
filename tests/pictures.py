"""Files of pictures, byte by byte, and the pixels that they mean, by published formulas."""

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from styleinv import load_style
from styleinv.images import to_uint8

# From linear light in a colour space to linear sRGB (CSS Color 4), and the space's primaries in an
# ICC profile, which are adapted to D50.
P3_TO_SRGB = [[1.22494, -0.22494, 0], [-0.042057, 1.042057, 0], [-0.019638, -0.078636, 1.098274]]
ADOBE_TO_SRGB = [[1.398356, -0.398356, 0], [0, 1, 0], [0, -0.042929, 1.042929]]
REC_2020_TO_SRGB = [[1.660491, -0.587641, -0.07285], [-0.12455, 1.1329, -0.008349]]
REC_2020_TO_SRGB += [[-0.018151, -0.100579, 1.11873]]
SRGB_D50 = [[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.7141]]
P3_D50 = [[0.51512, 0.2412, -0.00105], [0.29198, 0.69225, 0.04189], [0.1571, 0.06657, 0.78407]]
ADOBE_D50 = [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]]
SAME = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
ADOBE_GAMMA = 563 / 256


def decode(level):
    return np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)


def encode(light):
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def shown(levels, matrix=None, gamma: float | None = None, most: int = 255) -> NDArray:
    """The sRGB levels, not rounded, of levels in a colour space."""
    level = np.asarray(levels) / most
    light = decode(level) if gamma is None else level**gamma
    return 255 * encode(light if matrix is None else light @ np.transpose(matrix))


def numbers(values: Sequence[float]) -> bytes:
    return b"".join(struct.pack(">i", round(65536 * value)) for value in values)


def icc(
    space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", pcs: bytes = b"XYZ "
) -> bytes:
    tags = {b"desc": b"desc\0\0\0\0\0\0\0\5Test\0" + bytes(79), **tags}
    tags |= {b"wtpt": b"XYZ \0\0\0\0" + numbers([0.9642, 1, 0.8249])}
    table, content = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, 132 + 12 * len(tags) + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s28x", 0, 0x02400000, kind, space, pcs, b"acsp")
    profile = header + numbers([0.9642, 1, 0.8249]) + bytes(48) + table + content
    return struct.pack(">I", len(profile)) + profile[4:]


def curve(gamma: float | None) -> bytes:
    """A curve as old profiles have it: a power, or a table of sRGB's."""
    if gamma is not None:
        return b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H2x", round(256 * gamma))
    table = np.round(65535 * decode(np.linspace(0, 1, 1024))).astype(">u2").tobytes()
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + table


def rgb_icc(primaries=SRGB_D50, gamma: float | None = None) -> bytes:
    tags = {name + b"TRC": curve(gamma) for name in (b"r", b"g", b"b")}
    for name, xyz in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags[name + b"XYZ"] = b"XYZ \0\0\0\0" + numbers(xyz)
    return icc(b"RGB ", tags)


def grey_icc(gamma: float | None) -> bytes:
    return icc(b"GRAY", {b"kTRC": curve(gamma)})


def cmyk_icc(corners: dict[tuple[int, ...], tuple[int, int, int]]) -> bytes:
    """Inks to Lab by the 16 corners; those that are not named are black."""
    ramp = bytes(range(256))
    cells = [corners.get(ink, (0, 0, 0)) for ink in np.ndindex(2, 2, 2, 2)]
    lab = bytes(v for light, a, b in cells for v in (round(2.55 * light), a + 128, b + 128))
    table = b"mft1\0\0\0\0\4\3\2\0" + numbers(np.ravel(SAME)) + 4 * ramp + lab + 3 * ramp
    inks = b"mft1\0\0\0\0\3\4\2\0" + numbers(np.ravel(SAME)) + 3 * ramp
    inks += 16 * b"\xff" + 16 * b"\0" + 4 * ramp  # the other way, which tells the darkest ink
    return icc(b"CMYK", {b"A2B0": table, b"B2A0": inks}, b"prtr", b"Lab ")


def lab_to_srgb(light: float, a: float, b: float) -> NDArray:
    f = np.array([(light + 16) / 116 + a / 500, (light + 16) / 116, (light + 16) / 116 - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.9642, 1, 0.8249]
    return 255 * encode(xyz @ np.linalg.inv(SRGB_D50))


def read(path: Path, size: int = 32) -> tuple[NDArray, list[str]]:
    """The pixels of a file, (H, W, 3), and what is said of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pixels = to_uint8(load_style(path, size, "keep"))
    return pixels.astype(int), [str(one.message).removeprefix(f"{path}: ") for one in caught]


def chunk(name: bytes, content: bytes) -> bytes:
    checked = name + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def png(levels: NDArray, *chunks: bytes, colour: int | None = None, bits: int = 8) -> bytes:
    """A PNG file of (H, W) or (H, W, channels)."""
    height, width, *channels = levels.shape
    kind = {(): 0, (2,): 4, (3,): 2, (4,): 6}[tuple(channels)] if colour is None else colour
    if bits < 8:
        places = np.arange(8 - bits, -1, -bits)
        levels = (levels.reshape(height, -1, 8 // bits) << places).sum(2)
    rows = levels.astype(">u2" if bits == 16 else ">u1").reshape(height, -1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(levels: NDArray, order: str = "<", **tags: int) -> bytes:
    """A TIFF file of (H, W) or (H, W, channels), in one strip; other tags as ``t262=0``."""
    height, width, *channels = levels.shape
    count, data = (*channels, 1)[0], levels.astype(levels.dtype.newbyteorder(order)).tobytes()
    entries = {256: [width], 257: [height], 258: count * [8 * levels.itemsize], 259: [1]}
    entries |= {262: [2 if count > 2 else 1], 273: [0], 277: [count], 278: [height]}
    entries |= {279: [len(data)]} | {int(name[1:]): [value] for name, value in tags.items()}
    bits = struct.pack(f"{order}{count}I", *entries[258])
    end = 14 + 12 * len(entries)
    entries[273] = [end + len(bits)]
    directory = b""
    for tag, values in sorted(entries.items()):
        value = values[0] if len(values) == 1 else end
        directory += struct.pack(f"{order}HHII", tag, 4, len(values), value)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    head = mark + struct.pack(f"{order}IH", 8, len(entries))
    return head + directory + bytes(4) + bits + data


def chroma(*corners: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(1e5 * v) for v in corners)))


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(1e5 * value)))
