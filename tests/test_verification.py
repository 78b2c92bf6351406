"""Kept runs are what they say, or are named."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import structs
from PIL import Image
from safetensors.torch import load_file, save_file

import styleinv
from styleinv import InputError
from styleinv.encoder import BUNDLED_WEIGHTS, Encoder
from styleinv.images import save_png
from styleinv.inversion import plan
from styleinv.runs import measures, store
from styleinv.runs.record import sealed
from styleinv.runs.sweeps import sweep
from styleinv.runs.verification import verify

CELL: dict[str, Any] = {"size": 32, "iterations": 9}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, bundled: Encoder) -> Path:
    """Two runs with pictures, fresh; one without, packed."""
    folder = tmp_path_factory.mktemp("kept")
    cell = {**CELL, "layers": ["relu_1_1"], "encoder": bundled}
    sweep(["bundled:dots"], losses=["gram", "moment-1"], folder=folder / "shown", **cell)
    sweep(["bundled:dots"], losses=["moment-2"], folder=folder / "bare", pictures=False, **cell)
    store.pack(folder / "bare")
    return folder


@pytest.fixture
def runs(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "runs"))


def gram(runs: Path) -> Path:
    return next(runs.glob("shown/*gram*.json"))


def alter(path: Path, *, seal: bool = True, **parts: Any) -> None:
    """Give a record in its own file other values, a dictionary for those of one of its parts."""
    record = store.read_record(path)
    values = {
        name: structs.replace(getattr(record, name), **value) if isinstance(value, dict) else value
        for name, value in parts.items()
    }
    other = sealed(record, **values) if seal else structs.replace(record, **values)
    path.write_bytes(msgspec.json.encode(other))


def test_finds_nothing_wrong_with_what_was_written(runs: Path) -> None:
    (runs / "shown" / "._a-relu_1_1-gram-seed0-01234567.json").write_bytes(b"\x00\x05\x16\x07")
    (runs / "shown" / "notes.json").write_text("{}")
    found = verify(runs, rerun=3)
    assert (found.records, found.pictures, found.measured) == (3, 2, 2)
    assert found.wrong == []
    assert found.unmeasured == Counter({"the picture is not kept": 1})
    assert len(found.reruns) == 3
    assert all(line.endswith("bit for bit the same") for line in found.reruns)


def test_measures_some_pictures_only_if_asked_to(runs: Path) -> None:
    """The seed says which; every hash is checked all the same."""
    found = [verify(runs, measure=1, seed=seed) for seed in range(8)]
    assert {(one.pictures, one.measured, one.unmeasured["it was not drawn"]) for one in found} == {
        (2, 1, 1)
    }
    alter(gram(runs), measures={"colour_distance": 99.0})
    found = [verify(runs, measure=1, seed=seed) for seed in range(8)]
    assert {len(one.wrong) for one in found} == {0, 1}
    assert len(verify(runs, measure=5).wrong) == 1
    alter(gram(runs), seal=False, result={"loss": 1e-9})
    assert len(verify(runs, measure=0).wrong) == 1


@pytest.mark.parametrize(
    "parts",
    [
        {"result": {"loss": 1e-9}},
        {"asked": {"seed": 5}},
        {"made_with": {"date": "2000-01-01"}},
        {"address": 64 * "0"},
        {"trace": ()},
    ],
)
def test_names_an_altered_record(runs: Path, parts: dict[str, Any]) -> None:
    alter(gram(runs), seal=False, **parts)
    (wrong,) = verify(runs).wrong
    assert f"record '{gram(runs)}' and its picture are not as they were written" in wrong


@pytest.mark.parametrize("name", ["colour_distance", "artefact_grid"])
def test_sees_through_a_new_seal(runs: Path, name: str) -> None:
    """Who alters a measure and seals the record again is found out by the picture."""
    kept = getattr(store.read(gram(runs)).record.measures, name)
    other = tuple(x + 0.01 for x in kept) if isinstance(kept, tuple) else 1.01 * kept
    alter(gram(runs), measures={name: other})
    (wrong,) = verify(runs).wrong
    assert f"{gram(runs).name}' has {name}" in wrong


def test_other_rounding_of_measures_is_not_wrong(runs: Path) -> None:
    """NumPy and SciPy may differ in last digits from release to release."""
    kept = structs.asdict(store.read_record(gram(runs)).measures)
    others = {name: x * (1 + 1e-5) for name, x in kept.items() if isinstance(x, float)}
    alter(gram(runs), measures=others)
    found = verify(runs)
    assert (found.wrong, found.measured) == ([], 2)


def test_says_what_it_cannot_measure(runs: Path) -> None:
    alter(gram(runs), measures={"version": measures.VERSION + 1})
    alter(next(runs.glob("shown/*moment-1*.json")), source="lost.png")
    found = verify(runs)
    assert (found.measured, found.wrong) == (0, [])
    assert sorted(found.unmeasured.values()) == [1, 1, 1]
    assert any(f"version {measures.VERSION + 1} of the measures" in x for x in found.unmeasured)
    assert found.unmeasured["the style image is not in the current folder"] == 1


def test_takes_the_style_image_that_is_kept_beside_the_runs(runs: Path) -> None:
    """As where another release of a library makes the style image with other last bits."""
    save_png(styleinv.load_style("bundled:dots", 32), runs / "styles" / "bundled-dots-32.png")
    for path in runs.glob("shown/*.json"):
        alter(path, asked={"style_sha256": 64 * "0"})
        alter(path, address=store.read_record(path).asked.address)
        for file in (path.with_suffix(".png"), path):
            file.rename(path.with_name(store.read_record(path).file_name).with_suffix(file.suffix))
    found = verify(runs)
    assert (found.measured, found.wrong) == (2, [])
    with pytest.raises(InputError, match="rerun is 3, but only 1 runs are small enough"):
        verify(runs, rerun=3)


def test_sees_through_an_invented_result(runs: Path) -> None:
    """A result that was never computed is found out by making the run again."""
    ((path, record),) = store.read_records(runs / "bare").items()
    first, second, *rest = record.trace
    invented = sealed(
        record,
        result=structs.replace(record.result, pixels_sha256=64 * "0", loss=10 * record.result.loss),
        trace=(first, structs.replace(second, loss=1.5 * second.loss), *rest),
    )
    (runs / "bare" / store.RECORDS).write_bytes(msgspec.json.encode(invented) + b"\n")
    assert verify(runs).wrong == []
    wrong = verify(runs, rerun=3).wrong
    assert ["at iteration" in wrong[0], "has final loss" in wrong[1]] == [True, True]
    assert all(path.name in sentence for sentence in wrong)


def test_sees_through_an_invented_loss_however_small(tmp_path: Path) -> None:
    """Weights of almost zero make a loss like the smallest of the committed ones.

    Their file may have another name than when the run was made.
    """
    weights = str(tmp_path / "weights.safetensors")
    gains = {"conv_1_1.weight": 1e-7, "conv_1_1.bias": 1e-7, "conv_1_2.weight": 1e7}
    whole = load_file(BUNDLED_WEIGHTS)
    save_file({name: gains.get(name, 1) * x for name, x in whole.items()}, weights)
    cell = {**CELL, "layers": ["relu_1_1"], "losses": ["histogram"], "encoder": weights}
    (kept,) = sweep(["bundled:dots"], folder=tmp_path, **cell).values()
    assert kept.path is not None
    assert 0 < kept.record.result.loss < 1e-9
    alter(kept.path, result={"loss": 3 * kept.record.result.loss})
    renamed = Path(weights).rename(tmp_path / "renamed")
    (wrong,) = verify(tmp_path, rerun=1, encoder=str(renamed)).wrong
    assert "made again has final loss" in wrong


def test_names_an_altered_lost_or_lone_picture(runs: Path) -> None:
    path = gram(runs).with_suffix(".png")
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    (wrong,) = verify(runs).wrong
    assert f"{path.stem}.json' and its picture are not as they were" in wrong
    for spoil in (lambda: path.write_bytes(b"\x89PNG"), path.unlink):
        spoil()
        (wrong,) = verify(runs).wrong
        assert f"{path.stem}.json' cannot be read" in wrong
    path.with_suffix(".json").unlink()
    Image.fromarray(pixels).save(path)
    assert verify(runs).wrong == [f"picture {str(path)!r} has no record"]


def test_names_damaged_and_repeated_lines(runs: Path) -> None:
    lines = runs / "bare" / store.RECORDS
    whole = lines.read_bytes()
    lines.write_bytes(whole + b"<<<<<<< HEAD\n" + whole)
    found = verify(runs)
    assert found.records == 5
    assert any(f"record '{lines}, line 2' cannot be read" in x for x in found.wrong)
    assert any(f"several records: {lines}, line 1 and {lines}, line 3" in x for x in found.wrong)
    assert len(found.wrong) == 2


def test_names_a_record_that_is_another_ones(runs: Path) -> None:
    path, other = gram(runs), next(runs.glob("shown/*moment-1*.json"))
    for suffix in (".json", ".png"):
        shutil.copy(other.with_suffix(suffix), path.with_suffix(suffix))
    assert verify(runs).wrong == [f"record {str(path)!r} has the name of another run"]


def test_a_result_of_other_rounding_is_the_same_within_the_tolerance(runs: Path) -> None:
    """Slightly different weights do here what another machine's rounding does."""
    encoder = styleinv.load_encoder("bundled")
    for weights in encoder.state_dict().values():
        weights *= 1 + 1e-4
    run = styleinv.invert(
        "bundled:dots", layer="relu_1_1", loss="moment-2", encoder=encoder, **CELL
    )
    store.save(store.without_picture(store.run_of(run)), runs / "bare")
    store.pack(runs / "bare")
    found = verify(runs, rerun=3)
    assert found.wrong == []
    assert sum("the same within the tolerance" in line for line in found.reruns) == 1


