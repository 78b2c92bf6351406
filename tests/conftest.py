"""What the tests share: small encoders and styles, real weights, a browser.

Importing it takes the package's own requirements and pytest: without Playwright or Chromium the
tests in a browser are skipped, without pytest-xdist everything runs in one process.
"""

import functools
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from styleinv.encoder import Encoder, load_encoder
from styleinv.layouts import Layout
from styleinv.styles import paint

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route
    from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
PROGRAM = Path(sys.executable).with_name("styleinv")
# A shell that starts the tests in the background lets them ignore Ctrl-C, and their children, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Seconds to wait for what has to come, also on a busy machine.
PATIENCE = 300
SHARED_WEIGHTS = ROOT.parent / "shared" / "weights" / "vgg19_normalised_relu_2_2.safetensors"
REAL_WEIGHTS = Path(os.environ.get("STYLEINV_VGG19", SHARED_WEIGHTS))

# Runs the command lines in its argument, a JSON list, and says how each ended. One Python for all:
# importing PyTorch takes longer than most of them.
IN_TURN = """
import json, sys
from styleinv import cli

for arguments in json.loads(sys.argv[1]):
    sys.argv = ["styleinv", *arguments]
    try:
        cli.main()
    except SystemExit as stop:
        print(f"Ended {arguments[0]}: {stop.code}")
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "LoadScopeScheduling":
    """Let the processes share the tests file by file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("::")[0]

    return ByFile(config, log)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.fixture
def features(generator: torch.Generator) -> Tensor:
    """Feature maps as a ReLU leaves them: non-negative, some zeros, float64."""
    return torch.randn(1, 5, 6, 7, generator=generator, dtype=torch.float64).relu()


@pytest.fixture
def other_features(generator: torch.Generator, features: Tensor) -> Tensor:
    """Different values than `features`, which share the generator and come first."""
    return (torch.randn(1, 5, 6, 7, generator=generator, dtype=torch.float64) + 0.3).relu()


@pytest.fixture(scope="session")
def bundled() -> Encoder:
    return load_encoder("bundled")


@pytest.fixture(scope="session")
def real_weights() -> Path:
    if not REAL_WEIGHTS.is_file():
        pytest.skip("no real VGG-19 weights at hand (set STYLEINV_VGG19 to a file of them)")
    return REAL_WEIGHTS


@pytest.fixture(scope="session")
def painting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader's image, outside of the project, with what deserves a note and an odd name."""
    path = tmp_path_factory.mktemp("private") / "my $5^^$ painting.png"
    pixels = paint("rectangles", 24)
    picture = Image.fromarray((255 * pixels).astype("uint8"))
    picture.putalpha(200)
    picture.save(path)
    return path


@pytest.fixture
def images(generator: torch.Generator) -> Tensor:
    return torch.rand(2, 3, 17, 22, generator=generator)


def state_of(layout: Layout) -> dict[str, Tensor]:
    """A file of weights in this layout, small and random."""
    generator = torch.Generator().manual_seed(5)
    return {
        name: 0.1 * torch.randn(shape, generator=generator) for name, shape in layout.shapes.items()
    }


class Trap:
    """What a pickle can do to those who load it without care: here, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.target,)


def wait_for(condition: Callable[[], Any]) -> Any:
    """What the condition returns as soon as that is true."""
    last = time.monotonic() + PATIENCE
    while time.monotonic() < last:
        if found := condition():
            return found
        time.sleep(0.01)
    raise TimeoutError


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A file server for `folder` on this machine; its address."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright (extra `dev`)")
    with playwright.sync_playwright() as running:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = running.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()


def refuse_others(page: "Page", own: str) -> list[str]:
    """Let `page` ask for URLs that begin with `own` only; the list of what else it asks for."""
    refused: list[str] = []

    def refuse(route: "Route") -> None:
        refused.append(route.request.url)
        route.abort()

    page.route(lambda url: not url.startswith((own, "data:", "blob:")), refuse)
    return refused


@dataclass(frozen=True)
class LivePage:
    """`styleinv explore`, running: its address with the token, its process, where it saves."""

    address: str
    process: subprocess.Popen[str]
    out: Path

    @property
    def origin(self) -> str:
        return self.address.partition("/?token=")[0]


@contextmanager
def explored(folder: Path, *options: str, **environment: str) -> Iterator[LivePage]:
    """The live page, served by the command line from `folder`; Ctrl-C ends it without an error."""
    command = [PROGRAM, "explore", "--no-browser", *options]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield LivePage(process.stdout.readline().strip(), process, folder / "out")
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                assert process.wait(PATIENCE) == 0
        finally:
            process.kill()  # or a test that failed would wait for ever


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePage]:
    runs = str(ROOT / "results" / "runs")
    with explored(tmp_path_factory.mktemp("live"), "--runs", runs) as page:
        yield page


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published live page alone, with its files, below a path as on GitHub Pages."""
    live_page = pytest.importorskip("styleinv_book.live_page", reason="no Jupyter (extra `book`)")
    book = tmp_path_factory.mktemp("published") / "styleinv" / "book"
    live_page.write(book / live_page.FOLDER)
    instead = "<figure><figcaption>A finished run</figcaption></figure>"
    fragment = live_page.fragment(["bundled:strokes"], instead=instead)
    page = book / "notebooks" / "live.html"
    page.parent.mkdir()
    page.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Live</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">'
        f'<body style="margin: 16px"><main><h1>Live</h1>{fragment}</main></body></html>',
        encoding="utf-8",
    )
    return page


@pytest.fixture(scope="module")
def live_address(published: Path) -> Iterator[str]:
    with served(published.parents[3]) as site:
        yield f"{site}/styleinv/book/notebooks/live.html"
