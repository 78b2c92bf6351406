"""A session of the live page: what a reader may do to a run, and what the page then shows."""

import itertools
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import styleinv
from styleinv.encoder import Encoder
from styleinv.inversion import plan
from styleinv.live import widget
from styleinv.live.choices import CHOICE, OPTIONS, runs_of
from styleinv.live.session import Attempt, Session
from styleinv.live.view import References, View
from styleinv.live.widget import LivePage
from styleinv.optim import Iterate
from styleinv.runs import store
from tests.conftest import wait_for


@pytest.fixture
def wish(bundled: Encoder) -> dict[str, Any]:
    """A run of a second or so, if nobody stops it."""
    cell = {"style": "bundled:strokes", "layer": "relu_1_1", "loss": "gram"}
    return {**cell, "size": 24, "encoder": bundled, "iterations": 150}


@pytest.fixture
def endless(wish: dict[str, Any]) -> dict[str, Any]:
    """A run that only the reader ends: Adam stays above theta at a deep layer for long."""
    return {**wish, "layer": "relu_2_2", "protocol": "chapter", "iterations": 10**6}


@pytest.fixture
def running() -> Iterator[Session]:
    """A session that leaves no thread behind."""
    opened = Session()
    yield opened
    opened.tell("stop")
    opened.join(10)
    assert not opened.is_alive()


def test_pauses_change_no_bit_and_are_not_counted(running: Session, wish: dict[str, Any]) -> None:
    running.tell("pause")  # has no effect on the runs of a later start
    running.start([wish])
    (attempt,) = running.attempts
    for iteration in (10, 40):
        wait_for(lambda least=iteration: attempt.iteration >= least)
        running.tell("pause")
        wait_for(lambda: attempt.phase == "paused")
        before = attempt.iteration
        time.sleep(0.4)
        assert attempt.iteration == before
        assert attempt.pixels is not None
        running.tell("resume")
    running.join()
    expected = styleinv.invert(**wish)
    assert attempt.result is not None
    assert torch.equal(attempt.result.image, expected.image)
    assert attempt.result.stop_reason == expected.stop_reason
    assert attempt.points[-1] == (expected.evaluations, expected.loss)
    seconds = [point.seconds for point in attempt.result.trace]
    assert seconds[-1] == pytest.approx(attempt.result.seconds, abs=0.01)
    assert all(0 <= after - before < 0.35 for before, after in itertools.pairwise(seconds))


def test_steps_go_to_the_next_iterate_and_wait(running: Session, endless: dict[str, Any]) -> None:
    running.start([endless])
    (attempt,) = running.attempts
    wait_for(lambda: attempt.iteration > 3)
    running.tell("step")  # as a pause, while the run goes on
    wait_for(lambda: attempt.phase == "paused")
    for _ in range(3):
        before, shown = attempt.iteration, attempt.pixels
        running.tell("step")
        wait_for(lambda before=before: attempt.iteration > before and attempt.phase == "paused")
        time.sleep(0.1)
        assert attempt.iteration == before + 1
        assert attempt.pictured == attempt.points[-1]
        assert attempt.pixels is not shown
    running.tell("resume")
    wait_for(lambda: attempt.iteration > before + 3)


def test_stops_within_one_iteration_and_starts_nothing_before(
    running: Session, endless: dict[str, Any]
) -> None:
    running.start([endless])
    (attempt,) = running.attempts
    wait_for(lambda: attempt.iteration > 3)
    with pytest.raises(styleinv.InputError, match="still going on"):
        running.start([endless])
    with running.lock:
        at = attempt.iteration
        running.tell("stop")
    running.join(5)
    assert attempt.result is not None
    assert attempt.result.stop_reason == "stopped"
    assert at <= attempt.result.iterations <= at + 1


