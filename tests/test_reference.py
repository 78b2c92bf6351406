"""The reference runs: listed in a file, made, read back; and those that are committed."""

import shutil
from itertools import product
from pathlib import Path

import msgspec
import pytest
import yaml
from styleinv_book.ablation import ABLATION

from styleinv import InputError
from styleinv.encoder import BUNDLED_WEIGHTS, NORMALISED_NAME, NORMALISED_SHA256, Encoder
from styleinv.inversion import RESULTS_VERSION
from styleinv.protocol import PROTOCOLS
from styleinv.runs import reference, store
from styleinv.runs.record import Settings, sealed
from styleinv.runs.reference import make_reference_runs, read_reference, reference_runs
from tests.conftest import ROOT

RESULTS = ROOT / "results"
SWEEPS = {
    "few": {
        "styles": ["bundled:strokes"],
        "losses": ["gram", "moment-1"],
        "layers": ["relu_1_1"],
        "along": True,
    },
    "stops": {
        "styles": ["bundled:mosaic"],
        "losses": ["gram"],
        "layers": ["relu_1_2"],
        "seeds": [0, 5],
        "iterations": [2, 3],
        "pictures": False,
    },
}


@pytest.fixture
def file(tmp_path: Path, bundled: Encoder) -> Path:
    sweeps = {name: {"size": 16, "iterations": [2], **fields} for name, fields in SWEEPS.items()}
    path = tmp_path / "reference.yml"
    path.write_text(yaml.safe_dump({"encoder_sha256": bundled.sha256, "sweeps": sweeps}))
    return path


@pytest.fixture
def made(file: Path) -> Path:
    """The folder of the file, with its runs."""
    make_reference_runs(file, "bundled")
    return file.parent


def test_makes_what_is_missing_and_reads_it_back(file: Path, made: Path) -> None:
    runs = reference_runs("few", made)
    assert list(runs) == [
        ("bundled:strokes", "relu_1_1", "gram"),
        ("bundled:strokes", "relu_1_1", "moment-1"),
    ]
    assert all(run.image.shape == (16, 16, 3) for run in runs.values())
    for run in runs.values():
        first, *_ = run.record.along
        assert (first.loss, first.evaluations) == (run.record.trace[0].loss, 1)
    key = ("bundled:mosaic", "relu_1_2", "gram")
    for seed, iterations in product((0, 5), (2, 3)):
        run = reference_runs("stops", made, seed=seed, iterations=iterations)[key]
        assert (run.record.asked.seed, run.record.result.evaluations) == (seed, iterations)
        assert run.pixels is None
        assert run.record.along == ()
    assert reference_runs("stops", made)[key].record.asked.seed == 0
    kept = list(made.rglob("runs/*/*.*"))
    assert made / "runs/styles/bundled-strokes-16.png" in kept
    assert sorted(path.suffix for path in kept) == [".jsonl"] * 2 + [".png"] * 4
    lines: list[str] = []
    make_reference_runs(file, "bundled", report=lines.append)
    assert sum(line.endswith("kept from an earlier run") for line in lines) == len(lines) - 2 == 6


def test_makes_some_sweeps_only_if_asked_to(file: Path) -> None:
    """Without the weights that only other sweeps need."""
    sweeps = yaml.safe_load(file.read_text())
    sweeps["encoder_sha256"] = 64 * "0"
    sweeps["sweeps"]["few"]["encoder"] = "bundled"
    file.write_text(yaml.safe_dump(sweeps))
    assert make_reference_runs(file, "bundled", only=["few"])
    assert len(reference_runs("few", file.parent)) == 2
    assert not (file.parent / "runs" / "stops").exists()
    for only, problem in ((["few", "stops"], "has the fingerprint"), (["lot"], "only is 'lot'")):
        with pytest.raises(InputError, match=problem):
            make_reference_runs(file, "bundled", only=only)


