"""Animations of runs: the iterates that they show, the files that they are, what makes none."""

import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from msgspec import structs
from PIL import Image, features

import styleinv
from styleinv import InputError
from styleinv.encoder import Encoder
from styleinv.images import Pixels, load_style, save_png, to_uint8
from styleinv.inversion import Task, plan
from styleinv.optim import Iterate
from styleinv.runs import animation, store
from styleinv.runs.again import read_record, task_again
from styleinv.runs.animation import HEIGHT_OF_LOSS, LAST, Frame, frames_of
from styleinv.runs.record import Record, sealed
from styleinv.runs.store import Run
from styleinv.runs.sweeps import sweep

SIZE, EVALUATIONS = 32, 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, bundled: Encoder) -> Run:
    asked = {"layers": ["relu_1_1"], "losses": ["moment-3"], "encoder": bundled, "size": SIZE}
    folder = tmp_path_factory.mktemp("runs")
    return next(
        iter(sweep(["bundled:dots"], folder=folder, iterations=EVALUATIONS, **asked).values())
    )


@pytest.fixture(scope="module")
def frames(run: Run) -> list[Frame]:
    return frames_of(task_again(run.record), EVALUATIONS, 12, lambda iterate: False)[0]


def test_frames_are_the_iterates_at_log_spaced_evaluations(run: Run, frames: list[Frame]) -> None:
    """As `invert` shows them to a callback; the first is the noise, the last the kept picture."""
    seen: dict[int, tuple[float, Pixels]] = {}

    def see(iterate: Iterate) -> bool:
        seen[iterate.evaluations] = iterate.loss, to_uint8(iterate.image)
        return False

    asked = {"layer": "relu_1_1", "loss": "moment-3", "size": SIZE, "iterations": EVALUATIONS}
    styleinv.invert("bundled:dots", callback=see, **asked)  # type: ignore[arg-type]
    for frame in frames[:-1]:
        loss, pixels = seen[frame.evaluations]
        assert frame.loss == loss
        np.testing.assert_array_equal(frame.pixels, pixels)
    at = [frame.evaluations for frame in frames]
    assert at[0] == 1
    assert at == sorted(set(at))
    # Each is the first iterate at or beyond its place on the log scale.
    due = sorted({round(x) for x in np.geomspace(1, run.record.result.evaluations, 12)})
    assert at[:-1] == sorted({min(x for x in seen if x >= place) for place in due[:-1]} - {at[-1]})
    np.testing.assert_array_equal(frames[-1].pixels, run.image)
    assert frames[-1].loss == run.record.result.loss


def pictures(file: Path) -> Iterator[tuple[Pixels, int]]:
    """Every frame of a file, and the milliseconds for which it is shown."""
    with Image.open(file) as image:
        for number in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            pixels = np.asarray(image.convert("RGB"))
            yield pixels, int(image.info["duration"])


