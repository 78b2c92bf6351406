"""The book from end to end: parameters in, pages out, and nothing lost when something fails."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import PIPE
from typing import Any
from xml.etree import ElementTree

import nbformat
import psutil
import pytest
import torch
from bs4 import BeautifulSoup
from nbclient.exceptions import DeadKernelError
from styleinv_book import build
from styleinv_book.build import build_book
from styleinv_book.parameters import check_parameters, read_parameters

import styleinv
from styleinv import InputError, load_encoder
from styleinv.encoder import Encoder
from styleinv.runs import store
from tests.conftest import PATIENCE, PROGRAM, ROOT, wait_for

HEAD = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {display_name: Python 3, language: python, name: python3}
---
"""
PAGES = {
    "_toc.yml": "format: jb-book\nroot: book/intro\nchapters:\n"
    "- file: notebooks/pictures\n- file: notebooks/sums\n",
    "book/intro.md": "# Tiny\n\n{doc}`../notebooks/pictures`\n",
    "notebooks/sums.md": f"{HEAD}# Sums\n\n```{{code-cell}}\n:tags: [parameters]\nsize = 3\n```\n"
    "\n```{code-cell}\nprint(size + 1)\n```\n",
    "notebooks/pictures.md": f"""{HEAD}# Pictures

```{{code-cell}}
:tags: [parameters]
styles = ["bundled:strokes"]
layers = ["relu_1_1"]
```
```{{code-cell}}
from IPython.display import HTML
from styleinv_book import figures

build = figures.this_build(styles, layers=layers, losses=["gram"], size=16, iterations=2)
HTML(figures.figure("figure-1", "A caption.", build.by_style("gram")))
```
""",
}


# What a setting of the reader would change on a page, or make fail.
TELLING = f"""{HEAD}# Settings →

```{{code-cell}}
"first"
"last"
```
```{{code-cell}}
import locale, os, sys, time
import statistics
import matplotlib.pyplot as plt

def documented():
    "docstring"

print("ü→", __debug__, documented.__doc__, sys.flags.utf8_mode, time.tzname, locale.getlocale())
print(plt.rcParams["lines.linewidth"], plt.rcParams["axes.facecolor"], statistics.mean([1, 2]))
print(hash("a"), os.path.realpath(sys.prefix), os.environ.get("THEIRS"))
```

A "quoted" word.
"""
WRONG_KERNEL = (
    '{"argv": ["/nowhere/python", "{connection_file}"], "display_name": "", "language": "R"}'
)
LINES = "lines.linewidth: 9\naxes.facecolor: red\n"
ALL = 'get_config().InteractiveShell.ast_node_interactivity = "all"\n'
PLANTED = "print('planted')\nimport builtins\nbuiltins.hash = len\n"
# Files of a reader, below the folder that holds the home and the project, and the environment.
THEIRS = {
    "home/.ipython/profile_default/ipython_config.py": ALL,
    "home/.ipython/profile_default/ipython_kernel_config.py": ALL,
    "home/.ipython/profile_default/startup/00.py": PLANTED,
    "home/ipython/profile_default/ipython_config.py": ALL,
    "home/.jupyter/jupyter_config.py": "raise SystemExit('planted')",
    "home/.local/share/jupyter/kernels/python3/kernel.json": WRONG_KERNEL,
    "home/jupyter/kernels/python3/kernel.json": WRONG_KERNEL,
    "home/.config/matplotlib/matplotlibrc": LINES,
    "home/matplotlibrc": LINES,
    "home/.docutils": "[general]\nid_prefix: planted-\n",
    "home/.jupytext": 'cell_metadata_filter: "-all"\n',
    "home/packages/usercustomize.py": PLANTED,
    "home/startup.py": PLANTED,
    "project/matplotlibrc": LINES,
    "project/docutils.conf": "[general]\nid_prefix: planted-\n",
    "project/docutils.py": "raise ImportError('planted')",
    "project/notebooks/matplotlibrc": LINES,
    "project/notebooks/statistics.py": "raise ImportError('planted')",
}
SETTINGS = {
    "HOME": "{}/home",
    "IPYTHONDIR": "{}/home/ipython",
    "JUPYTER_PATH": "{}/home/jupyter",
    "JUPYTER_PREFER_ENV_PATH": "0",
    "JUPYTER_CONFIG_DIR": "/proc/nowhere",
    "JUPYTER_DATA_DIR": "/proc/nowhere",
    "JUPYTER_RUNTIME_DIR": "/proc/nowhere",
    "XDG_CONFIG_HOME": "/proc/nowhere",
    "MATPLOTLIBRC": "{}/home/matplotlibrc",
    "MPLBACKEND": "qtagg",
    "DOCUTILSCONFIG": "{}/home/.docutils",
    "PYTHONSTARTUP": "{}/home/startup.py",
    "PYTHONOPTIMIZE": "2",
    "PYTHONHASHSEED": "7",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONWARNINGS": "error::FutureWarning",
    "LC_ALL": "C",
    "TZ": "Asia/Tokyo",
    "SOURCE_DATE_EPOCH": "100000000",
    "FORCE_COLOR": "1",
    "COLUMNS": "20",
    "TMPDIR": "/proc/nowhere",
    "THEIRS": "1",
}


