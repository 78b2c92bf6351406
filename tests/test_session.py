"""A session of the live page: what a reader may do to a run, and what the page then shows."""

import itertools
import json
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import styleinv
from styleinv import InputError, memory
from styleinv.encoder import Encoder
from styleinv.inversion import plan
from styleinv.live import session, widget
from styleinv.live.board import Board, References, wishes_of
from styleinv.live.session import Attempt, Session
from styleinv.live.widget import CHOICE, LivePage
from styleinv.losses import LOSSES
from styleinv.optim import Iterate
from styleinv.runs import store
from styleinv.runs.record import duration
from styleinv.styles import paint
from tests.conftest import ROOT

SMALL: dict[str, Any] = {"style": "bundled:strokes", "layer": "relu_1_1", "loss": "gram"}


@pytest.fixture
def wish(bundled: Encoder) -> dict[str, Any]:
    """A run of a second or so, if nobody stops it."""
    return {**SMALL, "size": 24, "encoder": bundled, "iterations": 150}


@pytest.fixture
def endless(wish: dict[str, Any]) -> dict[str, Any]:
    """A run that only the reader ends: Adam stays above theta at a deep layer for long."""
    return {**wish, "layer": "relu_2_2", "protocol": "chapter", "iterations": 10**6}


@pytest.fixture
def running() -> Iterator[Session]:
    """A session that leaves no thread behind."""
    opened = Session()
    yield opened
    opened.stop()
    opened.join(10)
    assert not opened.is_alive()