@pytest.mark.parametrize(
    ("part", "line"),
    [("made_with", "strokes relu_1_1 gram: loss "), ("measures", "Measured again: strokes-")],
)
def test_replaces_what_an_older_version_has_made_or_measured(
    file: Path, made: Path, part: str, line: str
) -> None:
    record = next(iter(reference_runs("few", made).values())).record
    values = {"results": RESULTS_VERSION - 1} if part == "made_with" else {"version": 0, "ssim": -9}
    older = msgspec.structs.replace(getattr(record, part), **values)
    path = made / "runs/few" / record.file_name
    path.write_bytes(msgspec.json.encode(sealed(record, **{part: older})))
    lines: list[str] = []
    make_reference_runs(file, "bundled", report=lines.append)
    assert sum(line in x for x in lines) == 1
    again = next(iter(reference_runs("few", made).values())).record
    assert (again.asked, again.measures) == (record.asked, record.measures)
    assert again.made_with.results == RESULTS_VERSION
    assert not path.exists()


def test_the_reference_runs_weights_may_be_in_a_file_of_any_name(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundled: Encoder
) -> None:
    """Their runs have the name of `vgg19-normalised`; the bundled weights stand in for those."""
    monkeypatch.setattr(reference, "NORMALISED_SHA256", bundled.sha256)
    other = shutil.copy(BUNDLED_WEIGHTS, tmp_path / "vgg_normalised.pth")
    make_reference_runs(file, str(other))
    runs = reference_runs("few", file.parent).values()
    assert {run.record.asked.encoder for run in runs} == {NORMALISED_NAME}


def test_a_protocol_that_is_not_known(file: Path) -> None:
    others = {name: protocol for name, protocol in PROTOCOLS.items() if name != "fast"}
    with pytest.raises(InputError, match=r"protocol of sweep \w+ is 'fast', but must be one of"):
        make_reference_runs(file, "bundled", protocols=others)


def test_names_what_is_missing_or_altered(made: Path) -> None:
    with pytest.raises(InputError, match="reference sweep is 'none', but must be one of: few"):
        reference_runs("none", made)
    with pytest.raises(InputError, match="lacks 1 runs, the first"):
        reference_runs("stops", made, seed=7)
    records = made / "runs/few" / store.RECORDS
    records.write_text(records.read_text().replace('"height":16', '"height":17'))
    with pytest.raises(InputError, match=rf"record '{records}, line 1' .* not as they were writ"):
        reference_runs("few", made)


@pytest.mark.parametrize(
    "content",
    [
        b"[1, 2",
        b"sweeps: {}",
        b"encoder_sha256: a\nsweeps: {x: {styles: [], losses: [], colour: red}}",
        b"encoder_sha256: 2026-13-01",
        b"\xff\xfe\x00",
    ],
)
def test_refuses_a_broken_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "reference.yml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=f"reference '{file}' cannot be read: "):
        read_reference(file)


def test_committed_runs_are_those_that_are_listed() -> None:
    """Every run of every sweep is there, intact, and as the protocols are today.

    Others are only of the sweeps in chapter.yml, which are made cell by cell.
    """
    listed = read_reference(RESULTS / "reference.yml")
    assert listed.encoder_sha256 == NORMALISED_SHA256
    assert read_reference(RESULTS / "chapter.yml").encoder_sha256 == NORMALISED_SHA256
    kept = set(store.read_records(RESULTS / "runs"))
    protocols = {**PROTOCOLS, **ABLATION}
    for name, entry in listed.sweeps.items():
        for seed, iterations in product(entry.seeds, entry.iterations):
            runs = reference_runs(name, RESULTS, seed=seed, iterations=iterations)
            kept -= {run.path for run in runs.values()}
            protocol = protocols[entry.protocol]
            if iterations is not None:
                protocol = protocol.limited_to(iterations)
            for (style, layer, loss), run in runs.items():
                asked = run.record.asked
                assert (asked.height, asked.width) == (entry.size, entry.size)
                made_with = (asked.encoder, asked.encoder_sha256)
                assert entry.encoder or made_with == (NORMALISED_NAME, NORMALISED_SHA256)
                assert run.record.picture == entry.pictures
                image = RESULTS / "runs/styles" / store.style_file_name(style, entry.size)
                assert image.is_file()
                assert asked.protocol == msgspec.convert(protocol.settings(loss, layer), Settings)
    unfinished = read_reference(RESULTS / "chapter.yml").sweeps
    assert {path.parent.name for path in kept} <= unfinished.keys()
