"""The server of the live page: who reaches it, what it answers, what remains of a closed window."""

import http.client
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import pytest

from styleinv import InputError
from styleinv.live import server
from tests.conftest import PATIENCE, LivePage, explored, wait_for

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
    return psutil.Process(live.process.pid).children()


def test_no_other_file_is_served_and_nothing_started(live: LivePage) -> None:
    outside = "../../../../../../../../etc/passwd"
    files = ("files/live.ipynb", "files/../live.ipynb", f"static/{outside}")
    for path in (*files, "labextensions//etc/passwd", "api/contents"):
        assert answer(live.address, f"/voila/{path}") in (302, 403, 404)
    assert answer(live.address, "/api/kernels") in (302, 403, 404)
    assert kernels(live) == []


def test_only_this_machine_reaches_it(live: LivePage) -> None:
    connections = psutil.Process(live.process.pid).net_connections("inet")
    listening = [c.laddr for c in connections if c.status == psutil.CONN_LISTEN]
    assert {place.ip for place in listening} == {"127.0.0.1"}


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
        for port in (taken.getsockname()[1], 70_000):
            with pytest.raises(InputError, match=f"port is {port}, but "):
                server.serve(tmp_path, tmp_path, port, print)


def iterations(page: "Page") -> int:
    row = page.get_by_role("row", name="iterations", exact=False).first
    return int(row.locator("td").inner_text().replace(",", ""))


def wait_for_progress(page: "Page") -> None:
    before = iterations(page)
    wait_for(lambda: iterations(page) > before)


@pytest.mark.browser
def test_windows_do_not_mix_and_closing_one_ends_its_kernel(
    browser: "Browser", live: LivePage
) -> None:
    with browser.new_context() as context:
        first, second = context.new_page(), context.new_page()
        for page, style in ((first, "dots"), (second, "mosaic")):
            page.goto(live.address)
            page.get_by_role("radio", name=style).check(force=True)
            page.get_by_label("Optimiser").select_option("chapter")
            page.get_by_role("button", name="Start").click()
            page.get_by_alt_text(f"Inversion of {style}: relu_2_1, Gram, running").wait_for()
        assert len(kernels(live)) == 2
        first.get_by_role("button", name="Pause").click()
        first.get_by_role("button", name="Resume").wait_for()
        wait_for_progress(second)
        first.close(run_before_unload=True)
        wait_for(lambda: len(kernels(live)) == 1)
        wait_for_progress(second)
        second.close(run_before_unload=True)
        wait_for(lambda: kernels(live) == [])


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with explored(tmp_path) as page:
        assert answer(page.address, "/") == 200
        (kernel,) = kernels(page)
        folder = Path(kernel.environ()["TMPDIR"])
        assert folder.exists()
        page.process.send_signal(signal.SIGINT)
        assert page.process.wait(PATIENCE) == 0
        assert page.process.stderr is not None
        assert page.process.stderr.read() == ""
    wait_for(lambda: not kernel.is_running())
    assert not folder.exists()
