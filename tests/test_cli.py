"""The command line as a user meets it: files out, plain words, exit codes, Ctrl-C."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, TextIO

import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from styleinv import __version__, cli
from styleinv.encoder import Encoder
from styleinv.optim import Monitor
from tests.conftest import PROGRAM, ROOT

# Runs the command line with these arguments; its exit code, and what it printed and reported.
Run = Callable[..., tuple[int, str, str]]
SMALL = ("--size", 16, "--iterations", 2)
GOES_ON = "Run the same command again to continue from here."


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["styleinv", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code, *capsys.readouterr())  # type: ignore[return-value]

    return run


@pytest.fixture
def ctrl_c(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Ctrl-C, or another signal, at the 16th iterate that the command line sees."""
    see, seen = Monitor.see, itertools.count(1)

    def press(self: Monitor, loss: float, image: Tensor) -> str | None:
        if self.callback is not None and next(seen) == 16:
            signal.raise_signal(getattr(request, "param", signal.SIGINT))
        return see(self, loss, image)

    monkeypatch.setattr(Monitor, "see", press)


def test_the_program_is_installed_and_a_module_to_run() -> None:
    (program,) = entry_points(group="console_scripts", name="styleinv")
    assert program.load() is cli.main
    command = [sys.executable, "-m", "styleinv.cli", "--version"]
    assert subprocess.check_output(command, text=True) == f"styleinv {__version__}\n"


def test_invert_writes_picture_and_record_once(run: Run, tmp_path: Path) -> None:
    style = tmp_path / "my picture.png"
    Image.radial_gradient("L").save(style)
    command = ("invert", style.name, "--size", 32, "--iterations", 5)
    code, printed, said = run(*command)
    assert code == 0
    png, record = (tmp_path / line for line in printed.splitlines())
    with Image.open(png) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
    kept = json.loads(record.read_text())
    assert [kept["asked"][name] for name in ("layer", "loss", "seed")] == ["relu_2_1", "gram", 0]
    assert "5/5" in said
    assert f"loss {kept['result']['loss']:.2g} after 5 evaluations" in said
    assert said.endswith("budget\n")
    for options, is_found in (((), True), (("--again",), False)):
        code, printed_again, said = run(*command, *options)
        assert (code, printed_again) == (0, printed)
        assert ("kept from an earlier run" in said) == is_found


def test_check_tells_of_each_image_and_makes_nothing(run: Run, tmp_path: Path) -> None:
    Image.radial_gradient("L").save("good.png")
    code, printed, said = run("check", "good.png", "bundled:dots", "--size", 16, "--iterations", 3)
    assert (code, said) == (0, "")
    good, memory, theta, time, dots, *_ = printed.splitlines()
    assert good.startswith("good.png: PNG, L, no colour profile, no alpha, 256 x 256 pixels. It is")
    assert dots.startswith("bundled:dots: a painted style, 16 x 16 pixels")
    assert memory.startswith("The run needs about ")
    assert theta.startswith("Theta, 1e-05, is hardly in reach")
    assert time.startswith("The run takes about ")
    assert "3 evaluations" in time
    code, printed, said = run("check", "absent.png", "good.png", "--size", 16)
    assert (code, len(printed.splitlines())) == (2, 4)  # the others are checked all the same
    assert said.startswith("Error: image 'absent.png' is not an existing file")
    assert [file.name for file in tmp_path.iterdir()] == ["good.png"]


def test_invert_and_sweep_begin_with_what_check_tells(run: Run) -> None:
    cell = ("--size", 16, "--iterations", 3, "--layer", "relu_1_1")
    said = run("invert", "bundled:dots", *cell)[2]
    assert said.startswith("bundled:dots: a painted style, 16 x 16 pixels")
    said = run("sweep", "--style", "bundled:dots", "--loss", "gram", "--loss", "mmd", *cell)[2]
    assert "The run takes about " in said  # the other one is there already
    assert "The run takes" not in run("invert", "bundled:dots", *cell)[2]


