"""The reader's global settings: none of them changes a result, and each is as before afterwards."""

import contextlib
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.modules import module

from styleinv.images import to_uint8
from styleinv.inversion import plan
from styleinv.isolation import own_settings
from styleinv.runs import measures
from styleinv.styles import PAINTED, paint

# Between them, these draw every random number, and take every kind of product and convolution.
CELLS: tuple[dict[str, Any], ...] = (
    {"loss": "gram", "layer": "relu_2_1"},
    {"loss": "mmd-random", "layer": "relu_1_1", "protocol": "chapter", "encoder": "random"},
    {"loss": "sliced-wasserstein", "layer": "relu_1_2", "protocol": "released"},
    {"loss": "central-moments", "layer": "relu_2_2", "protocol": "scipy"},
    {"loss": "gram", "layer": "relu_1_1", "protocol": "clamped"},
)


@contextlib.contextmanager
def switched(change: Callable[[Any], object], value: Any, back: Any) -> Iterator[None]:
    change(value)
    try:
        yield
    finally:
        change(back)


def backend(path: str, value: Any) -> Callable[[], AbstractContextManager[Any]]:
    """A setting of `torch.backends` with another value."""
    place, _, name = path.rpartition(".")
    owner = attrgetter(place)(torch.backends) if place else torch.backends
    before = getattr(owner, name)
    return lambda: switched(lambda new: setattr(owner, name, new), value, before)


def dtype(value: torch.dtype) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: switched(torch.set_default_dtype, value, torch.float32)


@contextlib.contextmanager
def hooked(register: Callable[[Any], Any], hook: Callable[..., Any]) -> Iterator[None]:
    handle = register(hook)
    try:
        yield
    finally:
        handle.remove()


class Watching(torch.overrides.TorchFunctionMode):
    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return function(*args, **(kwargs or {}))


def all_warnings_are_errors() -> AbstractContextManager[Any]:
    return warnings.catch_warnings(action="error")


SETTINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": dtype(torch.float64),
    "float16": dtype(torch.float16),
    "bfloat16": dtype(torch.bfloat16),
    "default tensor type": lambda: switched(
        torch.set_default_tensor_type, torch.DoubleTensor, torch.FloatTensor
    ),
    "default device": lambda: switched(torch.set_default_device, "meta", None),
    "within a device": lambda: torch.device("meta"),
    "without gradients": torch.no_grad,
    "gradients switched off": lambda: torch.set_grad_enabled(False),
    "inference mode": torch.inference_mode,
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "precision of products": lambda: switched(
        torch.set_float32_matmul_precision, "medium", "highest"
    ),
    "precision of everything": backend("fp32_precision", "tf32"),
    "precision of oneDNN's products": backend("mkldnn.matmul.fp32_precision", "bf16"),
    "precision of oneDNN's convolutions": backend("mkldnn.conv.fp32_precision", "bf16"),
    "without oneDNN": backend("mkldnn.enabled", False),
    "deterministic oneDNN": backend("mkldnn.deterministic", True),
    "without cuDNN": backend("cudnn.enabled", False),
    "deterministic algorithms": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "denormals are zero": lambda: switched(torch.set_flush_denormal, True, False),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "one thread for gradients": lambda: torch.autograd.set_multithreading_enabled(False),
    "saved tensors on the CPU": torch.autograd.graph.save_on_cpu,
    "no hooks on saved tensors": lambda: torch.autograd.graph.disable_saved_tensors_hooks("none"),
    "a function mode": Watching,
    "a hook on all modules": lambda: hooked(
        module.register_module_forward_hook, lambda _, args, out: 1.5 * out
    ),
    "a hook before all modules": lambda: hooked(
        module.register_module_forward_pre_hook, lambda _, args: (1.5 * args[0], *args[1:])
    ),
    "a seed of PyTorch's": lambda: switched(torch.manual_seed, 5, 0),
    "a seed of NumPy's": lambda: switched(np.random.seed, 5, None),
    "a seed of Python's": lambda: switched(random.seed, 5, None),
    "NumPy's errors": lambda: np.errstate(all="raise"),
    "NumPy's way to print": lambda: np.printoptions(precision=1, legacy="1.13"),
    "warnings are errors": all_warnings_are_errors,
}


def results(cells: tuple[dict[str, Any], ...] = CELLS) -> list[object]:
    """What each run's address, picture, losses and measures are."""
    found: list[object] = []
    for cell in cells:
        task = plan("skimage:coffee", size=16, iterations=3, **cell)
        inversion = task.run()
        picture = inversion.image.numpy()
        losses = [point.loss for point in inversion.trace]
        found.append((task.address, picture.dtype, picture.tobytes(), losses))
    measured = measures.measure(to_uint8(inversion.image), to_uint8(task.style))
    return [*found, repr(measured)]


@pytest.fixture(scope="module")
def plain() -> list[object]:
    return results()


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.filterwarnings("ignore:torch.set_default_tensor_type")
def test_a_setting_changes_no_result(name: str, plain: list[object]) -> None:
    with SETTINGS[name]():
        assert results() == plain


def settings() -> dict[str, object]:
    read = {
        "gradients": torch.is_grad_enabled,
        "inference": torch.is_inference_mode_enabled,
        "autocast": torch.is_autocast_enabled,
        "deterministic": torch.get_deterministic_debug_mode,
        "anomaly": torch.is_anomaly_enabled,
        "precision": torch.get_float32_matmul_precision,
        "oneDNN": lambda: torch.backends.mkldnn.enabled,
        "denormals": lambda: (torch.tensor(1e-310, dtype=torch.float64) * 1).item(),
        "generator": lambda: (
            torch.get_rng_state().tolist() if not torch.is_inference_mode_enabled() else None
        ),
    }
    return {name: value() for name, value in read.items()}


def test_settings_are_as_before_afterwards() -> None:
    """Those that were changed, and the state of PyTorch's own generator."""
    names = (
        "inference mode",
        "autocast to bfloat16",
        "deterministic algorithms",
        "anomaly detection",
        "precision of products",
        "without oneDNN",
        "denormals are zero",
    )
    with contextlib.ExitStack() as changed:
        for name in names:
            changed.enter_context(SETTINGS[name]())
        before = settings()
        results(CELLS[:3])
        assert settings() == before
    assert before != settings()


def test_threads_share_the_settings_of_the_process() -> None:
    """The first one out leaves them to the other; the last one restores them."""
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with own_settings(torch.device("cpu")):
            inside.set()
            leave.wait()

    with SETTINGS["without oneDNN"]():
        thread = threading.Thread(target=other)
        with own_settings(torch.device("cpu")):
            thread.start()
            inside.wait()
        assert torch.backends.mkldnn.enabled
        leave.set()
        thread.join()
        assert not torch.backends.mkldnn.enabled


def test_a_style_and_an_encoder_may_come_from_inference_mode() -> None:
    with torch.inference_mode():
        task = plan("bundled:strokes", size=16, iterations=2)
    assert torch.equal(task.run().image, plan("bundled:strokes", size=16, iterations=2).run().image)


@pytest.mark.parametrize("name", PAINTED)
def test_numpys_settings_change_no_painting(name: str) -> None:
    expected = paint(name, 32)
    with np.errstate(all="raise"), all_warnings_are_errors(), np.printoptions(precision=1):
        assert np.array_equal(paint(name, 32), expected)