def test_refuses_a_folder_without_records(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must hold run records"):
        verify(tmp_path / "nothing")


# What programs and people leave beside a record, {}.
BYSTANDERS = [
    "._{}",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "{}~",
    ".{}.swp",
    "#{}#",
    "{}.bak",
    "{}.orig",
    "{}.part",
    ".{}.AbCdEf",
    "~{}.tmp",
    "{} (1).json",
    "{} copy.json",
    "{} (laptop's conflicted copy 2024-01-01).json",
    "{}.sync-conflict-20240101-120000-ABCDEFG.json",
    "__MACOSX/._{}",
    ".ipynb_checkpoints/{}",
    ".ipynb_checkpoints/runs-checkpoint.jsonl",
    ".Trash-1000/files/{}",
    ".snapshots/runs.jsonl",
    ".git/index-seed0-01234567.json",
    "runs.jsonl.bak",
    "pictures/notes.json",
]


@pytest.mark.parametrize("name", BYSTANDERS)
def test_what_lies_beside_runs_changes_nothing(runs: Path, name: str) -> None:
    path = gram(runs)
    before = store.read_folder(runs).keys()
    stray = path.parent / name.format(path.name)
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"\x00\x05\x16\x07 of no use")
    found = verify(runs)
    assert (found.records, found.pictures, found.measured, found.wrong) == (3, 2, 2, [])
    assert store.read_folder(runs).keys() == before


