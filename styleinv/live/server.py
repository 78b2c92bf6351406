"""`styleinv explore`: the live page in the browser, from a server that only this machine reaches.

Voilà runs one notebook, written for the occasion into a folder of its own, in a kernel per window.
The server answers for the page and what it is made of, and for nothing else.
"""

import logging
import os
import socket
import tempfile
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from traitlets.config import Config
from voila.app import Voila
from voila.static_file_handler import AllowListFileHandler, TemplateStaticFileHandler
from voila.tornado.handler import TornadoVoilaHandler

from styleinv.errors import InputError, whole_number

HOST = "127.0.0.1"
TEMPLATE = Path(__file__).parent / "voila"
# Threads of a run that wait for each other leave the processor to the browser, which draws beside
# them: where it is shared, a run is many times as fast.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
# The page's own scripts; what else may be installed stays out.
EXTENSIONS = [
    "anywidget",
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager8",
]
# A closed window takes its kernel along. One that crashed, or was closed before it was there, does
# not: kernels that have lost their connection, or never had one, end after so many seconds.
RECONNECT_SECONDS, FORGOTTEN_SECONDS, CHECK_SECONDS = 5, 60, 5


def serve(
    out: Path,
    references: Path,
    port: int,
    opened: Callable[[str], object] = webbrowser.open,
) -> None:
    """Serve the live page until Ctrl-C.

    Args:
        out: the folder for what the reader saves.
        references: the folder of the reference runs; there may be none.
        port: where to listen; 0 for any that is free.
        opened: called with the page's address as soon as it answers.

    Raises:
        InputError: the port is taken, or not one that may be used.
    """
    whole_number("port", port, 0, 65535)
    try:
        sockets = bind_sockets(port, HOST)
    except OSError as error:
        raise InputError(f"port is {port}, but cannot be used: {error.strerror}") from error
    address = f"http://{HOST}:{sockets[0].getsockname()[1]}/"
    os.environ.update(WAITING)
    # It warns of settings that Jupyter has chosen.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="styleinv-live-") as folder:
        notebook = Path(folder) / "live.ipynb"
        nbformat.write(_notebook(out.absolute(), references.absolute()), notebook)
        server = _Server(config=_config(folder), notebook_path=str(notebook))
        server.sockets, server.opened = sockets, lambda: opened(address)
        server.initialize(argv=[])
        server.start()


def _notebook(out: Path, references: Path) -> nbformat.NotebookNode:
    """A notebook that is nothing but the page."""
    code = (
        "from styleinv.live import widget\n"
        f"widget.page(out={str(out)!r}, references={str(references)!r})"
    )
    notebook: nbformat.NotebookNode = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code)],
        metadata={
            "title": "styleinv explore",
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        },
    )
    return notebook


def _config(folder: str) -> Config:
    return Config(
        {
            "Voila": {
                "config_file_paths": [],  # a reader's own Voilà is another one
                "connection_dir_root": folder,
                "log_level": "ERROR",
                "root_dir": folder,
                # A page of another host that pretends to be this one is turned away.
                "tornado_settings": {"allow_remote_access": False},
            },
            "VoilaConfiguration": {
                "extension_allowlist": EXTENSIONS,
                "file_allowlist": [],
                "multi_kernel_manager_class": _Kernels,
            },
            "MappingKernelManager": {
                "cull_idle_timeout": FORGOTTEN_SECONDS,
                "cull_interval": CHECK_SECONDS,
            },
        }
    )


class _Kernels(AsyncMappingKernelManager):
    """Kernels that keep their files in the server's folder and their warnings to themselves."""

    def start_kernel(self, **arguments: Any) -> Any:
        arguments["env"] |= {"TMPDIR": self.connection_dir}
        return super().start_kernel(extra_arguments=["--log-level=ERROR"], **arguments)

    def notify_disconnect(self, kernel_id: str) -> None:
        """A window that crashed says nothing; one whose connection broke comes back."""
        super().notify_disconnect(kernel_id)  # type: ignore[no-untyped-call]
        IOLoop.current().call_later(RECONNECT_SECONDS, self._end_if_left, kernel_id)

    async def _end_if_left(self, kernel_id: str) -> None:
        if kernel_id in self and not self._kernel_connections.get(kernel_id):
            await self.shutdown_kernel(kernel_id, now=True)  # type: ignore[no-untyped-call]


class _Server(Voila):  # type: ignore[misc]
    """Voilà with our page around the notebook, and no addresses but those it needs."""

    sockets: list[socket.socket]
    opened: Callable[[], object]

    def setup_template_dirs(self) -> None:
        super().setup_template_dirs()
        self.template_paths.insert(0, str(TEMPLATE))

    def init_handlers(self) -> list[Any]:
        needless = (AllowListFileHandler, TemplateStaticFileHandler)
        return [
            ("/", handler, *more) if handler is TornadoVoilaHandler else (pattern, handler, *more)
            for pattern, handler, *more in super().init_handlers()
            if handler not in needless
        ]

    def listen(self) -> None:
        HTTPServer(self.app).add_sockets(self.sockets)
        self.ioloop = IOLoop.current()
        self.ioloop.add_callback(self.opened)
        try:
            with suppress(KeyboardInterrupt):
                self.ioloop.start()
        finally:
            self.stop()
