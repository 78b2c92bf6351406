"""Bad input, as a user would type it: one sentence each, and nothing is made, changed or run."""

import os
import pickle
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from styleinv import InputError, cli
from tests.conftest import ROOT
from tests.test_encoder import torchvision_state

# What comes before a command's name, as in NAME=VALUE, is set in its environment; MANY stands for a
# million x, PORT for a port that is taken.
COMMANDS = {
    # --- images
    "invert absent.png": "nor one of: bundled:strokes",
    "invert MANY": "image 'xxxxx",
    "invert '\x1b[31mred.png'": r"image '\x1b[31mred.png' is not an existing file",
    "invert 'nul\0.png'": r"image 'nul\x00.png' is not an existing file",
    "invert pipe": "image 'pipe' is not an existing file (a folder, a pipe or",
    "invert https://example.org/a.png": "is not an existing file",
    "invert truncated.png": "but cannot be read: image file is truncated",
    "STYLEINV_MAX_PIXELS=many invert good.png": "STYLEINV_MAX_PIXELS is 'many', but must be",
    "invert bundled:stroks": "; the nearest is 'strokes'",
    # --- options
    "invert": "Missing argument 'style'",
    "invert good.png more.png": "unexpected extra argument(s) (more.png)",
    "invert good.png --colour red": "No such option: --colour",
    "invert good.png --layer relu_3_1": "layer is 'relu_3_1', but must be one of: relu_1_1",
    "invert good.png --loss Grams": "; the nearest is 'gram'",
    "invert good.png --loss MANY": "xxx', but must be one of: gram",
    "invert good.png --loss mmd-random": "draws new pairs at every evaluation",
    "invert good.png --size 4097": "size is 4097, but must be a whole number from 16 to 4,096",
    "invert good.png --size 1e3": "'--size': Input should be a valid integer",
    "invert good.png --seconds nan": "seconds is nan, but must be greater than 0",
    "invert good.png --alpha 2": "alpha is 2.0, but loss 'gram' has no kernel width",
    "invert good.png --device quantum": "device is 'quantum', but this machine's PyTorch cannot",
    "invert good.png --out good.png/below": "but must be a folder that can be written",
    "invert good.png --out MANY": "but must be a folder that can be written",
    "invert good.png --checkpoint-every inf": "checkpoint-every is inf, but must be a number of",
    # --- weights
    "invert good.png --encoder absent.pth": "encoder 'absent.pth' is neither an existing .safe",
    "invert good.png --encoder code.pth": "cannot be read as a .pth file of plain tensors",
    "invert good.png --encoder missing.safetensors": "lacks features.5.bias of the nearest",
    "invert good.png --encoder nan.safetensors": "'features.7.weight' holds NaN or infinity",
    # --- sweeps and reference files
    "sweep": "sweep needs either --style, once or more, or --reference",
    "sweep --style good.png --reference other.yml": "sweep needs either --style, once or more, or",
    "sweep --style good.png --style absent.png": "image 'absent.png' is not an existing file",
    "sweep --style good.png --seeds 10001": "'--seeds': Input should be less than or equal to 1",
    "sweep --style good.png --workers 0": "workers is 0, but must be a whole number from 1",
    "sweep --style good.png --workers 2 --scheduler tcp://127.0.0.1:1": "not both",
    "sweep --style good.png --scheduler foo://x": "scheduler 'foo://x' does not answer",
    "sweep --reference deep.yml": "reference 'deep.yml' cannot be read",
    "sweep --reference field.yml": "contains unknown field `colour`",
    "sweep --reference other.yml": "has the fingerprint",
    # --- the book and its parameters
    "book --root folder": "but must be the project's folder, with _toc.yml",
    "book -p MANY": "xxx', but must be NAME=VALUE",
    "book -f pipe": "parameters-file 'pipe' cannot be read: it is not an existing file",
    "book -f list.yml": "parameters-file 'list.yml' must hold NAME: VALUE pairs",
    "book -f laughs.yml": "parameter 'size' is [[1], [[...], [...]",
    "book -f digits.yml": "parameter 'size' is too long a number",
    # --- what reads kept runs
    "verify absent": "folder is 'absent', but must hold run records",
    "claims --file absent.yml": "claims 'absent.yml' cannot be read",
    "claims --file claims.yml C99": "claim is 'C99', but must be one of: C1",
    "claims --file claims.yml C1": "claim C1 has no runs to compare",
    "claims --file claims.yml --results damaged": "line 1' cannot be read",
    # --- the live page
    "explore --port 65536": "port is 65536, but must be a whole number from 0 to 65,535",
    "explore --no-browser --port PORT": "but cannot be used: Address already in use",
    # --- no such thing
    "draw": "No such command 'draw'",
}