@pytest.mark.usefixtures("ctrl_c")
def test_sweep_goes_on_after_ctrl_c_and_keeps_what_is_there(run: Run, tmp_path: Path) -> None:
    cells = ("--layer", "relu_1_1", "--loss", "gram", "--loss", "mmd", "--seeds", 2, "--size", 16)
    styles = ("--style", "bundled:dots", "--style", "bundled:strokes")
    command = ("sweep", *styles, *cells, "--iterations", 10, "--out", "runs")
    code, _, said = run(*command)
    assert code == 130
    assert GOES_ON in said
    assert len(list(tmp_path.glob("runs/*.checkpoint"))) == 1
    for kept in (1, 8):
        code, printed, said = run(*command)
        assert (code, printed) == (0, "runs\n")
        assert said.count("kept from an earlier run") == kept
        files = [file.suffix for file in (tmp_path / "runs").iterdir()]
        assert sorted(files) == 8 * [".json"] + 8 * [".png"]


def test_sweep_knows_the_protocols_that_only_the_book_compares(
    run: Run, tmp_path: Path, bundled: Encoder
) -> None:
    cell = {"styles": ["bundled:dots"], "losses": ["moment-4"], "layers": ["relu_1_1"], "size": 16}
    sweeps = {"few": {**cell, "protocol": "n4-noise", "iterations": [2]}}
    content = yaml.safe_dump({"encoder_sha256": bundled.sha256, "sweeps": sweeps})
    (tmp_path / "reference.yml").write_text(content)
    assert run("sweep", "--reference", "reference.yml")[0] == 0
    made = json.loads((tmp_path / "runs" / "few" / "runs.jsonl").read_text())
    assert made["asked"]["protocol"]["name"] == "n4-noise"


