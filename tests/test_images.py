"""Reading whatever a reader has, and writing it back without loss."""

import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageFile, PngImagePlugin

from styleinv import InputError, load_style, save_png
from styleinv.encoder import Encoder
from styleinv.images import PIXELS_VARIABLE, public_name, short_name, to_uint8
from styleinv.inversion import plan
from styleinv.runs import store
from tests.pictures import ADOBE_D50, read, rgb_icc


def noise(*shape: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8))


NOISE = noise(32, 32)


def tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1) / 255


@pytest.mark.filterwarnings("ignore:.*so that it is dark")
@settings(deadline=None)
@given(npst.arrays(np.uint8, st.tuples(st.integers(16, 24), st.integers(16, 24), st.just(3))))
def test_png_round_trip_is_lossless(tmp_path_factory: pytest.TempPathFactory, pixels) -> None:
    path = tmp_path_factory.mktemp("png") / "a.png"
    image = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    save_png(image, path)
    again = load_style(path, min(pixels.shape[:2]), "keep")
    assert torch.equal(again, image)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(32, 32), (40, 49), (49, 40), (33, 101), (64, 27)])
def test_resize_and_crop_are_pillows(shape: tuple[int, int], tmp_path: Path) -> None:
    picture = noise(*shape)
    picture.save(tmp_path / "a.png")
    width, height = (int(20 * side / min(shape)) for side in picture.size)
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    assert torch.equal(load_style(tmp_path / "a.png", 20, "keep"), tensor(resized))
    left, top = round((width - 20) / 2), round((height - 20) / 2)
    cropped = resized.crop((left, top, left + 20, top + 20))
    assert torch.equal(load_style(tmp_path / "a.png", 20), tensor(cropped))


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_the_first_frame_or_page_is_used_and_said(tmp_path: Path, name: str) -> None:
    red, *others = (Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue"))
    red.save(tmp_path / name, save_all=True, append_images=others, lossless=True)
    pixels, notes = read(tmp_path / name)
    assert (pixels == [255, 0, 0]).all()
    assert notes == ["only the first of its frames or pages is used"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("bild \u00fc\u4e2d.jpg", {"format": "WEBP"}),
        ("two\nlines", {"format": "TIFF", "compression": "tiff_lzw"}),
        (".hidden", {"format": "TGA"}),
        ("picture.jp2", {"format": "JPEG2000"}),
        ("picture.eps", {"format": "JPEG"}),
    ],
)
def test_content_counts_and_not_the_name(
    tmp_path: Path, name: str, options: dict[str, object]
) -> None:
    NOISE.save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as picture:
        assert torch.equal(load_style(tmp_path / name, 32), tensor(picture))


def test_damaged_exif_leaves_the_picture_as_it_is(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "odd\nname.png", exif=b"Exif\0\0neither II nor MM")
    with pytest.warns(UserWarning, match="its EXIF data is damaged") as said:
        loaded = load_style(tmp_path / "odd\nname.png", 32)
    assert torch.equal(loaded, tensor(NOISE))
    assert len(str(said[0].message).splitlines()) == 1


class TestLimit:
    """How many pixels a file may have, whatever Pillow's own limit is."""

    @pytest.fixture(autouse=True)
    def limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        monkeypatch.setenv(PIXELS_VARIABLE, "1024")

    @pytest.mark.filterwarnings("error")
    def test_is_ours(self, tmp_path: Path) -> None:
        Image.new("RGB", (32, 32)).save(tmp_path / "most.png")
        assert load_style(tmp_path / "most.png", 32).shape == (3, 32, 32)

    @pytest.mark.parametrize("width", [33, 2000])  # where Pillow would warn, or refuse
    @pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp", "a.tif", "a.bmp"])
    def test_refuses_before_decoding(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, width: int
    ) -> None:
        Image.new("RGB", (width, 32)).save(tmp_path / name)
        monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it is decoded"))
        with pytest.raises(InputError, match=r"more than 1,024 pixels.*STYLEINV_MAX_PIXELS"):
            load_style(tmp_path / name)

    def test_holds_for_what_a_long_picture_is_enlarged_to(self, tmp_path: Path) -> None:
        Image.new("RGB", (60, 16)).save(tmp_path / "long.png")
        with pytest.raises(InputError, match="resized to 75 x 20 pixels, but at most 1,024"):
            load_style(tmp_path / "long.png", 20)

    @pytest.mark.parametrize("value", ["", "many", "-1", "255", "9" * 5000])
    def test_is_a_number(self, monkeypatch: pytest.MonkeyPatch, value: str, tmp_path: Path) -> None:
        Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
        monkeypatch.setenv(PIXELS_VARIABLE, value)
        with pytest.raises(InputError, match=r"STYLEINV_MAX_PIXELS is .*, but must be a whole"):
            load_style(tmp_path / "a.png")


