"""What colours a file's numbers mean: pixels by NumPy, from published matrices and curves."""

import io
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from styleinv import InputError, load_style
from tests.pictures import (
    ADOBE_D50,
    ADOBE_GAMMA,
    ADOBE_TO_SRGB,
    P3_D50,
    P3_TO_SRGB,
    REC_2020_TO_SRGB,
    SAME,
    SRGB_D50,
    chroma,
    chunk,
    cmyk_icc,
    gama,
    grey_icc,
    icc,
    lab_to_srgb,
    png,
    read,
    rgb_icc,
    shown,
    tiff,
)

RAMPS = np.stack(np.meshgrid(np.arange(0, 256, 8), np.arange(0, 256, 8)), 2)
RAMPS = np.concatenate([RAMPS, RAMPS[::-1, ::-1, :1]], 2).astype(np.uint8)
RGB = Image.fromarray(RAMPS)
GREY = Image.fromarray(RAMPS[:, :, 0])
DEEP = Image.fromarray(RAMPS[:, :, 0].astype(np.uint16) * 61 + 7)
FLAT = Image.new("RGB", (32, 32), (200, 100, 50))
LITTLE_CMS = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
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
    assert difference < (1.1 if suffix in LOSSLESS else 4)
    assert notes == ["its colours are converted from Test to sRGB"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("picture", "profile"),
    [
        *itertools.product(
            (RGB, GREY, RGB.convert("P")),
            (rgb_icc(), rgb_icc(np.round(SRGB_D50, 4)), LITTLE_CMS),
        ),
        (GREY, grey_icc(None)),
    ],
)
def test_srgb_changes_nothing(tmp_path: Path, picture: Image.Image, profile: bytes) -> None:
    picture.save(tmp_path / "a.png", icc_profile=profile)
    assert np.array_equal(read(tmp_path / "a.png")[0], np.asarray(picture.convert("RGB")))


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


@pytest.mark.parametrize("picture", [RGB.quantize(200), GREY], ids=lambda picture: picture.mode)
def test_a_palette_and_grey_by_a_profile_of_rgb(tmp_path: Path, picture: Image.Image) -> None:
    """As browsers do it."""
    picture.save(tmp_path / "a.png", icc_profile=rgb_icc(P3_D50, 1.0))
    expected = shown(picture.convert("RGB"), P3_TO_SRGB, 1.0)
    assert np.abs(read(tmp_path / "a.png")[0] - expected).max() < 1.1


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


