"""Start processes that read none of the reader's settings, of whatever program.

What the live page's kernels, the book's and its renderer know of the machine is in `KEPT`. Their
home is an empty folder, they use this Python, whatever kernels are installed, and they speak UTF-8.
"""

import json
import os
import re
import site
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from ipykernel.kernelspec import get_kernel_dict

from styleinv.errors import InputError

# Variables about the machine: its programs, processors and network. Others are programs' settings.
KEPT = re.compile(
    r"PATH|PYTHONPATH|PYTHONHOME|USER|LOGNAME|SSL_CERT_(FILE|DIR)|(?i:https?|all|no)_(?i:proxy)"
    r"|(STYLEINV|TORCH|PYTORCH|OMP|GOMP|KMP|MKL|OPENBLAS|VECLIB|CUDA|NVIDIA|HIP|ROCR|HSA|LD|DYLD)_\w+"
    r"|NIX_PYTHONPATH|EBPYTHONPREFIXES"
)
# The kernel of IPython without the settings in /etc.
KERNEL = """
from IPython.core import application
application.ENV_CONFIG_DIRS.clear()
application.SYSTEM_CONFIG_DIRS.clear()
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""


@contextmanager
def no_settings() -> Iterator[tuple[Path, dict[str, str]]]:
    """Keep the reader's settings from all processes that are started within the block.

    Yields:
        a folder that only the reader can look into, for files that are gone after the block; it is
        also the processes' home. And the reader's own environment.

    Raises:
        InputError: there is no folder for temporary files.
    """
    try:
        temporary = tempfile.TemporaryDirectory(prefix="styleinv-", ignore_cleanup_errors=True)
    except OSError as error:
        raise InputError(
            f"TMPDIR must be a folder that can be written: {error.strerror}"
        ) from error
    before, before_temporary = dict(os.environ), tempfile.tempdir
    with temporary as name:
        _set(_environment(Path(name), before))
        tempfile.tempdir = name
        try:
            yield Path(name), before
        finally:
            _set(before)
            tempfile.tempdir = before_temporary


def _environment(folder: Path, before: dict[str, str]) -> dict[str, str]:
    """What is kept of an environment, with the home in `folder`, where a Python kernel is."""
    python, kernel = folder / "python", folder / "kernels" / "python3"
    for made in (python, kernel):
        made.mkdir(parents=True)
    # Python imports both when it starts. These come first, and are empty; one that came with Python
    # itself may be what finds its packages.
    for name in ("sitecustomize", "usercustomize"):
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        if not file.startswith(sys.base_prefix):
            (python / f"{name}.py").touch()
    argv = [sys.executable, "-c", KERNEL, "-f", "{connection_file}"]
    spec = json.dumps({**get_kernel_dict(), "argv": argv})
    (kernel / "kernel.json").write_text(spec, encoding="utf-8")
    packages = filter(None, before.get("PYTHONPATH", "").split(os.pathsep))
    own = {
        "HOME": folder,
        "TMPDIR": folder,
        # Where packages and weights are, relative to the reader's home.
        "PYTHONUSERBASE": site.getuserbase(),
        "TORCH_HOME": Path(torch.hub.get_dir()).parent,
        "PYTHONPATH": os.pathsep.join([str(python), *map(os.path.abspath, packages)]),
        "PYTHONSAFEPATH": "1",
        "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or the debugger complains of frozen modules
        "LC_ALL": "C",
        "TZ": "UTC",
        "JUPYTER_NO_CONFIG": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_PATH": folder,  # for the kernel above
        "DOCUTILSCONFIG": os.devnull,
    }
    kept = {name: value for name, value in before.items() if KEPT.fullmatch(name)}
    return kept | {name: str(value) for name, value in own.items()}


def _set(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