@pytest.mark.filterwarnings("error")
def test_nothing_is_said_of_what_pillow_warns_of(tmp_path: Path) -> None:
    NOISE.save(
        tmp_path / "a.png", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0"
    )  # one entry, but none there
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(tmp_path / "a.png") as picture:
        picture.getexif()
    load_style(tmp_path / "a.png", 32)


def test_enlarging_is_said(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "small.png")
    with pytest.warns(UserWarning, match="32 pixels is enlarged to 64"):
        assert load_style(tmp_path / "small.png", 64).shape == (3, 64, 64)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["bundled:mosaic", "skimage:brick", "skimage:coffee"])
def test_named_styles(name: str) -> None:
    image = load_style(name, 48)
    assert image.shape == (3, 48, 48)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < image.max() <= 1
    assert (short_name(name), public_name(name)) == (name.split(":")[1], name)


def test_the_public_name_of_a_file_hides_its_folder(tmp_path: Path) -> None:
    file = tmp_path / "my.picture.jpg"
    assert (short_name(file), public_name(file)) == ("my.picture", "my.picture.jpg")


def test_rounds_to_the_nearest_level() -> None:
    image = torch.tensor([0.0, 0.499 / 255, 0.501 / 255, 1.0]).reshape(1, 1, 4).expand(3, 1, 4)
    assert to_uint8(image)[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    ("source", "options", "match"),
    [
        (300 * "x" + ".png", {}, "is not an existing file"),  # a name no file system takes
        ("bundled:cubism", {}, "is 'cubism', but must be one of"),
        ("bundled:dots", {"size": 15}, "size is 15, but must be a whole number from 16 to 4,"),
        ("bundled:dots", {"fit": "stretch"}, "fit is 'stretch', but must be one of: crop, keep"),
    ],
)
def test_refuses_arguments(source: str, options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        load_style(source, **options)


@pytest.mark.parametrize(
    ("name", "picture", "content", "match"),
    [
        ("line.png", Image.new("RGB", (5000, 1)), slice(None), r"5000 x 1 pixels.*16 or more"),
        # To read this format, Pillow would start a program.
        ("a.eps", Image.new("RGB", (32, 32)), slice(None), "is a PostScript document, but must"),
        ("empty.png", NOISE, slice(0), r"empty.png' is an empty file, but must be one of PNG"),
        ("truncated.avif", NOISE, slice(300), "cannot be read: "),
        ("clear.gif", Image.new("RGBA", (32, 32)), slice(None), "is transparent everywhere"),
    ],
)
def test_refuses_files(
    tmp_path: Path, name: str, picture: Image.Image, content: slice, match: str
) -> None:
    picture.save(tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[content])
    with pytest.raises(InputError, match=match):
        load_style(tmp_path / name)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        save_png(torch.zeros(3, 16, 16), tmp_path / "file" / "a.png")


FTYP = b"\0\0\0\x20ftyp"
NOISE_AS_TEXT = b"\x89PNG\r\n\x1a\n".decode(errors="replace").encode()
OTHERS = {
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3",
    "an SVG drawing": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg width="10">',
    "a web page": b"\n<!DOCTYPE html>\n<html><body>Not found",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n",
    "a HEIC picture": FTYP + b"heic\0\0\0\0mif1heic",
    "a HEIC picture of another brand": FTYP + b"mif1\0\0\0\0mif1heic",
    "a video": FTYP + b"qt  \0\0\0\0qt  ",
    "a camera's raw file": FTYP + b"crx \0\0\0\1crx isom",
    "a camera's raw file of Fujifilm": b"FUJIFILMCCD-RAW 0201",
    "a camera's raw file of Olympus": b"IIRO\x08\0\0\0",
    "a JPEG XL picture": b"\xff\x0a\xfa\x1f",
    "a Photoshop file": b"8BPS\0\1" + bytes(20),
    "a GIMP file": b"gimp xcf v011\0",
    "an OpenEXR picture": b"v/1\x01\2\0\0\0",
    "a Radiance picture": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n",
    "a DICOM file": bytes(128) + b"DICM\2\0\0\0",
    "a NumPy file; pass the array itself": b"\x93NUMPY\1\0v\0",
    "an archive": b"PK\3\4\x14\0",
    "a property list, as iCloud": b"bplist00\xd4",
    "what macOS keeps beside a file": b"\0\5\x16\7\0\2\0\0Mac OS X",
    "a file that a program has copied as text": NOISE_AS_TEXT,
    "a file of zeros": bytes(4096),
    "an empty file": b"",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(OTHERS[kind] + bytes(200) * (kind != "an empty file"))
    named = kind.partition(" of ")[0] if kind.count(" of ") and "zeros" not in kind else kind
    with pytest.raises(
        InputError, match=rf"photo\.jpg' is {named}.*, but must be one of PNG, JPEG"
    ):
        load_style(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            bytes(range(250, 100, -1)),
            "it is damaged, of a kind that is not known here, or no picture",
        ),
        (b"RIFF\xff\0\0\0WEBPVP8X" + bytes(20), "could not create decoder"),
        (FTYP + b"avif\0\0\0\0avifmif1miaf" + bytes(40), "it is damaged"),
    ],
)
def test_what_cannot_be_read_is_told_as_far_as_it_is_known(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(InputError, match=f"must be one of PNG, .*, but cannot be read: {reason}"):
        load_style(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (".", "is a folder, but must be a file"),
        ("socket", "is a pipe, a socket or a device, but"),
        ("/dev/zero", "is a pipe, a socket or a device, but"),
        ("dangling", "is not an existing file, nor one of: bundled:strokes"),
        ("circle", "is not an existing file, nor one of"),
        ("file:///tmp/a.png", "is a URL, but must be a file"),
        ("s3://bucket/a.png", "is a URL, but must be a file"),
        ("skimage:cofee", "is 'cofee', but must be one of.*the nearest is 'coffee'"),
        ("", "is not an existing file"),
    ],
)
def test_what_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, match: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("absent", "dangling")
    os.symlink("circle", "circle")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(InputError, match=match):
            load_style(name)


