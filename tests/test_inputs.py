"""Bad input, as a user would type it: one sentence each, and nothing is made, changed or run."""

import os
import pickle
import shlex
import shutil
import socket
import stat
import struct
import sys
import zlib
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
from styleinv.errors import LONGEST_SENTENCE, nearest, one_line, one_of, shown, whole_number
from tests.conftest import ROOT
from tests.test_encoder import torchvision_state

# What comes before a command's name, as in NAME=VALUE, is set in its environment; MANY stands for a
# million x, PORT for a port that is taken.
COMMANDS = {
    # --- images
    "invert absent.png": "image 'absent.png' is not an existing file (or one of: bundled:strokes",
    "invert bundle:strokes": "; the nearest is 'bundled:strokes'",
    "invert ''": "image '' is not an existing file",
    "invert MANY": "image 'xxxxx",
    "invert 'two\nlines.png'": r"image 'two\nlines.png' is not an existing file",
    "invert '\x1b[31mred.png'": r"image '\x1b[31mred.png' is not an existing file",
    "invert 'bild \u00fc\u4e2d.png'": "image 'bild \u00fc\u4e2d.png' is not an existing file",
    "invert 'nul\0.png'": r"image 'nul\x00.png' is not an existing file",
    "invert empty.png": "image 'empty.png' is empty",
    "invert folder": "image 'folder' is a folder",
    "invert pipe": "image 'pipe' is a pipe or a device",
    "invert /dev/zero": "image '/dev/zero' is a pipe or a device",
    "invert https://example.org/a.png": "is a URL, and nothing is downloaded: save the picture",
    "invert S3://bucket/a.png": "image 'S3://bucket/a.png' is a URL",
    "invert data:image/png;base64,iVBORw0KGgo=": "is a URL, and nothing is downloaded",
    "invert text.png": "image 'text.png' is in no format that can be read (PNG, JPEG, WEBP",
    "invert drawing.eps": "image 'drawing.eps' is in no format that can be read",
    "invert drawing.svg": "image 'drawing.svg' is in no format that can be read",
    "invert truncated.png": "image 'truncated.png' is damaged or cannot be decoded",
    "invert truncated.jpg": "image 'truncated.jpg' is damaged or cannot be decoded",
    "invert damaged.tif": "image 'damaged.tif' is damaged or cannot be decoded",
    "invert float.tif": "image 'float.tif' must have 8 or 16 bits per channel",
    "invert point.png": "image 'point.png' is 1 x 1 pixels, but each side must have 16 or more",
    "invert line.png": "image 'line.png' is 5000 x 1 pixels, but each side must have 16 or more",
    "invert bomb.png": "image 'bomb.png' has more than 100,000,000 pixels",
    "STYLEINV_MAX_PIXELS=1000 invert good.png": "STYLEINV_MAX_PIXELS can be set to allow more",
    "STYLEINV_MAX_PIXELS=many invert good.png": "STYLEINV_MAX_PIXELS is 'many', but must be",
    "invert long.png --size 4096 --fit keep": "would be resized to 1,280,000 x 4,096 pixels",
    "invert bundled:stroks": "name of the painted style is 'stroks', but must be one of: strokes",
    "invert bundled:": "name of the painted style is '', but must be one of: strokes",
    "invert skimage:cofee": "; the nearest is 'coffee'",
    # --- options
    "invert": "Missing argument 'style'",
    "invert good.png more.png": "unexpected extra argument(s) (more.png)",
    "invert good.png --colour red": "No such option: --colour",
    "invert good.png --layer relu_3_1": "layer is 'relu_3_1', but must be one of: relu_1_1",
    "invert good.png --loss grams": "loss is 'grams', but must be one of: gram,",
    "invert good.png --loss Grams": "; the nearest is 'gram'",
    "invert good.png --loss 'gr\nam'": r"loss is 'gr\nam', but must be one of",
    "invert good.png --loss MANY": "xxx', but must be one of: gram",
    "invert good.png --loss mmd-random": "draws new pairs at every evaluation",
    "invert good.png --protocol slow": "protocol is 'slow', but must be one of: chapter",
    "invert good.png --fit stretch": "fit is 'stretch', but must be one of: crop, keep",
    "invert good.png --size 15": "size is 15, but must be a whole number from 16 to 4,096",
    "invert good.png --size 4097": "size is 4097, but must be a whole number from 16 to 4,096",
    "invert good.png --size 1e3": "'--size': Input should be a valid integer",
    "invert good.png --seed -1": "seed is -1, but must be a whole number from 0",
    "invert good.png --seed 9223372036854775808": "seed is 9223372036854775808, but must be",
    "invert good.png --iterations 0": "iterations is 0, but must be a whole number from 1",
    "invert good.png --seconds nan": "seconds is nan, but must be greater than 0",
    "invert good.png --loss mmd --alpha 0": "alpha is 0.0, but must be a number greater than 0",
    "invert good.png --alpha 2": "alpha is 2.0, but loss 'gram' has no kernel width",
    "invert good.png --device quantum": "device is 'quantum', but this machine's PyTorch cannot",
    "invert good.png --out good.png": "out is 'good.png', but must be a folder that can be written",
    "invert good.png --out good.png/below": "but must be a folder that can be written",
    "invert good.png --out MANY": "but must be a folder that can be written",
    "invert good.png --checkpoint-every -1": "checkpoint-every is -1.0, but must be a number of",
    "invert good.png --checkpoint-every inf": "checkpoint-every is inf, but must be a number of",
    # --- weights
    "invert good.png --encoder absent.pth": "encoder 'absent.pth' is neither an existing weights",
    "invert good.png --encoder pipe": "encoder 'pipe' is neither an existing weights file",
    "invert good.png --encoder good.png": "must end in .safetensors, .pth or .pt",
    "invert good.png --encoder code.pth": "cannot be read as a .pth file of plain tensors",
    "invert good.png --encoder list.pth": "encoder 'list.pth' holds no state dict",
    "invert good.png --encoder text.pth": "cannot be read as a .pth file of plain tensors",
    "invert good.png --encoder text.safetensors": "cannot be read as a .safetensors file",
    "invert good.png --encoder header.safetensors": "cannot be read as a .safetensors file",
    "invert good.png --encoder other.safetensors": "none of the known key layouts",
    "invert good.png --encoder missing.safetensors": "lacks features.5.bias of the nearest",
    "invert good.png --encoder shape.safetensors": "but is (64, 3, 3, 3)",
    "invert good.png --encoder nan.safetensors": "'features.7.weight' holds NaN or infinity",
    # --- sweeps and reference files
    "sweep": "sweep needs either --style, once or more, or --reference",
    "sweep --style good.png --reference other.yml": "sweep needs either --style, once or more, or",
    "sweep --style good.png --layer relu_3_1": "layers is 'relu_3_1', but must be one of",
    "sweep --style good.png --loss moment": "losses is 'moment', but must be one of",
    "sweep --style good.png --style absent.png": "image 'absent.png' is not an existing file",
    "sweep --style good.png --seeds 10001": "seeds is 10001, but must be a whole number from 1",
    "sweep --style good.png --encoder code.pth": "cannot be read as a .pth file of plain tensors",
    "sweep --style good.png --out good.png": "out is 'good.png', but must be a folder",
    "sweep --style good.png --workers 0": "workers is 0, but must be a whole number from 1",
    "sweep --style good.png --workers 2 --scheduler tcp://127.0.0.1:1": "not both",
    "sweep --style good.png --scheduler nowhere": "scheduler 'nowhere' does not answer",
    "sweep --style good.png --scheduler foo://x": "scheduler 'foo://x' does not answer",
    "sweep --style good.png --threads 0": "threads is 0, but must be a whole number from 1",
    "sweep --style good.png --checkpoint-every nan": "checkpoint-every is nan, but must be",
    "sweep --reference deep.yml": "reference 'deep.yml' cannot be read",
    "sweep --reference date.yml": "reference 'date.yml' cannot be read",
    "sweep --reference absent.yml": "reference 'absent.yml' cannot be read",
    "sweep --reference folder": "reference 'folder' cannot be read",
    "sweep --reference list.yml": "reference 'list.yml' cannot be read",
    "sweep --reference broken.yml": "reference 'broken.yml' cannot be read",
    "sweep --reference good.png": "reference 'good.png' cannot be read",
    "sweep --reference field.yml": "contains unknown field `colour`",
    "sweep --reference other.yml": "has the fingerprint",
    # --- the book and its parameters
    "book --root folder": "but must be the project's folder, with _toc.yml",
    "book -p size": "parameter is 'size', but must be NAME=VALUE",
    "book -p MANY": "xxx', but must be NAME=VALUE",
    "book -p style=good.png": "; the nearest is 'styles'",
    "book -p size=large": "parameter 'size' is 'large', but must be a whole number from 0",
    "book -p seeds=0,,1": "parameter 'seeds' is '', but must be a whole number from 0",
    "book -p seeds=-1": "parameter 'seeds' is -1, but must be a whole number from 0",
    "book -p styles=": "parameter 'styles' is '', but must be a text",
    "book -p styles=good.png,absent.png": "image 'absent.png' is not an existing file",
    "book -p styles=pipe": "image 'pipe' is a pipe or a device",
    "book -p encoder=code.pth": "cannot be read as a .pth file of plain tensors",
    "book -f absent.yml": "parameters-file 'absent.yml' cannot be read: it is not an existing file",
    "book -f pipe": "parameters-file 'pipe' cannot be read: it is not an existing file",
    "book -f good.png": "parameters-file 'good.png' cannot be read as YAML",
    "book -f broken.yml": "parameters-file 'broken.yml' cannot be read as YAML",
    "book -f deep.yml": "parameters-file 'deep.yml' cannot be read as YAML",
    "book -f date.yml": "parameters-file 'date.yml' cannot be read as YAML",
    "book -f list.yml": "parameters-file 'list.yml' must hold NAME: VALUE pairs",
    "book -f laughs.yml": "parameter 'size' is [[1], [[...], [...]",
    "book -f digits.yml": "parameter 'size' is too long a number",
    # --- what reads kept runs
    "verify": "Missing argument 'folder'",
    "verify absent": "folder is 'absent', but must hold run records",
    "verify folder --rerun -1": "'--rerun': Input should be greater than or equal to 0",
    "claims --file absent.yml": "claims 'absent.yml' cannot be read",
    "claims --file list.yml": "claims 'list.yml' cannot be read",
    "claims --file claims.yml C99": "claim is 'C99', but must be one of: C1",
    "claims --file claims.yml C1": "claim C1 has no runs to compare",
    "claims --file claims.yml --results damaged": "broken.json' or its image cannot be read",
    "claims --file claims.yml --results lacking": "a record in 'lacking' lacks 'asked'",
    # --- the live page
    "explore --port 65536": "port is 65536, but must be a whole number from 0 to 65,535",
    "explore --no-browser --port PORT": "but cannot be used: Address already in use",
    "explore --out good.png": "out is 'good.png', but must be a folder that can be written",
    # --- no such thing
    "draw": "No such command 'draw'",
    "styles more": "unexpected extra argument(s) (more)",
}


