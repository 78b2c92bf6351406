"""The book: jupytext -> papermill -> staged, executed notebooks -> jupyter-book.

A build works in a folder of its own in `_build` and replaces `_build/html` only if no page has a
warning: a failure leaves the last good book. Every executed notebook is kept in `_build/executed`,
under a name that changes with everything that its outputs depend on. Later builds use it as long
as the name stays the same. A build that is killed therefore loses only the notebooks that were
running; the runs that these had finished are kept, too.

Two notebooks are executed at a time, each with half of the threads: most of what they compute is
too small to keep two processors busy. Runs that both need are made once, see `sweeps.make_runs`.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
import psutil
import torch
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

import styleinv
from styleinv.encoder import LAYERS, load_encoder
from styleinv.errors import InputError
from styleinv.files import write_atomically, write_text
from styleinv.live.settings import no_settings
from styleinv.preflight import preflight
from styleinv.protocol import CHAPTER_ITERATIONS
from styleinv.runs.locks import alone
from styleinv.runs.sweeps import plan_sweep
from styleinv.terminal import interrupts
from styleinv_book.parameters import check_parameters, defaults_of

RESULTS, CLAIMS, EXECUTED = "results", "book/claims.yml", "_build/executed"
START_SECONDS = 600  # for a kernel on a busy machine
AT_ONCE = 2  # notebooks; more would need more memory
# The cells to fold away, by their tag, and the fold's title.
FOLDED = {"parameters": "Parameters", "injected-parameters": "Parameters of this build"}


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
    # In the order of the table of contents.
    names = re.findall(r"file: (notebooks/\S+)", (root / "_toc.yml").read_text(encoding="utf-8"))
    notebooks = {source: jupytext.read(source) for source in (root / f"{x}.md" for x in names)}
    defaults = {source: defaults_of(notebook) for source, notebook in notebooks.items()}
    usual = ChainMap(*defaults.values())
    given = check_parameters(parameters, usual)
    html = root / "_build" / "html"
    with _own_stage(root / "_build") as stage, no_settings() as (home, _):
        if "styles" in given:
            _tell_before(ChainMap(given, usual))
        pages = stage / "pages"
        _fill(pages, root)
        given = {name: _copy_in(name, value, root) for name, value in given.items()}
        own = {
            source: {name: value for name, value in given.items() if name in known}
            for source, known in defaults.items()
        }
        # Those over the reader's styles take longest; short ones are best to fill the end.
        order = sorted(notebooks, key=lambda source: "styles" not in defaults[source])
        _compute({x: (notebooks[x], own[x]) for x in order}, root, pages / "notebooks", home)
        _render(pages, stage)
        _publish(stage / "_build" / "html", html)
    return html / "index.html"


def _tell_before(values: Mapping[str, Any]) -> None:
    """Say what is known before the runs that most pages share: every loss at every layer."""
    tasks = plan_sweep(
        values["styles"],
        layers=LAYERS,
        losses=tuple(CHAPTER_ITERATIONS),
        encoder=load_encoder(values.get("encoder", "bundled")),
        size=values.get("size"),
        iterations=[values.get("iterations")],
    )
    _say("\n".join(preflight(tasks, values["styles"])))


def _compute(
    notebooks: Mapping[Path, tuple[nbformat.NotebookNode, dict[str, Any]]],
    root: Path,
    folder: Path,
    home: Path,
) -> None:
    """Put the executed notebooks into `folder`: those that are kept, and the others when run.

    Args:
        notebooks: by their source, with the parameters given for each, in the order to run them.
        home: of the kernels.
    """
    shared = _shared_digest(root)
    executed = {
        source: root / EXECUTED / _kept_name(source, own, shared)
        for source, (_, own) in notebooks.items()
    }
    missing = [source for source, kept in executed.items() if not kept.exists()]
    if have := len(notebooks) - len(missing):
        _say(f"Kept from earlier builds: {have} of {len(notebooks)} notebooks")

    def execute(source: Path) -> None:
        _say(f"Notebook {missing.index(source) + 1} of {len(missing)}: {source.name}")
        notebook, own = notebooks[source]
        result = _execute(notebook, source.name, own, folder)
        write_text(executed[source], nbformat.writes(result))

    _two_at_a_time(execute, missing, home)
    for source, kept in executed.items():
        shutil.copy(kept, folder / f"{source.stem}.ipynb")
    for path in set((root / EXECUTED).iterdir()) - set(executed.values()):
        path.unlink()


@contextmanager
def _own_stage(build: Path) -> Iterator[Path]:
    """Wait for other builds to end, then yield an empty folder and remove it afterwards.

    Each build has a new folder: a process that a killed build left behind may still write to its.
    """
    with alone(build / ".lock", "another build is going on: waiting for its end"):
        for left_behind in build.glob("stage-*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        _finish_exchange(build / "html")
        with tempfile.TemporaryDirectory(
            prefix="stage-", dir=build, ignore_cleanup_errors=True
        ) as stage:
            yield Path(stage)


def _copy_in(name: str, value: Any, root: Path) -> Any:
    """Copy the reader's files into `_build`, so that no page shows where they are.

    Returns:
        the parameter with the copies' paths as seen from the notebooks.
    """
    if isinstance(value, list):
        return [_copy_in(name, one, root) for one in value]
    if name not in ("styles", "encoder") or not os.path.isfile(value):
        return value
    content = Path(value).read_bytes()
    # The name of the folder is a hash of the content; the file keeps its own name.
    copy = f"_build/inputs/{hashlib.sha256(content).hexdigest()[:12]}/{Path(value).name}"
    write_atomically(root / copy, lambda part: part.write_bytes(content))
    return f"../{copy}"


def _shared_digest(root: Path) -> bytes:
    """A hash of what every notebook depends on: machine, versions, our own files, results."""
    installed = sorted(f"{x.name}=={x.version}" for x in importlib.metadata.distributions())
    # The number of threads changes last digits, and pages name it.
    machine = [platform.machine(), str(torch.get_num_threads()), sys.version]
    digest = hashlib.sha256(" ".join([*machine, *installed]).encode())
    packages = Path(styleinv.__file__).parent, Path(__file__).parent
    for place in (*packages, root / RESULTS, root / CLAIMS):
        for file in sorted([place, *place.rglob("*")]):
            if file.is_file() and file.suffix != ".pyc":
                content = hashlib.sha256(file.read_bytes()).digest()
                digest.update(str(file.relative_to(place)).encode() + content)
    return digest.digest()


def _kept_name(source: Path, parameters: dict[str, Any], shared: bytes) -> str:
    """The name of an executed notebook, which changes with all that its outputs depend on.

    Files among the parameters are copies whose paths contain a hash of their content.
    """
    key = shared + source.read_bytes() + json.dumps(parameters, sort_keys=True).encode()
    return f"{source.stem}-{hashlib.sha256(key).hexdigest()[:16]}.ipynb"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _two_at_a_time(execute: Callable[[Path], None], sources: Sequence[Path], home: Path) -> None:
    """Execute notebooks, each by a kernel that has half of the threads.

    The first error and Ctrl-C end the kernels, whose home is in `home`.
    """
    threads = torch.get_num_threads()
    at_once = min(AT_ONCE, threads)
    os.environ["OMP_NUM_THREADS"] = str(threads // at_once)
    failure = None
    with ThreadPoolExecutor(at_once) as pool, interrupts() as stopped:
        executions = [pool.submit(execute, source) for source in sources]
        while going_on := [one for one in executions if not one.done()]:
            done = wait(going_on, timeout=0.2, return_when=FIRST_EXCEPTION).done
            errors = (one.exception() for one in going_on if one in done)
            failure = failure or next(filter(None, errors), None)
            if failure or stopped():
                pool.shutdown(wait=False, cancel_futures=True)
                _kill_kernels(home)
    if stopped():
        raise KeyboardInterrupt
    if failure:
        raise failure


def _kill_kernels(home: Path) -> None:
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if any(word.startswith(str(home)) for word in child.cmdline()):
                child.kill()


def _execute(
    notebook: nbformat.NotebookNode, name: str, parameters: dict[str, Any], folder: Path
) -> nbformat.NotebookNode:
    """Run one notebook in `folder` with these parameters and return it with its outputs."""
    try:
        result: nbformat.NotebookNode = papermill.execute_notebook(
            notebook,
            None,
            parameters,
            kernel_name="python3",
            # Not as `cwd`: papermill would change this process's folder, for all of its threads.
            resources={"metadata": {"path": str(folder)}},
            progress_bar=False,
            stderr_file=sys.stderr,
            start_timeout=START_SECONDS,
            shutdown_kernel="immediate",  # all is written; asked politely, a kernel may complain
            # A newer kernel warns of a connection that is not encrypted.
            config=Config(KernelManager=Config(transport_encryption="auto")),
        )
    except PapermillExecutionError as error:
        reason = f"cell In [{error.exec_count}]: {error.ename}: {error.evalue}"
        raise InputError(f"notebook {name}, {reason}") from error
    except DeadKernelError as error:
        raise InputError(f"notebook {name}: its kernel died, maybe of memory") from error
    except RuntimeError as error:
        raise InputError(f"notebook {name}: its kernel did not start: {error}") from error
    _tidy(result)
    return result


def _tidy(notebook: nbformat.NotebookNode) -> None:
    """Fold the parameters away, and drop times and paths of the machine that ran the notebook."""
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":  # its warnings name files, and the terminal has shown them
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        tags = cell.metadata.get("tags", [])
        for tag, prompt in FOLDED.items():
            if tag in tags:
                cell.metadata.tags = sorted({*tags, "hide-input"})
                cell.metadata.mystnb = {"code_prompt_show": prompt, "code_prompt_hide": prompt}


def _fill(pages: Path, root: Path) -> None:
    """Put on the stage what notebooks and pages look for, and nothing that merely lies beside it.

    The configuration there executes no notebook again.
    """
    shutil.copytree(root / "book", pages / "book")
    shutil.copy(root / "_toc.yml", pages)
    (pages / "notebooks").mkdir()
    for name in (RESULTS, "_build"):
        (pages / name).symlink_to(root / name)
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config["execute"] = {"execute_notebooks": "off"}
    (pages / "_config.yml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")


def _render(pages: Path, stage: Path) -> None:
    """Let jupyter-book write the pages to `stage`/_build/html, and treat warnings as errors."""
    log = stage.with_name("jupyter-book.log")
    program = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    options = ["--path-output", str(stage), "-W", "-n", "--keep-going"]
    _say("Rendering the pages")
    with log.open("wb") as output:
        finished = subprocess.run(
            [*program, "build", str(pages), *options],
            cwd=pages,
            stdout=output,
            stderr=output,
            check=False,
        )
    if finished.returncode != 0:
        text = log.read_text(encoding="utf-8", errors="replace")
        text = re.sub(r"\x1b\[[\d;]*m", "", text)  # its colours
        problems = re.findall(r".*(?:WARNING|ERROR|Error:).*", text.replace(f"{pages}/", ""))
        reason = problems[0].strip() if problems else f"it ended with {finished.returncode}"
        raise InputError(f"the pages do not render without a warning ({reason}); see {log}")


def _publish(html: Path, target: Path) -> None:
    """Replace the old book by the new one; after a kill, `_finish_exchange` completes it."""
    if target.exists():
        target.rename(target.with_suffix(".old"))
    html.rename(target)
    _finish_exchange(target)


def _finish_exchange(target: Path) -> None:
    """Remove the old book, or bring it back if the new one never took its place."""
    old = target.with_suffix(".old")
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)