def test_runs_go_one_after_another(running: Session, endless: dict[str, Any]) -> None:
    running.start([{**endless, "layer": layer} for layer in styleinv.LAYERS[:3]])
    for number, order in enumerate(("skip", "stop")):
        wait_for(lambda attempt=running.attempts[number]: attempt.iteration > 1)
        phases = [attempt.phase for attempt in running.attempts]
        assert phases == ["ended"] * number + ["running"] + ["waiting"] * (2 - number)
        running.tell(order)
    running.join(5)
    assert [attempt.phase for attempt in running.attempts] == ["ended", "ended", "waiting"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 4096, "loss": "mmd-vector"}, "size 4096 .* needs about .* GB of memory"),
        ({"unknown": 1}, "the run failed: TypeError: .* unexpected keyword argument 'unknown'"),
    ],
)
def test_a_run_that_fails_says_why_and_the_session_goes_on(
    running: Session, wish: dict[str, Any], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    running.start([{**wish, **change}, wish])
    running.join()
    failed, left_out = running.attempts
    assert (failed.phase, left_out.phase) == ("failed", "waiting")
    assert re.match(message, failed.message)
    with pytest.raises(styleinv.InputError, match="no picture to save"):
        running.save(tmp_path)
    running.start([{**wish, "iterations": 2}])
    running.join()
    (saved,) = running.save(tmp_path)
    assert store.read(saved).record.result.evaluations == 2


def test_uploads(running: Session, painting: Path) -> None:
    path, (note,) = running.take_upload(f"../../{painting.name}", painting.read_bytes())
    assert path.name == painting.name
    assert path.parent.parent.parent == Path(tempfile.gettempdir())
    assert note.startswith(f"{painting.name}: ")
    assert "transparent" in note
    with pytest.raises(styleinv.InputError, match=r"^image 'cut\.png' .* cannot be read"):
        running.take_upload("C:\\x\\cut.png", painting.read_bytes()[:100])


def test_a_curve_keeps_its_ends_and_little_between() -> None:
    attempt = Attempt({})
    for n in range(100_000):
        attempt.note(Iterate(n, n + 1, 1 / (n + 1), 0.01 * n, "gram", torch.empty(0)))
    assert attempt.points[:5] == [(n, 1 / n) for n in range(1, 6)]
    assert attempt.points[-1] == (100_000, 1e-5)
    assert len(attempt.points) < 400


@pytest.mark.parametrize(("protocol", "done"), [("chapter", "iterations"), ("fast", "evaluations")])
def test_the_time_left_is_that_of_the_budget(
    wish: dict[str, Any], protocol: str, done: str
) -> None:
    attempt = Attempt(wish, task=plan(**{**wish, "protocol": protocol}))
    assert attempt.seconds_left() is None
    at = {"iterations": 50, "evaluations": 100} | {done: 30}
    attempt.note(Iterate(at["iterations"], at["evaluations"], 1.0, 10.0, "gram", torch.empty(0)))
    assert attempt.seconds_left() == pytest.approx(40)  # 120 of 150 are left, at 3 a second


# --- Choices and view ---------------------------------------------------------------------------


def test_which_runs_a_choice_means() -> None:
    def cells(**choice: Any) -> list[tuple[str, str]]:
        return [(w["layer"], w["loss"]) for w in runs_of({**CHOICE, **choice})]

    assert cells() == [("relu_2_1", "gram")]
    assert cells(show="compare") == [("relu_2_1", "gram"), ("relu_2_1", "moment-3")]
    assert cells(show="layers", loss="mmd") == [(layer, "mmd") for layer in styleinv.LAYERS]
    assert cells(show="moments") == [("relu_2_1", f"moment-{n}") for n in (1, 2, 3, 4)]
    (run,) = runs_of({**CHOICE, "loss": "mmd", "pairing": "random", "alpha": 2})
    assert (run["loss"], run["alpha"]) == ("mmd-random", 2)


@pytest.mark.parametrize("name", ["layer", "loss", "protocol"])
def test_every_option_can_be_run(name: str) -> None:
    for value, _ in OPTIONS[name]:
        (run,) = runs_of({**CHOICE, "size": 16, "encoder": "random", name: value})
        plan(**run)


def test_the_reference_is_that_of_the_same_cell(wish: dict[str, Any], tmp_path: Path) -> None:
    same = {**wish, "iterations": 5, "protocol": "from-noise"}
    store.save(store.run_of(styleinv.invert(**same)), tmp_path / "some")
    references = References(tmp_path)
    found = references.curve(plan(**same))
    assert [evaluation for evaluation, _ in found["points"]] == [1, 2, 3, 4, 5]
    assert found["text"].startswith("Dashed: the reference run of the same cell")
    for change in ({"size": 32}, {"encoder": "random"}, {"style": "bundled:dots"}):
        other = references.curve(plan(**{**same, **change}))
        assert other["text"].startswith("No reference run here has the same")
        assert "points" not in other
    (record,) = tmp_path.glob("some/*.json")
    record.write_text("[]")
    broken = References(tmp_path).curve(plan(**same))
    assert broken["text"].startswith("The reference runs here cannot be read: record")


def test_the_view_of_several_runs(running: Session, wish: dict[str, Any]) -> None:
    view = View(running, References())
    running.start([{**wish, "layer": layer, "iterations": 1} for layer in styleinv.LAYERS])
    running.join()
    state, pictures, style = view.look()
    assert state["phase"] == "ended"
    assert state["asked"] == {
        "style": "bundled:strokes",
        "iterations": 1,
        "size": 24,
        "encoder": "file",
    }
    assert [run["stop"] for run in state["runs"]] == ["budget"] * 4
    assert all(run["pictured"] == run["points"][-1] for run in state["runs"])
    assert [run["short"] for run in state["runs"]] == list(styleinv.LAYERS)
    assert [run["theta"] for run in state["runs"]] == [1e-5] * 4
    assert len({run["colour"] for run in state["runs"]}) == 4
    assert pictures == [attempt.pixels for attempt in running.attempts]
    assert style is running.attempts[0].style
    json.dumps(state, allow_nan=False)


# --- The widget, without a browser --------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Iterator[LivePage]:
    page = widget.page(["bundled:dots"], out=tmp_path / "out", size=24, layer="relu_1_1")
    yield page
    page.session.tell("stop")
    page.session.join(10)


def tell(page: LivePage, wish: str, **content: Any) -> None:
    """Send a message as the browser does."""
    page._handle_custom_msg({"do": wish, **content}, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style": __file__}, "Style is '"),
        ({"size": None}, "Size is None, but must be a whole number from 16"),
        ({"loss": "mmd", "alpha": None}, "Alpha, the kernel width, must be a number"),
        ({"encoder": "file"}, "Encoder is a weights file, but the field for its name is empty"),
        ({"show": "all"}, "Show is 'all'"),
    ],
)
def test_choices_that_cannot_be_run(page: LivePage, change: dict[str, Any], message: str) -> None:
    tell(page, "start", choice={**page.choice, **change})
    assert not page.session.is_alive()
    assert page.state["bad"]
    assert page.state["message"].startswith(message)


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_run_that_nobody_answers_ends(
    page: LivePage, monkeypatch: pytest.MonkeyPatch, is_paused: bool
) -> None:
    monkeypatch.setattr(widget, "SILENCE", 0.5)
    tell(page, "start", choice={**page.choice, "protocol": "chapter"})
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        assert page.session.is_alive()
        tell(page, "seen", tick=page.state["tick"])
        time.sleep(0.05)
    if is_paused:
        tell(page, "pause")
    wait_for(lambda: page.state["phase"] == "ended")
    assert page.state["runs"][0]["status"] == "ended: stopped"


def test_answers_leave_the_choice_to_the_reader(page: LivePage, painting: Path) -> None:
    changed: list[Any] = []
    page.observe(changed.append, "choice")
    content = painting.read_bytes()
    upload = {"do": "upload", "name": "own.png", "start": 0, "size": len(content)}
    page._handle_custom_msg(upload, [memoryview(content)])
    own = page.styles[0]["value"]
    tell(page, "start", choice={**page.choice, "style": own, "layer": "relu_1_1", "size": 16})
    wait_for(lambda: page.state["phase"] == "ended")
    assert changed == []


def test_files_that_are_too_large(page: LivePage) -> None:
    tell(page, "upload", name="huge.tif", start=0, size=2**28 + 1)
    assert page.state["message"] == "File 'huge.tif' has 256 MB, but must have at most 256."
    assert page.state["bad"]