def copy_of(*names: str, root: Path) -> Path:
    """A folder with copies of what this project has under these names."""
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, root / name)
    return root


def new_project(root: Path) -> Path:
    """A project with a page of prose and two notebooks; its style and templates are this book's."""
    copy_of("_config.yml", "book/style", "book/templates", "book/references.bib", root=root)
    (root / "notebooks").mkdir()
    (root / "results").mkdir()
    for name, text in PAGES.items():
        (root / name).write_text(text)
    return root


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, bundled: Encoder) -> Path:
    """One with two reference runs, packed, of which one has its picture."""
    root = new_project(tmp_path_factory.mktemp("project"))
    runs = root / "results" / "runs"
    for seed, keep in ((0, lambda run: run), (1, store.without_picture)):
        arguments: dict[str, Any] = {"size": 16, "iterations": 1, "encoder": bundled, "seed": seed}
        store.save(keep(store.run_of(styleinv.invert("bundled:dots", **arguments))), runs / "few")
    store.pack(runs / "few")
    return root


@pytest.fixture(scope="module")
def built(project: Path, painting: Path) -> Path:
    """The book over a reader's image, built by the command line for a repository."""
    finished = subprocess.run(
        [PROGRAM, "book", "-p", f"styles={painting}", "-p", "size=17"],
        cwd=project,
        env=os.environ | {"STYLEINV_REPOSITORY": "https://github.com/someone/copy"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    html = project / "_build" / "html"
    assert finished.stdout == f"The book is ready: open {html / 'index.html'}\n"
    assert "transparent" in finished.stderr  # what the notebook warns of
    assert "The 24 runs, one after another, take" in finished.stderr
    assert finished.stderr.count("Note: ") == 1
    assert "encryption" not in finished.stderr
    return html


def test_a_folder_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before what is told of the runs, which takes a minute."""
    (new_project(tmp_path) / "_build").touch()
    monkeypatch.setattr(build, "preflight", lambda *_: pytest.fail("the runs are probed"))
    with pytest.raises(InputError, match="_build' cannot be written: File exists"):
        build_book(tmp_path, {"styles": "bundled:dots"})


def page(html: Path, name: str) -> BeautifulSoup:
    return BeautifulSoup((html / f"{name}.html").read_text(), "html.parser")


def test_pages_show_what_was_asked_for(built: Path, painting: Path) -> None:
    pictures = page(built, "notebooks/pictures")
    alts = [str(image["alt"]) for image in pictures.select("#figure-1 img")]
    assert [alt.partition(":")[0] for alt in alts] == 2 * [painting.stem]
    folds = [fold.get_text() for fold in pictures.select("details.hide > summary .expanded")]
    assert folds == ["Parameters", "Parameters of this build"]
    assert "\n18\n" in page(built, "notebooks/sums").get_text()


def test_nothing_of_this_machine_is_in_the_pages(
    built: Path, project: Path, painting: Path
) -> None:
    for file in (*built.glob("*/*.html"), *built.glob("_sources/*/*")):
        for text in (project, painting.parent, Path.home(), "transparent"):
            assert str(text) not in file.read_text()


def test_buttons_lead_to_the_notebook_and_to_sources_in_the_repository(built: Path) -> None:
    def links(name: str, kind: str) -> list[str]:
        found = page(built, name).select(f".article-header-buttons a{kind}")
        return [str(button["href"]) for button in found]

    sums = "notebooks/sums"
    (download,) = links(sums, ".btn-download-source-button[href$=ipynb]")
    notebook = nbformat.read(built / "notebooks" / download, as_version=4)
    last = notebook.cells[-1]
    assert (last.source, last.outputs) == ("print(size + 1)", [])
    source = "https://github.com/someone/copy/blob/HEAD/"
    binder = "https://mybinder.org/v2/gh/someone/copy/HEAD?urlpath=lab/tree/"
    assert links(sums, "[href^=http]") == [f"{binder}{sums}.md", f"{source}{sums}.md?plain=1"]
    assert links("book/intro", "[href^=http]") == [f"{source}book/intro.md?plain=1"]


def test_pictures_and_their_records_lie_beside_the_pages(built: Path, project: Path) -> None:
    (picture,) = (project / "results/runs/few").glob("*.png")
    copies = built / "results/runs/few"
    assert (copies / picture.name).read_bytes() == picture.read_bytes()
    assert sorted(path.suffix for path in copies.iterdir()) == [".json", ".png"]
    assert store.read(copies / f"{picture.stem}.json").record == store.read_record(
        picture.with_suffix(".json")
    )


@pytest.mark.parametrize(
    ("parameters", "prose", "match"),
    [
        ({"layers": "relu_9_9"}, "", r"pictures.md, cell In \[\d+\]: .*layers? is 'relu_9_9'"),
        ({}, "{doc}`nowhere`", r"not render without a warning \(book/intro.md:.*nowhere"),
    ],
)
def test_a_failure_leaves_the_last_good_book(
    built: Path, project: Path, parameters: dict[str, str], prose: str, match: str
) -> None:
    before = (built / "index.html").stat().st_mtime_ns
    (project / "book/intro.md").write_text(PAGES["book/intro.md"] + prose)
    with pytest.raises(InputError, match=match):
        build_book(project, parameters)
    assert (built / "index.html").stat().st_mtime_ns == before


def telling(root: Path) -> Path:
    """A project of one page, which shows settings."""
    new_project(root)
    (root / "_toc.yml").write_text(PAGES["_toc.yml"].replace("- file: notebooks/pictures\n", ""))
    (root / "book/intro.md").write_text("# Tiny\n")
    (root / "notebooks/sums.md").write_text(TELLING, encoding="utf-8")
    return root


def test_no_setting_of_the_reader_gets_into_a_page(tmp_path: Path) -> None:
    """Whichever program's it is; the same page is made as on a machine that has none of them."""
    books = {}
    for name, files, settings in (("bare", {}, {"HOME": "{}/home"}), ("theirs", THEIRS, SETTINGS)):
        base = tmp_path / name
        (base / "home").mkdir(parents=True)
        (base / "project").mkdir()
        telling(base / "project")
        for file, text in files.items():
            (base / file).parent.mkdir(parents=True, exist_ok=True)
            (base / file).write_text(text)
        own = {variable: value.format(base) for variable, value in settings.items()}
        path = f"{os.environ.get('PYTHONPATH', '')}{os.pathsep}{base}/home/packages"
        finished = subprocess.run(
            [PROGRAM, "book"],
            cwd=base / "project",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": path, **own},
            capture_output=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        assert b"WARNING" not in finished.stderr
        html = base / "project" / "_build" / "html"
        books[name] = {
            page: (html / page).read_text(encoding="utf-8")
            for page in ("book/intro.html", "notebooks/sums.html")
        }
    assert books["theirs"] == books["bare"]
    shown = BeautifulSoup(books["theirs"]["notebooks/sums.html"], "html.parser")
    first, second = (cell.get_text() for cell in shown.select(".cell_output"))
    assert first.strip() == "'last'"
    lines = second.strip().splitlines()
    assert lines[0].startswith("ü→ True docstring 1 ('UTC', 'UTC')")
    assert lines[1] == "1.5 white 1.5"
    assert lines[2].endswith(f" {os.path.realpath(sys.prefix)} None")
    assert (tmp_path / "theirs/home/.ipython/profile_default").is_dir()
    assert not (tmp_path / "bare/home/.ipython").exists()


def sleeping(root: Path) -> Path:
    """A project of two pages that are not ready before the tests' patience is over."""
    new_project(root)
    for name in ("pictures", "sums"):
        cell = f"```{{code-cell}}\nimport time\ntime.sleep({PATIENCE})\n```\n"
        (root / f"notebooks/{name}.md").write_text(f"{HEAD}# Sleeping\n\n{cell}")
    return root


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_build_that_is_ended_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals
) -> None:
    root, temporary = tmp_path / "project", tmp_path / "temporary"
    for folder in (root, temporary):
        folder.mkdir()
    sleeping(root)
    settings = os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "2"}
    with subprocess.Popen([PROGRAM, "book"], cwd=root, env=settings, stderr=PIPE) as process:
        assert process.stderr is not None

        def both() -> list[psutil.Process]:
            found = psutil.Process(process.pid).children()
            return found if len(found) == 2 else []

        kernels = wait_for(both)
        process.send_signal(number)
        assert process.wait(PATIENCE) == 130
        assert b"Traceback" not in process.stderr.read()
    wait_for(lambda: not any(kernel.is_running() for kernel in kernels))
    assert [*temporary.iterdir(), *(root / "_build").glob("stage-*")] == []


def test_the_first_failure_ends_the_other_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = sleeping(tmp_path)
    sums = PAGES["notebooks/sums.md"].replace("size + 1", "size / 0")
    (root / "notebooks/sums.md").write_text(sums)
    monkeypatch.setattr(build.torch, "get_num_threads", lambda: 2)
    before = psutil.Process().children()
    with pytest.raises(InputError, match=r"sums.md, cell In \[2\]: ZeroDivisionError"):
        build_book(root, {})
    assert psutil.Process().children() == before
    assert not (root / "_build/executed").exists()


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The parameters of each notebook that is executed, while nothing is executed or rendered."""
    calls = []

    def execute(notebook: Any, _: None, parameters: dict[str, Any], **options: Any) -> Any:
        calls.append(parameters)
        return notebook

    def render(command: list[str], **options: Any) -> "subprocess.CompletedProcess[bytes]":
        out = Path(command[command.index("--path-output") + 1])
        (out / "_build" / "html").mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(build.papermill, "execute_notebook", execute)
    monkeypatch.setattr(build.subprocess, "run", render)
    return calls


def test_a_notebook_is_executed_when_something_that_it_depends_on_has_changed(
    executed: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = new_project(tmp_path)
    packages = copy_of("styleinv", "book/styleinv_book", root=tmp_path / "packages")

    def count(**parameters: object) -> int:
        """How many notebooks a build executes; the next build executes none."""
        counts = []
        for _ in range(2):
            executed.clear()
            build_book(root, parameters)
            counts.append(len(executed))
        assert (counts[1], len(list((root / "_build/executed").iterdir()))) == (0, 2)
        return counts[0]

    assert count() == 2
    monkeypatch.setattr(build.styleinv, "__file__", str(packages / "styleinv/__init__.py"))
    monkeypatch.setattr(build, "__file__", str(packages / "book/styleinv_book/build.py"))
    assert count() == 0  # wherever the packages lie
    assert count(layers="relu_1_2") == 1
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(build.torch, "get_num_threads", lambda: 77)
        assert count(layers="relu_1_2") == 2
    assert count(layers="relu_1_2") == 2
    for changed, again in {
        root / "book/intro.md": 0,
        root / "notebooks/sums.md": 1,
        root / "results/a.json": 2,
        root / "book/claims.yml": 2,
        packages / "styleinv/losses.py": 2,
        packages / "styleinv/live/viewer.css": 2,
        packages / "book/styleinv_book/templates/viewer.html.j2": 2,
    }.items():
        changed.write_text("# Other\n")
        assert count(layers="relu_1_2") == again, changed


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (DeadKernelError("Kernel died"), r"notebook \w+.md: its kernel died, maybe of memory"),
        (RuntimeError("no answer"), r"notebook \w+.md: its kernel did not start: no answer"),
    ],
)
def test_a_kernel_that_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, match: str
) -> None:
    def execute(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(build.papermill, "execute_notebook", execute)
    before = dict(os.environ)
    with pytest.raises(InputError, match=match):
        build_book(new_project(tmp_path), {})
    assert dict(os.environ) == before


def test_a_renderer_that_is_killed(
    executed: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(command: list[str], **options: Any) -> "subprocess.CompletedProcess[bytes]":
        options["stdout"].write("Größe →".encode("latin-1", "replace"))
        return subprocess.CompletedProcess(command, -9)

    monkeypatch.setattr(build.subprocess, "run", killed)
    with pytest.raises(InputError, match=r"without a warning \(it ended with -9\); see .*log$"):
        build_book(new_project(tmp_path), {})
    assert len(list((tmp_path / "_build/executed").iterdir())) == 2  # the next build goes on


def test_notebooks_get_their_own_parameters_and_copies_of_files(
    executed: list[dict[str, Any]], tmp_path: Path, painting: Path
) -> None:
    root = new_project(tmp_path)
    build_book(root, {"size": "32", "styles": [str(painting), "bundled:dots"]})
    (copy, name), size = executed[0].pop("styles"), executed[1]
    assert (executed[0], name, size) == ({}, "bundled:dots", {"size": 32})
    assert copy.endswith(f"/{painting.name}")
    assert (root / "notebooks" / copy).resolve().read_bytes() == painting.read_bytes()


DEFAULTS = {"styles": ["bundled:dots"], "seeds": [0], "size": 64, "iterations": 9, "encoder": ""}


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"seed": 1}, "parameter is 'seed', but must be one of: encoder, iterations, seeds, size"),
        ({"seeds": "0,one"}, "parameter 'seeds' is 'one', but must be a whole number"),
        ({"seeds": []}, "parameter 'seeds' is empty, but must name at least one"),
        ({"styles": "a.jpg,,b.jpg"}, "parameter 'styles' is '', but must be a text"),
        ({"size": True}, "parameter 'size' is True, but must be a whole number"),
        ({"styles": __file__}, r"test_book.py' is a text, but must be one of PNG"),
        ({"encoder": "absent.pth"}, "'absent.pth'"),
        ({"encoder": ["a", "b"]}, r"parameter 'encoder' is \['a', 'b'\], but must be a text"),
        ({"size": ["1", "2"]}, r"parameter 'size' is \['1', '2'\], but must be a whole number"),
        ({"size": "1e3"}, "parameter 'size' is '1e3', but must be a whole number"),
        ({"size": "null"}, "parameter 'size' is 'null', but must be a whole number"),
    ],
)
def test_a_parameter_that_is_not_allowed(parameters: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        check_parameters(parameters, DEFAULTS)


def test_parameters_become_what_the_notebooks_have(tmp_path: Path) -> None:
    file = tmp_path / "parameters.yml"
    file.write_text("size: 48\nstyles: [bundled:dots, skimage:coffee]\niterations: 7\n")
    given = read_parameters(["size=64", "seeds=3,4", "encoder=random"], file)
    assert check_parameters(given, DEFAULTS) == {
        "styles": ["bundled:dots", "skimage:coffee"],
        "seeds": [3, 4],
        "size": 64,
        "iterations": 7,
        "encoder": "random",
    }
    odd = "[a] #1.jpg,@b: c.png"  # a file may be named as no YAML value could be
    assert read_parameters([f"styles={odd}"], None) == {"styles": odd}


def test_a_list_is_repeated_and_a_file_may_have_a_comma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, painting: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ["a, b.png", " c.png", "d;é<b>*$.png"]
    for name in names:
        shutil.copy(painting, tmp_path / name)
    given = [*(f"styles={name}" for name in names), "styles=bundled:dots,skimage:coffee"]
    expected = [*names, "bundled:dots", "skimage:coffee"]
    assert check_parameters(read_parameters(given, None), DEFAULTS)["styles"] == expected
    file = tmp_path / "parameters.yml"
    file.write_text("styles: ['a, b.png', '~/ c.png']\n", encoding="utf-8")
    found = check_parameters(read_parameters(["seeds=3", "seeds=1,2"], file), DEFAULTS)
    assert found == {"styles": ["a, b.png", str(tmp_path / " c.png")], "seeds": [3, 1, 2]}


@pytest.mark.parametrize(
    ("text", "encoding", "expected"),
    [
        ("size: 010\nencoder: random\n", "utf-8", {"size": 10, "encoder": "random"}),
        ("size: 1_000\nseeds: [' 2 ', ٣]\n", "utf-8", {"size": 1000, "seeds": [2, 3]}),
        ("size: 48\r\nseeds:\r\n- 1\r\n", "utf-8-sig", {"size": 48, "seeds": [1]}),
        ("size: 48\nseeds: 1,2\n", "utf-16", {"size": 48, "seeds": [1, 2]}),
    ],
)
def test_a_file_of_parameters_means_what_it_says(
    text: str, encoding: str, expected: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "parameters.yml"
    file.write_bytes(text.encode(encoding))
    assert check_parameters(read_parameters([], file), DEFAULTS) == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"size: 1\n\tseeds: 2\n", "NAME: VALUE pairs: .*'\\\\t'.*line 2"),
        ("ä: 1".encode("latin-1"), "NAME: VALUE pairs: unacceptable character"),
        (b"- size\n", "NAME: VALUE pairs$"),
    ],
)
def test_a_file_that_holds_no_parameters(text: bytes, match: str, tmp_path: Path) -> None:
    file = tmp_path / "parameters.yml"
    file.write_bytes(text)
    with pytest.raises(InputError, match=match):
        read_parameters([], file)


def test_figure_1_1_says_what_the_encoder_is() -> None:
    """Against the convolutions themselves, for the chapter's images of 256 x 256 pixels."""
    drawing = ElementTree.parse(ROOT / "book/figures/encoder.svg")
    labels = [list(text.itertext()) for text in drawing.iter("{http://www.w3.org/2000/svg}text")]
    encoder = load_encoder("random").to("meta")
    convolutions = [f"{conv.weight.shape[1]}-{conv.weight.shape[0]}" for conv in encoder.convs]
    assert [lines[-1] for lines in labels if "conv" in lines] == convolutions
    images = torch.empty(1, 3, 256, 256, device="meta")
    for layer in styleinv.LAYERS:
        _, channels, height, width = encoder(images, layer).shape
        assert [layer, f"{channels} maps", f"{height} x {width}"] in labels