class Trap:
    """What a pickle can do to those who load it without care: here, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.target,)


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size, without a pixel."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (header, b"IDAT", b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )


def make_images(folder: Path) -> None:
    good = Image.radial_gradient("L").convert("RGB")
    good.save(folder / "good.png")
    good.save(folder / "drawing.eps")
    good.convert("F").save(folder / "float.tif")
    Image.new("L", (1, 1)).save(folder / "point.png")
    Image.new("L", (5000, 1)).save(folder / "line.png")
    Image.new("L", (5000, 16)).save(folder / "long.png")
    for name in ("truncated.png", "truncated.jpg"):
        good.save(folder / name)
        os.truncate(folder / name, (folder / name).stat().st_size - 100)
    good.save(folder / "damaged.tif", compression="tiff_adobe_deflate")
    content = bytearray((folder / "damaged.tif").read_bytes())
    content[300:400] = bytes(100)
    (folder / "damaged.tif").write_bytes(content)
    (folder / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "drawing.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")


def make_weights(folder: Path) -> None:
    state = torchvision_state()
    shape = {**state, "features.2.weight": torch.zeros(64, 3, 3, 3)}
    nan = {**state, "features.7.weight": torch.full_like(state["features.7.weight"], torch.nan)}
    missing = {name: tensor for name, tensor in state.items() if name != "features.5.bias"}
    for name, tensors in {"shape": shape, "nan": nan, "missing": missing}.items():
        save_file(tensors, folder / f"{name}.safetensors")
    save_file({"weight": torch.zeros(3)}, folder / "other.safetensors")
    torch.save([torch.zeros(3)], folder / "list.pth")
    code = {"features.0.weight": Trap(folder / "sprung")}
    (folder / "code.pth").write_bytes(pickle.dumps(code, protocol=2))
    (folder / "text.pth").write_text("no weights")
    (folder / "text.safetensors").write_text("no weights")
    (folder / "header.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def make_texts(folder: Path) -> None:
    lists = ["&l0 [1]", *(f"&l{i} [{', '.join(9 * [f'*l{i - 1}'])}]" for i in range(1, 12))]
    fields = {"styles": ["bundled:dots"], "losses": ["gram"]}
    texts = {
        "list.yml": "[1, 2]",
        "broken.yml": "size: [1",
        "deep.yml": 3000 * "[",
        "date.yml": "size: 2001-99-99",
        "digits.yml": f"size: 0x{5000 * 'f'}",
        # Short to write, but written out it has 9 to the power of 11 elements.
        "laughs.yml": f"size: [{', '.join(lists)}]",
        "other.yml": yaml.safe_dump({"encoder_sha256": 64 * "0", "sweeps": {"few": fields}}),
        "field.yml": yaml.safe_dump(
            {"encoder_sha256": 64 * "0", "sweeps": {"few": {**fields, "colour": "red"}}}
        ),
        "damaged/runs/few/broken.json": '{"asked": ',
        "lacking/runs/few/fields.json": "{}",
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


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file and folder below, with its mode and what is in it."""
    found = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        found[path] = mode, path.read_bytes() if stat.S_ISREG(mode) else b""
    return found


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
    assert len(printed.err) <= LONGEST_SENTENCE + len("Error: .\n")
    assert contents(folder) == before