@pytest.mark.parametrize(
    "ctrl_c", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], indirect=True, ids=str
)
@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_keeps_what_is_there(run: Run, tmp_path: Path) -> None:
    """The picture as far as it is, and a checkpoint from which the same command goes on."""
    options = ("--size", 16, "--protocol", "chapter", "--iterations", 40)
    command = ("invert", "bundled:strokes", *options)
    code, printed, said = run(*command)
    assert code == 130
    assert GOES_ON in said
    png, record = (tmp_path / line for line in printed.splitlines())
    assert png.is_file()
    stopped = json.loads(record.read_text())["result"]
    assert stopped["stop_reason"] == "stopped"
    assert 0 < stopped["iterations"] < 40
    results = []
    for folder in ("out", "other"):
        assert run(*command, "--out", folder)[0] == 0
        results.append(json.loads((tmp_path / folder / record.name).read_text())["result"])
    assert {**results[0], "seconds": 0} == {**results[1], "seconds": 0}
    assert len(list((tmp_path / "out").iterdir())) == 2


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("ctrl_c", [signal.SIGHUP], indirect=True)
def test_what_nohup_has_ignored_stops_nothing(run: Run) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run("invert", "bundled:dots", "--size", 16, "--iterations", 60)[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_animate_makes_a_run_again(run: Run, tmp_path: Path) -> None:
    _, printed, _ = run("invert", "bundled:dots", "--size", 16, "--iterations", 20)
    record = printed.split()[-1]
    code, printed, said = run("animate", record, "--frames", 6)
    assert (code, printed) == (0, f"out/{Path(record).stem}.gif\n")
    assert "Note" not in said
    with Image.open(tmp_path / printed.strip()) as animation:
        assert animation.n_frames == 6  # type: ignore[attr-defined]


@pytest.mark.usefixtures("ctrl_c")
def test_animate_leaves_nothing_after_ctrl_c(run: Run, tmp_path: Path) -> None:
    _, printed, _ = run("invert", "bundled:dots", "--size", 16, "--iterations", 15)
    before = sorted(tmp_path.rglob("*"))
    code, printed, said = run("animate", printed.split()[-1])
    assert (code, printed) == (130, "")
    assert said.endswith("Stopped: nothing was written\n")
    assert sorted(tmp_path.rglob("*")) == before


def full(*_: object) -> TextIO:
    return open("/dev/full", "w", encoding="utf-8")


def broken(*_: object) -> TextIO:
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", encoding="utf-8")


@pytest.mark.parametrize(
    ("stream", "made", "code", "sentence"),
    [
        ("stdout", full, 2, "Error: the output cannot be used: No space left on device.\n"),
        ("stdout", broken, 1, ""),
        ("stdout", lambda: None, 0, "budget\n"),
        ("stderr", full, 0, ""),
        ("stderr", broken, 0, ""),
        ("stderr", lambda: None, 0, ""),
    ],
)
def test_a_stream_that_is_lost_costs_no_run(
    stream: str,
    made: Callable[[], TextIO | None],
    code: int,
    sentence: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = made()
    for name in (stream, f"__{stream}__"):
        monkeypatch.setattr(sys, name, lost)
    ended, printed, said = run("invert", "bundled:dots", *SMALL)
    assert (ended, said.endswith(sentence)) == (code, True)
    assert "Traceback" not in said
    assert len(printed.splitlines()) == 2 * (stream == "stderr")
    assert len(list((tmp_path / "out").iterdir())) == 2
    if lost is not None:
        with suppress(OSError):
            lost.close()


def test_a_full_disk_under_the_output_is_one_sentence() -> None:
    """Python, too, tries to print what is left, and would tell of that."""
    command = f"PYTHONUNBUFFERED= {PROGRAM} styles >/dev/full"
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, encoding="utf-8")
    sentence = "Error: the output cannot be used: No space left on device.\n"
    assert (done.returncode, done.stderr) == (2, sentence)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_are_printed_as_the_terminal_can(
    encoding: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.radial_gradient("L").save(tmp_path / "\xe9\u2603.png")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    assert run("invert", "\xe9\u2603.png", *SMALL)[0] == 0
    expected = "out/\xe9\u2603-".encode(encoding, "backslashreplace")
    assert all(line.startswith(expected) for line in written.getvalue().splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ["invert", "bundled:dots", "--out=~/runs"],
        ["invert", "~/a.png", "--out", "~/runs"],
        ["sweep", "--style=~/a.png", "--out=~/runs", "--layer", "relu_1_1", "--loss", "gram"],
    ],
)
def test_the_home_folder_is_meant(
    arguments: list[str], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the shell leaves its sign as it is."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    Image.radial_gradient("L").save(tmp_path / "home" / "a.png")
    assert run(*arguments, *SMALL)[0] == 0
    assert len(list((tmp_path / "home" / "runs").iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_current_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    """In a process of its own: where it is gone, importing PyTorch ends the process."""
    code = f"import os, runpy; os.rmdir({str(tmp_path)!r}); runpy.run_module('styleinv.cli')"
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True)
    sentence = b"Error: the current folder is gone, but must be one that exists.\n"
    assert (ended.returncode, ended.stderr) == (2, sentence)


@pytest.mark.usefixtures("ctrl_c")
def test_says_that_a_protocol_has_no_checkpoints(run: Run) -> None:
    code, _, said = run("invert", "bundled:dots", "--protocol", "scipy", "--size", 16)
    assert code == 130
    assert "start from the beginning: protocol 'scipy' has no checkpoints" in said


def test_lists_what_can_be_chosen(run: Run) -> None:
    assert "bundled:strokes" in run("styles")[1]
    assert "vgg19" in run("encoders")[1]


def test_claims_prints_the_rows_asked_for(run: Run) -> None:
    files = ("--results", ROOT / "results", "--file", ROOT / "book" / "claims.yml")
    code, printed, _ = run("claims", "C1", "C14", *files)
    assert code == 0
    heads = [line for line in printed.splitlines() if not line.startswith(" ")]
    assert [line.split()[0] for line in heads] == ["C1", "C14"]
    assert all("rule:" in line for line in printed.splitlines() if line not in heads)


def test_verify_says_what_is_wrong(run: Run, tmp_path: Path) -> None:
    assert run("invert", "bundled:dots", "--size", 16, "--iterations", 2)[0] == 0
    code, printed, said = run("verify", "out", "--rerun", 1)
    assert code == 0
    assert printed.startswith("1 records, 1 with their picture, 1 measured again, 1 made again")
    assert "bit for bit the same" in said
    picture = next((tmp_path / "out").glob("*.png"))
    Image.new("RGB", (16, 16)).save(picture)
    code, printed, _ = run("verify", "out")
    assert code == 1
    assert picture.stem in printed


NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError(NO_MEMORY)], ids=repr
)
def test_memory_that_is_used_up_is_one_sentence(
    error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert run() == (2, "", "Error: the memory is used up; a smaller --size needs less.\n")


@pytest.mark.parametrize("action", ["error", "ignore"])
def test_pythonwarnings_neither_hides_notes_nor_makes_them_errors(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Literal["error", "ignore"]
) -> None:
    Image.new("RGBA", (32, 32), (200, 9, 9, 90)).save(tmp_path / "veil.png")
    monkeypatch.setattr(sys, "warnoptions", [action])
    with warnings.catch_warnings(action=action):
        code, _, said = run("invert", "veil.png", "--size", 32, "--iterations", 1)
    assert code == 0
    assert "Note: veil.png: its transparent parts are composited on white" in said
