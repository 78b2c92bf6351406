"""Reading whatever a reader has, and writing it back without loss."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from torchvision.transforms import v2

from styleinv import InputError, load_style, save_png
from styleinv.images import public_name, short_name, to_uint8


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@given(npst.arrays(np.uint8, st.tuples(st.integers(16, 24), st.integers(16, 24), st.just(3))))
def test_png_round_trip_is_lossless(tmp_path_factory: pytest.TempPathFactory, pixels) -> None:
    path = tmp_path_factory.mktemp("png") / "a.png"
    image = torch.from_numpy(pixels).permute(2, 0, 1) / 255
    save_png(image, path)
    again = load_style(path, min(pixels.shape[:2]), "keep")
    assert torch.equal(again, image)
    assert list(path.parent.iterdir()) == [path]


def test_shorter_side_is_resized_and_the_centre_cut_out(tmp_path: Path) -> None:
    """Three vertical thirds, red, green, blue: the square in the middle is green."""
    wide = np.zeros((20, 120, 3), np.uint8)
    for third in range(3):
        wide[:, 40 * third : 40 * (third + 1), third] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    cropped = load_style(tmp_path / "wide.png", 18)
    assert cropped.shape == (3, 18, 18)
    assert cropped[1].min() == 1
    assert cropped[0].max() == cropped[2].max() == 0
    kept = load_style(tmp_path / "wide.png", 18, "keep")
    assert kept.shape == (3, 18, 108)
    assert (kept[0, :, 0] == 1).all()
    assert (kept[2, :, -1] == 1).all()


@pytest.mark.parametrize("shape", [(32, 32), (40, 49), (49, 40), (33, 101), (64, 27)])
def test_resize_and_crop_are_torchvisions(shape: tuple[int, int], tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    theirs = v2.Compose([v2.Resize(20), v2.CenterCrop(20), v2.PILToTensor()])
    expected = theirs(Image.fromarray(noise)) / 255
    assert torch.equal(load_style(tmp_path / "a.png", 20), expected)


def test_grey_palette_cmyk_and_16_bit(tmp_path: Path) -> None:
    grey = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    expected = torch.from_numpy(grey).expand(3, -1, -1) / 255
    for name in ("grey.png", "palette.png", "deep.png"):
        assert torch.equal(load_style(tmp_path / name, 32), expected), name
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "red.tif")
    red = load_style(tmp_path / "red.tif", 32)
    assert red[0].min() > 0.9
    assert red[1:].max() < 0.2


def test_transparency_is_composited_on_white_and_said(tmp_path: Path) -> None:
    image = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 16, 32))
    image.save(tmp_path / "half.png")
    with pytest.warns(UserWarning, match=r"half.png.*white"):
        loaded = load_style(tmp_path / "half.png", 32)
    assert loaded[:, 5, 5].tolist() == [0, 0, 1]
    assert loaded[:, 5, 25].tolist() == [1, 1, 1]


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "black")
    image.paste("white", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the left half comes on top
    image.save(tmp_path / "turned.png", exif=exif)
    turned = load_style(tmp_path / "turned.png", 20, "keep")
    assert turned.shape == (3, 40, 20)
    assert turned[:, :20].min() == 1
    assert turned[:, 20:].max() == 0


def test_enlarging_is_said(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "small.png")
    with pytest.warns(UserWarning, match="32 pixels is enlarged to 64"):
        assert load_style(tmp_path / "small.png", 64).shape == (3, 64, 64)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["bundled:mosaic", "skimage:brick", "skimage:coffee"])
def test_named_styles(name: str) -> None:
    image = load_style(name, 48)
    assert image.shape == (3, 48, 48)
    assert image.dtype == torch.float32
    assert 0 <= image.min() < image.max() <= 1
    assert short_name(name) == name.split(":")[1]
    assert public_name(name) == name


def test_the_public_name_of_a_file_hides_its_folder(tmp_path: Path) -> None:
    assert public_name(tmp_path / "my.picture.jpg") == "my.picture.jpg"
    assert short_name(tmp_path / "my.picture.jpg") == "my.picture"


def test_rounds_to_the_nearest_level() -> None:
    image = torch.tensor([0.0, 0.499 / 255, 0.501 / 255, 1.0]).reshape(1, 1, 4).expand(3, 1, 4)
    assert to_uint8(image)[0, :, 0].tolist() == [0, 0, 1, 255]


class TestRefuses:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"absent.png' is not an existing file .*bundled:"):
            load_style(tmp_path / "absent.png")
        with pytest.raises(InputError, match="not an existing file"):
            load_style(tmp_path)

    def test_not_an_image(self, tmp_path: Path) -> None:
        (tmp_path / "text.png").write_text("no picture")
        with pytest.raises(InputError, match="in no format that can be read"):
            load_style(tmp_path / "text.png")

    def test_truncated(self, tmp_path: Path, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(tmp_path / "a.png")
        (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
        with pytest.raises(InputError, match="damaged"):
            load_style(tmp_path / "a.png")

    def test_floating_point_pixels(self, tmp_path: Path) -> None:
        Image.fromarray(np.ones((32, 32), np.float32)).save(tmp_path / "float.tif")
        with pytest.raises(InputError, match="8 or 16 bits"):
            load_style(tmp_path / "float.tif")

    def test_a_name_no_file_system_takes(self) -> None:
        with pytest.raises(InputError, match="not an existing file"):
            load_style(300 * "x" + ".png")

    def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="cannot be written"):
            save_png(torch.zeros(3, 16, 16), str(tmp_path / "file" / "a.png"))

    def test_too_small(self, tmp_path: Path) -> None:
        Image.new("RGB", (5000, 1)).save(tmp_path / "line.png")
        with pytest.raises(InputError, match=r"5000 x 1 pixels.*16 or more"):
            load_style(tmp_path / "line.png")

    @pytest.mark.parametrize("size", [-1, 3, 15, 4097])
    def test_size(self, size: int) -> None:
        with pytest.raises(
            InputError, match=f"size is {size}, but must be a whole number from 16 to 4,096"
        ):
            load_style("bundled:mosaic", size)

    @pytest.mark.parametrize("name", ["bundled:cubism", "skimage:mona_lisa"])
    def test_unknown_names(self, name: str) -> None:
        with pytest.raises(InputError, match="must be one of"):
            load_style(name)

    def test_fit(self) -> None:
        with pytest.raises(InputError, match="fit is 'stretch'"):
            load_style("bundled:mosaic", 32, "stretch")
