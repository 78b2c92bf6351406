"""The reference runs: made from a manifest, read back, and those that are committed."""

import json
from pathlib import Path

import pytest
import yaml
from styleinv_book.ablation import ABLATION

from styleinv import LAYERS, InputError
from styleinv.encoder import Encoder
from styleinv.protocol import PROTOCOLS
from styleinv.runs import store
from styleinv.runs.reference import make_reference_runs, read_reference, reference_runs
from tests.conftest import ROOT

RESULTS = ROOT / "results"
SWEEPS = {
    "few": {"styles": ["bundled:strokes"], "losses": ["gram", "moment-1"], "layers": ["relu_1_1"]},
    "stops": {
        "styles": ["bundled:mosaic"],
        "losses": ["gram"],
        "layers": ["relu_1_2"],
        "seeds": [0, 5],
        "iterations": [2, 3],
    },
}


def write_reference(folder: Path, sha256: str, sweeps: dict[str, dict[str, object]]) -> Path:
    path = folder / "reference.yml"
    path.write_text(yaml.safe_dump({"encoder_sha256": sha256, "sweeps": sweeps}))
    return path


@pytest.fixture
def manifest(tmp_path: Path, bundled: Encoder) -> Path:
    sweeps = {name: {"size": 16, "iterations": [2], **fields} for name, fields in SWEEPS.items()}
    return write_reference(tmp_path, bundled.sha256, sweeps)


def test_makes_what_is_missing_and_reads_it_back(manifest: Path) -> None:
    make_reference_runs(manifest, "bundled")
    runs = reference_runs("few", manifest.parent)
    assert list(runs) == [
        ("bundled:strokes", "relu_1_1", "gram"),
        ("bundled:strokes", "relu_1_1", "moment-1"),
    ]
    key = ("bundled:mosaic", "relu_1_2", "gram")
    for seed in (0, 5):
        for iterations in (2, 3):
            run = reference_runs("stops", manifest.parent, seed=seed, iterations=iterations)[key]
            assert run.record["asked"]["seed"] == seed
            assert run.record["result"]["evaluations"] == iterations
    assert reference_runs("stops", manifest.parent)[key].record["asked"]["seed"] == 0
    lines: list[str] = []
    make_reference_runs(manifest, "bundled", report=lines.append)
    made = [line for line in lines if not line.startswith("Sweep")]
    assert len(made) == 6
    assert all(line.endswith("kept from an earlier run") for line in made)
    assert (manifest.parent / "runs/styles/bundled-strokes-16.png").is_file()


def test_keeps_records_without_pictures_and_measures_pictures_anew(
    tmp_path: Path, bundled: Encoder
) -> None:
    fields = {**SWEEPS["few"], "size": 16, "iterations": [30]}
    sweeps = {"with": fields, "without": {**fields, "pictures": False}}
    manifest = write_reference(tmp_path, bundled.sha256, sweeps)
    make_reference_runs(manifest, "bundled")
    kept, bare = (reference_runs(name, tmp_path) for name in sweeps)
    for key, run in bare.items():
        assert run.path is not None
        assert not run.path.with_suffix(".png").exists()
        assert run.record["metrics"] == kept[key].record["metrics"]
        assert len(run.record["trace"]) <= len(kept[key].record["trace"])
        assert run.record["trace"][-1]["loss"] == kept[key].record["result"]["loss"]
        with pytest.raises(InputError, match="is kept without its picture"):
            _ = run.image
    path = next(iter(kept.values())).path
    assert path is not None
    record = json.loads(path.read_text())
    record["metrics"] = {"code": "older"}
    path.write_text(json.dumps({**record, "sha256": store.seal(record)}))
    lines: list[str] = []
    make_reference_runs(manifest, "bundled", report=lines.append)
    assert f"Measured anew: {path.name}" in lines
    assert next(iter(reference_runs("with", tmp_path).values())).record == (
        next(iter(kept.values())).record
    )


def test_refuses_other_weights(manifest: Path) -> None:
    with pytest.raises(InputError, match="encoder 'random' has the fingerprint"):
        make_reference_runs(manifest, "random")


def test_names_what_is_missing_or_altered(manifest: Path) -> None:
    make_reference_runs(manifest, "bundled")
    with pytest.raises(InputError, match="reference sweep is 'none', but must be one of: few"):
        reference_runs("none", manifest.parent)
    with pytest.raises(InputError, match="lacks 1 runs, the first"):
        reference_runs("stops", manifest.parent, seed=7)
    record = next((manifest.parent / "runs/few").glob("*gram*.json"))
    altered = json.loads(record.read_text())
    altered["asked"]["seed"] = 1
    record.write_text(json.dumps(altered))
    with pytest.raises(InputError, match=rf"record '.*{record.name}' .* not as they were written"):
        reference_runs("few", manifest.parent)
    record.with_suffix(".png").unlink()
    with pytest.raises(InputError, match=f"{record.name}' or its image cannot be read"):
        reference_runs("few", manifest.parent)


@pytest.mark.parametrize(
    "content",
    ["[1, 2", "sweeps: {}", "encoder_sha256: a\nsweeps: {x: {colour: red}}", "sweeps: [x]"],
)
def test_refuses_a_broken_manifest(tmp_path: Path, content: str) -> None:
    (tmp_path / "reference.yml").write_text(content)
    with pytest.raises(InputError, match=r"manifest .*reference\.yml' cannot be read"):
        read_reference(tmp_path / "reference.yml")


def test_committed_runs_are_those_that_the_manifest_asks_for() -> None:
    """Every run of every sweep is there, intact, and as the protocols are today; and no other."""
    sha256, entries = read_reference(RESULTS / "reference.yml")
    kept = set(store.read_folder(RESULTS / "runs"))
    for entry in entries:
        for seed in entry.seeds:
            for iterations in entry.iterations:
                runs = reference_runs(entry.name, RESULTS, seed=seed, iterations=iterations)
                protocol = {**PROTOCOLS, **ABLATION}[entry.protocol]
                if iterations is not None:
                    protocol = protocol.limited_to(iterations)
                for (style, layer, loss), run in runs.items():
                    asked = run.record["asked"]
                    assert asked["protocol"] == json.loads(
                        json.dumps(protocol.settings(loss, layer))
                    )
                    assert (asked["height"], asked["width"]) == (entry.size, entry.size)
                    assert entry.encoder or asked["encoder_sha256"] == sha256
                    image = RESULTS / "runs/styles" / store.style_file_name(style, entry.size)
                    assert image.is_file()
                    assert store.has_picture(run.record) == entry.pictures
                    kept.discard(run.path)
    assert kept == set()


def test_the_chapters_figures_have_reference_runs_of_six_styles() -> None:
    runs = reference_runs("chapter", RESULTS)
    assert len({style for style, _, _ in runs}) == 6
    assert {layer for _, layer, _ in runs} == set(LAYERS)
    asked = [run.record["asked"] for run in runs.values()]
    assert {(a["width"], a["seed"], a["protocol"]["name"]) for a in asked} == {(256, 0, "fast")}
    assert {a["encoder"] for a in asked} == {"vgg19_normalised_relu_2_2"}


def test_the_repository_stays_small() -> None:
    assert sum(path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()) < 57e6
