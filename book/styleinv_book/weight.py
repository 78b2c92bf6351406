"""What makes the built pages light: pictures that load when they are seen, and nothing unused."""

import base64
import hashlib
import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import nbformat
from docutils.nodes import document
from sphinx.application import Sphinx
from sphinx.config import Config

from styleinv.files import write_atomically

# A Python package whose only content is MathJax.
MATHJAX = "sphinx-mathjax-offline"
# What reads the equations of these pages and sets them, with their text for screen readers.
MATHJAX_PARTS = ["core", "input/tex-base", "[tex]/ams", "output/chtml", "a11y/assistive-mml"]
MATHJAX_FILES = [
    "startup.js",
    *(f"{part.replace('[tex]', 'input/tex/extensions')}.js" for part in MATHJAX_PARTS),
    "output/chtml/fonts/tex.js",
    "output/chtml/fonts/woff-v2/*.woff",
]
# The theme's script that draws icons, as its fonts do already, and the texts that it translates.
UNUSED = ["_static/vendor/fontawesome/*/js", "_static/locales"]
EMBEDDED = re.compile(r'\bsrc="data:image/(png|svg)[^;"]*;base64,([^"]+)"')


def choose_mathjax(app: Sphinx, config: Config) -> None:
    """Load the parts of MathJax one by one, instead of a file with all that it can do."""
    config.mathjax_path = "mathjax/startup.js"
    config.mathjax3_config = (config.mathjax3_config or {}) | {
        "loader": {"load": MATHJAX_PARTS},
        "tex": {"packages": ["base", "ams"]},
    }


def write_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Copy the files of MathJax that pages load."""
    if exception or app.builder.format != "html":
        return
    source = Path(str(files(MATHJAX)), "static", "mathjax")
    for file in (file for pattern in MATHJAX_FILES for file in source.glob(pattern)):
        target = Path(app.outdir, "_static", "mathjax", file.relative_to(source))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


def embedded_to_files(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: document | None
) -> None:
    """Move the pictures that a page holds into files: a browser can leave out what is out of sight.

    Pages that show the same picture share its file.
    """

    def as_file(found: re.Match[str]) -> str:
        content = base64.b64decode(found[2])
        name = f"_images/{hashlib.sha256(content).hexdigest()[:16]}.{found[1]}"
        write_atomically(Path(app.outdir, name), lambda part: part.write_bytes(content))
        return f'src="{context["pathto"](name, 1)}"'

    if app.builder.format == "html" and "body" in context:
        context["body"] = EMBEDDED.sub(as_file, context["body"])


def leave_out(app: Sphinx, exception: Exception | None) -> None:
    """Remove from the built book what no page asks for."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for folder in (folder for pattern in UNUSED for folder in out.glob(pattern)):
        shutil.rmtree(folder)
    for notebook in [*out.glob("_downloads/*/*.ipynb"), *out.glob("_sources/**/*.ipynb")]:
        _forget_outputs(notebook)


def _forget_outputs(file: Path) -> None:
    """Keep what a notebook computes, and not what came of it: its page shows that."""
    notebook = nbformat.read(file, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, file)