def a_pipe(path: Path) -> None:
    os.mkfifo(path)  # who reads it waits for ever


def a_loop(path: Path) -> None:
    path.with_suffix(".loop").symlink_to(path.parent)


@pytest.mark.parametrize("make", [Path.mkdir, a_pipe, a_loop])
@pytest.mark.parametrize("name", ["a-relu_1_1-gram-seed0-01234567.json", store.RECORDS])
def test_what_is_no_file_is_no_record(runs: Path, name: str, make: Callable[[Path], None]) -> None:
    before = store.read_folder(runs)
    make(runs / "shown" / name)
    assert store.read_folder(runs).keys() == before.keys()
    assert verify(runs).wrong == []


@pytest.mark.parametrize("suffix", [".json", ".png"])
def test_a_copy_under_another_name_counts_once(runs: Path, suffix: str) -> None:
    path, before = gram(runs), store.read_folder(runs).keys()
    shutil.copy(path.with_suffix(suffix), path.with_name(f"Copy of {path.stem}{suffix}"))
    assert verify(runs).wrong == []
    assert store.read_folder(runs).keys() == before


@pytest.mark.parametrize("name", ["e\u0301te\u0301", "12:30:01", "of another name"])
def test_a_run_may_be_renamed(runs: Path, name: str) -> None:
    """As by a Mac, which takes letters apart, or by what copies files to a USB stick."""
    for path in sorted((runs / "shown").iterdir()):
        path.rename(path.with_name(path.name.replace("dots", name, 1)))
    assert verify(runs).wrong == []
    assert len(store.read_folder(runs)) == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: b"\n\n" + text + b" \n\n",
        lambda text: text.rstrip(),
    ],
    ids=["a byte-order mark", "CRLF", "empty lines", "no end of line"],
)
def test_what_editors_and_git_do_to_text_is_no_damage(
    runs: Path, change: Callable[[bytes], bytes]
) -> None:
    before = store.read_folder(runs)
    for path in (gram(runs), runs / "bare" / store.RECORDS):
        path.write_bytes(change(path.read_bytes()))
    assert verify(runs).wrong == []
    after = store.read_folder(runs)
    assert [run.record for run in after.values()] == [run.record for run in before.values()]


