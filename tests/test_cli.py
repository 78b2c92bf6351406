"""The command line as a user meets it: files out, one sentence and exit code 2 for bad input."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from styleinv import __version__, cli
from tests.conftest import PROGRAM, ROOT, interrupted, wait_for


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
    assert "5/5" in done.stderr
    assert f"loss {json.loads(record.read_text())['result']['loss']:.2e}" in done.stderr
    assert "stopped by: budget" in done.stderr


def test_sweep_keeps_what_is_there(picture: Path, tmp_path: Path) -> None:
    options = ("--layer", "relu_1_1", "--loss", "gram", "--loss", "mmd", "--seeds", 2)
    again = [
        run(
            *("sweep", "--style", picture, "--style", "bundled:dots", *options),
            *("--size", 16, "--iterations", 2, "--out", "runs"),
            cwd=tmp_path,
        )
        for _ in range(2)
    ]
    assert [done.returncode for done in again] == [0, 0]
    assert [done.stdout for done in again] == ["runs\n", "runs\n"]
    assert "kept" not in again[0].stderr
    assert again[1].stderr.count("kept from an earlier run") == 8
    assert len(list((tmp_path / "runs").glob("*.png"))) == 8


def test_ctrl_c_keeps_what_is_there(picture: Path, tmp_path: Path) -> None:
    """The picture as far as it is, and a checkpoint from which the same command goes on."""
    options = ("--size", "24", "--protocol", "chapter", "--iterations", "1500")
    command = ["invert", picture, *options, "--checkpoint-every", "0.05"]
    done = interrupted(lambda _: any(tmp_path.glob("out/*.checkpoint")), command, tmp_path)
    assert done.returncode == 130, done.stderr
    assert "The same command again goes on from here." in done.stderr
    png, file = (tmp_path / line for line in done.stdout.splitlines())
    assert png.is_file()
    stopped = json.loads(file.read_text())["result"]
    assert stopped["stop_reason"] == "stopped"
    assert 0 <= stopped["iterations"] < 1500
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = run(*command, "--out", "other", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    ended, expected = (
        json.loads((folder / file.name).read_text())["result"]
        for folder in (tmp_path / "out", tmp_path / "other")
    )
    assert {**ended, "seconds": 0} == {**expected, "seconds": 0}
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_ctrl_c_ends_a_sweep_that_goes_on_later(tmp_path: Path) -> None:
    options = ("--layer", "relu_2_2", "--loss", "mmd", "--loss", "gram", "--size", "32")
    command = ["sweep", "--style", "bundled:dots", *options, "--iterations", "200", "--out", "runs"]
    done = interrupted(
        lambda _: any(tmp_path.glob("runs/*gram*.checkpoint")),
        [*command, "--checkpoint-every", "0"],
        tmp_path,
    )
    assert done.returncode == 130, done.stderr
    assert "The same command again goes on from here." in done.stderr
    assert len(list(tmp_path.glob("runs/*.checkpoint"))) == 1
    done = run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("kept from an earlier run") == 1
    assert {file.suffix for file in tmp_path.glob("runs/*")} == {".json", ".png"}


def test_says_that_a_protocol_has_no_checkpoints(tmp_path: Path) -> None:
    command = ["invert", "bundled:dots", "--protocol", "scipy", "--size", "64", "--out", "out"]

    def has_begun(_: object) -> bool:
        wait_for(lambda: any(tmp_path.glob("out/.*.lock")))
        time.sleep(0.5)  # some iterations; a first one would do
        return True

    done = interrupted(has_begun, command, tmp_path)
    assert done.returncode == 130, done.stderr
    assert "starts from the beginning: protocol 'scipy' has no checkpoints" in done.stderr


def test_a_run_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    command = ("invert", "bundled:dots", "--size", 16, "--iterations", 2)
    outputs = [run(*command, *more, cwd=tmp_path) for more in ((), (), ("--again",))]
    assert [done.returncode for done in outputs] == [0, 0, 0]
    assert len({done.stdout for done in outputs}) == 1
    assert ["kept from an earlier run" in done.stderr for done in outputs] == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--parameters-file", "absent.yml"], "parameters-file 'absent.yml' cannot be read"),
        (["-p", "size"], "parameter is 'size', but must be NAME=VALUE"),
        (["-p", "size=abc"], "parameter 'size' is 'abc', but must be a whole number"),
        (["-p", "seeds=x"], "parameter 'seeds' is 'x', but must be a whole number"),
        (["-p", "encoder=3"], "encoder '3' is neither an existing weights file nor one of"),
        (["-p", "encoder="], "parameter 'encoder' is '', but must be a text"),
        (["-p", "styles="], "parameter 'styles' is '', but must be a text"),
        (["-p", "styles=[1, 2]"], "is not an existing file"),
        (["-p", "styles=absent.jpg"], "image 'absent.jpg' is not an existing file"),
        (["-p", "colour=red"], "parameter 'colour' is unknown"),
    ],
)
def test_bad_parameters_of_the_book(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["styleinv", "book", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("Error: ")
    assert sentence in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_help_is_worth_reading(tmp_path: Path) -> None:
    text = " ".join(run("invert", "--help", cwd=tmp_path).stdout.split())
    for word in ("relu_2_2", "moment-4", "vgg19", "chapter", "bundled:NAME", "Example:", "Ctrl-C"):
        assert word in text


def test_lists_and_version(tmp_path: Path) -> None:
    assert "bundled:strokes" in run("styles", cwd=tmp_path).stdout
    assert "vgg19" in run("encoders", cwd=tmp_path).stdout
    assert run("--version", cwd=tmp_path).stdout.strip() == f"styleinv {__version__}"


def test_claims_prints_the_rows_asked_for() -> None:
    done = run("claims", "C1", "C14", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert [line.split()[0] for line in heads] == ["C1", "C14"]
    assert all("rule:" in line for line in lines if line not in heads)
    done = run("claims", "C18", cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert "claim is 'C18', but must be one of: C1, C2" in done.stderr


def test_verify_exits_with_1_if_something_is_wrong(tmp_path: Path) -> None:
    options = ("--size", 16, "--iterations", 2, "--out", "runs")
    done = run("invert", "bundled:dots", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = run("verify", "runs", "--rerun", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 records, 1 with their picture, 1 measured anew, 1 made again")
    assert "bit for bit the same" in done.stderr
    picture = next((tmp_path / "runs").glob("*.png"))
    Image.new("RGB", (16, 16)).save(picture)
    done = run("verify", "runs", cwd=tmp_path)
    assert done.returncode == 1
    assert picture.stem in done.stdout


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_memory_that_is_used_up_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "Error: the memory is used up; a smaller --size needs less.\n"
    )
    monkeypatch.setattr(cli, "app", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main()
