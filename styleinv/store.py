"""Run records: a PNG and a JSON file per inversion, addressed by what was asked for."""

import functools
import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from PIL import Image

from styleinv.errors import InputError
from styleinv.files import write_text
from styleinv.images import to_uint8, write_png
from styleinv.invert import Inversion, Task
from styleinv.version import __version__

Pixels = NDArray[np.uint8]

# What a run's numbers depend on, beside the weights, which its address names.
COMPUTING_ROOMS = ("gallery", "images", "encoder", "losses", "protocol", "lbfgs", "optim", "invert")


@dataclass(frozen=True)
class Run:
    """A finished inversion as figures see it.

    Attributes:
        record: what was asked, what came out, what computed it, and the trace.
        image: (H, W, 3) in 0 to 255.
        path: the record's file, where the run was read from one.
    """

    record: dict[str, Any]
    image: Pixels
    path: Path | None = None


def address(asked: dict[str, Any]) -> str:
    """SHA-256 of what was asked for, in canonical JSON."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_sha256() -> str:
    """SHA-256 of the code that computes, as it was when first asked for."""
    digest = hashlib.sha256(f"{torch.__version__} {scipy.__version__}".encode())
    for room in COMPUTING_ROOMS:
        digest.update((Path(__file__).parent / f"{room}.py").read_bytes())
    return digest.hexdigest()


def run_of(inversion: Inversion) -> Run:
    """The record (what was asked, what came out, what computed it) and the 8-bit image."""
    asked = inversion.task.asked()
    image = to_uint8(inversion.image)
    record = {
        "address": address(asked),
        "style": inversion.task.style_name,
        "source": inversion.task.source,
        "asked": asked,
        "result": {
            "loss": inversion.loss,
            "iterations": inversion.iterations,
            "evaluations": inversion.evaluations,
            "seconds": round(inversion.seconds, 3),
            "stop_reason": inversion.stop_reason,
            "pixels_sha256": _pixels_sha256(image),
        },
        "made_with": {
            "styleinv": __version__,
            "code": code_sha256()[:12],
            "torch": torch.__version__,
            "python": platform.python_version(),
            "device": str(inversion.task.encoder.device),
            "processor": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "trace": [asdict(point) for point in inversion.trace],
    }
    return Run(record, image)


def save(run: Run, folder: str | Path) -> Path:
    """Write image and record into `folder`; returns the record's path, the image's is `.png`.

    The record comes last, so that a record always has its image.
    """
    path = Path(folder) / _file_name(run.record["style"], run.record["asked"])
    write_png(run.image, path.with_suffix(".png"))
    write_text(path, json.dumps(run.record, indent=1, allow_nan=False) + "\n")
    return path


def _file_name(style: str, asked: dict[str, Any]) -> str:
    """The record's file name: readable in front, the address's first digits behind."""
    cell = f"{asked['layer']}-{asked['loss']}-seed{asked['seed']}"
    # File systems allow 255 bytes; a character can take four of them.
    return f"{style[:40]}-{cell}-{address(asked)[:8]}.json"


def find(task: Task, folder: str | Path) -> Run | None:
    """The saved run of a task, or None if there is none or it is not what was written."""
    asked = task.asked()
    path = Path(folder) / _file_name(task.style_name, asked)
    try:
        run = read(path)
    except InputError:
        return None
    # What the clock cut off on a busy machine is not what this machine can do.
    repeatable = run.record["result"]["stop_reason"] != "time"
    return run if repeatable and run.record["address"] == address(asked) else None


def read(path: Path) -> Run:
    """The run whose record is at `path`.

    Raises:
        InputError: record or image cannot be read, or is not what was written.
    """
    try:
        record = json.loads(path.read_text())
        with Image.open(path.with_suffix(".png")) as picture:
            image = np.asarray(picture.convert("RGB"))
        intact = record["address"] == address(record["asked"]) and record["result"][
            "pixels_sha256"
        ] == _pixels_sha256(image)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"record {str(path)!r} or its image cannot be read: {error}") from error
    if not intact:
        raise InputError(f"record {str(path)!r} and its image are not as they were written")
    return Run(record, image, path)


def read_folder(folder: Path) -> dict[Path, Run]:
    """Every run kept in `folder` and below, by its record's path, in the order of names."""
    return {path: read(path) for path in sorted(folder.rglob("*.json"))}


def style_file_name(source: str, size: int) -> str:
    """The file name of a style image that is kept beside its runs."""
    return f"{source.replace(':', '-')}-{size}.png"


def _pixels_sha256(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
