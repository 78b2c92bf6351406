"""What the first edition's evidence was, from its own records: what we got wrong first.

`git worktree add OLD 6a5798b`, then `python benchmarks/first_errors.py OLD`. It reads the records
and pictures of that commit, judges its claims by its own code, measures its pictures once more, by
today's measures, and writes results/first_errors.json and the strips of pictures in book/figures.
Minutes.
"""

import importlib.util
import json
import math
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import eye_study
import numpy as np
from PIL import Image
from ways import write_record

from styleinv.encoder import LAYERS
from styleinv.protocol import CHAPTER_ITERATIONS
from styleinv.runs import store
from styleinv.runs.measures import measure, other_sample

ROOT = Path(__file__).parents[1]
RECORD, FIGURES = ROOT / "results" / "first_errors.json", ROOT / "book" / "figures"
MARBLING = "bundled:marbling"
# The side of the pictures' parts that the page shows, and the gap between them.
SIDE, GAP = 128, 6

Old = dict[str, Any]


def records(old: Path, *sweeps: str, **asked: str) -> Iterator[tuple[Path, Old]]:
    """Old records as plain JSON, with the paths of their pictures."""
    for folder in (old / "results" / "runs" / sweep for sweep in sweeps):
        for line in (folder / store.RECORDS).read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            own = one["asked"]
            if all(own[name] == value for name, value in asked.items()):
                cell = f"{one['style']}-{own['layer']}-{own['loss']}-seed{own['seed']}"
                yield folder / f"{cell}-{one['address'][:8]}.png", one


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def structure(old: Path) -> list[dict[str, Any]]:
    """Marbling's pictures of the Gram matrix, 256 px: the old measure of structure, and today's."""
    rows = []
    for path, one in records(old, "chapter", loss="gram"):
        if one["source"] == MARBLING:
            style = old / "results/runs/styles" / store.style_file_name(MARBLING, 256)
            now = measure(pixels(path), pixels(style), other_sample(MARBLING, 256))
            size = one["measures"]["structure_size"]
            row = {"layer": one["asked"]["layer"], "structure_size": size}
            rows.append({**row, "largest_kept": now.largest_kept, "structures": now.structures})
    return rows


def same(old: Path) -> list[dict[str, Any]]:
    """How alike the pictures of N = 3 and N = 4 were: the correlation of their pixel values."""
    rows = []
    for path, one in records(old, "chapter", loss="moment-3"):
        cell = {"source": one["source"], "layer": one["asked"]["layer"]}
        (other,) = (
            picture
            for picture, further in records(old, "chapter", loss="moment-4", layer=cell["layer"])
            if further["source"] == one["source"]
        )
        correlation = np.corrcoef(pixels(path).ravel(), pixels(other).ravel())[0, 1]
        rows.append({"style": one["source"], "layer": cell["layer"], "correlation": correlation})
    return rows


def adam(old: Path) -> dict[str, Any]:
    """Adam's iterations where a claim spoke of them, as shares of Table 1.1's; what we made of it.

    `gain` is the median of Adam's final loss over that of SciPy's L-BFGS-B.
    """
    cells = {
        sweep: {
            (x["source"], x["asked"]["layer"], x["asked"]["loss"]): x["result"] for _, x in found
        }
        for sweep in ("adam", "optimisers-adam", "optimisers-scipy")
        for found in [records(old, sweep)]
    }
    ours, theirs = cells["optimisers-adam"], cells["optimisers-scipy"]
    made = [
        (key, one["iterations"])
        for x in ("adam", "optimisers-adam")
        for key, one in cells[x].items()
    ]
    shares = [count / CHAPTER_ITERATIONS[loss][layer] for (_, layer, loss), count in made]
    return {
        "runs": len(made),
        "iterations": sorted({count for _, count in made}),
        "shares": [min(shares), max(shares)],
        "gain": statistics.median(one["loss"] / theirs[key]["loss"] for key, one in ours.items()),
    }


def sizes(old: Path) -> list[dict[str, Any]]:
    """How far the Gram matrix was matched, by the pictures' size."""
    rows = []
    for sweep in ("ensemble-64", "ensemble", "chapter"):
        found = [one for _, one in records(old, sweep, loss="gram")]
        losses = {
            layer: statistics.median(
                one["result"]["loss"] for one in found if one["asked"]["layer"] == layer
            )
            for layer in LAYERS
        }
        row = {"size": found[0]["asked"]["width"], "runs": len(found), **losses}
        below = np.mean([one["result"]["loss"] < 1e-3 for one in found])
        rows.append({**row, "converged": float(below)})
    return rows


