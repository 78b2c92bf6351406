"""The book: jupytext -> papermill -> staged, executed notebooks -> jupyter-book.

Everything happens in `_build/stage`; `_build/html` is replaced only by a book that built without
a warning, so a failure leaves the last good one standing.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

from styleinv.errors import InputError
from styleinv.images import MIN_SIZE, load_style

PAGES = ("_config.yml", "_toc.yml", "book")
HIDDEN_CELLS = ("parameters", "injected-parameters")


def read_parameters(assignments: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Parameters from a YAML file and from ``name=value`` texts, which win over the file."""
    parameters: dict[str, Any] = {}
    if file is not None:
        try:
            loaded = yaml.safe_load(file.read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"parameters-file {str(file)!r} cannot be read as YAML") from error
        if not isinstance(loaded, dict):
            raise InputError(f"parameters-file {str(file)!r} must hold NAME: VALUE pairs")
        parameters.update(loaded)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise InputError(f"parameter is {assignment!r}, but must be NAME=VALUE")
        try:
            parameters[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"parameter {name!r} has the value {value!r}, not YAML") from error
    return parameters


def build_book(root: Path, parameters: Mapping[str, Any]) -> Path:
    """Execute the notebooks of the project at `root` and render the book.

    Args:
        root: the folder with `_config.yml`, `_toc.yml`, `book` and `notebooks`.
        parameters: values for the notebooks' parameters cells; file names in them are relative to
            the current folder.

    Returns:
        the path of the book's first page.

    Raises:
        InputError: a parameter is unknown or not allowed, a cell failed, or a page has a warning.
    """
    root = root.resolve()
    if not (root / "_toc.yml").is_file():
        raise InputError(f"root is {str(root)!r}, but must be the project's folder, with _toc.yml")
    sources = sorted((root / "notebooks").glob("*.md"))
    notebooks = {source: jupytext.read(source) for source in sources}
    chosen = _match_parameters(notebooks, _with_style_paths(parameters, root / "notebooks"))
    stage = root / "_build" / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    (stage / "notebooks").mkdir(parents=True)
    for number, source in enumerate(sources, start=1):
        print(f"Notebook {number} of {len(sources)}: {source.name}", file=sys.stderr, flush=True)
        executed = stage / "notebooks" / f"{source.stem}.ipynb"
        _execute(notebooks[source], source, executed, chosen[source])
    _copy_pages(root, stage)
    _render(stage)
    return _publish(stage / "_build" / "html", root / "_build" / "html") / "index.html"


def _with_style_paths(parameters: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Check the styles before anything runs, and say their paths as seen from `folder`."""
    if "styles" not in parameters:
        return dict(parameters)
    styles = []
    for style in _as_list(parameters["styles"]):
        load_style(style, MIN_SIZE)
        is_file = Path(style).is_file()
        styles.append(os.path.relpath(style, folder) if is_file else style)
    return {**parameters, "styles": styles}


def _match_parameters(
    notebooks: Mapping[Path, nbformat.NotebookNode], parameters: Mapping[str, Any]
) -> dict[Path, dict[str, Any]]:
    """Which parameter goes to which notebook; one that no notebook knows is an error."""
    known = {source: papermill.inspect_notebook(notebook) for source, notebook in notebooks.items()}
    names = sorted({name for defaults in known.values() for name in defaults})
    for name in parameters:
        if name not in names:
            raise InputError(f"parameter {name!r} is unknown; known are: {', '.join(names)}")
    return {
        source: {
            name: _as_default(value, defaults[name]["default"])
            for name, value in parameters.items()
            if name in defaults
        }
        for source, defaults in known.items()
    }


def _as_default(value: Any, default: str) -> Any:
    return _as_list(value) if default.lstrip().startswith("[") else value


def _as_list(value: Any) -> list[Any]:
    """``"a.jpg,b.png"`` -> ["a.jpg", "b.png"]; a list stays one."""
    if isinstance(value, list):
        return value
    return [part.strip() for part in str(value).split(",") if part.strip()]


def _execute(
    notebook: nbformat.NotebookNode, source: Path, executed: Path, parameters: dict[str, Any]
) -> None:
    """Run one notebook with these parameters and write it where the book is staged."""
    # Python 3.11's frozen modules make the debugger complain in every notebook's output.
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    try:
        result = papermill.execute_notebook(
            notebook,
            None,
            parameters,
            kernel_name="python3",
            cwd=source.parent,
            progress_bar=False,
            stdout_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        raise InputError(
            f"notebook {source.name}, cell {error.cell_index}: {error.ename}: {error.evalue}"
        ) from error
    _tidy(result)
    executed.write_text(nbformat.writes(result))  # type: ignore[no-untyped-call]


def _tidy(notebook: nbformat.NotebookNode) -> None:
    """Fold the parameters away, and drop the times and paths that papermill notes down."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        tags = cell.metadata.get("tags", [])
        if set(tags) & set(HIDDEN_CELLS) and "hide-input" not in tags:
            tags.append("hide-input")


def _copy_pages(root: Path, stage: Path) -> None:
    for name in PAGES:
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy2
        copy(root / name, stage / name)
    config = yaml.safe_load((root / "_config.yml").read_text())
    config["execute"] = {"execute_notebooks": "off"}  # they are executed already
    (stage / "_config.yml").write_text(yaml.safe_dump(config, allow_unicode=True))


def _render(stage: Path) -> None:
    """Run jupyter-book on the stage with every warning an error."""
    log = stage.parent / "jupyter-book.log"
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(stage), "-W", "-n", "--keep-going"]
    print("Rendering the pages", file=sys.stderr, flush=True)
    with log.open("w") as output:
        finished = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if finished.returncode != 0:
        lines = log.read_text().splitlines()
        marks = ("WARNING", "ERROR", "Error:")
        problem = next((x for x in lines if any(mark in x for mark in marks)), "no reason given")
        raise InputError(
            f"the pages do not render without a warning ({problem.strip()}); see {log}"
        )


def _publish(html: Path, target: Path) -> Path:
    """Put the new book in the old one's place."""
    old = target.with_name("html.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    html.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return target