class Trap:
    """What a pickle can do to those who load it without care: here, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.target,)


def make_images(folder: Path) -> None:
    Image.radial_gradient("L").convert("RGB").save(folder / "good.png")
    content = (folder / "good.png").read_bytes()
    (folder / "truncated.png").write_bytes(content[:-100])
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")


def make_weights(folder: Path) -> None:
    state = torchvision_state()
    missing = {key: tensor for key, tensor in state.items() if key != "features.5.bias"}
    save_file(missing, folder / "missing.safetensors")
    state["features.7.weight"] *= torch.nan
    save_file(state, folder / "nan.safetensors")
    code = {"features.0.weight": Trap(folder / "sprung")}
    (folder / "code.pth").write_bytes(pickle.dumps(code, protocol=2))


def make_texts(folder: Path) -> None:
    lists = ["&l0 [1]", *(f"&l{i} [{', '.join(9 * [f'*l{i - 1}'])}]" for i in range(1, 12))]
    fields = {"styles": ["bundled:dots"], "losses": ["gram"]}
    reference = {"encoder_sha256": 64 * "0", "sweeps": {"few": fields}}
    texts = {
        "list.yml": "[1, 2]",
        "deep.yml": 3000 * "[",
        "digits.yml": f"size: 0x{5000 * 'f'}",
        # Short to write, but written out it has 9 to the power of 11 elements.
        "laughs.yml": f"size: [{', '.join(lists)}]",
        "other.yml": yaml.safe_dump(reference),
        "field.yml": yaml.safe_dump({**reference, "sweeps": {"few": {**fields, "colour": "red"}}}),
        "damaged/runs/few/runs.jsonl": '{"asked": ',
        "_toc.yml": "- file: notebooks/inverting",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copy(ROOT / "book" / "claims.yml", folder)
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "inverting.md", folder / "notebooks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one notebook, one good picture, and much that is bad."""
    folder = tmp_path_factory.mktemp("inputs")
    make_images(folder)
    make_weights(folder)
    make_texts(folder)
    return folder


@pytest.fixture(scope="module")
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def contents(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Every file and folder below, with its mode, its size and when it was last written."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (at.st_mode, at.st_size, at.st_mtime_ns) for path, at in found.items()}


@pytest.mark.parametrize(("command", "sentence"), COMMANDS.items(), ids=map(ascii, COMMANDS))
def test_bad_input_is_one_sentence_and_changes_nothing(
    command: str,
    sentence: str,
    folder: Path,
    taken_port: int,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand_ins = {"MANY": 1_000_000 * "x", "PORT": str(taken_port)}
    arguments = [stand_ins.get(word, word) for word in shlex.split(command)]
    while "=" in arguments[0]:
        monkeypatch.setenv(*arguments.pop(0).split("="))
    monkeypatch.setattr(sys, "argv", ["styleinv", *arguments])
    monkeypatch.chdir(folder)
    before = contents(folder)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capfd.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert printed.err.startswith("Error: ")
    assert sentence in printed.err
    assert printed.err.endswith(".\n")
    assert len(printed.err.splitlines()) == 1
    assert len(printed.err) < 1100
    assert contents(folder) == before


def test_the_trap_is_one(tmp_path: Path) -> None:
    """Loaded without care, such a file does what it holds."""
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


@given(st.text(max_size=100))
def test_a_sentence_is_one_printable_line(text: str) -> None:
    sentence = str(InputError(text))
    assert sentence.isprintable()
    assert str(InputError(sentence)) == sentence
    if text.isprintable():
        assert sentence == text.strip()
