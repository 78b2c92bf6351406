"""Sphinx extension of this book: what it adds to pages, and puts beside them."""

import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from docutils import nodes
from docutils.nodes import document
from sphinx.application import Sphinx
from sphinx.config import Config

from styleinv.runs.store import read_records
from styleinv_book import findable, live_page, weight
from styleinv_book.figures import plot_within_html

# GitHub and Binder both resolve this to the newest commit of the default branch.
BRANCH = "HEAD"
GLOSSARY = "book/glossary"
# What `folded_origin` and `figure` in styleinv_book.figures write.
THIS_NOTEBOOK = re.compile(r'<span class="this-notebook">(.*?)</span>')


def copy_runs(app: Sphinx, exception: Exception | None) -> None:
    """Copy the pictures in results/runs to where the pages, one folder down, look for them.

    Beside each picture of a run comes its record, in a file of its own, for the viewer's links.
    """
    runs, target = Path(app.srcdir, "results", "runs"), Path(app.outdir, "results", "runs")
    if exception or app.builder.format != "html" or not runs.is_dir():
        return
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(runs, target, ignore=shutil.ignore_patterns(".*", "*.json", "*.jsonl"))
    for path, record in read_records(runs).items():
        if record.picture:
            text = msgspec.json.format(msgspec.json.encode(record), indent=1)
            (target / path.relative_to(runs)).write_bytes(text)


def write_live_page(app: Sphinx, exception: Exception | None) -> None:
    """Write the files of the live page, if the book has that page."""
    has_page = "notebooks/live" in app.env.found_docs
    if has_page and not exception and app.builder.format == "html":
        live_page.write(Path(app.outdir, live_page.FOLDER))


def lead_to_repository(app: Sphinx, config: Config) -> None:
    """Link the theme's buttons to the repository in `STYLEINV_REPOSITORY`, if that is set."""
    if repository := os.environ.get("STYLEINV_REPOSITORY"):
        config.html_theme_options |= {
            "repository_url": repository.rstrip("/"),
            "repository_branch": BRANCH,
            "use_source_button": True,
            "launch_buttons": {
                "binderhub_url": "https://mybinder.org",
                "notebook_interface": "jupyterlab",
            },
        }


def lead_to_sources(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: document | None
) -> None:
    """Link the buttons to a notebook's source, because the executed .ipynb is in no repository."""
    for button in context["header_buttons"]:
        for link in button.get("buttons", [button]):
            if link.get("url", "").startswith("https:"):
                link["url"] = link["url"].replace(f"{pagename}.ipynb", f"{pagename}.md")


def link_notebook(app: Sphinx, doctree: document) -> None:
    """Let figures lead to the notebook that has made them."""
    env: Any = app.env  # MyST-NB adds its settings
    page = env.docname
    executed = Path(env.mystnb_config.output_folder, f"{page}.ipynb")
    if not executed.is_file():
        return
    name = env.dlfiles.add_file(page, os.path.relpath(executed, app.srcdir))
    folder = os.path.relpath("_downloads", Path(page).parent)
    link = rf'<a href="{quote(f"{folder}/{name}")}" download>\1</a>'
    for raw in doctree.findall(nodes.raw):
        if THIS_NOTEBOOK.search(raw.astext()):
            raw[:] = [nodes.Text(THIS_NOTEBOOK.sub(link, raw.astext()))]


def draw_plots(app: Sphinx, doctree: document, docname: str) -> None:
    """Put the plots that notebooks return into the page, where its style sheet reaches them."""
    env: Any = app.env  # MyST-NB adds its settings
    for image in list(doctree.findall(nodes.image)):
        file = Path(app.srcdir, image["uri"]).resolve()
        is_output = file.is_relative_to(env.mystnb_config.output_folder)
        if app.builder.format == "html" and is_output and file.suffix == ".svg":
            text = file.read_text(encoding="utf-8")
            drawn = plot_within_html(text, image.get("alt", ""))
            image.replace_self(nodes.raw("", drawn, format="html"))


def explain_terms(app: Sphinx, doctree: document, docname: str) -> None:
    """Let a link into the glossary show the word's meaning to a pointer that rests on it."""
    links = [x for x in doctree.findall(nodes.reference) if "#term-" in x.get("refuri", "")]
    if not links:
        return
    meanings = {}
    for entry in app.env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        term, meaning = next(entry.findall(nodes.term)), next(entry.findall(nodes.definition))
        meanings[term["ids"][0]] = " ".join(meaning.astext().split())
    for link in links:
        link["reftitle"] = meanings[link["refuri"].partition("#")[2]]


def name_fields(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returned: str
) -> tuple[str, None] | None:
    """Give the API's records a signature of names: with its checks, a type takes several lines."""
    if isinstance(obj, type) and issubclass(obj, msgspec.Struct):
        return f"({', '.join(obj.__struct_fields__)})", None
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions above."""
    app.connect("config-inited", lead_to_repository)
    # The theme makes its list of buttons before, at priority 501.
    app.connect("html-page-context", lead_to_sources, priority=502)
    app.connect("doctree-read", link_notebook)
    app.connect("doctree-resolved", draw_plots)
    app.connect("doctree-resolved", explain_terms)
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-signature", name_fields)
    app.connect("build-finished", copy_runs)
    app.connect("build-finished", write_live_page)
    app.add_builder(findable.BookBuilder, override=True)
    app.connect("config-inited", findable.know_address)
    app.connect("html-page-context", findable.describe)
    app.connect("html-page-context", findable.say_where)
    app.connect("config-inited", weight.choose_mathjax)
    app.connect("html-page-context", weight.embedded_to_files)
    app.connect("build-finished", weight.write_mathjax)
    app.connect("build-finished", weight.leave_out)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
