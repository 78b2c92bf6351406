"""Bad input, as a user would type it: one sentence each, and nothing is made, changed or run."""

import os
import pickle
import shlex
import shutil
import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from styleinv import InputError, cli
from tests.conftest import ROOT, Trap

# MANY stands for a million x, PORT for a port that is taken.
COMMANDS = {
    # --- images
    "invert absent.png": "nor one of: bundled:strokes",
    "invert MANY": "image 'xxxxx",
    "invert '\x1b[31mred.png'": r"image '\x1b[31mred.png' is not an existing file",
    "invert 'nul\0.png'": r"image 'nul\x00.png' is not an existing file",
    "invert pipe": "image 'pipe' is a pipe, a socket or a device, but",
    "invert folder": "image 'folder' is a folder, but must be a file",
    "invert /dev/null": "image '/dev/null' is a pipe, a socket or a device, but",
    "invert https://example.org/a.jpg": "is a URL, but must be a file; download it first",
    "invert list.yml": "image 'list.yml' is a text, but must be one of PNG",
    "invert good.png/below": "image 'good.png/below' is not an existing file",
    "invert claims.png": "image 'claims.png' has more than 100,000,000 pixels",
    "invert truncated.png": "but cannot be read: image file is truncated",
    # --- options
    "invert": "invert needs a style image, or a --recipe",
    "invert good.png more.png": "unexpected extra argument(s) (more.png)",
    "invert good.png --colour red": "No such option: --colour",
    "invert good.png --layer relu_3_1": "layer is 'relu_3_1', but must be one of: relu_1_1",
    "invert good.png --loss Grams": "; the nearest is 'gram'",
    "invert good.png --loss MANY": "xxx', but must be one of: gram",
    "invert good.png --loss mmd-random": "draws new pairs at every evaluation",
    "invert good.png --size 4097": "size is 4097, but must be a whole number from 16 to 4,096",
    "invert good.png --device quantum": "device is 'quantum', but this machine's PyTorch cannot",
    "invert good.png --out good.png/below": "out must be a folder that can be written, but ",
    "invert good.png --out MANY": "out must be a folder that can be written, but ",
    "invert good.png --out ''": "out is empty, but must have a value",
    "invert good.png --out=": "out is empty, but must have a value",
    "invert ''": "an argument is empty, but must have a value",
    "invert good.png --out good.png": "out must be a folder that can be written, but ",
    "invert good.png --out /dev/null": "out must be a folder that can be written, but ",
    "invert good.png --out nowhere": "that can be written, but 'nowhere' cannot be written: File",
    "invert good.png --out loop": "that can be written, but 'loop' cannot be written: ",
    "explore --out good.png": "good.png' cannot be written: File exists",
    "invert good.png --checkpoint-every inf": "checkpoint-every is inf, but must be a number of",
    # --- weights
    "invert good.png --encoder absent.pth": "encoder 'absent.pth' is neither an existing file of w",
    "invert good.png --encoder code.pth": "must be a .safetensors or .pth file of tensors by nam",
    # --- recipes
    "invert --recipe absent.json": "recipe 'absent.json' is not an existing file",
    "invert --recipe folder": "recipe 'folder' is not an existing file",
    "invert --recipe pipe": "recipe 'pipe' is not an existing file",
    "invert --recipe good.png": "recipe 'good.png' cannot be used: ",
    "invert --recipe deep.yml": "recipe 'deep.yml' cannot be used: ",
    "invert --recipe list.yml": "cannot be used: Expected `object`, got `array`",
    "invert --recipe later.json": "recipe 'later.json' has format 2, but must have 1",
    "invert --recipe more.json": "contains unknown field `out`",
    "invert --recipe text.json": "Expected `int`, got `str` - at `$.size`",
    "invert --recipe path.json": "style is 'good.png' in the recipe, but must be a picture in",
    "invert --recipe none.json": "Expected `array` of length >= 1 - at `$.runs`",
    "invert --recipe file.json": "the recipe's encoder is a file of weights: give it with --enc",
    "invert --recipe dots.json --size 32": "size is 32, but 16 in the recipe: leave it out",
    "invert --recipe dots.json --loss mmd": "loss is 'mmd', but 'gram' in the recipe: leave",
    "invert --recipe dots.json --fit keep": "fit is 'keep', but 'crop' in the recipe: leave",
    "invert --recipe dots.json --iterations 9": "iterations is 9, but the protocol's own in the",
    "invert good.png --recipe dots.json": "style is 'good.png', but 'bundled:dots' in the recipe",
    "invert good.png --recipe wide.json": "style is 'good.png', but a picture in the recipe",
    "invert --recipe wide.json": "the picture in the recipe has 18 x 16 pixels, but must have",
    "invert --recipe cut.json": "image 'image' must be one of PNG",
    "invert --recipe jpeg.json": "the picture in the recipe is no PNG file",
    "invert --recipe huge.json": "size is 5000, but must be a whole number from 16 to 4,096",
    "invert --recipe layer.json": "layer is 'relu_9_1', but must be one of: relu_1_1",
    # --- sweeps and reference files
    "sweep": "sweep needs either --style, once or more, or --reference",
    "sweep --style good.png --reference field.yml": "sweep needs either --style, once or more, or",
    "sweep --style good.png --seeds 10001": "'--seeds': Input should be less than or equal to 1",
    "sweep --style good.png --workers 0": "workers is 0, but must be a whole number from 1",
    "sweep --style good.png --protocol chapter --batch 0": "batch is 0, but must be a whole number",
    "sweep --style good.png --batch 4": "batch is 4, but protocol 'fast' makes one run at a time",
    "sweep --style good.png --workers 2 --scheduler tcp://127.0.0.1:1": "not both",
    "sweep --style good.png --scheduler foo://x": "scheduler 'foo://x' does not answer",
    "sweep --style good.png --tls-ca ca.pem": "--tls-ca, --tls-cert and --tls-key go together",
    "sweep --style good.png --tls-ca x --tls-cert x --tls-key x": "and with --scheduler",
    "sweep --reference deep.yml": "reference 'deep.yml' cannot be read",
    "sweep --reference field.yml": "contains unknown field `colour`",
    # --- the book and its parameters
    "book --root folder": "but must be the project's folder, with _toc.yml",
    "book -p MANY": "xxx', but must be NAME=VALUE",
    "book -f pipe": "parameters-file is 'pipe', but must be a YAML file",
    "book -f list.yml": "parameters-file is 'list.yml', but must be a YAML file",
    "book -f laughs.yml": "parameter 'size' is [['1'], [[...], [...]",
    # --- what reads kept runs
    "animate absent.json": "record 'absent.json' is not an existing file, nor packed in its folder",
    "animate pipe": "record 'pipe' is not an existing file, nor packed in its folder",
    "animate good.png": "record 'good.png' is not an existing file, nor packed in its folder",
    "animate list.yml": "record 'list.yml' cannot be read: Expected `object`, got `array`",
    "animate run.json --out run.mp4": "out is 'run.mp4', but must end in .gif or .webp",
    "animate run.json --out folder/gif": "out is 'folder/gif', but must end in .gif or .webp",
    "animate run.json --frames 1": "'--frames': Input should be greater than or equal to 2",
    "animate run.json": "'vgg19_normalised_relu_2_2', sha256 bc85d4b858cf: give it with --encoder",
    "verify absent": "folder is 'absent', but must hold run records",
    "claims --file absent.yml": "claims 'absent.yml' cannot be read",
    "claims --file claims.yml C99": "claim is 'C99', but must be one of: C1",
    # --- the live page
    "explore --port 65536": "port is 65536, but must be a whole number from 0 to 65,535",
    "explore --no-browser --port PORT": "but cannot be used: Address already in use",
    # --- no such thing
    "draw": "No such command 'draw'",
}


