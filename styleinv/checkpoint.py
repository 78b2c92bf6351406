"""Checkpoints: where a run stands, in a file from which it goes on as if nothing had happened.

The file is a NumPy archive: plain arrays, each with its checksum, and JSON. Nothing in it can be
executed, and what is not as it was written is not taken up.
"""

import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from styleinv.errors import InputError
from styleinv.files import remove_parts, write_atomically

# Writing takes this part of a run's time at most: then checkpoints come less often.
MOST_OF_THE_TIME = 0.05
DEFAULT_SECONDS = 30.0
MOST_SECONDS = 86_400.0
SUFFIX = ".checkpoint"
# What is in the file and how: another number, and it is not taken up.
FORMAT = 1
# What the JSON is called among the arrays.
_VALUES = "values.json"


@dataclass(frozen=True)
class State:
    """Where a minimisation stands between two iterations.

    Attributes:
        values: plain JSON values; floats may be NaN or infinite.
        tensors: of any shape; those of a lower precision than float32 come back as float32.
    """

    values: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


@dataclass
class Checkpoint:
    """The file in which one run keeps where it stands.

    Attributes:
        path: the file, which ends in .checkpoint and need not exist; it is replaced in one step.
        run: names the run: another one's checkpoint is not taken up.
        code: names the code that computes: another one's would not end at the same bits.
        every: seconds between two checkpoints; 0: at every iteration.
    """

    path: Path
    run: str
    code: str
    every: float = DEFAULT_SECONDS
    _due: float = field(init=False)

    def __post_init__(self) -> None:
        checked_seconds("every", self.every)
        if self.path.suffix != SUFFIX or (self.path.exists() and not self.path.is_file()):
            raise InputError(
                f"checkpoint is {str(self.path)!r}, but must be a file whose name ends in {SUFFIX}"
            )
        self._due = time.monotonic() + self.every

    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    def write(self, state: State) -> None:
        """Replace the file.

        Raises:
            InputError: it cannot be written; the one before is still there.
        """
        began = time.monotonic()
        values = {
            "format": FORMAT,
            "run": self.run,
            "code": self.code,
            "threads": torch.get_num_threads(),
            "values": state.values,
        }
        arrays = {name: _to_array(tensor) for name, tensor in state.tensors.items()}
        arrays[_VALUES] = np.frombuffer(json.dumps(values).encode(), np.uint8)

        def write(part: Path) -> None:
            with part.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)

        write_atomically(self.path, write)
        ended = time.monotonic()
        pause = (ended - began) / MOST_OF_THE_TIME if self.every else 0.0
        self._due = ended + max(self.every, pause)

    def read(self) -> State | None:
        """What was written last, or None; where it cannot be taken up, a warning says why.

        Raises:
            InputError: the file is another run's.
        """
        remove_parts(self.path)
        if not self.path.is_file():
            return None
        try:
            with self.path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                found = json.loads(archive[_VALUES].tobytes())
                tensors = {
                    name: torch.from_numpy(archive[name])
                    for name in archive.files
                    if name != _VALUES
                }
            run, code, threads = found["run"], (found["format"], found["code"]), found["threads"]
        except Exception:  # whatever a damaged archive raises
            self._warn_of_start("is damaged")
            return None
        if run != self.run:
            raise InputError(
                f"checkpoint {str(self.path)!r} is of another run; remove it, or name another file"
            )
        if code != (FORMAT, self.code):
            self._warn_of_start("was written by another version of styleinv or PyTorch")
            return None
        if threads != torch.get_num_threads():
            warnings.warn(
                f"{self.path} was written by a run with {threads} threads, which goes on with "
                f"{torch.get_num_threads()}: its last digits may differ",
                stacklevel=2,
            )
        return State(found["values"], tensors)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _warn_of_start(self, reason: str) -> None:
        warnings.warn(f"{self.path} {reason}: the run starts from its beginning", stacklevel=3)


def checked_seconds(argument: str, value: float) -> float:
    """The seconds between two checkpoints, if they can be that."""
    if not 0 <= value <= MOST_SECONDS:
        raise InputError(
            f"{argument} is {value}, but must be a number of seconds from 0 to {MOST_SECONDS:,.0f}"
        )
    return value


def _to_array(tensor: Tensor) -> "np.ndarray[Any, Any]":
    plain = tensor.detach().cpu()
    if plain.dtype in (torch.bfloat16, torch.float16):
        plain = plain.float()
    return np.asarray(plain.numpy())
