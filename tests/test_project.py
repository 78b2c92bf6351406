"""What is said in more than one place is the same everywhere, and what is shipped is complete."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from styleinv import __version__
from styleinv.encoder import LAYERS, Encoder
from styleinv.runs.reference import reference_runs
from styleinv.runs.store import style_file_name
from styleinv.runs.verification import verify
from tests.conftest import IN_TURN, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch-cpu": "torch"}


def versions(requirements: Iterable[str]) -> dict[str, str]:
    """``["numpy>=1.26"]`` -> {"numpy": ">=1.26"}."""
    pairs = re.findall(r"^([\w.-]+) *(.*)$", "\n".join(requirements), re.M)
    return {CONDA_NAMES.get(name, name).lower(): version for name, version in pairs}


EXTRAS = PROJECT["optional-dependencies"]
DECLARED = versions(PROJECT["dependencies"] + EXTRAS["book"] + EXTRAS["cluster"])


def test_environment_yml_asks_for_what_pyproject_asks_for() -> None:
    *entries, from_pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    entries += [entry for entry in from_pip["pip"] if not entry.startswith("-")]
    asked = versions(entries)
    assert {name: asked[name] for name in asked.keys() - {"python", "pip"}} == DECLARED


def test_the_lock_file_holds_every_requirement_but_the_peers() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([\w.-]+)==", lock, re.M))
    assert DECLARED.keys() <= locked
    assert versions(EXTRAS["bench"]).keys().isdisjoint(locked)
    makefile = (ROOT / "Makefile").read_text()
    assert set(re.findall(r"--extra (\w+)", makefile)) == EXTRAS.keys() - {"bench"}


def test_versions_and_fingerprints_agree(bundled: Encoder) -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
    card = json.loads((ROOT / "styleinv/weights/bundled.json").read_text())
    assert card["sha256"] == bundled.sha256


def test_readme_picture_shows_the_reference_runs() -> None:
    """Column by column, row by row, as far as JPEG keeps them; light enough for previews."""

    def coarse(pixels: np.ndarray) -> np.ndarray:
        return pixels.astype(float).reshape(64, 4, 64, 4, 3).mean(axis=(1, 3))

    file = ROOT / "book/style/picture.jpg"
    assert file.stat().st_size < 300_000
    assert str(file.relative_to(ROOT)) in (ROOT / "README.md").read_text(encoding="utf-8")
    runs = reference_runs("chapter", ROOT / "results")
    with Image.open(file) as picture:
        drawn = np.asarray(picture.convert("RGB"))
    for top, style in ((159, "skimage:coffee"), (421, "bundled:strokes")):
        for left, layer in zip(range(262, 1304, 262), LAYERS, strict=True):
            shown = coarse(drawn[top : top + 256, left : left + 256])
            run = coarse(runs[style, layer, "gram"].image)
            assert np.abs(shown - run).mean() < 10, (style, layer)  # others differ by 25 or more


def test_home_shows_a_photograph_and_the_gram_matrix_of_every_layer() -> None:
    home = (ROOT / "book/intro.md").read_text(encoding="utf-8")
    style, *shown = (ROOT / "book" / x for x in re.findall(r'<img .*?src="(\S+)"', home))
    assert style.name == style_file_name("skimage:coffee", 256)
    runs = reference_runs("chapter", ROOT / "results")
    for layer, file in zip(LAYERS, shown, strict=True):
        with Image.open(file) as picture:
            found = np.asarray(picture)
        np.testing.assert_array_equal(found, runs["skimage:coffee", layer, "gram"].image)


def test_at_least_half_of_the_notebooks_code_is_visible() -> None:
    """Lines that are neither empty nor a comment, of all cells but those with parameters."""
    jupytext = pytest.importorskip("jupytext", reason="no Jupyter (extra `book`)")
    hidden = {"hide-input", "hide-cell", "remove-input", "remove-cell"}
    lines = {True: 0, False: 0}
    for file in sorted((ROOT / "notebooks").glob("*.md")):
        for cell in jupytext.read(file).cells:
            tags = set(cell.metadata.get("tags", []))
            if cell.cell_type == "code" and "parameters" not in tags:
                code = (line.strip() for line in cell.source.splitlines())
                count = sum(bool(line) and not line.startswith("#") for line in code)
                lines[tags.isdisjoint(hidden)] += count
    assert lines[True] >= lines[False], lines


def test_contributing_names_files_that_exist() -> None:
    named = re.findall(r"`((?:\w+/)+[\w.]*)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_workflows_run_what_exists_on_every_python_that_is_supported() -> None:
    tests, book = ((ROOT / ".github/workflows" / f"{name}.yml") for name in ("tests", "book"))
    called = set(re.findall(r"make (\S+)", tests.read_text() + book.read_text()))
    assert called == {"test", "test-long", "book"}
    assert called <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    matrix = yaml.safe_load(tests.read_text())["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_a_committed_run_can_be_made_again() -> None:
    found = verify(ROOT / "results" / "runs" / "bundled-64", rerun=1, seed=1)
    assert (found.wrong, len(found.reruns)) == ([], 1)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which pip has installed the package, without what it requires."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    kept_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("styleinv", "book"):
        shutil.copytree(ROOT / name, source / name, ignore=kept_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-compile", "--target", folder]
    command = [sys.executable, "-m", "pip", "install", *options, source]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_an_installation_has_the_packages_and_nothing_else(installed: Path) -> None:
    def files(folder: Path) -> set[Path]:
        paths = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder) for path in paths if "__pycache__" not in path.parts}

    assert files(installed / "styleinv") == files(ROOT / "styleinv")
    assert files(installed / "styleinv_book") == files(ROOT / "book" / "styleinv_book")
    others = {path.name for path in installed.iterdir()} - {"styleinv", "styleinv_book"}
    assert others == {"bin", f"styleinv-{__version__}.dist-info"}


# What only the extras bring cannot be imported.
BASE_INSTALL = """
import sys
sys.modules |= dict.fromkeys([
    "IPython", "anywidget", "dask", "distributed", "ipykernel", "ipywidgets", "jupytext",
    "jupyter_core", "matplotlib", "nbclient", "nbformat", "papermill", "sphinx", "voila",
])
"""


def test_a_base_install_inverts_and_verifies_and_says_what_it_lacks(
    installed: Path, tmp_path: Path
) -> None:
    tiny = ["bundled:dots", "--size", "16", "--iterations", "2"]
    commands = [["invert", *tiny], ["verify", "out", "--rerun", "1"], ["explore"], ["book"]]
    command = [sys.executable, "-c", BASE_INSTALL + IN_TURN, json.dumps(commands)]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    ended = re.findall("^Ended (.*)$", done.stdout, re.M)
    assert ended == ["invert: 0", "verify: 0", "explore: 2", "book: 2"], done.stderr
    assert done.stderr.count("pip install 'styleinv[book]'") == 2