def test_a_link_to_nothing_is_named(runs: Path) -> None:
    path = gram(runs)
    path.unlink()
    path.symlink_to("annexed")
    (wrong,) = verify(runs).wrong
    assert wrong == f"record '{path}' cannot be read: it links to a file that is not there"


def test_a_folder_that_cannot_be_read_is_noted(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refuse(place: str) -> Any:
        if Path(place).name == "shown":
            raise PermissionError(13, "Permission denied", place)
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.warns(UserWarning, match=r"shown cannot be read: Permission denied"):
        assert verify(runs).records == 1


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Screenshot from 2024-01-01 12:30:01.png", "Screenshot from 2024-01-01 12-30-01"),
        ("./bundled:strokes", "bundled-strokes"),
        ("a\nb.png", "a-b"),
        ('it\'s "so".png', "it's -so-"),
        ("-rf.png", "rf"),
        ("~.png", "~"),
        ("trail .png", "trail "),
        ("....png", "style"),
        (".hidden.png", "hidden"),
        ("e\u0301.png", "\xe9"),
        ("100%#[a]{b}!$*?.png", "100%#[a]{b}!$--"),
        ("a\\b|<c>.png", "a-b--c-"),
        ("CON.png", "CON"),
        ("a.b.tar.png", "a.b.tar"),
        ("x-seed0-01234567.png", "x-seed0-01234567"),
        (60 * "\U0001f3a8" + ".png", 18 * "\U0001f3a8"),
        ("\u202egnp.png", "\u202egnp"),
        (os.fsdecode(b"\xff.png"), "udcff"),
    ],
    ids=ascii,
)
def test_an_image_may_have_any_name(
    file: str, name: str, bundled: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runs have names that every file system takes, and are found, and measured again."""
    monkeypatch.chdir(tmp_path)
    Image.radial_gradient("L").resize((32, 32)).save("picture.png")
    os.rename("picture.png", file)
    task = plan(file, layer="relu_1_1", encoder=bundled, size=16, iterations=2)
    run, _ = store.obtain(task, "out")
    assert run.path is not None
    assert run.path.name.startswith(f"{name}-relu_1_1-gram-seed0-")
    assert len(run.path.name.encode()) < 143 - len(".01234567.checkpoint")
    assert store.obtain(task, "out")[1]
    has_text = "\udcff" not in file  # a record, which is text, cannot say where the others are
    found = verify(Path("out"), rerun=int(has_text))
    assert (found.records, found.measured, found.wrong) == (1, int(has_text), [])


def test_two_images_of_the_same_name_are_two_runs(bundled: Encoder, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one/a.png", "two/a.png", "a.jpg")]
    for file, colour in zip(files, ("red", "blue", "green"), strict=True):
        file.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(file)
    cell: dict[str, Any] = {"layers": ["relu_1_1"], "losses": ["gram"], "encoder": bundled}
    lines: list[str] = []
    runs = sweep(files, folder=tmp_path / "out", size=16, iterations=2, report=lines.append, **cell)
    assert len({run.path for run in runs.values()}) == 3
    assert verify(tmp_path / "out").records == 3
