"""What is said before a run: the image, the memory, the time."""

import dataclasses
import math
from pathlib import Path

import pytest
from PIL import Image, ImageCms

from styleinv import LAYERS, InputError, preflight
from styleinv.encoder import Encoder
from styleinv.images import describe
from styleinv.inversion import Task, plan
from styleinv.preflight import Range, forecast
from styleinv.protocol import FAST


@pytest.fixture
def task(bundled: Encoder) -> Task:
    return plan("bundled:dots", layer="relu_1_1", size=16, encoder=bundled)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, bundled: Encoder) -> None:
    """An evaluation takes 1 to 3 s; runs end after 10 to 40 evaluations, or five times as many."""
    monkeypatch.setattr(preflight, "_seconds_of_an_evaluation", lambda task: Range(1.0, 2.0, 3.0))
    cells = {"16": {"relu_1_1": {"gram": [10, 20, 40]}}}
    cells["256"] = {"relu_1_1": {"gram": [50, 100, 200], "moment-2": [7, 8, 9]}}
    monkeypatch.setattr(preflight, "_known", lambda: {bundled.sha256: cells})


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ({"size": 16}, (10, 40, 120)),
        ({"size": 63}, (10, 40, 120)),  # of two sizes, the nearer one by its ratio
        ({"size": 65}, (50, 200, 600)),
        ({"size": 16, "loss": "moment-2"}, (7, 16, 27)),
        ({"size": 16, "iterations": 30}, (10, 40, 90)),  # never more than the budget
        ({"size": 256, "seconds": 70}, (50, 70, 70)),
        ({"size": 16, "loss": "mmd"}, (400, 800, 1200)),  # which theta never ends
        # Nothing is known of these but the budget: 1000, and 100,000 + 240,000 of Adam.
        ({"size": 16, "protocol": "scipy"}, (1000, 1800, 1800)),
        ({"size": 16, "protocol": "chapter"}, (340e3, 680e3, 1020e3)),
    ],
)
def test_seconds_are_evaluations_times_what_one_takes(
    bundled: Encoder, asked: dict[str, object], seconds: tuple[float, float, float]
) -> None:
    found = forecast(plan("bundled:dots", layer="relu_1_1", encoder=bundled, **asked))
    assert found.seconds == Range(*seconds)
    ends = {70: "ends at its limit of 1:10 min: 100 evaluations of 2,000 ms would take 3:20 min"}
    ends |= {
        1800: "ends at its limit of 30:00 min: 1,000 evaluations of 2,000 ms would take 33:20 min"
    }
    ends |= {
        680e3: "takes at most about 188:53 h: 340,000 evaluations of 2,000 ms; it ends earlier"
    }
    ends[800] = "takes about 13:20 min (6:40 min to 20:00 min): 400 evaluations of 2,000 ms"
    ends[16] = "takes 7.0 s to 27 s, because pictures differ: 7 to 9 evaluations of 2,000 ms"
    assert str(found).startswith(f"The run {ends.get(seconds[1], 'takes ')}")


def test_says_where_theta_is_out_of_reach(
    monkeypatch: pytest.MonkeyPatch, bundled: Encoder
) -> None:
    """As far as finished runs of this size, or larger, show it; a higher theta is another thing."""
    known = {size: {"runs": 6, "least": 2e-4, "most": 5e-3} for size in ("32", "64")}
    found = {bundled.sha256: {"relu_2_1": known}}
    monkeypatch.setattr(preflight, "_known_out_of_reach", lambda: found)

    def warning(**asked: object) -> str | None:
        asked = {"layer": "relu_2_1", "encoder": bundled, "size": 40, **asked}
        return preflight.out_of_reach(plan("bundled:dots", **asked))

    expected = "Theta, 1e-05, is hardly in reach: at 64 x 64, none of 6 runs of `fast` brought"
    assert (warning() or "").startswith(expected)
    assert "at 32 x 32" in (warning(size=32) or "")
    for other in ({"size": 65}, {"layer": "relu_1_2"}, {"loss": "mmd"}, {"protocol": "released"}):
        assert warning(**other) is None
    assert warning(protocol=dataclasses.replace(FAST, theta=1e-3)) is None
    tasks = 2 * [plan("bundled:dots", layer="relu_2_1", encoder=bundled, size=16)]
    lines = preflight.preflight(tasks, ["bundled:dots"])
    assert sum(line.startswith("Theta") for line in lines) == 1