def wait(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_a_run_is_what_invert_makes(running: Session, wish: dict[str, Any]) -> None:
    running.start([wish])
    running.join()
    (attempt,) = running.attempts
    expected = styleinv.invert(**wish)
    assert attempt.phase == "ended"
    assert attempt.result is not None
    assert torch.equal(attempt.result.image, expected.image)
    assert attempt.points[-1] == (expected.evaluations, expected.loss)
    assert attempt.result.stop_reason == expected.stop_reason


def test_pauses_change_no_bit_and_are_not_counted(running: Session, wish: dict[str, Any]) -> None:
    began, paused = time.perf_counter(), 0.0
    running.pause()  # is forgotten: a start is a start
    running.start([wish])
    (attempt,) = running.attempts
    for iteration in (10, 40):
        wait(lambda least=iteration: attempt.iteration >= least)
        running.pause()
        wait(lambda: attempt.phase == "paused")
        before = attempt.iteration
        time.sleep(0.4)
        paused += 0.4
        assert attempt.iteration == before
        assert attempt.pixels is not None
        running.resume()
    running.join()
    wall = time.perf_counter() - began
    assert attempt.result is not None
    assert torch.equal(attempt.result.image, styleinv.invert(**wish).image)
    assert len(attempt.pauses) == 2
    assert attempt.result.seconds <= wall - paused
    seconds = [point.seconds for point in attempt.result.trace]
    assert seconds == sorted(seconds)
    steps = [b - a for a, b in itertools.pairwise(seconds)]
    assert max(steps) < 0.35
    assert seconds[-1] == pytest.approx(attempt.result.seconds, abs=0.01)


def test_stops_within_one_iteration(running: Session, endless: dict[str, Any]) -> None:
    running.start([endless])
    (attempt,) = running.attempts
    wait(lambda: attempt.iteration > 3)
    with running.lock:
        running.stop()
        at = attempt.iteration
    running.join(5)
    assert attempt.result is not None
    assert attempt.result.stop_reason == "stopped"
    assert at <= attempt.result.iterations <= at + 1


def test_a_paused_run_stops_where_it_is(running: Session, endless: dict[str, Any]) -> None:
    running.start([endless])
    running.pause()
    (attempt,) = running.attempts
    wait(lambda: attempt.phase == "paused")
    at = attempt.iteration
    running.stop()
    running.join(5)
    assert attempt.result is not None
    assert attempt.result.iterations == at


def test_runs_go_one_after_another(running: Session, endless: dict[str, Any]) -> None:
    wishes = [{**endless, "layer": layer} for layer in styleinv.LAYERS]
    running.start(wishes)
    for number in range(3):
        attempt = running.attempts[number]
        wait(lambda attempt=attempt: attempt.iteration > 1)
        phases = [one.phase for one in running.attempts]
        assert phases == ["ended"] * number + ["running"] + ["waiting"] * (3 - number)
        if number < 2:
            running.skip()
    running.stop()
    running.join(5)
    results = [attempt.result for attempt in running.attempts]
    assert [result and result.task.layer for result in results] == [*styleinv.LAYERS[:3], None]
    assert running.attempts[3].phase == "waiting"


def test_one_start_at_a_time(running: Session, endless: dict[str, Any]) -> None:
    running.start([endless])
    with pytest.raises(InputError, match="still going on"):
        running.start([endless])
    running.clear()
    assert running.attempts == []
    running.join(5)
    running.start([{**endless, "iterations": 2}])
    running.join()
    assert running.attempts[0].result is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style": "absent.png"}, "image 'absent.png' is not an existing file"),
        ({"encoder": "absent.pth"}, "encoder 'absent.pth' is neither an existing weights file"),
        ({"loss": "mmd-random"}, "allowed are protocols that use Adam"),
        ({"layer": "relu_9_9"}, "layer is 'relu_9_9'"),
    ],
)
def test_what_is_wrong_is_said_and_the_session_goes_on(
    running: Session, wish: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    running.start([{**wish, **change}, wish])
    running.join()
    failed, left_out = running.attempts
    assert failed.phase == "failed"
    assert message in failed.message
    assert left_out.phase == "waiting"
    running.start([{**wish, "iterations": 2}])
    running.join()
    assert running.attempts[0].phase == "ended"


def test_whatever_happens_is_said(
    running: Session, wish: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, said in (
        (KeyError("oh"), "KeyError: 'oh'"),
        (RuntimeError("not enough memory: you tried\nmore"), "not enough memory: you tried"),
    ):

        def fail(error: Exception = error, **_: Any) -> None:
            raise error

        monkeypatch.setattr(session, "plan", fail)
        running.start([wish])
        running.join()
        assert running.attempts[0].message == f"the run failed: {said}"


def test_saves_what_has_ended(running: Session, wish: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no picture to save"):
        running.save(tmp_path)
    running.start([{**wish, "iterations": 3}])
    running.join()
    (path,) = running.save(tmp_path / "out")
    run = store.read(path)
    assert (run.image == running.attempts[0].pixels).all()
    assert run.record["result"]["evaluations"] == 3
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        running.save(tmp_path / "file")


def test_uploads(running: Session, painting: Path, tmp_path: Path) -> None:
    path, notes = running.take_upload(f"../../{painting.name}", painting.read_bytes())
    assert path.name == painting.name
    assert Path(running._uploads.name) in path.parents
    assert "transparent" in notes[0]
    assert str(path.parent) not in notes[0]
    for name, content, message in (
        ("notes.png", b"no picture at all", "image 'notes.png' is in no format that can be read"),
        ("C:\\x\\empty.png", b"", "image 'empty.png' is empty"),
        ("cut.png", painting.read_bytes()[:100], "image 'cut.png' is damaged"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            running.take_upload(name, content)
        assert running._uploads.name not in str(caught.value)


def test_curve_keeps_its_ends_and_little_between() -> None:
    attempt = Attempt(SMALL)
    for n in range(100_000):
        attempt.note(Iterate(n, n + 1, 1 / (n + 1), 0.01 * n, torch.empty(0), "gram"))
    assert attempt.points[:5] == [(n, 1 / n) for n in range(1, 6)]
    assert attempt.points[-1] == (100_000, 1e-5)
    assert len(attempt.points) < 400
    assert attempt.rates() == pytest.approx((100, 100))


def test_time_left(running: Session, wish: dict[str, Any]) -> None:
    running.start([wish])
    running.pause()
    (attempt,) = running.attempts
    wait(lambda: attempt.phase == "paused")
    copy = replace(attempt, points=[(100, 1.0)], iteration=90, seconds=10.0)
    copy.marks.clear()
    copy.marks.append((5.0, 40, 50))
    assert copy.rates() == (10, 10)
    assert copy.seconds_left() == 5
    copy.marks.clear()
    assert math.isnan(copy.seconds_left())


# --- The board ----------------------------------------------------------------------------------


def test_what_is_run_for_a_choice() -> None:
    def cells(**choice: Any) -> list[tuple[str, str]]:
        return [(w["layer"], w["loss"]) for w in wishes_of({**CHOICE, **choice})]

    assert cells() == [("relu_2_1", "gram")]
    assert cells(show="compare") == [("relu_2_1", "gram"), ("relu_2_1", "moment-3")]
    assert cells(show="layers", loss="mmd") == [(layer, "mmd") for layer in styleinv.LAYERS]
    assert cells(show="moments") == [("relu_2_1", f"moment-{n}") for n in (1, 2, 3, 4)]
    (wish,) = wishes_of({**CHOICE, "loss": "mmd", "pairing": "random", "alpha": 2})
    assert (wish["loss"], wish["alpha"]) == ("mmd-random", 2)
    assert "alpha" not in wishes_of(CHOICE)[0]
    (wish,) = wishes_of({**CHOICE, "encoder": "file", "weights": " my.pth "})
    assert wish["encoder"] == "my.pth"


def test_the_kernel_width_is_part_of_what_is_asked_only_where_it_is_another(
    wish: dict[str, Any],
) -> None:
    mmd = {**wish, "loss": "mmd"}
    usual, same, wider = (plan(**mmd, **given) for given in ({}, {"alpha": 0.1}, {"alpha": 2.0}))
    assert "alpha" not in usual.asked()
    assert same.asked() == usual.asked()
    assert wider.asked() == {**usual.asked(), "alpha": 2.0}
    short = {**mmd, "iterations": 1}
    losses = [styleinv.invert(**short, alpha=alpha).loss for alpha in (0.1, 2.0)]
    assert losses[0] == styleinv.invert(**short).loss
    assert losses[1] != losses[0]
    with pytest.raises(InputError, match="loss 'gram' has no kernel width; only mmd and mmd-ran"):
        plan(**{**wish, "alpha": 2.0})
    with pytest.raises(InputError, match="alpha is nan, but must be a number greater than 0"):
        plan(**mmd, alpha=math.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, "size is None, but must be a whole number from 16"),
        ({"size": 5000}, "size is 5000"),
        ({"seed": -1}, "seed is -1"),
        ({"loss": "mmd", "alpha": None}, "alpha, the kernel width, must be a number"),
        ({"encoder": "file"}, "the field has no file's name"),
        ({"show": "all"}, "show is 'all'"),
    ],
)
def test_choices_that_cannot_be_run(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        wishes_of({**CHOICE, **change})


def test_every_option_can_be_run() -> None:
    assert {loss for loss, _ in widget.OPTIONS["loss"]} == set(LOSSES) - {"mmd-random"}
    assert widget.OPTIONS["adam"] == ["chapter", "released"]


def test_the_reference_is_that_of_the_same_cell(
    bundled: Encoder, wish: dict[str, Any], tmp_path: Path
) -> None:
    same = {**wish, "iterations": 5}
    store.save(store.run_of(styleinv.invert(**same)), tmp_path / "some")
    references = References(tmp_path)

    def curve(**change: Any) -> dict[str, Any]:
        return references.curve(plan(**{**same, **change}))

    found = curve()
    assert [evaluation for evaluation, _ in found["points"]] == [1, 2, 3, 4, 5]
    assert found["text"].startswith("Dashed: the reference run of the same cell")
    for change in (
        {"size": 32},
        {"seed": 1},
        {"layer": "relu_1_2"},
        {"loss": "moment-1"},
        {"encoder": "random"},
        {"iterations": 6},
        {"style": "bundled:dots"},
    ):
        other = curve(**change)
        assert "points" not in other, change
        assert other["text"].startswith("No reference run has the same")
    for folder in (None, tmp_path / "absent"):
        empty = References(folder).curve(plan(**same))
        assert empty == {"text": "There are no reference runs here to compare with."}
    (tmp_path / "odd.json").write_text("[]")
    assert curve()["points"]
    broken = References(tmp_path).curve(plan(**same))["text"]
    assert broken.startswith("The reference runs here cannot be read")


def test_reference_runs_in_the_repository_are_found() -> None:
    task = plan("bundled:strokes", layer="relu_2_1", encoder="random", size=128)
    assert len(References(ROOT / "results/runs").curve(task)["points"]) > 20


def test_the_board_of_a_run(wish: dict[str, Any]) -> None:
    seen = Board(References(None))
    assert seen.look()[0]["phase"] == "idle"
    seen.start([wish, {**wish, "loss": "moment-1"}])
    seen.session.join()
    state, pictures, style = seen.look()
    assert state["phase"] == "ended"
    assert state["size"] == {"height": 24, "width": 24}
    assert state["savable"]
    assert [run["short"] for run in state["runs"]] == ["Gram", "N = 1"]
    first, second = state["runs"]
    assert first["colour"] == "var(--ink)"
    assert second["colour"] == "#56b4e9"
    assert first["theta"] == 1e-5
    assert float(first["numbers"]["structure size"].split()[0]) > 0
    assert float(first["numbers"]["colour distance"]) >= 0
    assert "seed 0" in first["provenance"]
    assert all(picture is not None for picture in pictures)
    assert style is not None
    json.dumps(state, allow_nan=False)
    assert seen.look()[2] is style


def test_runs_of_one_loss_are_told_apart(wish: dict[str, Any]) -> None:
    seen = Board(References(None))
    seen.start([{**wish, "layer": layer, "iterations": 1} for layer in styleinv.LAYERS])
    seen.session.join()
    runs = seen.look()[0]["runs"]
    assert [run["short"] for run in runs] == list(styleinv.LAYERS)
    assert len({run["colour"] for run in runs}) == 4


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (63, "1:03 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_long_durations() -> None:
    assert duration(100 * 3600 + 61) == "100:01 h"


# --- The widget, without a browser --------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Iterator[LivePage]:
    page = widget.page(["bundled:dots"], out=tmp_path / "out", size=24, layer="relu_1_1")
    assert isinstance(page, LivePage)
    yield page
    page.session.stop()
    page.session.join(10)


def tell(widget: LivePage, wish: str, buffers: list[memoryview] | None = None, **more: Any) -> None:
    widget._receive(widget, {"do": wish, **more}, buffers or [])


def answered(widget: LivePage) -> bool:
    """Answer as a browser does."""
    tell(widget, "seen", tick=widget.state["tick"])
    return widget.session.is_alive()


def test_a_run_that_nobody_answers_ends(widget: LivePage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widget, "SILENCE", 0.5)
    choice = {**widget.choice, "protocol": "chapter"}
    tell(widget, "start", choice=choice)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert answered(widget)
        time.sleep(0.05)
    widget.session.join(5)
    wait(lambda: widget.state["phase"] == "ended", 5)
    assert widget.state["runs"][0]["status"] == "stopped"


def test_a_paused_run_that_nobody_answers_ends(
    widget: LivePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(widget, "SILENCE", 0.5)
    tell(widget, "start", choice={**widget.choice, "protocol": "chapter"})
    tell(widget, "pause")
    wait(lambda: not widget.session.is_alive(), 10)


def test_only_offered_styles_are_run(widget: LivePage, painting: Path) -> None:
    tell(widget, "start", choice={**widget.choice, "style": str(painting)})
    assert not widget.session.is_alive()
    assert widget.state["bad"]
    assert widget.state["message"].startswith("Style is '")


def test_an_upload_in_pieces(widget: LivePage, painting: Path) -> None:
    content = painting.read_bytes()
    about = {"name": painting.name, "total": len(content), "choice": widget.choice}
    for start in range(0, len(content), 500):
        assert len(widget.styles) == 16
        piece = memoryview(content[start : start + 500])
        tell(widget, "upload", [piece], start=start, **about)
    assert widget.styles[0]["label"] == painting.stem
    assert widget.choice["style"] == widget.styles[0]["value"] == "upload:0"
    assert "transparent" in widget.state["message"]
    tell(widget, "start", choice=widget.choice)
    wait(lambda: not answered(widget))
    wait(lambda: widget.state["phase"] == "ended")
    assert widget.state["runs"][0]["style"] == painting.stem
    tell(widget, "save")
    (record,) = widget.out.glob("*.json")
    assert json.loads(record.read_text())["source"] == painting.name
    assert widget.state["saved"] == [record.with_suffix(".png").name]
    assert widget.state["message"] == "Saved with its record in the folder out."


def test_files_that_are_too_large(widget: LivePage) -> None:
    total = widget.LARGEST_UPLOAD + 1
    tell(widget, "upload", name="huge.tif", start=0, total=total, choice={})
    assert widget.state["message"] == "File 'huge.tif' has 256 MB, but must have at most 256."
    assert widget.state["bad"]


def test_what_does_not_fit_is_refused(
    running: Session, wish: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1e9)
    running.start([{**wish, "size": 4096}])
    running.join()
    assert running.attempts[0].message == (
        "size 4096 with gram at relu_1_1 needs about 62.1 GB of memory, but 1.0 GB are free; "
        "the largest size that fits is 512"
    )


# --- The snapshot -------------------------------------------------------------------------------


def test_the_snapshot_needs_no_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a </script> b.png"
    styleinv.save_png(torch.from_numpy(paint("dots", 24)).permute(2, 0, 1), path)
    monkeypatch.setenv("STYLEINV_STATIC", "1")
    page = widget.page([path], size=24, layer="relu_1_1", evaluations=7)
    html = str(page.data)
    assert str(tmp_path) not in html
    assert html.count("</script>") == 2
    assert widget.NEEDS_KERNEL in html
    assert 'class="provenance"' in html
    assert "7 evaluations" in html
    assert "http" not in html.replace("http://www.w3.org/", "")
