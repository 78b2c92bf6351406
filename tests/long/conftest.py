"""What the long tests share: the whole book, built from small parameters, and a page of it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.conftest import PROGRAM, refuse_others, served
from tests.test_book import copy_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Parameters with which the book is built in a minute or two.
SMALL = {
    "size": 32,
    "layers": ["relu_1_1", "relu_2_2"],
    "seeds": [0, 1],
    "iterations": 12,
    "adam_iterations": 12,
    "evaluations": 12,
    "stops": [1, 4],
}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the book is made from, with a reader's image beside it."""
    root = tmp_path_factory.mktemp("project")
    return copy_of("_config.yml", "_toc.yml", "book", "notebooks", "results", root=root)


@pytest.fixture(scope="session")
def built(project: Path, painting: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book over the reader's image and a bundled style, built by the command line."""
    parameters = tmp_path_factory.mktemp("small") / "parameters.yml"
    parameters.write_text(yaml.safe_dump(SMALL))
    command = [PROGRAM, "book", "-p", f"styles={painting},skimage:coffee", "-f", parameters]
    environment = {key: value for key, value in os.environ.items() if key != "STYLEINV_REPOSITORY"}
    finished = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    return project / "_build" / "html"


@pytest.fixture(scope="session")
def site(built: Path) -> Iterator[str]:
    with served(built) as address:
        yield address


@pytest.fixture
def page(browser: "Browser", site: str) -> Iterator[tuple["Page", list[str]]]:
    """A page of a browser that may speak to the site only, and what it asked of others."""
    with browser.new_context() as context:
        opened = context.new_page()
        yield opened, refuse_others(opened, site)
