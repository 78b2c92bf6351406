"""Whatever is in a file or a parameter: it is read, or refused with an `InputError`.

Where nothing is asserted, any other exception is the failure. The cases are the same every time; of
each kind there are as many as the environment's STYLEINV_FUZZ says (`make test-long`).
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import jupytext
import msgspec
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from styleinv_book.parameters import check_parameters, defaults_of, read_parameters

from styleinv import InputError, load_encoder, load_style
from styleinv.runs import store
from styleinv.runs.record import sealed
from styleinv.runs.reference import read_reference
from tests.conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")
cases = settings(
    max_examples=int(os.environ.get("STYLEINV_FUZZ", "30")),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file, which each case writes anew."""
    return tmp_path_factory.mktemp("fuzz") / "file"


def read_or_refuse(read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read` returns, or None where it refuses."""
    with suppress(InputError):
        return read(*arguments)
    return None


# --- What is damaged --------------------------------------------------------------------------


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
    compressions = ("tiff_lzw", "tiff_adobe_deflate", "jpeg")
    return [
        encoded(first, "PNG", exif=exif, icc_profile=bytes(100)),
        encoded(first.convert("P"), "PNG", transparency=3),
        encoded(deep, "PNG", transparency=3),
        encoded(first.convert("CMYK"), "JPEG", progressive=True),
        encoded(first, "WEBP", lossless=True, **frames),
        encoded(deep, "TIFF"),
        encoded(first.convert("1"), "TIFF", compression="group4"),
        *(encoded(first, "TIFF", compression=name) for name in compressions),
        *(encoded(first, format) for format in ("BMP", "PPM", "JPEG2000")),
        *(encoded(first, format, exif=exif) for format in ("JPEG", "WEBP", "AVIF")),
        encoded(first, "ICO", sizes=[first.size]),
        encoded(first, "TGA", compression="tga_rle"),
        # The last one leaves its settings on the frames.
        *(encoded(first, format, **frames) for format in ("PNG", "GIF", "TIFF", "MPO")),
    ]


PICTURES = small_pictures()
# The starts of files of other formats.
MAGIC = (b"P1 ", b"P4 ", b"P7\n", b"Pf\n", b"\0\0\2\0", b"\xff\x4f\xff\x51", b"II+\0", b"BA\0\0")
WEIGHTS = (ROOT / "styleinv" / "weights" / "bundled.safetensors").read_bytes()
KEPT = next(iter(store.read_records(ROOT / "results" / "runs" / "chapter").values()))
RECORD = sealed(msgspec.structs.replace(KEPT, picture=False, trace=KEPT.trace[:2]))
RECORD_LINE = msgspec.json.encode(RECORD)
SWEEP = {"styles": ["bundled:dots"], "losses": ["gram"], "seeds": [0, 1], "pictures": False}
REFERENCE = {"encoder_sha256": 8 * "ab", "sweeps": {"few": SWEEP}}
PARAMETERS = {"styles": ["a.png", "bundled:dots"], "seeds": ["0", "1"], "size": "64"}
DEFAULTS = defaults_of(jupytext.read(ROOT / "notebooks" / "inverting.md"))

# --- Damage -----------------------------------------------------------------------------------

# What does harm as a count or an offset.
EXTREMES = (b"", bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\1\0\0")
PIECES = st.sampled_from(EXTREMES) | st.binary(max_size=7)
# Headers, where most can go wrong, are in front.
PLACES = st.integers(0, 63) | st.integers(0, 10_000)
LENGTHS = st.integers(0, 7) | st.integers(0, 40) | st.just(1_000_000)


def damaged(*originals: bytes) -> st.SearchStrategy[bytes]:
    """One of the files with pieces of it replaced, put in, cut out or cut off."""
    edits = st.tuples(PLACES, LENGTHS, PIECES)

    def damage(content: bytes, edits: Sequence[tuple[int, int, bytes]]) -> bytes:
        for place, length, piece in edits:
            start = place % (len(content) + 1)
            content = content[:start] + piece + content[start + length :]
        return content

    return st.builds(damage, st.sampled_from(originals), st.lists(edits, min_size=1, max_size=4))


TEXT = st.text(max_size=10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)

# --- The readers ------------------------------------------------------------------------------


def test_all_is_good_to_begin_with(file: Path) -> None:
    for picture in PICTURES:
        file.write_bytes(picture)
        assert load_style(file, 16).shape == (3, 16, 16)
    file.write_bytes(RECORD_LINE)
    assert store.read(file).record == RECORD
    file.write_text(yaml.safe_dump(REFERENCE))
    assert read_reference(file).sweeps.keys() == {"few"}
    file.write_text(yaml.safe_dump(PARAMETERS))
    assert read_parameters([], file) == PARAMETERS


@cases
@given(content=damaged(*PICTURES, *MAGIC))
def test_pictures(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    image = read_or_refuse(load_style, file, 16)
    if image is not None:
        assert image.shape == (3, 16, 16)
        assert image.min() >= 0
        assert image.max() <= 1


@cases
@given(content=damaged(WEIGHTS))
def test_weights(file: Path, content: bytes) -> None:
    weights = file.with_name("weights.safetensors")
    weights.write_bytes(content)
    read_or_refuse(load_encoder, weights)


FIELDS = msgspec.to_builtins(RECORD)
PATHS = [(name,) for name in FIELDS] + [
    (name, inner) for name, value in FIELDS.items() if isinstance(value, dict) for inner in value
]


def changed(path: tuple[str, ...], value: Any) -> bytes:
    """The record with another value somewhere."""
    record = msgspec.to_builtins(RECORD)
    (record if len(path) == 1 else record[path[0]])[path[-1]] = value
    return json.dumps(record).encode()


@cases
@example(content=RECORD_LINE.replace(RECORD.address.encode(), RECORD.address[:7].encode()))
@given(content=damaged(RECORD_LINE) | st.builds(changed, st.sampled_from(PATHS), JSON))
def test_records(file: Path, content: bytes) -> None:
    """A record is refused, or it is the one that was written: in a file of its own or in a line."""
    alone, lines = file.with_name("record.json"), file.with_name(store.RECORDS)
    alone.write_bytes(content)
    run = read_or_refuse(store.read, alone)
    assert run is None or run.record == RECORD
    lines.write_bytes(content + b"\n" + RECORD_LINE + b"\n")
    for path in read_or_refuse(store.read_records, file.parent) or ():
        run = read_or_refuse(store.read, path)
        assert run is None or run.record == RECORD
    lines.unlink()


@cases
@given(
    content=damaged(yaml.safe_dump(REFERENCE).encode())
    | (JSON | st.builds(dict, few=JSON)).map(
        lambda sweeps: json.dumps({**REFERENCE, "sweeps": sweeps}).encode()
    )
)
def test_reference_files(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    read_or_refuse(read_reference, file)


NAMES = st.sampled_from((*DEFAULTS, "colour", ""))
ASSIGNMENTS = st.builds("{}={}".format, NAMES, st.integers() | st.text(max_size=20))


@cases
@given(
    assignments=st.lists(ASSIGNMENTS | st.text(max_size=20), max_size=2),
    content=damaged(yaml.safe_dump(PARAMETERS).encode())
    | st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.dictionaries(NAMES, JSON, max_size=3).map(lambda values: json.dumps(values).encode()),
)
def test_parameters(file: Path, assignments: list[str], content: bytes) -> None:
    file.write_bytes(content)
    parameters = read_or_refuse(read_parameters, assignments, file)
    if parameters is not None:
        read_or_refuse(check_parameters, parameters, DEFAULTS)
