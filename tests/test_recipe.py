"""Recipes: what the live page saves is run again to the same bits, and nothing else is accepted."""

import base64
import json
import re
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import styleinv
from styleinv import InputError, cli
from styleinv.images import to_uint8
from styleinv.live.recipe import read_recipe
from tests.test_fuzz import cases

SIZE = 16


def recipe_of(*runs: dict[str, Any], **changed: Any) -> dict[str, Any]:
    reached = {"loss": 0.125, "evaluations": 1234, "stop": "budget"}
    return {
        "format": 1,
        "made_with": {"engine": "browser", "version": "9.8"},
        "style": "bundled:dots",
        "protocol": "fast",
        "size": SIZE,
        "seed": 5,
        "encoder": "bundled",
        "runs": [{"layer": "relu_1_1", "loss": "gram", "reached": reached, **run} for run in runs],
        **changed,
    }


@pytest.fixture
def cook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, list[Path], str]]:
    """Run a recipe by the command line: the exit code, the pictures, and what is reported."""

    def cook(recipe: dict[str, Any], *options: str) -> tuple[int, list[Path], str]:
        (tmp_path / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        command = ["styleinv", "invert", "--recipe", "recipe.json", *options]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capsys.readouterr()
        pictures = [Path(line) for line in printed.out.splitlines() if line.endswith(".png")]
        return int(str(stop.value.code)), pictures, printed.err

    return cook


def pixels(path: Path) -> Any:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_comparison_over_an_own_image(cook: Callable[..., Any]) -> None:
    own = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(own).save(file, "png")
    cells = {"loss": "moment-1"}, {"loss": "mmd", "layer": "relu_1_2", "alpha": 0.3}
    style = {"png": base64.b64encode(file.getvalue()).decode()}
    code, pictures, said = cook(recipe_of(*cells, style=style, iterations=6))
    assert code == 0
    assert "after 6 evaluations" in said
    line = "In the recipe: loss 0.12 after 1,234 evaluations, budget (browser, styleinv 9.8)"
    assert said.count(line) == 2
    for cell, picture in zip(cells, pictures, strict=True):
        asked: dict[str, Any] = {"layer": "relu_1_1", **cell}
        expected = styleinv.invert(own, size=SIZE, seed=5, iterations=6, **asked)
        assert (pixels(picture) == to_uint8(expected.image)).all()


def test_the_book_s_python_makes_what_the_command_makes(
    cook: Callable[..., Any], tmp_path: Path
) -> None:
    page = (Path(__file__).parents[1] / "book" / "rerun.md").read_text(encoding="utf-8")
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "recipe" in block
    )
    _, expected, _ = cook(recipe_of({}, {"loss": "moment-2"}, iterations=3))
    exec(code.replace("FILE", "recipe.json"), {})
    for number, picture in enumerate(expected):
        assert (pixels(tmp_path / f"picture-{number}.png") == pixels(picture)).all()


def test_the_same_options_beside_a_recipe_and_those_that_it_lacks(cook: Callable[..., Any]) -> None:
    own = recipe_of({}, iterations=3, encoder="file")
    beside = ("--size", "16", "--seed", "5", "--encoder", "random", "--out", "there")
    code, (picture,), _ = cook(own, *beside)
    assert (code, picture.parent) == (0, Path("there"))
    record = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["asked"]["seed"] == 5


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=5), one, max_size=3),
    max_leaves=5,
)


@cases
@given(
    place=st.sampled_from((*recipe_of({}), "loss", "alpha", "reached", "colour")), value=anything
)
def test_any_value_anywhere_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: str, value: Any
) -> None:
    recipe = recipe_of({})
    (recipe["runs"][0] if place in ("loss", "alpha", "reached") else recipe)[place] = value
    file = tmp_path_factory.getbasetemp() / "recipe.json"
    file.write_text(json.dumps(recipe), encoding="utf-8")
    try:
        (task,) = read_recipe(file).plan({})
    except InputError:
        return
    assert place not in ("reached", "colour", "made_with")
    assert (place, value) == ("format", 1) or place != "format"
    assert (task.seed, task.loss) == (recipe["seed"], recipe["runs"][0]["loss"])
