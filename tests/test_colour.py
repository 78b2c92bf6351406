"""What colours a file's numbers mean: pixels by NumPy, from published matrices and curves."""

import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from styleinv import InputError, load_style
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


RAMPS = np.stack(np.meshgrid(np.arange(0, 256, 8), np.arange(0, 256, 8)), 2)
RAMPS = np.concatenate([RAMPS, RAMPS[::-1, ::-1, :1]], 2).astype(np.uint8)
RGB = Image.fromarray(RAMPS)
GREY = Image.fromarray(RAMPS[:, :, 0])
DEEP = Image.fromarray(RAMPS[:, :, 0].astype(np.uint16) * 61 + 7)
FLAT = Image.new("RGB", (32, 32), (200, 100, 50))
LOSSLESS = {"png": {}, "tif": {}, "webp": {"lossless": True}}
LOSSY = {
    "jpg": {"quality": 100, "subsampling": 0},
    "avif": {"quality": 100, "subsampling": "4:4:4"},
}
SPACES = {
    "Display P3": (P3_D50, P3_TO_SRGB, None),
    "Adobe RGB": (ADOBE_D50, ADOBE_TO_SRGB, ADOBE_GAMMA),
    "linear": (SRGB_D50, SAME, 1.0),
    "gamma 2.2": (SRGB_D50, SAME, 563 / 256),
}


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("suffix", [*LOSSLESS, *LOSSY])
def test_profiles_of_rgb(tmp_path: Path, suffix: str, space: str) -> None:
    primaries, matrix, gamma = SPACES[space]
    picture = RGB if suffix in LOSSLESS else FLAT
    options = (LOSSLESS | LOSSY)[suffix]
    picture.save(tmp_path / f"a.{suffix}", icc_profile=rgb_icc(primaries, gamma), **options)
    pixels, notes = read(tmp_path / f"a.{suffix}")
    difference = np.abs(pixels - shown(picture, matrix, gamma)).max()
    assert difference < (0.7 if suffix in LOSSLESS else 4)
    assert notes == ["its colours are converted from Test to sRGB"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "profile",
    [
        rgb_icc(),
        rgb_icc(np.round(SRGB_D50, 4)),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ],
    ids=["table", "rounded", "littleCMS"],
)
@pytest.mark.parametrize("picture", [RGB, GREY, RGB.convert("P")], ids=lambda p: p.mode)
def test_srgb_changes_nothing(tmp_path: Path, picture: Image.Image, profile: bytes) -> None:
    picture.save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(read(tmp_path / "a.png")[0], np.asarray(picture.convert("RGB")))


