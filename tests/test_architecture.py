"""The house: imports go one way, names are told apart, and the module starts with little."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

# From the core up: a room imports itself and those before it.
ROOMS = {
    "styleinv": ROOT / "styleinv",
    "styleinv.runs": ROOT / "styleinv" / "runs",
    "styleinv.live": ROOT / "styleinv" / "live",
    "styleinv_book": ROOT / "book" / "styleinv_book",
}
RANKS = {room: rank for rank, room in enumerate(ROOMS)}
FILES = [(room, file) for room, folder in ROOMS.items() for file in sorted(folder.glob("*.py"))]


def room_of(module: str) -> str | None:
    """The room that a module is in; None for those of other packages."""
    within = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    return max(within, key=len, default=None)


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a piece of code imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("room", "file"), FILES, ids=[f"{room}.{file.stem}" for room, file in FILES]
)
def test_imports_go_one_way(room: str, file: Path) -> None:
    """book -> live -> runs -> core; the command line reaches for a room inside a command only."""
    tree = ast.parse(file.read_text())
    if file == ROOT / "styleinv" / "cli.py":
        delayed = (ast.FunctionDef, ast.If)  # the latter: under TYPE_CHECKING
        tree.body = [node for node in tree.body if not isinstance(node, delayed)]
    upward = [
        name
        for name in imported(tree)
        if (other := room_of(name)) is not None and RANKS[other] > RANKS[room]
    ]
    assert upward == []


@pytest.mark.parametrize("room", ROOMS)
def test_no_module_is_hidden_by_what_its_package_exports(room: str) -> None:
    """After `import package.name`, that name is the module."""
    exported = set()
    for node in ast.walk(ast.parse((ROOMS[room] / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module != room:
            exported |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            exported.add(node.name)
    assert exported & {file.stem for file in ROOMS[room].iterdir()} == set()


def packages_after(code: str) -> set[str]:
    """The packages, without Python's own, that are loaded after this code has run."""
    code = f"import json, sys\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    return {module.partition(".")[0] for module in modules} - sys.stdlib_module_names


def test_the_module_imports_little() -> None:
    """PyTorch, NumPy, Pillow, safetensors, and what these import."""
    allowed = packages_after("import torch, numpy.random, PIL.Image, safetensors.torch")
    assert packages_after("import styleinv") - allowed == {"styleinv"}


def test_help_comes_without_what_computes_or_serves() -> None:
    code = "from styleinv.cli import app\napp(['--help'], standalone_mode=False)"
    slow = {"dask", "distributed", "jupyter_core", "matplotlib", "scipy", "skimage", "yaml"}
    assert packages_after(code) & (slow | {"styleinv_book"}) == set()
