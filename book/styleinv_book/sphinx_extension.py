"""Sphinx extension of this book: run records beside the pages, links to the pages' sources."""

import os
import shutil
from pathlib import Path
from typing import Any

from docutils.nodes import document
from sphinx.application import Sphinx

# GitHub and Binder both take it for the newest commit of the default branch.
BRANCH = "HEAD"


def copy_runs(app: Sphinx, exception: Exception | None) -> None:
    """Put results/runs where the pages, one folder down, look for them: ../results/runs."""
    runs = Path(app.srcdir, "results", "runs")
    if exception is None and app.builder.format == "html" and runs.is_dir():
        target = Path(app.outdir, "results", "runs")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(runs, target)


def source_of(app: Sphinx, pagename: str) -> str | None:
    """The page's source, from the project's folder: staged pages lie in its _build/stage."""
    name = f"{pagename}.md"
    srcdir = Path(app.srcdir)
    return name if any((root / name).is_file() for root in (srcdir, *srcdir.parents[:2])) else None


def add_source_buttons(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: document | None
) -> None:
    """Link each page to its source: a notebook on Binder, any page on GitHub.

    The book's own buttons would lead to the executed .ipynb, which is in no repository.
    """
    repository = app.config.styleinv_repository.rstrip("/")
    source = source_of(app, pagename)
    if not (repository and source):
        return
    buttons = []
    if "kernelspec" in app.env.metadata[pagename] and repository.startswith("https://github.com/"):
        name = repository.removeprefix("https://github.com/")
        buttons.append(
            {
                "type": "link",
                "text": "Binder",
                "tooltip": "Run this page on Binder",
                "icon": "_static/images/logo_binder.svg",
                "url": f"https://mybinder.org/v2/gh/{name}/{BRANCH}?urlpath=lab/tree/{source}",
            }
        )
    buttons.append(
        {
            "type": "link",
            "text": "Source",
            "tooltip": "This page's source",
            "icon": "fab fa-github",
            "url": f"{repository}/blob/{BRANCH}/{source}?plain=1",
        }
    )
    context["header_buttons"].insert(
        0,
        {
            "type": "group",
            "tooltip": "Run this page, or see its source",
            "icon": "fas fa-rocket",
            "buttons": buttons,
            "label": "launch-buttons",
        },
    )


def correct_roles(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: document | None
) -> None:
    """Say that a list of references has list items; docutils uses a role that is no more."""
    body = context.get("body", "")
    context["body"] = body.replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the above; the repository's address comes from the environment."""
    app.add_config_value(
        "styleinv_repository", os.environ.get("STYLEINV_REPOSITORY", ""), "html", [str]
    )
    # 502: after the theme has made its list of buttons.
    app.connect("html-page-context", add_source_buttons, priority=502)
    app.connect("html-page-context", correct_roles)
    app.connect("build-finished", copy_runs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
