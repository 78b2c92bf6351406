"""Run records: a PNG and a JSON file per inversion, addressed by what was asked for."""

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

from styleinv.files import write_atomically
from styleinv.images import to_uint8, write_png
from styleinv.invert import Inversion, Task
from styleinv.version import __version__

Pixels = NDArray[np.uint8]

# What a run's numbers depend on, beside the weights, which its address names.
COMPUTING_ROOMS = ("gallery", "images", "encoder", "losses", "protocol", "lbfgs", "optim", "invert")


@dataclass(frozen=True)
class Run:
    """A finished inversion as figures see it: its record, its image (H, W, 3) in 0 to 255."""

    record: dict[str, Any]
    image: Pixels


def address(asked: dict[str, Any]) -> str:
    """SHA-256 of what was asked for, in canonical JSON."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def code_sha256() -> str:
    """SHA-256 of the code that computes: runs kept from other code are not taken up again."""
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
    text = json.dumps(run.record, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda part: part.write_text(text))
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
        record = json.loads(path.read_text())
        with Image.open(path.with_suffix(".png")) as picture:
            image = np.asarray(picture.convert("RGB"))
        intact = record["address"] == address(asked) and record["result"][
            "pixels_sha256"
        ] == _pixels_sha256(image)
        # What the clock cut off on a busy machine is not what this machine can do.
        repeatable = record["result"]["stop_reason"] != "time"
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Run(record, image) if intact and repeatable else None


def _pixels_sha256(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