def make_images(folder: Path) -> None:
    Image.radial_gradient("L").convert("RGB").save(folder / "good.png")
    content = (folder / "good.png").read_bytes()
    (folder / "truncated.png").write_bytes(content[:-100])
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + content[24:29]
    checksum = zlib.crc32(header).to_bytes(4, "big")
    (folder / "claims.png").write_bytes(content[:12] + header + checksum + content[33:])
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "nowhere").symlink_to("absent")
    (folder / "loop").symlink_to("loop")


def make_texts(folder: Path) -> None:
    lists = ["&l0 [1]", *(f"&l{i} [{', '.join(9 * [f'*l{i - 1}'])}]" for i in range(1, 12))]
    sweep = {"styles": ["bundled:dots"], "losses": ["gram"], "colour": "red"}
    texts = {
        "list.yml": "[1, 2]",
        "deep.yml": 3000 * "[",
        # Short to write, but written out it has 9 to the power of 11 elements.
        "laughs.yml": f"size: [{', '.join(lists)}]",
        "field.yml": yaml.safe_dump({"encoder_sha256": 64 * "0", "sweeps": {"few": sweep}}),
        "_toc.yml": "- file: notebooks/inverting",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    packed = ROOT / "results" / "runs" / "filmstrip" / "runs.jsonl"
    (folder / "run.json").write_text(packed.read_text().splitlines()[0])
    shutil.copy(ROOT / "book" / "claims.yml", folder)
    (folder / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "inverting.md", folder / "notebooks")


def make_recipes(folder: Path) -> None:
    def picture(kind: str, width: int) -> bytes:
        file = BytesIO()
        Image.effect_noise((width, 16), 50).save(file, kind)
        return file.getvalue()

    run = {"layer": "relu_1_1", "loss": "gram"}
    run |= {"reached": {"loss": 1e-3, "evaluations": 4, "stop": "theta"}}
    made_with = {"engine": "browser", "version": "1"}
    dots = {"format": 1, "made_with": made_with, "style": "bundled:dots", "protocol": "fast"}
    dots |= {"size": 16, "seed": 0, "encoder": "bundled", "runs": [run]}
    changes: dict[str, dict[str, object]] = {
        "dots": {},
        "later": {"format": 2, "colour": "red"},
        "more": {"out": "/"},
        "text": {"size": "16"},
        "path": {"style": "good.png"},
        "none": {"runs": []},
        "file": {"encoder": "file"},
        "wide": {"style": {"png": picture("png", 18)}},
        "cut": {"style": {"png": picture("png", 16)[:-40]}},
        "jpeg": {"style": {"png": picture("jpeg", 16)}},
        "huge": {"size": 5000},
        "layer": {"runs": [run | {"layer": "relu_9_1"}]},
    }
    for name, change in changes.items():
        (folder / f"{name}.json").write_bytes(msgspec.json.encode(dots | change))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one notebook, one good picture, and much that is bad."""
    folder = tmp_path_factory.mktemp("inputs")
    make_images(folder)
    code = {"features.0.weight": Trap(folder / "sprung")}
    (folder / "code.pth").write_bytes(pickle.dumps(code, protocol=2))
    make_texts(folder)
    make_recipes(folder)
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
