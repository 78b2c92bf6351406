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
    "styleinv_book.engine": ROOT / "book" / "styleinv_book" / "engine",
    "styleinv_book": ROOT / "book" / "styleinv_book",
    "styleinv_book.pages": ROOT / "book" / "styleinv_book" / "pages",
}
RANKS = {room: rank for rank, room in enumerate(ROOMS)}
FILES = [(room, file) for room, folder in ROOMS.items() for file in sorted(folder.glob("*.py"))]


def room_of(module: str) -> str:
    """The room that a module is in; "" for those of other packages."""
    within = [room for room in ROOMS if f"{module}.".startswith(f"{room}.")]
    return max(within, key=len, default="")


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
    ranks = {name: RANKS.get(room_of(name), 0) for name in imported(tree)}
    assert [name for name, rank in ranks.items() if rank > RANKS[room]] == []


def text_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that read or write text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            modes = [x.value for x in node.args if isinstance(x, ast.Constant)]
            is_text = (
                name == "open" and modes and str(modes[-1]) in ("r", "w", "a", "x", "r+", "w+")
            )
            starts = any(keyword.arg in ("text", "universal_newlines") for keyword in node.keywords)
            if is_text or starts or name in ("read_text", "write_text"):
                yield node


@pytest.mark.parametrize("folder", ["styleinv", "book", "benchmarks", "training"])
def test_text_is_utf_8_whatever_the_locale(folder: str) -> None:
    """Every call names the encoding, but for our own function, which has it inside."""
    bare = [
        f"{file.relative_to(ROOT)}:{call.lineno}"
        for file in (ROOT / folder).rglob("*.py")
        for call in text_calls(ast.parse(file.read_bytes()))
        if not any(keyword.arg == "encoding" for keyword in call.keywords)
        and not (getattr(call.func, "attr", "") == "read_text" and call.args)
        and getattr(call.func, "id", "") != "write_text"
    ]
    assert bare == []


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


STEPS = (
    "import torch, numpy.random, PIL.Image, safetensors.torch",
    "import styleinv",
    "from styleinv.cli import app; app(['--help'], standalone_mode=False)",
)


@pytest.fixture(scope="module")
def loaded() -> list[set[str]]:
    """The packages that are loaded after each of `STEPS`."""
    tell = "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    code = "\n".join(["import json, sys", *(f"{step}\n{tell}" for step in STEPS)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('["')]
    return [{name.partition(".")[0] for name in names} for names in modules]


def test_the_module_imports_little(loaded: list[set[str]]) -> None:
    """PyTorch, NumPy, Pillow, safetensors, and what these import."""
    allowed, after_styleinv, _ = loaded
    assert after_styleinv - allowed - sys.stdlib_module_names == {"styleinv"}


def test_help_comes_without_what_computes_or_serves(loaded: list[set[str]]) -> None:
    slow = {"dask", "distributed", "jupyter_core", "matplotlib", "scipy", "skimage", "yaml"}
    assert loaded[-1] & (slow | {"styleinv_book"}) == set()
