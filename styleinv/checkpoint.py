"""Checkpoints: files that hold the state of an unfinished run. A run that continues from its
checkpoint ends with the same bits as if it had never been interrupted.

The file is PyTorch's archive of tensors and plain values with a checksum in front. Reading it
executes nothing, and a damaged file is detected and not used.
"""

import hashlib
import pickle
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from styleinv.errors import InputError
from styleinv.files import remove_parts, write_atomically

# Writing checkpoints takes at most this share of a run's time: slow disks get fewer of them.
MOST_OF_THE_TIME = 0.05
DEFAULT_SECONDS = 30.0
MOST_SECONDS = 86_400.0
SUFFIX = ".checkpoint"
# Raise this when the content of the file changes. Files of another format are not used.
FORMAT = 4
DIGEST_SIZE = hashlib.sha256().digest_size


@dataclass
class Checkpoint:
    """The file that keeps the state of one run.

    Attributes:
        path: ends in .checkpoint and need not exist; each `write` replaces it in one step.
        run: identifies the run; the checkpoint of another run is refused.
        results: `styleinv.inversion.RESULTS_VERSION`; a run that another version began would not
            end with the same bits.
        every: seconds between two checkpoints; 0: at every iteration.
    """

    path: Path
    run: str
    results: int
    every: float = DEFAULT_SECONDS

    def __post_init__(self) -> None:
        check_seconds("every", self.every)
        if self.path.suffix != SUFFIX or (self.path.exists() and not self.path.is_file()):
            raise InputError(
                f"checkpoint is {str(self.path)!r}, but must be a file whose name ends in {SUFFIX}"
            )
        self._due = time.monotonic() + self.every

    def is_due(self) -> bool:
        """Whether it is time to write the next checkpoint."""
        return time.monotonic() >= self._due

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file.

        Args:
            state: tensors and plain values, nested in dictionaries and lists to any depth.

        If the file cannot be written, a warning says so, and the previous one is still there: a
        disk that is full for a while costs no run.
        """
        began = time.monotonic()
        version = FORMAT, self.results
        content = {"version": version, "run": self.run, "made with": _made_with(), "state": state}
        try:
            write_atomically(self.path, lambda part: _save(content, part))
        except InputError as error:
            warnings.warn(f"{error}: the run goes on, without this checkpoint", stacklevel=2)
        ended = time.monotonic()
        pause = (ended - began) / MOST_OF_THE_TIME if self.every else 0.0
        self._due = ended + max(self.every, pause)

    def read(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The state that was written last, on `device`; None, with a warning, if it cannot be used.

        Raises:
            InputError: the file belongs to another run.
        """
        remove_parts(self.path)
        if not self.path.is_file():
            return None
        reason = "is damaged or of another version of styleinv"
        try:
            content = _load(self.path, device)
        except OSError as error:
            content, reason = {}, f"cannot be read ({error.strerror})"
        if content.get("version") != (FORMAT, self.results):
            warnings.warn(f"{self.path} {reason}: the run starts from its beginning", stacklevel=2)
            return None
        if content["run"] != self.run:
            raise InputError(
                f"checkpoint {str(self.path)!r} is of another run; remove it, or name another file"
            )
        if content["made with"] != _made_with():
            now = f"the run continues with {_made_with()}: its last digits may differ"
            before = f"{self.path} was written with {content['made with']}"
            warnings.warn(f"{before}, and {now}", stacklevel=2)
        state: dict[str, Any] = content["state"]
        return state

    def remove(self) -> None:
        """Delete the file, if it is there and the file system allows it."""
        with suppress(OSError):  # the run is kept: what is left here is not read again
            self.path.unlink()


def _save(content: dict[str, Any], path: Path) -> None:
    """Write the archive with its SHA-256 in front; the tensors are not copied in memory."""
    with path.open("w+b") as file:
        file.write(bytes(DIGEST_SIZE))
        try:
            torch.save(content, file)
        except RuntimeError as error:  # PyTorch's own, in place of what the disk has answered
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None
        file.seek(DIGEST_SIZE)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
        file.write(digest)


def _load(path: Path, device: torch.device | str) -> dict[str, Any]:
    """The content of the file, empty if it has changed since it was written."""
    with path.open("rb") as file, suppress(pickle.UnpicklingError):  # more than plain values
        digest = file.read(DIGEST_SIZE)
        if hashlib.file_digest(file, "sha256").digest() == digest:
            file.seek(DIGEST_SIZE)
            return dict(torch.load(file, map_location=device, weights_only=True))
    return {}


def _made_with() -> str:
    return f"PyTorch {torch.__version__} and {torch.get_num_threads()} threads"


def check_seconds(argument: str, value: float) -> None:
    """Refuse what is no valid number of seconds between two checkpoints."""
    if not 0 <= value <= MOST_SECONDS:
        raise InputError(
            f"{argument} is {value}, but must be a number of seconds from 0 to {MOST_SECONDS:,.0f}"
        )
