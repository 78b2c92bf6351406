"""The server of the live page: who reaches it, what it answers, what remains of a closed window."""

import http.client
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import psutil
import pytest

from styleinv import InputError
from styleinv.live import server
from tests.conftest import PATIENCE, LivePage, explored, served, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


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


def by_token(live: LivePage) -> dict[str, str]:
    return {"Authorization": f"token {live.address.partition('token=')[2]}"}


KERNEL = "/api/kernels/00000000-0000-0000-0000-000000000000"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "A" * 22 + "==",
}


def test_no_other_file_is_served_and_nothing_started(live: LivePage) -> None:
    """Not even to the reader."""
    outside = "../../../../../../../../etc/passwd"
    files = ("files/live.ipynb", "files/../live.ipynb", f"static/{outside}")
    for path in (*files, "labextensions//etc/passwd", "api/contents"):
        assert answer(live.address, f"/voila/{path}", **by_token(live)) in (302, 403, 404)
    assert answer(live.address, "/api/kernels", **by_token(live)) in (302, 403, 404)
    assert kernels(live) == []


def test_only_this_machine_reaches_it(live: LivePage) -> None:
    connections = psutil.Process(live.process.pid).net_connections("inet")
    listening = [c.laddr for c in connections if c.status == psutil.CONN_LISTEN]
    assert {place.ip for place in listening} == {"127.0.0.1"}


@pytest.mark.parametrize("token", ["", "0", "'\0ü"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/login"),
        ("POST", "/login"),
        ("GET", KERNEL),
        ("DELETE", KERNEL),
        ("GET", f"{KERNEL}/channels"),
        ("POST", f"/voila/api/shutdown/{KERNEL[-36:]}"),
        ("GET", "/voila/labextensions/anywidget/package.json"),
        ("GET", "/voila/files/live.ipynb"),
        ("GET", "/voila/render/live.ipynb"),
    ],
)
def test_nobody_gets_in_without_the_token(
    live: LivePage, method: str, path: str, token: str
) -> None:
    assert answer(live.address, f"{path}?token={quote(token)}", method, **UPGRADE) == 403
    assert answer(live.address, path, method, Authorization=f"token {quote(token)}") == 403
    assert answer(live.address, path, method, Cookie="username-127-0-0-1=x") == 403
    assert kernels(live) == []


def test_other_users_of_this_machine_get_nothing(live: LivePage) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can be somebody else")
    notebooks = map(Path, glob(f"{tempfile.gettempdir()}/styleinv-*/live.ipynb"))
    (folder,) = (file.parent for file in notebooks if str(live.out) in file.read_text())
    commands = [f"ls {folder}", f"cat {folder}/live.ipynb", f"cat /proc/{live.process.pid}/environ"]
    for command in commands:
        done = subprocess.run(command.split(), user="nobody", capture_output=True, check=False)
        assert (done.returncode != 0, done.stdout) == (True, b"")
    assert stat.S_IMODE(folder.stat().st_mode) & 0o77 == 0


def test_a_page_that_pretends_to_be_this_one_is_turned_away(live: LivePage) -> None:
    """As after DNS rebinding, or from another site's script."""
    assert answer(live.address, "/", Host="example.com", **by_token(live)) == 403
    other = {**UPGRADE, "Origin": "http://example.com"}
    assert answer(live.address, f"{KERNEL}/channels", **other) == 403
    assert answer(live.address, "/api/kernels", "POST", **by_token(live)) in (404, 405)
    assert kernels(live) == []


def test_a_port_that_cannot_be_used(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 70_000):
            with pytest.raises(InputError, match=f"port is {port}, but "):
                server.serve(tmp_path, tmp_path, port, print)


def test_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="TMPDIR must be a folder that can be written"):
        server.serve(tmp_path, tmp_path, 0, print)


