"""SHA-256 of what was asked for and of the code that computes: what runs are addressed by."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import scipy
import torch

# What a run's numbers depend on, beside the weights, which its address names.
COMPUTING_ROOMS = (
    "styles",
    "images",
    "encoder",
    "losses",
    "protocol",
    "lbfgs",
    "optim",
    "inversion",
)


def json_sha256(value: Any) -> str:
    """SHA-256 of plain JSON values in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@functools.cache
def code_sha256() -> str:
    """SHA-256 of the code that computes, as it was when first asked for."""
    digest = hashlib.sha256(f"{torch.__version__} {scipy.__version__}".encode())
    for room in COMPUTING_ROOMS:
        digest.update((Path(__file__).parent / f"{room}.py").read_bytes())
    return digest.hexdigest()
