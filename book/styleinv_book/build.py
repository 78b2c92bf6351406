"""The book: jupytext -> papermill -> staged, executed notebooks -> jupyter-book.

Everything happens in a folder of its own in `_build`; `_build/html` is replaced only by a book that
built without a warning, so a failure leaves the last good one standing. An executed notebook is
kept in `_build/executed` and taken up again while nothing that it depends on has changed: a build
that is killed loses the notebook that it was at, whose finished runs the next one finds.
"""

import ast
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from rich.text import Text

from styleinv.encoder import load_encoder
from styleinv.errors import InputError, nearest, shorten, whole_number
from styleinv.files import remove_parts, write_atomically, write_text
from styleinv.images import MIN_SIZE, load_style
from styleinv.runs.locks import alone
from styleinv.styles import LARGEST_SEED

PAGES = ("_config.yml", "_toc.yml", "book")
RESULTS, LEDGER = "results", "book/claims.yml"
# Python 3.11's frozen modules make the debugger complain in every notebook's output.
KERNEL_ENVIRONMENT = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
# Cells to fold away, and what the fold is called.
HIDDEN_CELLS = {"parameters": "Parameters", "injected-parameters": "Parameters of this build"}


def read_parameters(assignments: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Parameters from a YAML file and from ``name=value`` texts, which win over the file.

    Values from a text stay texts here: what they mean depends on the notebooks' defaults.
    """
    parameters: dict[str, Any] = {}
    if file is not None:
        if not os.path.isfile(file):  # a pipe would be waited for forever
            raise InputError(
                f"parameters-file {str(file)!r} cannot be read: it is not an existing file"
            )
        try:
            loaded = yaml.safe_load(file.read_text())
        except Exception as error:  # PyYAML passes on whatever a value's constructor raises
            raise InputError(f"parameters-file {str(file)!r} cannot be read as YAML") from error
        if not isinstance(loaded, dict):
            raise InputError(f"parameters-file {str(file)!r} must hold NAME: VALUE pairs")
        parameters.update(loaded)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise InputError(f"parameter is {shorten(assignment)}, but must be NAME=VALUE")
        parameters[name] = value
    return parameters


def build_book(root: Path, parameters: Mapping[str, Any]) -> Path:
    """Execute the notebooks of the project at `root` and render the book.

    Args:
        root: the folder with `_config.yml`, `_toc.yml`, `book` and `notebooks`.
        parameters: values for the notebooks' parameters cells. Files named by `styles` and
            `encoder` are looked up from the current folder.

    Returns:
        the path of the book's first page.

    Raises:
        InputError: a parameter is unknown or not allowed, a cell failed, or a page has a warning.
    """
    root = root.resolve()
    if not (root / "_toc.yml").is_file():
        raise InputError(f"root is {str(root)!r}, but must be the project's folder, with _toc.yml")
    sources = _notebooks_in_order(root)
    notebooks = {source: jupytext.read(source) for source in sources}
    chosen = _match_parameters(notebooks, parameters)
    _check_files(chosen)
    with _own_stage(root / "_build") as stage:
        return _build_on(stage, root, notebooks, chosen)


def _build_on(
    stage: Path,
    root: Path,
    notebooks: Mapping[Path, nbformat.NotebookNode],
    parameters: Mapping[Path, Mapping[str, Any]],
) -> Path:
    """Execute what is not kept, render in the folder `stage`, and publish."""
    chosen = {source: _with_own_files(values, root) for source, values in parameters.items()}
    sources = list(notebooks)
    (stage / "notebooks").mkdir()
    shared = _shared_digest(root)
    kept = [_kept(source, chosen[source], shared) for source in sources]
    for number, (source, executed) in enumerate(zip(sources, kept, strict=True), start=1):
        started = time.monotonic()
        _say(f"Notebook {number} of {len(sources)}: {source.name}")
        if executed.exists():
            _say("  kept from the last build")
        else:
            remove_parts(executed)
            result = _execute(notebooks[source], source, chosen[source])
            write_text(executed, nbformat.writes(result))
            _say(f"  {time.monotonic() - started:.0f} s")
        shutil.copy(executed, stage / "notebooks" / f"{source.stem}.ipynb")
    _forget_all_but(kept)
    _copy_pages(root, stage)
    _render(stage)
    return _publish(stage / "_build" / "html", root / "_build" / "html") / "index.html"


@contextmanager
def _own_stage(build: Path) -> Iterator[Path]:
    """An empty folder, for the one build at a time that there is.

    Each build has a new one: a process that a killed build left behind may still write to its own.
    """
    with alone(build / ".lock", "another build is going on: waiting for its end"):
        for left_behind in build.glob("stage-*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        _finish_exchange(build / "html")
        stage = Path(tempfile.mkdtemp(prefix="stage-", dir=build))
        try:
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _notebooks_in_order(root: Path) -> list[Path]:
    """The notebooks of the table of contents, as readers come to them."""
    toc = (root / "_toc.yml").read_text()
    names = re.findall(r"file: (notebooks/\S+)", toc)
    return [root / f"{name}.md" for name in names]


def _match_parameters(
    notebooks: Mapping[Path, nbformat.NotebookNode], parameters: Mapping[str, Any]
) -> dict[Path, dict[str, Any]]:
    """Which parameter goes to which notebook; one that no notebook knows is an error."""
    known = {source: papermill.inspect_notebook(notebook) for source, notebook in notebooks.items()}
    names = sorted({name for defaults in known.values() for name in defaults})
    for name in parameters:
        if name not in names:
            raise InputError(
                f"parameter {shorten(name)} is unknown; known are: {', '.join(names)}"
                f"{nearest(name, names)}"
            )
    return {
        source: {
            name: _like_default(name, value, ast.literal_eval(defaults[name]["default"]))
            for name, value in parameters.items()
            if name in defaults
        }
        for source, defaults in known.items()
    }


def _like_default(name: str, value: Any, default: Any) -> Any:
    """`value` if it has the type of `default`; a list may be written as ``a.jpg,b.png``."""
    if isinstance(default, list):
        values = value.split(",") if isinstance(value, str) else value
        values = values if isinstance(values, list) else [values]
        if not values:
            raise InputError(f"parameter {name!r} is empty, but must name at least one")
        return [_like_default(name, one, default[0]) for one in values]
    if isinstance(default, str):
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"parameter {name!r} is {shorten(value)}, but must be a text")
        return value.strip()
    if default is None and value in (None, "", "None"):
        return None
    with suppress(ValueError):  # a text that is no number
        value = int(value) if isinstance(value, str) else value
    return whole_number(f"parameter {name!r}", value, 0, LARGEST_SEED)


def _check_files(chosen: Mapping[Path, Mapping[str, Any]]) -> None:
    """Refuse a style or an encoder that cannot be read before anything runs."""
    for encoder in {values["encoder"] for values in chosen.values() if "encoder" in values}:
        if encoder != "vgg19":  # may be a download, which comes when its time has come
            load_encoder(encoder)
    styles = {style for values in chosen.values() for style in values.get("styles", [])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to say is said when it is used
        for style in sorted(styles):
            load_style(style, MIN_SIZE)


def _with_own_files(values: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Copy the reader's files to `_build/inputs`, so that no page shows where they came from."""
    own = dict(values)
    if "styles" in own:
        own["styles"] = [_brought_in(style, root) for style in own["styles"]]
    if "encoder" in own:
        own["encoder"] = _brought_in(own["encoder"], root)
    return own


def _brought_in(name: str, root: Path) -> str:
    """The path, as seen from the notebooks, of a copy of file `name`; other names stay."""
    if not os.path.isfile(name):
        return name
    content = Path(name).read_bytes()
    # A folder of its own keeps the name as it is, whatever else was brought in before.
    folder = hashlib.sha256(content).hexdigest()[:12]
    copy = root / "_build" / "inputs" / folder / Path(name).name
    write_atomically(copy, lambda part: part.write_bytes(content))
    return f"../_build/inputs/{folder}/{copy.name}"


def _shared_digest(root: Path) -> bytes:
    """What the outputs of every notebook depend on: packages, this one's files, the results."""
    installed = sorted(f"{x.name}=={x.version}" for x in importlib.metadata.distributions())
    digest = hashlib.sha256(" ".join([sys.version, *installed]).encode())
    for folder in (Path(__file__).parent, root / RESULTS):
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(str(file.relative_to(folder)).encode() + _sha256(file))
    if (root / LEDGER).is_file():
        digest.update(_sha256(root / LEDGER))
    return digest.digest()


def _kept(source: Path, parameters: Mapping[str, Any], shared: bytes) -> Path:
    """Where the executed notebook is kept: the name changes with all that its outputs depend on.

    Files named by parameters are copies in a folder that is named by their content.
    """
    digest = hashlib.sha256(shared + _sha256(source))
    digest.update(json.dumps(parameters, sort_keys=True).encode())
    folder = source.parents[1] / "_build" / "executed"
    return folder / f"{source.stem}-{digest.hexdigest()[:16]}.ipynb"


def _sha256(file: Path) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def _forget_all_but(kept: Sequence[Path]) -> None:
    """Remove what earlier builds kept and this one has no use for."""
    for path in set(kept[0].parent.glob("*.ipynb")) - set(kept):
        path.unlink()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _execute(
    notebook: nbformat.NotebookNode, source: Path, parameters: dict[str, Any]
) -> nbformat.NotebookNode:
    """Run one notebook with these parameters and return it with its outputs."""
    try:
        with _environment(KERNEL_ENVIRONMENT):
            result: nbformat.NotebookNode = papermill.execute_notebook(
                notebook,
                None,
                parameters,
                kernel_name="python3",
                cwd=source.parent,
                progress_bar=False,
                stdout_file=sys.stderr,
                stderr_file=sys.stderr,
            )
    except PapermillExecutionError as error:
        reason = next(iter(str(error.evalue).strip().splitlines()), "no reason given")
        place = f"cell In [{error.exec_count}]"
        raise InputError(f"notebook {source.name}, {place}: {error.ename}: {reason}") from error
    except DeadKernelError as error:
        raise InputError(f"notebook {source.name}: its kernel died, maybe of memory") from error
    _tidy(result)
    return result


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """While active, processes that are started have these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _tidy(notebook: nbformat.NotebookNode) -> None:
    """Fold the parameters away, and drop the times and paths of the machine it ran on."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":  # warnings, told on the terminal, name files of this machine
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        tags = cell.metadata.get("tags", [])
        for tag, prompt in HIDDEN_CELLS.items():
            if tag in tags:
                cell.metadata.tags = sorted({*tags, "hide-input"})
                cell.metadata.mystnb = {"code_prompt_show": prompt, "code_prompt_hide": prompt}


def _copy_pages(root: Path, stage: Path) -> None:
    for name in PAGES:
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy2
        copy(root / name, stage / name)
    if (root / RESULTS).is_dir():
        (stage / RESULTS).symlink_to(root / RESULTS)
    config = yaml.safe_load((root / "_config.yml").read_text())
    config["execute"] = {"execute_notebooks": "off"}  # they are executed already
    (stage / "_config.yml").write_text(yaml.safe_dump(config, allow_unicode=True))


def _render(stage: Path) -> None:
    """Run jupyter-book on the stage with every warning an error."""
    log = stage.with_name("jupyter-book.log")
    program = Path(sys.executable).with_name("jupyter-book")
    command = [str(program), "build", str(stage), "-W", "-n", "--keep-going"]
    _say("Rendering the pages")
    with log.open("w") as output:
        finished = subprocess.run(
            command, cwd=stage, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if finished.returncode != 0:
        lines = log.read_text().splitlines()
        marks = ("WARNING", "ERROR", "Error:")
        problem = next((x for x in lines if any(mark in x for mark in marks)), "no reason given")
        problem = Text.from_ansi(problem).plain.strip().replace(f"{stage}/", "")
        raise InputError(f"the pages do not render without a warning ({problem}); see {log}")


def _publish(html: Path, target: Path) -> Path:
    """Put the new book in the old one's place; killed in between, `_finish_exchange` helps."""
    if target.exists():
        target.rename(_before(target))
    html.rename(target)
    _finish_exchange(target)
    return target


def _finish_exchange(target: Path) -> None:
    """Remove the book that was replaced; bring it back where the new one did not come."""
    old = _before(target)
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _before(target: Path) -> Path:
    return target.with_name(f"{target.name}.old")