def noise(old: Path) -> dict[str, int]:
    """How many runs of `fast`, Gram and moments, the old bound on noise let pass, and an older."""
    found = [
        one["measures"]["noise"]
        for _, one in records(old, "chapter", "ensemble", "ensemble-64")
        if one["asked"]["loss"] != "mmd"
    ]
    return {
        "runs": len(found),
        "below_15": sum(x < 15 for x in found),
        "below_3": sum(x < 3 for x in found),
    }


def ways(old: Path) -> dict[str, list[int]]:
    """Runs of N = 4 in the ablation, by way: how many there are, and end below theta, and 1e-3."""
    found = {}
    for way in ("n4-noise", "n4-continued-compressed", "n4-fast"):
        losses = [one["result"]["loss"] for _, one in records(old, way)]
        found[way] = [len(losses), sum(x < 1e-5 for x in losses), sum(x < 1e-3 for x in losses)]
    return found


def verdicts(old: Path) -> dict[str, str]:
    """The old verdicts, by the old rules and the old code."""
    command = [sys.executable, "-m", "styleinv.cli", "claims"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(old), str(old / "book")])}
    done = subprocess.run(
        command, cwd=old, env=environment, capture_output=True, check=True, encoding="utf-8"
    )
    said = re.findall(r"^(C\d+) +([A-Z ]+):", done.stdout, re.M)
    return {name: verdict.lower() for name, verdict in said}


def eye(old: Path, runs: Path) -> list[dict[str, Any]]:
    """How often the old measures say what eyes say of today's pictures, see `eye_study`."""
    spec = importlib.util.spec_from_file_location("old", old / "styleinv/runs/measures.py")
    assert spec
    assert spec.loader
    before = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(before)
    pairs = eye_study.pairs_of(eye_study.STUDY / "round-1")
    known = {sweep: eye_study.pictures(runs / sweep) for sweep in eye_study.SWEEPS}
    told: dict[str, list[float]] = {"structures": [], "artefacts": []}
    for pair in pairs:
        shown = eye_study.shown(pair, known[pair["sweep"]])
        style, *two = (pixels(shown[name]) for name in ("style", "left", "right"))
        left, right = (before.structure_size(image) for image in two)
        told["structures"].append(math.log(left / right))
        left, right = (before.artefact_mask(image, style).mean() for image in two)
        told["artefacts"].append(left - right)
    return [
        {"question": question, "who": who, **eye_study.compare(differences, given[question])}
        for question, differences in told.items()
        for who, given in eye_study.read_answers(eye_study.STUDY / "round-1").items()
    ]


def strip(name: str, paths: list[Path]) -> None:
    """The same part of several pictures, side by side."""
    canvas = Image.new("RGB", (len(paths) * (SIDE + GAP) - GAP, SIDE), "white")
    for column, path in enumerate(paths):
        canvas.paste(Image.fromarray(pixels(path)[:SIDE, :SIDE]), (column * (SIDE + GAP), 0))
    canvas.save(FIGURES / f"{name}.png", optimize=True)


def main(old: Path, runs: Path) -> None:
    """Write the record and the pictures."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=old, capture_output=True, check=True, encoding="utf-8"
    ).stdout.strip()
    parts = (structure, same, adam, sizes, noise, ways, verdicts)
    found = {"commit": commit, **{part.__name__: part(old) for part in parts}}
    write_record(RECORD, {**found, "eye": eye(old, runs)})
    style = old / "results/runs/styles" / store.style_file_name(MARBLING, 256)
    shown = {
        (one["asked"]["loss"], one["asked"]["layer"]): path
        for path, one in records(old, "chapter")
        if one["source"] == MARBLING
    }
    strip("first_structure", [style, *(shown["gram", layer] for layer in LAYERS)])
    strip("first_moments", [style, *(shown[f"moment-{n}", "relu_2_1"] for n in (2, 3, 4))])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(*sys.argv[2:]) if sys.argv[2:] else ROOT / "results" / "runs")
