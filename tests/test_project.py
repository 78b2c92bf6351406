"""What is said in more than one place is the same everywhere."""

import json
import re
import tomllib

import numpy as np
import yaml
from PIL import Image

from styleinv import __version__
from styleinv.encoder import LAYERS, Encoder
from styleinv.losses import LOSSES
from styleinv.protocol import CHAPTER, RELEASED
from styleinv.runs.reference import reference_runs
from tests.conftest import ROOT

CONDA_NAMES = {"pytorch-cpu": "torch"}


def requirement(text: str) -> tuple[str, str]:
    """``"numpy>=1.26"`` -> ("numpy", ">=1.26")."""
    match = re.fullmatch(r"([A-Za-z0-9._-]+)\s*(.*)", text)
    assert match is not None
    return CONDA_NAMES.get(match[1], match[1]).lower(), match[2]


def declared() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    everything = project["dependencies"] + optional["book"] + optional["cluster"]
    return dict(requirement(text) for text in everything)


def test_environment_yml_asks_for_what_pyproject_asks_for() -> None:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    from_pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    names = [entry for entry in entries if isinstance(entry, str)]
    names += [entry for entry in from_pip if not entry.startswith("-")]
    asked = dict(requirement(name) for name in names)
    for conda_only in ("python", "pip"):
        asked.pop(conda_only)
    assert asked == declared()


def test_the_lock_file_holds_every_requirement() -> None:
    locked = set(
        re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.lock").read_text(), re.M)
    )
    assert declared().keys() <= locked


def test_citation_has_the_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__


def test_model_card_describes_the_weights_that_ship(bundled: Encoder) -> None:
    card = json.loads((ROOT / "styleinv/weights/bundled.json").read_text())
    assert card["sha256"] == bundled.sha256


def test_readme_picture_shows_the_reference_runs() -> None:
    """Column by column, row by row, to the pixel."""
    runs = reference_runs("chapter", ROOT / "results")
    with Image.open(ROOT / "results/picture.png") as picture:
        drawn = np.asarray(picture.convert("RGB"))
    for i, style in enumerate(("bundled:strokes", "skimage:coffee", "bundled:mosaic")):
        for j, layer in enumerate(LAYERS, start=1):
            top, left = 24 + i * 262, j * 262
            shown = drawn[top : top + 256, left : left + 256]
            np.testing.assert_array_equal(shown, runs[style, layer, "gram"].image)


def test_readme_says_how_its_picture_was_made() -> None:
    runs = reference_runs("chapter", ROOT / "results")
    asked = [run.record["asked"] for (_, _, loss), run in runs.items() if loss == "gram"]
    assert {(a["height"], a["width"], a["seed"]) for a in asked} == {(256, 256, 0)}
    assert {a["protocol"]["name"] for a in asked} == {"fast"}
    text = " ".join((ROOT / "README.md").read_text().split())
    assert "activation-normalised VGG-19, 256 x 256, protocol `fast`, seed 0." in text


def test_the_most_iterations_are_as_said() -> None:
    """README and `styleinv invert --help` name the longest run of the two Adam protocols."""
    longest = max(
        protocol.budget(loss, layer) + protocol.extra_rounds * protocol.extra_iterations
        for protocol in (CHAPTER, RELEASED)
        for loss in LOSSES
        for layer in LAYERS
    )
    for file in ("README.md", "styleinv/cli.py"):
        assert f"up to {longest:,}" in (ROOT / file).read_text()


def test_workflows_use_what_exists() -> None:
    """Make's targets and variables, and the files and folders that the workflows name."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert [file.name for file in files] == ["book.yml", "tests.yml"]
    called = set()
    for file in files:
        for job in yaml.safe_load(file.read_text())["jobs"].values():
            for step in job["steps"]:
                if "uses" in step:
                    assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
                for target, variable in re.findall(r"make (\S+) (\w+)=", step.get("run", "")):
                    assert f"\n{variable} ?=" in f"\n{makefile}"
                    called.add(target)
                lock = step.get("with", {}).get("cache-dependency-path")
                assert lock is None or (ROOT / lock).is_file()
    assert called == {"book", "test"} <= targets


def test_workflows_run_the_pythons_that_are_supported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    tests = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    matrix = tests["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]


def test_the_published_book_is_the_one_that_is_built() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text())["jobs"]["build"]
    published = [step["with"]["path"] for step in job["steps"] if "pages-artifact" in str(step)]
    assert published == ["_build/html"]
