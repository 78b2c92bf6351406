"""`styleinv explore`: the live page in the browser, from a server that only this machine reaches.

Voilà serves one notebook, which is written into a temporary folder, with a kernel for each window.
Closing a window ends its kernel. If a browser crashes, its run stops after a few seconds
(`styleinv.live.widget.SILENCE`), and Jupyter ends the kernel within `ABANDONED_SECONDS` and
`CHECK_SECONDS` after that.
"""

import logging
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat
from tornado.ioloop import IOLoop
from traitlets.config import Config
from voila.app import Voila

from styleinv.errors import InputError, whole_number

HOST = "127.0.0.1"
# The page's own scripts; other extensions that may be installed are not loaded.
EXTENSIONS = [
    "anywidget",
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager8",
]
# The age in seconds at which an idle kernel without a window ends, and how often that is checked.
ABANDONED_SECONDS, CHECK_SECONDS = 60, 5


def serve(out: Path, references: Path, port: int, opened: Callable[[str], object]) -> None:
    """Serve the live page until Ctrl-C.

    Args:
        out: the folder for what the reader saves.
        references: the folder of the reference runs; it need not exist.
        port: the port to listen on; 0 for any free one.
        opened: called with the page's address as soon as the server answers.

    Raises:
        InputError: the port is in use or not allowed.
    """
    port = _free_port(port)
    # Tornado warns about the way Jupyter uses it.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="styleinv-live-") as folder:
        # Kernels inherit both. Waiting threads leave the cores to the browser, which draws during
        # the run: on shared cores, that makes a run many times as fast. What kernels leave behind
        # is removed with the folder.
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", TMPDIR=folder)
        notebook = Path(folder) / "live.ipynb"
        _write_notebook(notebook, out.absolute(), references.absolute())
        server = Voila(config=_config(folder, port), notebook_path=str(notebook))
        server.initialize(argv=[])
        server.template_paths.insert(0, str(Path(__file__).with_name("voila")))
        IOLoop.current().add_callback(opened, f"http://{HOST}:{port}/")
        server.start()


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
    call = f"widget.page(out={str(out)!r}, references={str(references)!r})"
    cell = nbformat.v4.new_code_cell(f"from styleinv.live import widget\n{call}")
    content = nbformat.v4.new_notebook(cells=[cell], metadata={"title": "styleinv explore"})
    nbformat.write(content, path)


def _config(folder: str, port: int) -> Config:
    c = Config()
    c.Voila.config_file_paths = []  # the reader's Voilà settings are for other pages
    c.Voila.connection_dir_root = folder
    c.Voila.ip, c.Voila.port, c.Voila.port_retries = HOST, port, 0
    c.Voila.open_browser = False
    c.Voila.log_level = "ERROR"
    c.Voila.tornado_settings = {
        # Refuse the pages of other hosts that pretend to be this one.
        "allow_remote_access": False,
        # A window that closes ends its kernel by a POST without a token. There are no other POSTs,
        # and this one has the kernel's random id.
        "disable_check_xsrf": True,
    }
    c.VoilaConfiguration.extension_allowlist = EXTENSIONS
    c.VoilaConfiguration.file_allowlist = []
    # A newer kernel warns of a connection that is not encrypted.
    c.KernelManager.transport_encryption = "auto"
    c.MappingKernelManager.cull_idle_timeout = ABANDONED_SECONDS
    c.MappingKernelManager.cull_interval = CHECK_SECONDS
    return c