@pytest.mark.skipif(not features.check("webp"), reason="this Pillow has no WebP")
def test_a_webp_has_every_pixel(frames: list[Frame], tmp_path: Path) -> None:
    """Enlarged by a whole factor, above the loss and its curve."""
    animation.write(frames, file := tmp_path / "run.WEBP")
    shown = list(pictures(file))
    assert len(shown) == len(frames)
    for (pixels, _), frame in zip(shown, frames, strict=True):
        assert pixels.shape == (256 + HEIGHT_OF_LOSS, 256, 3)
        np.testing.assert_array_equal(pixels[:256], frame.pixels.repeat(8, 0).repeat(8, 1))
    assert shown[-1][1] == LAST
    # More of the curve is drawn from frame to frame.
    dark = [(pixels[256 + HEIGHT_OF_LOSS // 3 :] < 100).sum() for pixels, _ in shown]
    assert dark[0] < dark[len(dark) // 2] < dark[-1]


def test_a_gif_has_256_colours(frames: list[Frame], tmp_path: Path) -> None:
    animation.write(frames, file := tmp_path / "run.gif")
    *_, (pixels, milliseconds) = pictures(file)
    assert milliseconds == LAST
    away = np.abs(pixels[4:256:8, 4:256:8].astype(int) - frames[-1].pixels)
    assert away.mean() < 16
    assert [path.name for path in tmp_path.iterdir()] == ["run.gif"]


def test_losses_of_0_and_below_are_drawn_too(frames: list[Frame]) -> None:
    """The MMD as printed can be negative."""
    some = [Frame(i, loss, frames[0].pixels) for i, loss in ((1, 2.0), (3, 0.0), (9, -1.0))]
    for image in animation.drawn(some), animation.drawn(some[:1]):
        assert {one.size for one in image} == {(256, 256 + HEIGHT_OF_LOSS)}


def test_a_run_that_is_stopped_says_so(run: Run) -> None:
    _, made = frames_of(task_again(run.record), EVALUATIONS, 5, lambda x: x.evaluations > 9)
    assert made.stop_reason == "stopped"


def altered(record: Record, **values: object) -> Record:
    return sealed(structs.replace(record, **values))


def test_what_cannot_be_made_again_is_one_sentence(run: Run) -> None:
    record = run.record
    stopped = structs.replace(record.result, stop_reason="time")
    older = structs.replace(record.made_with, results=0)
    file = structs.replace(record.asked, encoder="mine", encoder_sha256=64 * "0")
    other = structs.replace(record.asked, style_sha256=64 * "0")
    for values, sentence in (
        ({"result": stopped}, "it was ended by 'time'"),
        ({"made_with": older}, "made by version 0 of the results"),
        ({"asked": file}, "encoder 'mine', sha256 000000000000: give it with --encoder"),
        ({"asked": other}, "here it would have another style image$"),
        ({"source": "painting.jpg"}, "image 'painting.jpg' is not an existing file"),
    ):
        with pytest.raises(InputError, match=sentence):
            task_again(altered(record, **values))


def test_a_limit_of_seconds_and_an_own_image_are_kept(tmp_path: Path, bundled: Encoder) -> None:
    """`style` says where the image is if it is not in the current folder."""
    save_png(load_style("bundled:dots", 24), tmp_path / "own.png")
    task = plan(tmp_path / "own.png", encoder=bundled, size=16, iterations=2, seconds=900.0)
    record = store.run_of(task.run()).record
    with pytest.raises(InputError, match=r"image 'own.png' is not an existing file"):
        task_again(record)
    again = task_again(record, style=str(tmp_path / "own.png"))
    assert isinstance(again, Task)
    assert again.address == record.address
    assert torch.equal(again.style, task.style)


def test_records_are_found_by_their_picture_and_in_a_pack(run: Run, tmp_path: Path) -> None:
    path = store.save(run, tmp_path)
    assert read_record(path) == read_record(path.with_suffix(".png")) == run.record
    store.pack(tmp_path)
    assert not path.exists()
    assert read_record(path) == run.record
    (tmp_path / "copy.json").write_bytes(msgspec.json.encode(run.record))
    assert read_record(tmp_path / "copy.json") == run.record


@pytest.mark.parametrize("name", ["run.mp4", "run", "gif"])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"but must end in .gif or .webp"):
        animation.check_format(Path(name))


def test_a_pillow_without_webp_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(InputError, match=r"cannot write WebP; \.gif it can"):
        animation.check_format(Path("run.webp"))
    animation.check_format(Path("run.gif"))


def test_ctrl_c_while_it_is_written_leaves_nothing(
    frames: list[Frame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(self: Image.Image, part: Path, **_: object) -> None:
        part.write_bytes(b"GIF89a")
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Image.Image, "save", press)
    with pytest.raises(KeyboardInterrupt):
        animation.write(frames, tmp_path / "run.gif")
    assert list(tmp_path.iterdir()) == []
