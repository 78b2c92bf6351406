"""The server of the live page: who reaches it, what it answers, what remains of a closed window."""

import http.client
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import pytest

from styleinv import InputError
from styleinv.live import server
from tests.conftest import LivePage, explored, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


def answer(address: str, path: str, method: str = "GET", **headers: str) -> int:
    """The status of the answer to exactly this path, which no client has tidied."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
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


@pytest.mark.parametrize(
    "path",
    [
        "/voila/files/live.ipynb",
        "/voila/files/../live.ipynb",
        "/files/live.ipynb",
        "//etc/passwd",
        "/voila/static/../../../../../../../../etc/passwd",
        "/voila/labextensions//etc/passwd",
        "/voila/api/contents",
        "/api/kernels",
    ],
)
def test_no_other_file_is_served_and_nothing_started(live: LivePage, path: str) -> None:
    assert answer(live.address, path) in (302, 403, 404)
    assert kernels(live) == []


def test_only_this_machine_reaches_it(live: LivePage) -> None:
    connections = psutil.Process(live.process.pid).net_connections("inet")
    listening = [c.laddr for c in connections if c.status == psutil.CONN_LISTEN]
    assert {place.ip for place in listening} == {"127.0.0.1"}
    assert live.address in {f"http://127.0.0.1:{place.port}/" for place in listening}


def test_a_page_that_pretends_to_be_this_one_is_turned_away(live: LivePage) -> None:
    """As after DNS rebinding, or from another site's script."""
    assert answer(live.address, "/", Host="example.com") == 403
    channel = "/api/kernels/00000000-0000-0000-0000-000000000000/channels"
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    headers = {**upgrade, "Sec-WebSocket-Key": "A" * 22 + "==", "Origin": "http://example.com"}
    assert answer(live.address, channel, **headers) in (403, 404)
    assert answer(live.address, "/api/kernels", method="POST") in (404, 405)
    assert kernels(live) == []


def test_a_port_that_cannot_be_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port is {port}, but cannot be used: Address alread"):
            server.serve(tmp_path, tmp_path, port, print)
    with pytest.raises(InputError, match="port is 70000"):
        server.serve(tmp_path, tmp_path, 70000, print)


@pytest.fixture
def windows(browser: "Browser", live: LivePage) -> Iterator[list["Page"]]:
    """Two windows with a run each, which only the reader ends."""
    with browser.new_context() as context:
        opened = [context.new_page() for _ in range(2)]
        for page, style in zip(opened, ("dots", "mosaic"), strict=True):
            page.goto(live.address)
            page.get_by_role("radio", name=style).check(force=True)
            page.get_by_label("Optimiser").select_option("chapter")
            page.get_by_role("button", name="Start").click()
            page.get_by_alt_text(f"Inversion of {style}: relu_2_1, Gram, running").wait_for()
        yield opened


def iterations(page: "Page") -> int:
    row = page.get_by_role("row", name="iterations", exact=False).first
    return int(row.locator("td").inner_text().replace(",", ""))


@pytest.mark.browser
def test_windows_do_not_mix_and_closing_one_ends_its_kernel(
    live: LivePage, windows: list["Page"]
) -> None:
    first, second = windows
    assert len(kernels(live)) == 2
    first.get_by_role("button", name="Pause").click()
    first.get_by_role("button", name="Resume").wait_for()
    before = iterations(second)
    wait_for(lambda: iterations(second) > before)
    first.close(run_before_unload=True)
    wait_for(lambda: len(kernels(live)) == 1)
    before = iterations(second)
    wait_for(lambda: iterations(second) > before)
    second.close(run_before_unload=True)
    wait_for(lambda: kernels(live) == [])


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with explored(tmp_path) as page:
        assert answer(page.address, "/") == 200
        (kernel,) = kernels(page)
        folder = Path(kernel.environ()["TMPDIR"])
        assert folder.exists()
        page.process.send_signal(signal.SIGINT)
        assert page.process.wait(20) == 0
        assert page.process.stderr is not None
        assert page.process.stderr.read() == ""
    wait_for(lambda: not kernel.is_running())
    assert not folder.exists()
