"""The server of the live page: who reaches it, what it answers, what remains of a closed window."""

import http.client
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Browser, Page

from styleinv import InputError, cli
from styleinv.live import server
from tests.conftest import LivePage, explored


def answer(address: str, path: str, method: str = "GET", **headers: str) -> int:
    """The status for exactly this path, which no client has tidied."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def kernels(live: LivePage) -> list[psutil.Process]:
    found = []
    for child in psutil.Process(live.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended just now
            if any("ipykernel" in word for word in child.cmdline()):
                found.append(child)
    return found


def until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


@pytest.mark.parametrize(
    "path",
    [
        "/files/live.ipynb",
        "/voila/files/live.ipynb",
        "/voila/files/../live.ipynb",
        "/live.ipynb",
        "/etc/passwd",
        "//etc/passwd",
        "/voila/static/../../../../../../../../etc/passwd",
        "/voila/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/voila/static//etc/passwd",
        "/voila/labextensions/../../../../../../../../../etc/passwd",
        "/voila/labextensions//etc/passwd",
        "/voila/api/themes/../../../../../../../../../../etc/passwd",
        "/voila/templates/lab/index.html.j2",
        "/voila/tree",
        "/voila/render/live.ipynb",
        "/voila/api/contents",
        "/api/contents",
        "/api/kernels",
        "/api/terminals",
        "/terminals/1",
        "/tree",
        "/lab",
    ],
)
def test_nothing_else_is_served(live: LivePage, path: str) -> None:
    assert answer(live.address, path) in (403, 404)


def test_only_this_machine_reaches_it(live: LivePage) -> None:
    assert live.address.startswith("http://127.0.0.1:")
    listening = [
        connection
        for connection in psutil.Process(live.process.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_a_page_that_pretends_to_be_this_one_is_turned_away(live: LivePage) -> None:
    """As after DNS rebinding, or from another site's script."""
    assert answer(live.address, "/", Host="example.com") == 403
    channel = "/api/kernels/00000000-0000-0000-0000-000000000000/channels"
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers = {**upgrade, "Sec-WebSocket-Key": "A" * 22 + "==", "Origin": "http://example.com"}
    assert answer(live.address, channel, **headers) in (403, 404)
    assert answer(live.address, "/api/kernels", method="POST") == 404
    assert kernels(live) == []


def test_what_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port is {port}, but cannot be used: Address"):
            server.serve(tmp_path, tmp_path, port, lambda address: None)
    with pytest.raises(InputError, match="port is 70000"):
        server.serve(tmp_path, tmp_path, 70000, lambda address: None)
    monkeypatch.delitem(sys.modules, "styleinv.app.server")
    monkeypatch.setitem(sys.modules, "voila.app", None)
    monkeypatch.setattr(sys, "argv", ["styleinv", "explore", "--no-browser"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    error = capsys.readouterr().err
    assert error.startswith("Error: explore needs the packages of the book (")
    assert error.count("\n") == 1


@pytest.fixture
def windows(browser: Browser, live: LivePage) -> Iterator[list[Page]]:
    with browser.new_context() as context:
        opened = [context.new_page() for _ in range(2)]
        for page in opened:
            page.goto(live.address)
        for page, style in zip(opened, ("dots", "mosaic"), strict=True):
            page.get_by_role("radio", name=style).check(force=True)
            page.get_by_label("Optimiser").select_option("chapter")
            page.get_by_role("button", name="Start").click()
        for page, style in zip(opened, ("dots", "mosaic"), strict=True):
            page.get_by_alt_text(f"Inversion of {style}: relu_2_1, Gram, running").wait_for()
        yield opened


def iterations(page: Page) -> int:
    row = page.get_by_role("row", name="iterations", exact=False).first
    return int(row.locator("td").inner_text().replace(",", ""))


@pytest.mark.browser
def test_windows_do_not_mix_and_take_their_kernels_along(
    live: LivePage, windows: list[Page]
) -> None:
    first, second = windows
    assert len(kernels(live)) == 2
    first.get_by_role("button", name="Pause").click()
    first.get_by_role("button", name="Resume").wait_for()
    before = iterations(second)
    until(lambda: iterations(second) > before, 10)
    assert first.get_by_alt_text("Inversion of dots: relu_2_1, Gram, paused").is_visible()
    first.close(run_before_unload=True)
    until(lambda: len(kernels(live)) == 1, 10)
    before = iterations(second)
    until(lambda: iterations(second) > before, 10)
    second.close()  # as if it had crashed: no script of the page runs
    until(lambda: kernels(live) == [], 10)


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    folders = set(Path(tempfile.gettempdir()).glob("styleinv-live-*"))
    with explored(tmp_path) as page:
        own = set(Path(tempfile.gettempdir()).glob("styleinv-live-*")) - folders
        assert own
        assert answer(page.address, "/") == 200
        assert len(kernels(page)) == 1
        (kernel,) = kernels(page)
        page.process.send_signal(signal.SIGINT)
        assert page.process.wait(20) == 0
        assert page.process.stderr is not None
        assert page.process.stderr.read() == ""
    until(lambda: not kernel.is_running(), 5)
    assert not any(folder.exists() for folder in own)