def test_a_file_that_may_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    NOISE.save(tmp_path / "a.png")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match=r"a\.png' cannot be opened: Permission denied"):
        load_style(tmp_path / "a.png")


class TestPillowsSettings:
    """What another library has set counts for nothing, and is there again afterwards."""

    @pytest.fixture(autouse=True)
    def others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        monkeypatch.setattr(ImageFile, "MAXBLOCK", 1)
        monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1)
        monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 1)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)

    @pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp"])
    def test_truncated_files_are_refused(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"a.{suffix}"
        noise(64, 64).save(path, **({"progressive": True} if suffix == "jpg" else {}))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match="cannot be read"):
            load_style(path)
        assert ImageFile.LOAD_TRUNCATED_IMAGES
        assert Image.MAX_IMAGE_PIXELS == 1

    @pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
    def test_intact_files_are_read(self, tmp_path: Path, suffix: str) -> None:
        NOISE.save(tmp_path / f"a.{suffix}")
        assert torch.equal(load_style(tmp_path / f"a.{suffix}", 32), tensor(NOISE))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["zTXt", "iTXt", "XMP"])
def test_much_text_in_a_png(tmp_path: Path, kind: str) -> None:
    text, info = 3 * 2**20 * "x", PngImagePlugin.PngInfo()
    if kind == "zTXt":
        info.add_text("Comment", text, zip=True)
    else:
        info.add_itxt("XML:com.adobe.xmp" if kind == "XMP" else "Comment", text, zip=True)
    NOISE.save(tmp_path / "a.png", pnginfo=info)
    assert torch.equal(load_style(tmp_path / "a.png", 32), tensor(NOISE))


def test_text_has_a_limit(tmp_path: Path) -> None:
    """A million bytes can claim to be a thousand times as many."""
    NOISE.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    text = b"zTXtComment\0\0" + zlib.compress(bytes(2**26 + 1))
    checked = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    (tmp_path / "a.png").write_bytes(content[:33] + checked + content[33:])
    with pytest.raises(InputError, match="cannot be read: Decompressed data too large"):
        load_style(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("kind", "said"),
    [(0x020002, ["only the first of its frames or pages is used"]), (0x010001, []), (0, [])],
)
def test_previews_of_a_camera_are_no_frames(tmp_path: Path, kind: int, said: list[str]) -> None:
    """A second picture for the other eye, a smaller copy, or a gain map, which has no kind."""
    noise(64, 64).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[NOISE])
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    second = content.index(bytes(6) + b"\3\0") + 4 + 16  # after the entry of the first
    content[second : second + 4] = struct.pack("<I", kind)
    (tmp_path / "a.jpg").write_bytes(content)
    assert read(tmp_path / "a.jpg")[1] == said


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dpi", [(72, 72), (300, 301)])
def test_square_pixels(tmp_path: Path, dpi: tuple[int, int]) -> None:
    NOISE.save(tmp_path / "a.png", dpi=dpi)
    load_style(tmp_path / "a.png", 32)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "without inches.png"])
