"""`styleinv explore`: the live page in the browser, from a server that only its reader reaches.

Voilà serves one notebook, which is written into a temporary folder, with a kernel for each window.
It answers whoever has the token in the page's address: no other user of this machine, no other
site's script. Closing a window ends its kernel. If a browser crashes, its run stops after a few
seconds (`styleinv.live.widget.SILENCE`), and Jupyter ends the kernel within `ABANDONED_SECONDS` and
`CHECK_SECONDS` after that.
"""

import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
from jupyter_server.auth.identity import IdentityProvider, User
from tornado.ioloop import IOLoop
from tornado.web import Finish, RequestHandler
from traitlets.config import Config
from voila.app import Voila

from styleinv.errors import InputError, whole_number
from styleinv.files import make_folder
from styleinv.live.settings import no_settings

HOST = "127.0.0.1"
# The page's own scripts; other extensions that may be installed are not loaded.
EXTENSIONS = [
    "anywidget",
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager8",
]
# The age in seconds at which an idle kernel without a window ends, and how often that is checked.
ABANDONED_SECONDS, CHECK_SECONDS = 60, 5


class Gate(IdentityProvider):
    """Answer 403, and show no login page, to whoever has neither the token nor its cookie."""

    login_available = logout_available = False

    async def get_user(self, handler: RequestHandler) -> User:
        """The user of a request, or an answer that ends it."""
        user = await self._get_user(handler)
        if user is None:
            handler.set_status(403)
            raise Finish("styleinv explore prints the address of this page with its token.")
        return user


def serve(
    out: Path, references: Path, port: int, opened: Callable[[str], object], browser: bool = False
) -> None:
    """Serve the live page until Ctrl-C or SIGTERM.

    Args:
        out: the folder for what the reader saves.
        references: the folder of the reference runs; it need not exist.
        port: the port to listen on; 0 for any free one.
        opened: called with the page's address as soon as the server answers.
        browser: whether to open the page in the reader's browser then.

    Raises:
        InputError: the port is in use or not allowed, or `out` cannot be made.
    """
    port, token = _free_port(port), secrets.token_urlsafe(24)
    address = f"http://{HOST}:{port}/?token={token}"
    out, references = out.absolute(), references.absolute()
    make_folder(out)
    # Tornado warns about the way Jupyter uses it.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    with no_settings() as (folder, environment):
        notebook = folder / "live.ipynb"
        _write_notebook(notebook, out, references)
        server = Voila(config=_config(folder, port, token), notebook_path=str(notebook))
        server.initialize(argv=[])
        server.template_paths.insert(0, str(Path(__file__).with_name("voila")))
        IOLoop.current().add_callback(opened, address)
        if browser:
            IOLoop.current().add_callback(_open_browser, address, folder, environment)
        server.start()


def _open_browser(address: str, folder: Path, environment: Mapping[str, str]) -> None:
    """Open the page in the reader's browser, which may stay in the foreground until it is closed.

    Everybody on this machine sees a program's arguments, but not the file that leads to the page.
    """
    file = folder / "open.html"
    file.write_text(f'<meta http-equiv="refresh" content="0; url={address}">', encoding="utf-8")
    opener = "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))"
    command = [sys.executable, "-c", opener, file.as_uri()]

    def wait() -> None:
        if subprocess.run(command, env=environment, check=False).returncode:
            print("No browser was found: open the address above in one.", file=sys.stderr)

    threading.Thread(target=wait, daemon=True).start()


def _free_port(port: int) -> int:
    """Check that nobody else uses the port; 0 stands for any free port."""
    whole_number("port", port, 0, 65535)
    try:
        with socket.create_server((HOST, port)) as probe:
            return int(probe.getsockname()[1])
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise InputError(f"port is {port}, but cannot be used: {reason}") from error


def _write_notebook(path: Path, out: Path, references: Path) -> None:
    """Write a notebook that contains only the live page."""
    call = f"widget.page(out={str(out)!r}, references={str(references)!r}, is_alone=True)"
    cell = nbformat.v4.new_code_cell(f"from styleinv.live import widget\n{call}")
    content = nbformat.v4.new_notebook(cells=[cell], metadata={"title": "styleinv explore"})
    nbformat.write(content, path)


def _config(folder: Path, port: int, token: str) -> Config:
    c = Config()
    c.Voila.config_file_paths = []  # the reader's Voilà settings are for other pages
    c.Voila.connection_dir_root = str(folder)
    c.Voila.ip, c.Voila.port, c.Voila.port_retries = HOST, port, 0
    c.Voila.open_browser = False
    c.Voila.log_level = "ERROR"
    c.Voila.token, c.Voila.identity_provider_class = token, Gate
    # Until the browser is closed; never for a page that another site has opened.
    c.Gate.cookie_options = {"samesite": "Strict", "expires_days": None}
    c.Voila.tornado_settings = {
        # Refuse the pages of other hosts that pretend to be this one.
        "allow_remote_access": False,
        # A window that closes ends its kernel by a POST without a token. Its cookie is enough,
        # which no other site can have sent.
        "disable_check_xsrf": True,
        "log_function": lambda handler: None,  # an address has the token
    }
    c.VoilaConfiguration.extension_allowlist = EXTENSIONS
    c.VoilaConfiguration.file_allowlist = []
    # A newer kernel warns of a connection that is not encrypted.
    c.KernelManager.transport_encryption = "auto"
    c.MappingKernelManager.cull_idle_timeout = ABANDONED_SECONDS
    c.MappingKernelManager.cull_interval = CHECK_SECONDS
    return c