@pytest.mark.filterwarnings("error")
def test_srgb_changes_nothing_in_grey(tmp_path: Path) -> None:
    GREY.save(tmp_path / "a.png", icc_profile=grey_icc(None))
    assert np.array_equal(read(tmp_path / "a.png")[0], np.asarray(GREY.convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("picture", [GREY, DEEP], ids=lambda picture: picture.mode)
@pytest.mark.parametrize("gamma", [1.0, 1.75])
def test_profiles_of_grey(tmp_path: Path, picture: Image.Image, gamma: float, suffix: str) -> None:
    picture.save(tmp_path / f"a.{suffix}", icc_profile=grey_icc(gamma))
    pixels, notes = read(tmp_path / f"a.{suffix}")
    most = 255 if picture is GREY else 65535
    expected = shown(np.asarray(picture)[..., None], None, gamma, most)
    assert np.abs(pixels - expected).max() < 0.6
    assert "its colours are converted from Test to sRGB" in notes


def test_alpha_is_left_alone_and_composited_last(tmp_path: Path) -> None:
    alpha = Image.fromarray(RAMPS[:, :, 2])
    for picture, profile, matrix in (
        (RGB, rgb_icc(P3_D50), P3_TO_SRGB),
        (GREY, grey_icc(1.0), None),
    ):
        with_alpha = picture.copy()
        with_alpha.putalpha(alpha)
        with_alpha.save(tmp_path / "a.png", icc_profile=profile)
        pixels, notes = read(tmp_path / "a.png")
        colours = shown(picture, matrix) if matrix else shown(RAMPS[:, :, :1], None, 1.0)
        share = RAMPS[:, :, 2:] / 255
        assert np.abs(pixels - (share * colours + (1 - share) * 255)).max() < 1.6
        assert notes[-1] == "its transparent parts are composited on white"


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_profiles_of_cmyk(tmp_path: Path, suffix: str) -> None:
    inks = {(0, 0, 0, 0): (100, 0, 0), (1, 0, 0, 0): (60, -35, -45), (0, 1, 1, 0): (50, 60, 45)}
    for ink, lab in inks.items():
        path = tmp_path / f"a.{suffix}"
        picture = Image.new("CMYK", (32, 32), tuple(255 * one for one in ink))
        picture.save(path, icc_profile=cmyk_icc(inks), quality=100)
        pixels, notes = read(path)
        assert np.abs(pixels - lab_to_srgb(*lab)).max() < (1.5 if suffix == "tif" else 3)
        assert notes == ["its colours are converted from Test to sRGB"]


def test_the_darkest_ink_is_black_and_paper_white(tmp_path: Path) -> None:
    profile = cmyk_icc(
        {ink: (12, 0, 0) for ink in np.ndindex(2, 2, 2, 2)} | {(0,) * 4: (100, 0, 0)}
    )
    for ink, level in ((0, 255), (255, 0)):
        Image.new("CMYK", (32, 32), 4 * (ink,)).save(tmp_path / "a.tif", icc_profile=profile)
        assert np.abs(read(tmp_path / "a.tif")[0] - level).max() <= 1


def test_cmyk_without_a_profile_is_said(tmp_path: Path) -> None:
    Image.new("CMYK", (32, 32), (0, 200, 100, 30)).save(tmp_path / "a.tif")
    pixels, notes = read(tmp_path / "a.tif")
    expected = [255 - 30, (255 - 200) * 225 / 255, (255 - 100) * 225 / 255]
    assert np.abs(pixels - expected).max() < 1
    assert notes == ["its inks (CMYK) have no profile, so that their colours are a guess"]


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


D65, SRGB_CORNERS = (0.3127, 0.329), (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_CORNERS = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
P3_CORNERS = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SRGB_CHUNK, P3_CODES = chunk(b"sRGB", b"\0"), chunk(b"cICP", bytes([12, 13, 0, 1]))
P3_PROFILE = chunk(b"iCCP", b"P3\0\0" + zlib.compress(rgb_icc(P3_D50)))
CHUNKS = {
    "gamma 1.0": ([gama(1)], SAME, 1.0),
    "gamma 1.0 of grey": ([gama(1)], None, 1.0),
    "gamma 0.5": ([gama(0.5)], SAME, 2.0),
    "primaries alone": ([chroma(*D65, *P3_CORNERS)], P3_TO_SRGB, None),
    "Adobe RGB by both": (
        [gama(1 / ADOBE_GAMMA), chroma(*D65, *ADOBE_CORNERS)],
        ADOBE_TO_SRGB,
        ADOBE_GAMMA,
    ),
    "cICP of P3": ([P3_CODES], P3_TO_SRGB, None),
    "cICP of Rec. 2020": ([chunk(b"cICP", bytes([9, 14, 0, 1]))], REC_2020_TO_SRGB, None),
    "cICP of linear light": ([chunk(b"cICP", bytes([1, 8, 0, 1]))], SAME, 1.0),
    "cICP before sRGB": ([P3_CODES, SRGB_CHUNK, gama(1)], P3_TO_SRGB, None),
    "a profile before gamma": ([P3_PROFILE, gama(1)], P3_TO_SRGB, None),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_of_png(tmp_path: Path, name: str) -> None:
    chunks, matrix, gamma = CHUNKS[name]
    levels = RAMPS[:, :, 0] if matrix is None else RAMPS
    (tmp_path / "a.png").write_bytes(png(levels, *chunks))
    pixels, notes = read(tmp_path / "a.png")
    expected = shown(np.asarray(Image.fromarray(levels).convert("RGB")), matrix, gamma)
    assert np.abs(pixels - expected).max() < 0.8
    assert len(notes) == 1
    assert notes[0].startswith("its colours are converted from ")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "chunks",
    [
        [gama(0.45455)],
        [gama(0.45455), chroma(*D65, *SRGB_CORNERS)],
        [SRGB_CHUNK, gama(1)],
        [chunk(b"cICP", bytes([1, 13, 0, 1])), P3_PROFILE],
        [chunk(b"cICP", bytes([2, 2, 0, 1]))],
        [chroma(*D65, *SRGB_CORNERS)],
    ],
    ids=["gamma", "both", "sRGB", "cICP before a profile", "unspecified", "primaries"],
)
def test_chunks_that_mean_srgb(tmp_path: Path, chunks: list[bytes]) -> None:
    (tmp_path / "a.png").write_bytes(png(RAMPS, *chunks))
    assert np.array_equal(read(tmp_path / "a.png")[0], RAMPS)


@pytest.mark.parametrize("curve", [16, 18])
def test_hdr_is_refused(tmp_path: Path, curve: int) -> None:
    (tmp_path / "a.png").write_bytes(png(RAMPS, chunk(b"cICP", bytes([9, curve, 0, 1]))))
    with pytest.raises(InputError, match=r"a\.png' is an HDR picture \((PQ|HLG)\), but must"):
        load_style(tmp_path / "a.png")


def test_codes_of_avif(tmp_path: Path) -> None:
    """Pillow writes those of sRGB."""
    FLAT.save(tmp_path / "a.avif", quality=100, subsampling="4:4:4")
    content = (tmp_path / "a.avif").read_bytes()
    assert b"colrnclx\0\1\0\x0d" in content
    assert read(tmp_path / "a.avif")[1] == []
    for code, refused in ((b"\0\x0c\0\x0d", None), (b"\0\x09\0\x10", "HDR")):
        path = tmp_path / "b.avif"
        path.write_bytes(content.replace(b"colrnclx\0\1\0\x0d", b"colrnclx" + code))
        if refused:
            with pytest.raises(InputError, match="HDR"):
                load_style(path)
        else:
            pixels, notes = read(path)
            assert np.abs(pixels - shown(FLAT, P3_TO_SRGB)).max() < 4
            assert notes == ["its colours are converted from Display P3 to sRGB"]


def test_a_profile_in_jpeg_2000(tmp_path: Path) -> None:
    RGB.save(tmp_path / "a.jp2")
    content, profile = (tmp_path / "a.jp2").read_bytes(), rgb_icc(P3_D50)
    at = content.index(b"colr") - 4
    box = struct.pack(">I4s3B", 11 + len(profile), b"colr", 2, 0, 0) + profile
    outer = content.index(b"jp2h") - 4
    length = int.from_bytes(content[outer : outer + 4], "big") + len(box) - 15
    content = content[:at] + box + content[at + 15 :]
    content = content[:outer] + struct.pack(">I", length) + content[outer + 4 :]
    (tmp_path / "a.jp2").write_bytes(content)
    pixels, notes = read(tmp_path / "a.jp2")
    assert np.abs(pixels - shown(RGB, P3_TO_SRGB)).max() < 0.7
    assert notes == ["its colours are converted from Test to sRGB"]


@pytest.mark.parametrize("place", [(0xA005, 1, "R03"), (0x8769, 0xA001, 2)])
def test_adobe_rgb_by_exif(tmp_path: Path, place: tuple[int, int, object]) -> None:
    """Cameras that write Adobe RGB name it in EXIF data, and often embed no profile."""
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 65535
    if place[0] == 0xA005:
        exif.get_ifd(0x8769)[0xA005] = {1: "R03"}
    else:
        exif.get_ifd(place[0])[place[1]] = place[2]
    FLAT.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    pixels, notes = read(tmp_path / "a.jpg")
    assert np.abs(pixels - shown(FLAT, ADOBE_TO_SRGB, ADOBE_GAMMA)).max() < 3
    assert notes == ["its colours are converted from Adobe RGB to sRGB"]


@pytest.mark.parametrize(
    ("picture", "profile", "reason"),
    [
        (RGB, b"no profile at all", "its colour profile is damaged"),
        (RGB, rgb_icc(P3_D50)[:300], "its colour profile is damaged"),
        (RGB, rgb_icc(P3_D50)[:-3000], "is damaged"),
        (RGB, grey_icc(1.0), "Test is for GRAY and not for RGB"),
        (GREY, cmyk_icc({}), "Test is for CMYK and not for L"),
        (RGB, icc(b"RGB ", {}), "Test is damaged or not known"),
    ],
    ids=["text", "cut off", "short", "grey", "inks", "empty"],
)
def test_a_profile_that_cannot_be_used(
    tmp_path: Path, picture: Image.Image, profile: bytes, reason: str
) -> None:
    picture.save(tmp_path / "a.png", icc_profile=profile)
    pixels, notes = read(tmp_path / "a.png")
    assert np.array_equal(pixels, np.asarray(picture.convert("RGB")))
    assert reason in notes[0]
    assert notes[0].endswith(", so it is left out")


def test_a_compressed_profile_that_is_damaged(tmp_path: Path) -> None:
    damaged = chunk(b"iCCP", b"P3\0\0" + zlib.compress(rgb_icc(P3_D50))[:100])
    (tmp_path / "a.png").write_bytes(png(RAMPS, damaged))
    pixels, notes = read(tmp_path / "a.png")
    assert np.array_equal(pixels, RAMPS)
    assert notes == ["its colour profile is damaged or not known, so it is left out"]


INDEX = np.tile(np.arange(32), (32, 1))
DARK = "so that it is dark (stretch them if they are from another range)"
COMPOSITED = "its transparent parts are composited on white"


def key(*levels: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(levels)}H", *levels))


def keyed(levels: NDArray, most: int, clear: int) -> NDArray:
    return np.where(levels == clear, 255, levels * 255 / most)


DEEP_RGB = np.stack([INDEX * 2000, INDEX * 0 + 1000, INDEX * 0 + 1001], 2)
HALF = np.full((32, 32, 1), 128, np.uint8)
COLOUR = np.array([100, 60, 20], np.uint8)
PREMULTIPLIED = np.concatenate([np.tile(COLOUR // 2, (32, 32, 1)), HALF], 2)
ON_WHITE = COLOUR // 2 + 127
LEVELS = {
    "1 bit, clear black": (png(INDEX % 2, key(0), bits=1), INDEX * 0 + 255, [COMPOSITED]),
    "2 bits, clear 1": (png(INDEX % 4, key(1), bits=2), keyed(INDEX % 4, 3, 1), [COMPOSITED]),
    "4 bits, clear 9": (png(INDEX % 16, key(9), bits=4), keyed(INDEX % 16, 15, 9), [COMPOSITED]),
    "8 bits, clear 9": (png(INDEX * 8, key(16)), keyed(INDEX * 8, 255, 16), [COMPOSITED]),
    "2 bits, a key nobody has": (png(INDEX % 3, key(3), bits=2), INDEX % 3 * 85, []),
    "colour of 16 bits": (png(DEEP_RGB, bits=16), DEEP_RGB / 257, []),
    "a clear colour of 16 bits": (
        png(DEEP_RGB, key(20000, 1000, 1001), bits=16),
        np.where(DEEP_RGB[:, :, :1] == 20000, 255, DEEP_RGB / 257),
        [COMPOSITED],
    ),
    "TIFF of 8 bits": (tiff(RAMPS[:, :, 0]), RAMPS[:, :, 0], []),
    "TIFF, white is 0": (tiff(RAMPS[:, :, 0], t262=0), 255 - RAMPS[:, :, 0].astype(int), []),
    "TIFF of 16 bits": (tiff(INDEX.astype("u2") * 2000), INDEX * 2000 / 257, []),
    "TIFF of 16 bits, big-endian": (tiff(INDEX.astype("u2") * 2000, ">"), INDEX * 2000 / 257, []),
    "TIFF of 16 bits, white is 0": (
        tiff(INDEX.astype("u2") * 2000, t262=0),
        (65535 - INDEX * 2000) / 257,
        [],
    ),
    "TIFF of 12 bits in 16": (
        tiff(INDEX.astype("u2") * 132),
        INDEX * 132 / 257,
        [f"its levels reach only 4,092 of 65,535, {DARK}"],
    ),
    "a mask of 8 bits": (
        tiff(INDEX.astype("u1")),
        INDEX,
        [f"its levels reach only 31 of 255, {DARK}"],
    ),
    "TIFF of signed levels": (
        tiff(INDEX.astype("i2") * 1000, t339=2),
        INDEX * 1000 / 257,
        ["its levels, signed or of 32 bits, are taken as 0 to 65,535"],
    ),
    "TIFF of 32 bits": (
        tiff(INDEX.astype("u4") * 2000),
        INDEX * 2000 / 257,
        ["its levels, signed or of 32 bits, are taken as 0 to 65,535"],
    ),
    "TIFF of RGB in 16 bits": (tiff(DEEP_RGB.astype("u2"), ">"), DEEP_RGB / 257, []),
    "TIFF multiplied by alpha": (tiff(PREMULTIPLIED, t338=1), ON_WHITE, [COMPOSITED]),
    "TIFF of grey multiplied by alpha": (
        tiff(PREMULTIPLIED[:, :, [0, 3]], t338=1, t262=1),
        ON_WHITE[0],
        [COMPOSITED],
    ),
    "TIFF with a channel that is no alpha": (
        tiff(PREMULTIPLIED, t338=0),
        PREMULTIPLIED[:, :, :3],
        [f"its levels reach only 50 of 255, {DARK}"],
    ),
    "TIFF in Lab": (
        tiff(np.tile(np.array([128, 40, 216], np.uint8), (32, 32, 1)), t262=8),
        lab_to_srgb(128 / 2.55, 40, -40),
        ["its colours are converted from CIELAB to sRGB"],
    ),
    "PGM to 1023": (b"P5 32 32 1023\n" + struct.pack(">H", 512) * 1024, 512 / 1023 * 255, []),
    "PPM to 100": (b"P6 32 32 100\n" + bytes([100, 50, 20]) * 1024, [255, 127.5, 51], []),
}


@pytest.mark.parametrize("name", LEVELS)
def test_levels(tmp_path: Path, name: str) -> None:
    content, expected, said = LEVELS[name]
    (tmp_path / "a").write_bytes(content)
    pixels, notes = read(tmp_path / "a")
    expected = np.asarray(expected, float)
    if expected.shape == (32, 32):
        expected = expected[..., None]
    assert np.abs(pixels - expected).max() < (2.6 if "alpha" in name else 1)
    assert notes == said


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (tiff(np.zeros((32, 32), np.float32), t339=3), "its levels must be of 8 or 16 bits"),
        (tiff(INDEX.astype("u4") << 27), "its levels must be of 8 or 16 bits"),
        (b"Pf\n32 32\n-1.0\n" + bytes(4096), "its levels must be of 8 or 16 bits"),
        (tiff(INDEX.astype("u2"), ">", t262=0), "it is TIFF, but damaged, or of a kind"),
        (tiff(np.zeros((32, 32, 3), np.float32), t339=3), "it is TIFF, but damaged, or of a kind"),
        (tiff(RAMPS, t254=1), r"a' is a camera's raw file, or its first page is only a preview"),
        (tiff(RAMPS, t255=2), "is a camera's raw file, or its first page is only a preview"),
        (tiff(RAMPS, t50706=1), "is a camera's raw file, or its first page is only a preview"),
    ],
)
def test_levels_that_are_refused(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=match):
        load_style(tmp_path / "a")


def clear(share: int) -> Image.Image:
    return Image.fromarray(np.full((32, 32), share, np.uint8))


@pytest.mark.parametrize("share", [255, 254, 0])
@pytest.mark.parametrize(
    "kind", ["RGBA.png", "LA.png", "PA.tif", "P.png", "RGBA.webp", "RGBA.avif"]
)
def test_transparency_is_said_only_where_there_is_some(
    tmp_path: Path, kind: str, share: int
) -> None:
    mode, path = kind.split(".")[0], tmp_path / kind
    if mode == "P":
        picture = FLAT.quantize(2)
        picture.save(path, transparency=bytes([share, 0]))  # nobody uses the second
    else:
        picture = FLAT.convert(mode)
        picture.putalpha(clear(share))
        picture.save(path)
    if share == 0:
        with pytest.raises(InputError, match=f"{kind}' is transparent everywhere"):
            load_style(path)
    else:
        assert read(path)[1] == ([] if share == 255 else [COMPOSITED])


def test_an_opaque_animation_in_rgba(tmp_path: Path) -> None:
    """Pillow reads any animated WebP as RGBA."""
    frames = [Image.new("RGBA", (32, 32), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read(tmp_path / "a.webp")[1] == ["only the first of its frames or pages is used"]
