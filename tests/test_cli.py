"""The command line as a user meets it: files out, plain words, exit codes, Ctrl-C."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from styleinv import __version__, cli
from tests.conftest import PROGRAM, ROOT, interrupted, wait_for

# Runs the command line with these arguments; its exit code, and what it printed and reported.
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["styleinv", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return (stop.value.code, *capsys.readouterr())  # type: ignore[return-value]

    return run


def test_the_program_is_installed(tmp_path: Path) -> None:
    done = subprocess.run([PROGRAM, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"styleinv {__version__}\n")


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
    assert f"loss {kept['result']['loss']:.2e}" in said
    assert "stopped by: budget" in said
    code, printed_again, said = run(*command)
    assert (code, printed_again) == (0, printed)
    assert "kept from an earlier run" in said
    code, printed_again, said = run(*command, "--again")
    assert (code, printed_again) == (0, printed)
    assert "kept from an earlier run" not in said


def test_sweep_keeps_what_is_there(run: Run, tmp_path: Path) -> None:
    cells = ("--layer", "relu_1_1", "--loss", "gram", "--loss", "mmd", "--seeds", 2)
    styles = ("--style", "bundled:strokes", "--style", "bundled:dots")
    command = ("sweep", *styles, *cells, "--size", 16, "--iterations", 2, "--out", "runs")
    for kept in (0, 8):
        code, printed, said = run(*command)
        assert (code, printed) == (0, "runs\n")
        assert said.count("kept from an earlier run") == kept
        assert len(list((tmp_path / "runs").glob("*.png"))) == 8


def test_ctrl_c_keeps_what_is_there(run: Run, tmp_path: Path) -> None:
    """The picture as far as it is, and a checkpoint from which the same command goes on."""
    options = ("--size", 24, "--protocol", "chapter", "--iterations", 500)
    command = ("invert", "bundled:strokes", *options)
    done = interrupted(
        lambda _: any(tmp_path.glob("out/*.checkpoint")),
        [*command, "--checkpoint-every", 0],
        tmp_path,
    )
    assert done.returncode == 130, done.stderr
    assert "The same command again goes on from here." in done.stderr
    png, record = (tmp_path / line for line in done.stdout.splitlines())
    assert png.is_file()
    stopped = json.loads(record.read_text())["result"]
    assert stopped["stop_reason"] == "stopped"
    assert 0 <= stopped["iterations"] < 500
    ended, expected = {}, {}
    for folder, result in (("out", ended), ("other", expected)):
        assert run(*command, "--out", folder)[0] == 0
        result |= json.loads((tmp_path / folder / record.name).read_text())["result"]
    assert {**ended, "seconds": 0} == {**expected, "seconds": 0}
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_ctrl_c_ends_a_sweep_that_goes_on_later(run: Run, tmp_path: Path) -> None:
    cells = ("--layer", "relu_2_2", "--loss", "mmd", "--loss", "gram", "--size", 32)
    command = ("sweep", "--style", "bundled:dots", *cells, "--iterations", 200, "--out", "runs")
    done = interrupted(
        lambda _: any(tmp_path.glob("runs/*gram*.checkpoint")),
        [*command, "--checkpoint-every", 0],
        tmp_path,
    )
    assert done.returncode == 130, done.stderr
    assert "The same command again goes on from here." in done.stderr
    assert len(list(tmp_path.glob("runs/*.checkpoint"))) == 1
    code, _, said = run(*command)
    assert code == 0
    assert said.count("kept from an earlier run") == 1
    assert {file.suffix for file in tmp_path.glob("runs/*")} == {".json", ".png"}


def test_says_that_a_protocol_has_no_checkpoints(tmp_path: Path) -> None:
    def has_begun(_: object) -> bool:
        wait_for(lambda: any(tmp_path.glob("out/.*.lock")))
        time.sleep(0.5)  # some iterations; a first one would do
        return True

    command = ("invert", "bundled:dots", "--protocol", "scipy", "--size", 64)
    done = interrupted(has_begun, command, tmp_path)
    assert done.returncode == 130, done.stderr
    assert "starts from the beginning: protocol 'scipy' has no checkpoints" in done.stderr


def test_help_names_what_can_be_chosen(run: Run) -> None:
    text = " ".join(run("invert", "--help")[1].split())
    for word in ("relu_2_2", "moment-4", "vgg19", "chapter", "bundled:NAME", "Example:", "Ctrl-C"):
        assert word in text
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
    error: Exception, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert run() == (2, "", "Error: the memory is used up; a smaller --size needs less.\n")