D65, SRGB_CORNERS = (0.3127, 0.329), (0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE_CORNERS = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
P3_CORNERS = (0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
SRGB_CHUNK, P3_CODES = chunk(b"sRGB", b"\0"), chunk(b"cICP", bytes([12, 13, 0, 1]))
P3_PROFILE = chunk(b"iCCP", b"P3\0\0" + zlib.compress(rgb_icc(P3_D50)))
CHUNKS = {
    "gamma 1.0": ([gama(1)], SAME, 1.0),
    "gamma 1.0 of grey": ([gama(1)], None, 1.0),
    "gamma 0.5": ([gama(0.5)], SAME, 2.0),
    "Adobe RGB by both": (
        [gama(1 / ADOBE_GAMMA), chroma(*D65, *ADOBE_CORNERS)],
        ADOBE_TO_SRGB,
        ADOBE_GAMMA,
    ),
    "cICP of P3": ([P3_CODES], P3_TO_SRGB, None),
    "cICP of Rec. 2020": ([chunk(b"cICP", bytes([9, 14, 0, 1]))], REC_2020_TO_SRGB, 2.4),
    "cICP of sRGB's curve": ([chunk(b"cICP", bytes([9, 13, 0, 1]))], REC_2020_TO_SRGB, None),
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
    assert np.abs(pixels - expected).max() < 1.1
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
        [chroma(*D65, *P3_CORNERS)],
    ],
    ids=["gamma", "both", "sRGB", "cICP before a profile", "unspecified", "primaries alone"],
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
    assert np.abs(pixels - shown(RGB, P3_TO_SRGB)).max() < 1.1
    assert notes == ["its colours are converted from Test to sRGB"]


@pytest.mark.parametrize("tags", [{0xA005: {1: "R03"}, 0xA001: 65535}, {0xA001: 2}])
def test_adobe_rgb_by_exif(tmp_path: Path, tags: dict[int, object]) -> None:
    """Cameras that write Adobe RGB name it in EXIF data, and often embed no profile."""
    exif = Image.Exif()
    exif.get_ifd(0x8769).update(tags)
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


DAMAGED = chunk(b"iCCP", b"P3\0\0" + zlib.compress(rgb_icc(P3_D50))[:100])


@pytest.mark.parametrize(
    ("chunks", "name"),
    [
        ([gama(0)], "gamma"),
        ([gama(0.5), chroma(*8 * [0])], "gamma"),
        ([gama(0.5), chroma(*8 * [0.3])], "gamma"),
        ([DAMAGED], "colour profile"),
    ],
)
def test_chunks_that_mean_nothing(tmp_path: Path, chunks: list[bytes], name: str) -> None:
    (tmp_path / "a.png").write_bytes(png(RAMPS, *chunks))
    pixels, notes = read(tmp_path / "a.png")
    assert np.array_equal(pixels, RAMPS)
    assert notes == [f"its {name} is damaged or not known, so it is left out"]


def test_the_largest_picture_of_an_icon(tmp_path: Path) -> None:
    FLAT.resize((64, 64)).save(tmp_path / "a.ico", sizes=[(16, 16), (64, 64), (32, 32)])
    pixels, _ = read(tmp_path / "a.ico", 64)
    assert pixels.shape == (64, 64, 3)
    assert np.abs(pixels - [200, 100, 50]).max() <= 1


INDEX = np.tile(np.arange(32), (32, 1))
DARK = "so that it is dark (stretch them if they are from another range)"
COMPOSITED = "its transparent parts are composited on white"


def key(*levels: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(levels)}H", *levels))


def keyed(levels: np.ndarray, most: int, clear: int) -> np.ndarray:
    return np.where(levels == clear, 255, levels * 255 / most)


def gif_with_small_frame() -> bytes:
    """Blue, 8 x 8 at (8, 8) of 32 x 32; the background is red, which browsers ignore."""
    colours = bytes([0, 0, 255, 255, 0, 0])
    small = Image.new("P", (8, 8), 0)
    small.putpalette(colours)
    file = io.BytesIO()
    small.save(file, "GIF")
    frame = file.getvalue()[file.getvalue().index(b",\0\0\0\0") + 9 :]
    canvas = b"GIF89a" + struct.pack("<HHBBB", 32, 32, 0xF0, 1, 0) + colours
    return canvas + b"," + struct.pack("<HHHH", 8, 8, 8, 8) + frame


DEEP_RGB = np.stack([INDEX * 2000, INDEX * 0 + 1000, INDEX * 0 + 1001], 2)
A, B = INDEX[:, ::2] * 132, INDEX[:, 1::2] * 132
# Two levels of 12 bits in three bytes.
TWELVE = np.stack([A >> 4, (A & 15) << 4 | B >> 8, B & 255], 2).reshape(32, 48).astype(np.uint8)
HALF = np.full((32, 32, 1), 128, np.uint8)
COLOUR = np.array([100, 60, 20], np.uint8)
PREMULTIPLIED = np.concatenate([np.tile(COLOUR // 2, (32, 32, 1)), HALF], 2)
ON_WHITE = COLOUR // 2 + 127
LEVELS = {
    "1 bit, clear black": (png(INDEX % 2, key(0), bits=1), INDEX * 0 + 255, [COMPOSITED]),
    "2 bits, clear 1": (png(INDEX % 4, key(1), bits=2), keyed(INDEX % 4, 3, 1), [COMPOSITED]),
    "4 bits, clear 9": (png(INDEX % 16, key(9), bits=4), keyed(INDEX % 16, 15, 9), [COMPOSITED]),
    "8 bits, clear 9": (png(INDEX * 8, key(16)), keyed(INDEX * 8, 255, 16), [COMPOSITED]),
    "16 bits, clear 40001": (
        png(INDEX % 2 + 40000, key(40001), bits=16),  # of the same 8-bit level
        keyed(INDEX % 2 + 40000, 65535, 40001),
        [COMPOSITED],
    ),
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
    "TIFF of 12 bits": (tiff(TWELVE, t256=32, t258=12), INDEX * 132 / 4095 * 255, []),
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
    "GIF with a frame that does not fill it": (
        gif_with_small_frame(),
        np.where(
            np.kron(np.pad([[1]], ((1, 2), (1, 2))), np.ones((8, 8)))[..., None], [0, 0, 255], 255
        ),
        [COMPOSITED],
    ),
    "TGA without alpha bits": (
        struct.pack("<BBB9xHHBB", 0, 0, 2, 32, 32, 32, 0x20) + bytes([50, 100, 200, 0]) * 1024,
        [200, 100, 50],
        [],
    ),
    "TGA with the last row first": (
        struct.pack("<BBB9xHHBB", 0, 0, 3, 32, 32, 8, 0) + RAMPS[::-1, :, 1].tobytes(),
        RAMPS[:, :, 1],
        [],
    ),
    "BMP of 5, 6 and 5 bits": (
        struct.pack("<2sIHHI", b"BM", 66 + 2048, 0, 0, 66)
        + struct.pack("<IiiHHIIiiII", 40, 32, -32, 1, 16, 3, 2048, 2835, 2835, 0, 0)
        + struct.pack("<3I", 0xF800, 0x07E0, 0x1F)
        + struct.pack("<H", 0b11001_011001_00110) * 1024,
        [25 / 31 * 255, 25 / 63 * 255, 6 / 31 * 255],
        [],
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
        (tiff(INDEX.astype("u2"), ">", t262=0), "it is damaged, of a kind that is not"),
        (tiff(np.zeros((32, 32, 3), np.float32), t339=3), "it is damaged, of a kind that is not"),
        (tiff(INDEX.astype("i1"), t339=2), "its levels of 8 bits are signed"),
        (tiff(DEEP_RGB.astype("u2"), t284=2), "its channels of 16 bits are stored apart"),
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
