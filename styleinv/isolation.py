"""Settings of its own for what computes here: those of the reader's process change no result.

A reader, or a library that the reader uses, may have changed PyTorch's global settings. What makes
tensors here names their type and their device; the other settings are in this module.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter

import torch

# Settings of the whole process in `torch.backends`, and PyTorch's own values of them. The first is
# the precision of all operations that have none of their own. One value is ours: by itself,
# PyTorch rounds what enters cuDNN's convolutions to 10 bits of mantissa (TF32).
_BACKENDS = {
    "fp32_precision": "none",
    "mkldnn.matmul.fp32_precision": "none",
    "mkldnn.conv.fp32_precision": "none",
    "cuda.matmul.fp32_precision": "none",
    "cudnn.conv.fp32_precision": "ieee",
    "mkldnn.enabled": True,
    "mkldnn.deterministic": False,
    "cudnn.enabled": True,
    "cudnn.benchmark": False,
    "cudnn.deterministic": False,
}

_lock = threading.Lock()
_inside = 0
_undo = ExitStack()


@contextmanager
def own_settings(device: torch.device) -> Iterator[None]:
    """Compute on `device` as a fresh process would, and leave the reader's settings as they were.

    Gradients are on, autocast is off, denormal numbers are kept, and PyTorch's libraries compute as
    they do by default, but for convolutions on CUDA, which are in full float32. Nothing here draws
    from the global random generators.
    """
    flushes = _flushes_denormals()
    try:
        torch.set_flush_denormal(False)
        with (
            _plain_backends(),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        torch.set_flush_denormal(flushes)


def _flushes_denormals() -> bool:
    """Whether this thread takes the smallest numbers for 0; there is no function that tells."""
    return bool(torch.full((), 1e-310, dtype=torch.float64, device="cpu").mul(1) == 0)


@contextmanager
def _plain_backends() -> Iterator[None]:
    """Change what is set for the whole process: the first thread inside does, the last undoes."""
    global _inside
    with _lock:
        _inside += 1
        if _inside == 1:
            _change_all()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _undo.close()


def _change_all() -> None:
    for path, plain in _BACKENDS.items():
        place, _, name = path.rpartition(".")
        owner = attrgetter(place)(torch.backends) if place else torch.backends
        kept = getattr(owner, name)
        if kept != plain:
            _undo.callback(setattr, owner, name, kept)
            setattr(owner, name, plain)
    _undo.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
    torch.set_deterministic_debug_mode("default")
    _undo.enter_context(torch.autograd.set_detect_anomaly(False))
