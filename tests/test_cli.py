"""The command line as a user meets it: files out, one sentence and exit code 2 for bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from styleinv import __version__, cli

PROGRAM = Path(sys.executable).with_name("styleinv")


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (260, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "my picture.png")
    return tmp_path / "my picture.png"


def test_invert_writes_picture_and_record(picture: Path, tmp_path: Path) -> None:
    done = run("invert", picture.name, "--size", 32, "--iterations", 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    png, record = (tmp_path / line for line in done.stdout.splitlines())
    with Image.open(png) as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
    asked = json.loads(record.read_text())["asked"]
    assert (asked["layer"], asked["loss"], asked["seed"]) == ("relu_2_1", "gram", 0)
    assert "stopped by: budget" in done.stderr


def test_ctrl_c_keeps_what_is_there(picture: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [PROGRAM, "invert", picture, "--size", "40", "--protocol", "chapter"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    # Nothing is drawn into a pipe: give the run time to start iterating.
    time.sleep(6)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    record = json.loads((tmp_path / out.splitlines()[1]).read_text())
    assert record["result"]["stop_reason"] == "stopped"
    assert record["result"]["iterations"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["absent.jpg"], "image 'absent.jpg' is not an existing file"),
        (["PICTURE", "--layer", "relu_9_9"], "layer is 'relu_9_9', but must be one of: relu_1_1"),
        (["PICTURE", "--loss", "moment-7"], "loss is 'moment-7', but must be one of: gram"),
        (["PICTURE", "--size", "3"], "size is 3, but must be from 16 to 4096 pixels"),
        (["PICTURE", "--size", "large"], "'--size': Input should be a valid integer"),
        (["PICTURE", "--protocol", "slow"], "protocol is 'slow'"),
        (["PICTURE", "--encoder", "absent.pth"], "encoder 'absent.pth' is neither"),
        (["PICTURE", "--seed", "-1"], "seed is -1"),
        (["PICTURE", "--iterations", "0"], "iterations is 0"),
        (["PICTURE", "--device", "quantum"], "device is 'quantum'"),
        (["PICTURE", "--fit", "stretch"], "fit is 'stretch'"),
        (["PICTURE", "--out", "PICTURE"], "but must be a folder that can be written"),
        (["PICTURE", "--lair", "relu_1_1"], "No such option: --lair"),
        ([], "Missing argument 'style'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    picture: Path,
    tmp_path: Path,
    arguments: list[str],
    sentence: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [picture.name if argument == "PICTURE" else argument for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["styleinv", "invert", *named])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Error: ")
    assert sentence in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert os.listdir(tmp_path) == [picture.name]


def test_help_is_worth_reading(tmp_path: Path) -> None:
    text = " ".join(run("invert", "--help", cwd=tmp_path).stdout.split())
    for word in ("relu_2_2", "moment-4", "vgg19", "chapter", "bundled:NAME", "Example:", "Ctrl-C"):
        assert word in text


def test_lists_and_version(tmp_path: Path) -> None:
    assert "bundled:strokes" in run("styles", cwd=tmp_path).stdout
    assert "vgg19" in run("encoders", cwd=tmp_path).stdout
    assert run("--version", cwd=tmp_path).stdout.strip() == f"styleinv {__version__}"
