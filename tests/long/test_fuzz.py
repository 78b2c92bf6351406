"""Whatever is in a file or on the command line: it is read, or refused with an `InputError`.

Where nothing is asserted, any other exception is the failure. The cases are the same every time.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest
import typer
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from styleinv_book.parameters import check_parameters, defaults_of, read_parameters

from styleinv import InputError, cli, load_style
from styleinv.runs import store
from styleinv.runs.reference import read_reference
from tests.conftest import ROOT

CASES = {
    "damaged pictures": 9000,
    "headers of pictures": 2000,
    "damaged records": 3000,
    "changed records": 2000,
    "pictures of records": 2000,
    "parameters": 2500,
    "reference files": 1000,
    "arguments": 2500,
}


def test_there_are_enough() -> None:
    assert sum(CASES.values()) >= 20_000


def cases(what: str) -> Callable[[Any], Any]:
    return settings(
        max_examples=CASES[what],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, which each case writes anew."""
    return tmp_path_factory.mktemp("fuzz") / "file"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_or_refuse(read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read` returns, or None where it refuses."""
    with suppress(InputError):
        return read(*arguments)
    return None


# --- Pictures ---------------------------------------------------------------------------------


def encoded(picture: Image.Image, format: str, **options: Any) -> bytes:
    file = BytesIO()
    picture.copy().save(file, format, **options)
    return file.getvalue()


def small_pictures() -> list[bytes]:
    """One small file of each format and of each way in which formats store things."""
    random = np.random.default_rng(0)
    first, second = (
        Image.fromarray(random.integers(0, 256, (16, 18, 3), dtype=np.uint8)) for _ in range(2)
    )
    deep = Image.fromarray(random.integers(0, 65536, (16, 18), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "turned"
    frames = {"save_all": True, "append_images": [second]}
    return [
        encoded(first, "PNG", exif=exif, icc_profile=bytes(100)),
        encoded(first.convert("P"), "PNG", transparency=3),
        encoded(deep, "PNG", transparency=3),
        encoded(first, "PNG", **frames),
        encoded(first, "JPEG", exif=exif),
        encoded(first.convert("CMYK"), "JPEG", progressive=True),
        encoded(first, "GIF", **frames),
        encoded(first, "WEBP", exif=exif),
        encoded(first, "WEBP", lossless=True, **frames),
        encoded(first, "TIFF", **frames),
        encoded(deep, "TIFF"),
        *(encoded(first, "TIFF", compression=f"tiff_{x}") for x in ("lzw", "adobe_deflate")),
        encoded(first, "TIFF", compression="jpeg"),
        encoded(first.convert("1"), "TIFF", compression="group4"),
        *(encoded(first, format) for format in ("BMP", "PPM", "JPEG2000")),
        encoded(first, "ICO", sizes=[first.size]),
        encoded(first, "TGA", compression="tga_rle"),
        encoded(first, "AVIF", exif=exif),
        encoded(first, "MPO", **frames),  # last: it leaves its settings on the frames
    ]


PICTURES = small_pictures()
MAGIC = (
    *(picture[:12] for picture in PICTURES),
    *(b"P1 ", b"P4 ", b"P7\n", b"Pf\n", b"\0\0\2\0", b"\xff\x4f\xff\x51", b"II+\0", b"BA\0\0"),
)

# --- Damage -----------------------------------------------------------------------------------

Edit = Callable[[bytes, int, int, bytes], bytes]
EDITS: tuple[Edit, ...] = (
    lambda content, start, end, piece: content[:start] + piece + content[start + len(piece) :],
    lambda content, start, end, piece: content[:start] + piece + content[start:],
    lambda content, start, end, piece: content[:start] + content[end:],
    lambda content, start, end, piece: content[:end] + content[start:],
    lambda content, start, end, piece: content[:start],
    lambda content, start, end, piece: (
        content[:start]
        + bytes(a ^ b for a, b in zip(content[start:], piece, strict=False))
        + content[start + len(piece) :]
    ),
)
# What does harm as a count or an offset.
EXTREMES = (bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\1\0\0", b"\xff\xff")
PIECES = st.sampled_from(EXTREMES) | st.binary(min_size=1, max_size=7)
# Headers, where most can go wrong, are in front.
PLACES = st.integers(0, 63) | st.integers(0, 10_000)


def damaged(originals: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the files, pieces of it replaced, put in, cut out or off, repeated, or flipped."""
    edits = st.tuples(st.sampled_from(EDITS), PLACES, st.integers(0, 40), PIECES)

    def damage(content: bytes, edits: list[tuple[Edit, int, int, bytes]]) -> bytes:
        for edit, place, length, piece in edits:
            start = place % (len(content) + 1)
            content = edit(content, start, start + length, piece)
        return content

    return st.builds(damage, st.sampled_from(originals), st.lists(edits, min_size=1, max_size=4))


# --- The readers ------------------------------------------------------------------------------


def read_picture(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    image = read_or_refuse(load_style, file, 16)
    if image is not None:
        assert image.shape == (3, 16, 16)
        assert image.min() >= 0
        assert image.max() <= 1


def test_every_picture_is_good_to_begin_with(file: Path) -> None:
    for picture in PICTURES:
        file.write_bytes(picture)
        assert load_style(file, 16).shape == (3, 16, 16)


@cases("damaged pictures")
@given(content=damaged(PICTURES))
def test_damaged_pictures(file: Path, content: bytes) -> None:
    read_picture(file, content)


@cases("headers of pictures")
@given(magic=st.sampled_from(MAGIC), rest=st.binary(max_size=200))
def test_headers_of_pictures(file: Path, magic: bytes, rest: bytes) -> None:
    read_picture(file, magic + rest)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=5,
)


def small_record() -> dict[str, Any]:
    """A kept record, short and without its picture."""
    path = next((ROOT / "results" / "runs" / "chapter").glob("*.json"))
    run = store.Run(store.read_record(path), None)
    record = {**run.record, "picture": False, "trace": run.record["trace"][:2]}
    return {**record, "sha256": store.seal(record)}


RECORD = small_record()


def read_record(file: Path, content: bytes) -> None:
    """A record is refused, or it is the one that was written."""
    file.write_bytes(content)
    read_or_refuse(store.read_record, file)
    run = read_or_refuse(store.read, file)
    assert run is None or run.record == RECORD


def test_the_record_is_good_to_begin_with(file: Path) -> None:
    file.write_text(json.dumps(RECORD))
    assert store.read(file).record == RECORD


@cases("damaged records")
@given(content=damaged([json.dumps(RECORD).encode()]))
def test_damaged_records(file: Path, content: bytes) -> None:
    read_record(file, content)


@cases("pictures of records")
@given(content=damaged(PICTURES))
def test_pictures_of_records(file: Path, content: bytes) -> None:
    """A picture that is not the one that was written is refused, or none could tell it apart."""
    record = {**RECORD, "picture": True}
    path = file.with_name("record.json")
    path.write_text(json.dumps({**record, "sha256": store.seal(record)}))
    path.with_suffix(".png").write_bytes(content)
    assert read_or_refuse(store.read, path) is None


PATHS = [
    *((name,) for name in RECORD),
    *(
        (name, inner)
        for name, value in RECORD.items()
        if isinstance(value, dict)
        for inner in value
    ),
]


@cases("changed records")
@given(path=st.sampled_from(PATHS), value=JSON, sealed=st.booleans())
def test_changed_records(file: Path, path: tuple[str, ...], value: Any, sealed: bool) -> None:
    record = json.loads(json.dumps(RECORD))
    holder = record if len(path) == 1 else record[path[0]]
    holder[path[-1]] = value
    if not sealed:
        read_record(file, json.dumps(record).encode())
        return
    record["sha256"] = store.seal(record)
    file.write_text(json.dumps(record))
    read_or_refuse(store.read, file)


DEFAULTS = defaults_of(jupytext.read(ROOT / "notebooks" / "inverting.md"))
NAMES = st.sampled_from(("styles", "layers", "seeds", "size", "stops", "encoder", "colour", ""))
YAML = yaml.safe_dump({"styles": ["a.png", "bundled:dots"], "seeds": [0, 1], "size": 64}).encode()


@cases("parameters")
@given(
    assignments=st.lists(
        st.builds("{}={}".format, NAMES, st.integers() | st.text(max_size=20))
        | st.text(max_size=20),
        max_size=2,
    ),
    content=st.none()
    | damaged([YAML])
    | st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.dictionaries(NAMES | st.integers(), JSON, max_size=3).map(
        lambda values: json.dumps(values).encode()
    ),
)
def test_parameters(file: Path, assignments: list[str], content: bytes | None) -> None:
    if content is not None:
        file.write_bytes(content)
    parameters = read_or_refuse(read_parameters, assignments, None if content is None else file)
    if parameters is not None:
        read_or_refuse(check_parameters, parameters, DEFAULTS)


SWEEP = {"styles": ["bundled:dots"], "losses": ["gram"], "seeds": [0, 1], "pictures": False}
REFERENCE = {"encoder_sha256": 8 * "ab", "sweeps": {"few": SWEEP}}


@cases("reference files")
@given(
    content=damaged([yaml.safe_dump(REFERENCE).encode()])
    | JSON.map(lambda value: json.dumps({**REFERENCE, "sweeps": value}).encode())
    | JSON.map(lambda value: json.dumps({**REFERENCE, "sweeps": {"few": value}}).encode())
)
def test_reference_files(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    read_or_refuse(read_reference, file)


PROGRAM = typer.main.get_command(cli.app)
OPTIONS = sorted(
    option for command in PROGRAM.commands.values() for x in command.params for option in x.opts
)


@cases("arguments")
@given(
    command=st.sampled_from(sorted(PROGRAM.commands)),
    arguments=st.lists(
        st.sampled_from(OPTIONS) | st.integers().map(str) | st.text(max_size=10), max_size=5
    ),
)
def test_arguments(command: str, arguments: list[str]) -> None:
    """As far as a command's options go; what they mean is for the tests of what they name."""
    with suppress(typer.TyperException, typer.Exit):
        PROGRAM.commands[command].make_context(command, arguments)