@pytest.mark.usefixtures("known")
def test_runs_one_after_another_take_their_sum(bundled: Encoder) -> None:
    tasks = [
        plan("bundled:dots", layer="relu_1_1", loss=loss, size=16, encoder=bundled, seed=seed)
        for seed in (0, 1)
        for loss in ("gram", "moment-2")
    ]
    *_, time = preflight.preflight(tasks, ["bundled:dots"])
    assert time == "The 4 runs, one after another, take 34 s to 4:54 min, most likely 1:52 min."


@pytest.mark.parametrize("protocol", ["fast", "scipy", "unbounded", "chapter"])
@pytest.mark.parametrize("loss", ["gram", "moment-4", "mmd"])
def test_the_probe_measures_and_leaves_nothing(
    bundled: Encoder, protocol: str, loss: str, recwarn: pytest.WarningsRecorder
) -> None:
    task = plan("bundled:dots", loss=loss, size=16, encoder=bundled, protocol=protocol)
    each = forecast(task).each
    assert 0 < each.low <= each.likely <= each.high < math.inf
    assert not recwarn.list


def test_a_run_that_theta_ends_at_once_can_be_probed(task: Task) -> None:
    grey = plan(task.style * 0 + 0.5, layer="relu_1_1", loss="moment-1", encoder=task.encoder)
    assert forecast(grey).each.likely > 0


def test_known_evaluations_are_within_the_budget(bundled: Encoder) -> None:
    for sizes in preflight._known().values():
        for layers in sizes.values():
            assert set(layers) <= set(LAYERS)
            for losses in layers.values():
                for low, likely, high in losses.values():
                    assert 1 <= low <= likely <= high <= 2500
    assert bundled.sha256 in preflight._known()


def save(picture: Image.Image, path: Path, **options: object) -> Path:
    picture.save(path, **options)
    return path


def test_describes_what_is_read_and_cut_off(tmp_path: Path) -> None:
    wide = save(Image.new("RGB", (200, 100)), tmp_path / "wide.jpg")
    assert describe(wide, 50) == (
        f"{wide}: JPEG, RGB, no colour profile, no alpha, 200 x 100 pixels. "
        "It is resized to 100 x 50; 50% of it, left and right, is cut off."
    )
    assert describe(wide, 50, "keep").endswith("to 100 x 50; nothing is cut off.")
    odd = save(Image.new("RGB", (16, 4000)), tmp_path / "two\nlines.png")
    assert describe(odd, 16).endswith("to 16 x 4,000; 99% of it, top and bottom, is cut off.")
    assert "two lines.png: PNG" in describe(odd, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = save(Image.new("RGBA", (200, 160)), tmp_path / "a.png", exif=exif, icc_profile=profile)
    assert describe(turned, 32) == (
        f"{turned}: PNG, RGBA, colour profile, alpha, turned as its EXIF data says, "
        "160 x 200 pixels. It is resized to 32 x 40; 20% of it, top and bottom, is cut off."
    )
    two = {"save_all": True, "append_images": [Image.new("RGB", (64, 64), "red")]}
    pages = save(Image.new("RGB", (64, 64)), tmp_path / "two.tif", **two)
    assert "no alpha, 2 frames or pages, 64 x 64 pixels" in describe(pages, 32)
    assert describe("bundled:dots", 64).startswith("bundled:dots: a painted style, 64 x 64 pixels")
    assert "a photograph, RGB, 600 x 400 pixels" in describe("skimage:coffee", 64)


def test_what_does_not_fit_is_refused(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("styleinv.machine.available_memory", lambda: 1e5)
    with pytest.raises(InputError, match="size 16 with gram at relu_1_1 needs about"):
        preflight.preflight([task], ["bundled:dots"])