def test_the_trap_is_one(tmp_path: Path) -> None:
    """Loaded without care, such a file does what it holds."""
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


@given(st.text(max_size=100))
def test_a_sentence_is_one_printable_line(text: str) -> None:
    sentence = str(InputError(text))
    assert sentence == one_line(sentence)
    assert sentence.isprintable()
    if text.isprintable():
        assert sentence == text.strip()


@given(st.integers(0, 10**4), st.integers(0, 10**4))
def test_a_long_sentence_loses_its_middle(before: int, behind: int) -> None:
    front, end = "size is ", ", but must be a whole number"
    sentence = one_line(front + before * "x" + behind * "\0" + end)
    assert len(sentence) <= LONGEST_SENTENCE
    assert sentence.startswith(front)
    assert sentence.endswith(end)


@pytest.mark.parametrize(
    ("value", "known", "expected"),
    [
        ("grams", ("gram", "mmd"), "; the nearest is 'gram'"),
        ("GRAM", ("gram", "mmd"), "; the nearest is 'gram'"),
        ("c5", ("C1", "C5"), "; the nearest is 'C5'"),
        ("moment-7", ("moment-1", "moment-2"), ""),  # as near to the one as to the other
        ("relu", ("gram", "mmd"), ""),
        (3, ("3.0", "4.0"), ""),
        ("gram", (), ""),
    ],
)
def test_the_nearest_name(value: object, known: tuple[str, ...], expected: str) -> None:
    assert nearest(value, known) == expected


@pytest.mark.parametrize(
    "value",
    [10**6 * "x", 10**6 * [1], 10**5000, {"a": 10**6 * "x"}],
    ids=["text", "list", "number", "mapping"],
)
def test_values_are_shown_shortened(value: object) -> None:
    assert len(shown(value)) < 150
    with pytest.raises(InputError, match=r"^size is .*, but must be a whole number from 1 to 9$"):
        whole_number("size", value, 1, 9)
    with pytest.raises(InputError, match=r"^size is .*, but must be one of: small, large$"):
        one_of("size", value, ("small", "large"))
