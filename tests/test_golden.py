"""Golden results: small runs, and measures of their pictures, that only a new version may change.

`python -m tests.test_golden` writes `tests/golden` anew, after one of the two versions was raised.

Another CPU, number of threads or release of PyTorch rounds differently. With two threads, with
convolutions by other code than oneDNN's, and with float64 in place of float32, the losses differed
by at most 8e-5 of their values and the pictures by 0.02 of 255 levels on average: the tolerances,
5e-4 and 0.1, leave room for others. A change of one percent in a formula of a loss, in the step
size or in the scale of the inverse Hessian exceeds them.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import styleinv
from styleinv.images import Pixels, load_style, to_uint8
from styleinv.inversion import RESULTS_VERSION
from styleinv.runs import measures

FOLDER = Path(__file__).parent / "golden"
STYLE, SIZE = "bundled:strokes", 32
# As few evaluations as the rounding of others can still follow.
RUNS: dict[str, dict[str, Any]] = {
    "gram": {"layer": "relu_2_1", "iterations": 12},
    "gram random": {"layer": "relu_1_2", "encoder": "random", "iterations": 12},
    "gram chapter": {"layer": "relu_1_1", "protocol": "chapter", "iterations": 60},
    "moment-1 scipy": {"layer": "relu_2_2", "protocol": "scipy", "iterations": 12},
    "moment-2 chapter": {"layer": "relu_2_1", "protocol": "chapter", "iterations": 60},
    "moment-3": {"layer": "relu_1_2", "iterations": 12},
    "moment-4": {"layer": "relu_2_2", "iterations": 12},
    "mmd": {"layer": "relu_1_1", "iterations": 12},
    "mmd-random released": {"layer": "relu_1_2", "protocol": "released", "iterations": 60},
    "mmd-vector": {"layer": "relu_1_1", "iterations": 12},
    "histogram": {"layer": "relu_2_1", "iterations": 8},
    "sliced-wasserstein": {"layer": "relu_1_2", "iterations": 4},
    "central-moments": {"layer": "relu_2_2", "iterations": 4},
}


def run(name: str) -> tuple[list[float], Pixels]:
    """The losses along the trace of one of `RUNS`, and its picture."""
    result = styleinv.invert(STYLE, size=SIZE, loss=name.split()[0], **RUNS[name])
    return [point.loss for point in result.trace], to_uint8(result.image)


def measured(picture: Pixels) -> dict[str, Any]:
    found = measures.measure(picture, to_uint8(load_style(STYLE, SIZE)))
    plain: dict[str, Any] = json.loads(msgspec.json.encode(found))
    return plain


@cache
def golden() -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((FOLDER / "golden.json").read_text())
    return kept


def golden_picture(name: str) -> Pixels:
    """One of the pictures that stand side by side in the file."""
    with Image.open(FOLDER / "golden.png") as strip:
        return np.hsplit(np.asarray(strip), len(RUNS))[list(RUNS).index(name)]


def assert_same(version: str, is_same: bool) -> None:
    assert is_same, (
        f"the results are not those of version {golden()[version]}: mend the change, or, if it is "
        f"meant, raise {version} and run `python -m tests.test_golden`"
    )


def test_versions_are_those_of_the_golden_results() -> None:
    """Whoever raises one writes the golden results anew."""
    kept = {name: golden()[name] for name in ("RESULTS_VERSION", "measures.VERSION")}
    assert kept == {
        "RESULTS_VERSION": RESULTS_VERSION,
        "measures.VERSION": measures.VERSION,
    }, "run `python -m tests.test_golden`"


@pytest.mark.parametrize("name", RUNS)
def test_a_run_ends_as_it_did(name: str) -> None:
    losses, picture = run(name)
    expected, shown = golden()["losses"][name], golden_picture(name)
    assert_same("RESULTS_VERSION", losses == pytest.approx(expected, rel=5e-4, abs=0))
    assert_same("RESULTS_VERSION", np.abs(picture.astype(float) - shown).mean() < 0.1)


@pytest.mark.parametrize("name", RUNS)
def test_a_picture_measures_as_it_did(name: str) -> None:
    found, expected = measured(golden_picture(name)), golden()["measures"][name]
    assert_same("measures.VERSION", found.keys() == expected.keys())
    same = all(found[key] == pytest.approx(expected[key], rel=1e-4) for key in expected)
    assert_same("measures.VERSION", same)


def write() -> None:
    """Write the golden results anew."""
    found = {name: run(name) for name in RUNS}
    strip = np.hstack([picture for _, picture in found.values()])
    content = {
        "RESULTS_VERSION": RESULTS_VERSION,
        "measures.VERSION": measures.VERSION,
        "losses": {name: losses for name, (losses, _) in found.items()},
        "measures": {name: measured(picture) for name, (_, picture) in found.items()},
    }
    FOLDER.mkdir(exist_ok=True)
    Image.fromarray(strip).save(FOLDER / "golden.png")
    (FOLDER / "golden.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    write()