def test_a_python_without_docstrings() -> None:
    command = [sys.executable, "-OO", "-m", "styleinv.cli", "explore"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: PYTHONOPTIMIZE is 2, but must be ")


def end(live: LivePage, number: signal.Signals) -> None:
    """A signal ends the server and its one kernel, and nothing is left behind."""
    (kernel,) = (child for child in kernels(live) if "-f" in child.cmdline())  # no browser
    folder = Path(kernel.environ()["TMPDIR"])
    assert folder.exists()
    live.process.send_signal(number)
    assert live.process.wait(PATIENCE) == 0
    assert live.process.stderr is not None
    assert live.process.stderr.read() == ""
    wait_for(lambda: not kernel.is_running())
    assert not folder.exists()


def test_no_setting_of_the_reader_gets_in(tmp_path: Path) -> None:
    """Above all no other kernel of the same name, which nobody would answer."""
    wrong = tmp_path / "kernels" / "python3" / "kernel.json"
    wrong.parent.mkdir(parents=True)
    wrong.write_text('{"argv": ["/nowhere/python"], "display_name": "", "language": "R"}')
    config = "c = get_config()\nc.Voila.token = ''\nc.VoilaConfiguration.template = 'nowhere'\n"
    for name in ("voila.py", "jupyter_config.py", ".jupyter/voila.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(config)
    settings = {"JUPYTER_PATH": str(tmp_path), "JUPYTER_TOKEN": "known", "HOME": str(tmp_path)}
    with explored(tmp_path, **settings, JUPYTER_CONFIG_DIR=str(tmp_path)) as page:
        assert answer(page.address, "/?token=known") == answer(page.address, "/") == 403
        with urllib.request.urlopen(page.address) as opened:
            content = opened.read().decode()
        end(page, signal.SIGTERM)
    assert "application/vnd.jupyter.widget-view+json" in content


def iterations(page: "Page") -> int:
    row = page.get_by_role("row", name="iterations", exact=False).first
    return int(row.locator("td").inner_text().replace(",", ""))


def wait_for_progress(page: "Page") -> None:
    before = iterations(page)
    wait_for(lambda: iterations(page) > before)


@pytest.fixture
def context(browser: "Browser") -> Iterator["BrowserContext"]:
    with browser.new_context() as opened:
        opened.set_default_timeout(1000 * PATIENCE)
        yield opened


@pytest.mark.browser
def test_windows_do_not_mix_and_closing_one_ends_its_kernel(
    context: "BrowserContext", live: LivePage
) -> None:
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
    second.reload()
    second.get_by_role("button", name="Start").wait_for()
    wait_for(lambda: len(kernels(live)) == 1)
    (cookie,) = context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
    token = live.address.partition("token=")[2]
    assert token not in cookie["value"] + second.title() + second.content()
    second.close(run_before_unload=True)
    wait_for(lambda: kernels(live) == [])


@pytest.mark.browser
def test_another_site_opens_neither_the_page_nor_its_kernel(
    context: "BrowserContext", live: LivePage, tmp_path: Path
) -> None:
    """Even in the reader's own browser, which has the cookie."""
    (tmp_path / "index.html").write_text("<title>another site</title>")
    with served(tmp_path) as site:
        own, other = context.new_page(), context.new_page()
        own.goto(live.address)
        own.get_by_role("button", name="Start").wait_for()
        other.goto(site.replace("127.0.0.1", "localhost"))
        socket = live.origin.replace("http", "ws") + f"{KERNEL}/channels"
        tries = """async ([origin, socket]) => [
            await fetch(origin, {credentials: 'include'}).then(() => 'read', () => 'refused'),
            await new Promise((done) => {
                const opened = new WebSocket(socket);
                opened.onopen = () => done('opened');
                opened.onerror = () => done('refused');
            })]"""
        assert other.evaluate(tries, [live.origin, socket]) == ["refused", "refused"]
        assert len(kernels(live)) == 1
        own.close(run_before_unload=True)
        wait_for(lambda: kernels(live) == [])


@pytest.mark.browser
def test_a_kernel_that_dies_is_missed(context: "BrowserContext", live: LivePage) -> None:
    page = context.new_page()
    page.clock.install()
    page.goto(live.address)
    page.get_by_label("Optimiser").select_option("chapter")
    page.get_by_role("button", name="Start").click()
    page.get_by_alt_text("relu_2_1, Gram, running").wait_for()
    (kernel,) = kernels(live)
    kernel.kill()

    def is_missed() -> bool:
        page.clock.fast_forward(20_000)
        return page.get_by_text("No answer for a while.").is_visible()

    wait_for(is_missed)
    page.close(run_before_unload=True)
    wait_for(lambda: kernels(live) == [])


@pytest.mark.browser
def test_a_kernel_that_does_not_start(context: "BrowserContext", tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    page = context.new_page()
    with explored(tmp_path, TMPDIR=str(tmp_path / "temporary")) as live:
        (kernel,) = tmp_path.glob("temporary/styleinv-*/kernels/python3/kernel.json")
        kernel.write_text('{"argv": ["/bin/false"], "display_name": "", "language": "python"}')
        page.clock.install()
        page.goto(live.address, wait_until="commit")
        page.get_by_text("Starting Python").wait_for()
        page.clock.fast_forward(60_000)
        page.get_by_text("Python has not started after a minute").wait_for()
        live.process.kill()  # asked to end, it would wait for this kernel
        live.process.wait()


BROWSER = """#!/bin/sh
cp "${1#file://}" opened.html
echo $1 $HOME $LANG > called
exec sleep 30
"""


def test_a_browser_that_stays_in_the_foreground(tmp_path: Path) -> None:
    """It is the reader's, with the reader's settings; the token is not among its arguments."""
    program = tmp_path / "browser"
    program.write_text(BROWSER)
    program.chmod(0o755)
    environment = {"BROWSER": str(program), "LANG": "de_DE.UTF-8"}
    with explored(tmp_path, "--browser", **environment) as page:
        wait_for((tmp_path / "called").exists)
        wait_for(lambda: (tmp_path / "called").read_text().endswith("\n"))
        assert answer(page.address, "/", **by_token(page)) == 200
        assert page.address in (tmp_path / "opened.html").read_text()
        called = (tmp_path / "called").read_text().split()
        assert called[1:] == [os.environ["HOME"], "de_DE.UTF-8"]
        assert "token" not in called[0]
        end(page, signal.SIGHUP)


def test_no_browser_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = {"PATH": "/nowhere", "BROWSER": "/nowhere/browser"}
    server._open_browser("http://127.0.0.1", tmp_path, none)
    assert wait_for(lambda: capsys.readouterr().err).startswith("No browser was found")