def test_pixels_that_are_not_square_are_said(tmp_path: Path, name: str) -> None:
    NOISE.save(tmp_path / name, dpi=(204, 98))
    if "without" in name:
        content = (tmp_path / name).read_bytes()
        start = content.index(b"pHYs")
        chunk = b"pHYs" + struct.pack(">IIB", 4, 3, 0)
        checked = chunk + struct.pack(">I", zlib.crc32(chunk))
        (tmp_path / name).write_bytes(content[:start] + checked + content[start + 17 :])
    with pytest.warns(UserWarning, match="its pixels are not square, but are taken as square"):
        load_style(tmp_path / name, 32)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tif", "a.avif"])
def test_all_orientations(tmp_path: Path, name: str, orientation: int) -> None:
    """By what EXIF says of the first row and column: top, bottom, left or right."""
    corners = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 24), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(corners).convert("RGB").save(tmp_path / name, exif=exif, quality=100)
    turned = corners.T if orientation > 4 else corners
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    pixels = to_uint8(load_style(tmp_path / name, 32, "keep"))
    assert np.abs(pixels.astype(int) - turned[..., None]).max() < 6


class TestPicturesThatAreOpen:
    """PIL images are read like their files, arrays as they are."""

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
    def test_arrays(self, mode: str) -> None:
        pixels = np.asarray(NOISE.convert(mode))
        before = pixels.copy()
        assert torch.equal(load_style(pixels, 32), tensor(NOISE.convert(mode).convert("RGB")))
        assert np.array_equal(pixels, before)

    def test_a_transparent_array_is_named(self) -> None:
        with pytest.raises(InputError, match="image 'array' is transparent everywhere"):
            load_style(np.zeros((16, 16, 4), np.uint8))

    def test_part_of_an_array(self) -> None:
        pixels = np.asarray(noise(64, 64))[::2, ::-2]
        assert np.array_equal(to_uint8(load_style(pixels, 32)), pixels)

    @pytest.mark.parametrize(
        "pixels",
        [
            np.zeros((32, 32, 3)),
            np.zeros((32, 32), np.uint16),
            np.zeros((32, 32, 2), np.uint8),
            np.zeros((1, 32, 32, 3), np.uint8),
            np.zeros((0, 32, 3), np.uint8),
        ],
    )
    def test_other_arrays_are_refused(self, pixels: np.ndarray) -> None:
        with pytest.raises(InputError, match=r"style is an array of .*, but must be of uint8 and"):
            load_style(pixels)

    @pytest.mark.parametrize("style", [None, 3, ["a.png"], b"a.png", torch.zeros(3, 32, 32)])
    def test_nothing_else(self, style: object) -> None:
        with pytest.raises(InputError, match=r"style is .*, but must be a file, a name"):
            load_style(style)

    def test_an_image_is_read_like_its_file(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        noise(40, 60).save(tmp_path / "a.png", icc_profile=rgb_icc(ADOBE_D50, 2.2), exif=exif)
        with pytest.warns(UserWarning, match="converted from Test"):
            expected = load_style(tmp_path / "a.png", 32)
        with Image.open(tmp_path / "a.png") as picture:
            with pytest.warns(UserWarning, match="image: its colours are converted from Test"):
                assert torch.equal(load_style(picture, 32), expected)
            assert picture.size == (60, 40)  # it is the reader's, and stays as it was

    def test_a_run_of_one_is_kept(self, tmp_path: Path, bundled: Encoder) -> None:
        for style, name in ((NOISE, "image"), (np.asarray(NOISE), "array")):
            task = plan(style, size=32, encoder=bundled, iterations=1, layer="relu_1_1")
            run, _ = store.obtain(task, tmp_path)
            assert (run.record.source, run.record.style) == (name, name)
            assert store.obtain(task, tmp_path)[1]


def test_what_was_done_is_in_the_record(tmp_path: Path, bundled: Encoder) -> None:
    """A picture whose colours are converted is not the one that was inverted before."""
    asked = {"size": 32, "encoder": bundled, "iterations": 1, "layer": "relu_1_1"}
    NOISE.save(tmp_path / "plain.png")
    NOISE.save(tmp_path / "srgb.png", icc_profile=rgb_icc())
    NOISE.save(tmp_path / "adobe.png", icc_profile=rgb_icc(ADOBE_D50, 2.2))
    plain, srgb = plan(tmp_path / "plain.png", **asked), plan(tmp_path / "srgb.png", **asked)
    with pytest.warns(UserWarning, match=r"adobe.png: its colours are converted from Test to sRGB"):
        adobe = plan(tmp_path / "adobe.png", **asked)
    assert plain.address == srgb.address != adobe.address
    assert store.run_of(plain.run()).record.notes == ()
    store.save(store.run_of(adobe.run()), tmp_path)
    found = store.find(adobe, tmp_path)
    assert found is not None
    assert found.record.notes == ("its colours are converted from Test to sRGB",)
    assert found.record.is_intact
    assert b"notes" not in store.save(store.run_of(plain.run()), tmp_path).read_bytes()
