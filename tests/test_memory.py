"""Memory: the estimate before a run, and the refusal of what does not fit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from styleinv import LAYERS, LOSSES, InputError, load_encoder, memory
from styleinv.encoder import Encoder
from styleinv.inversion import plan
from styleinv.runs.sweeps import sweep


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_an_estimate(loss: str, layer: str) -> None:
    assert 0.1e9 < memory.needed_memory(256, 256, layer, loss) < 2e9


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak is read from /proc")
def test_the_estimate_is_near_what_is_measured() -> None:
    """A third less at most: the pairs of L-BFGS, not all there after a few steps, are counted."""
    code = (
        "import re; from styleinv.inversion import plan; from styleinv.protocol import FAST\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: 1024 * int(re.search(r'VmHWM:\\s*(\\d+)', status())[1])\n"
        "task = plan('bundled:strokes', size=320, protocol=FAST.limited_to(6))\n"
        "before = peak(); task.run(); print(peak() - before)"
    )
    measured = float(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert 0.6 < measured / memory.needed_memory(320, 320, "relu_2_1", "gram") < 1.1


def test_available_memory(tmp_path: Path) -> None:
    """The kernel's word, or the limit of a container, without the cache that it gives back."""
    assert memory.available_memory(tmp_path) > 1e8  # where the kernel says nothing
    group = "sys/fs/cgroup/memory"
    for file, content, expected in [
        ("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    2000 kB\n", 2_048_000),
        (f"{group}.current", "500\n", 2_048_000),
        (f"{group}.max", "max\n", 2_048_000),
        (f"{group}.max", "1500\n", 1000),
        (f"{group}.stat", "anon 7\ninactive_file 300\nactive_file 9\n", 1300),
    ]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
        assert memory.available_memory(tmp_path) == expected


@pytest.fixture
def one_gigabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1e9)


@pytest.mark.usefixtures("one_gigabyte")
@pytest.mark.parametrize(
    ("height", "width", "match", "fits"),
    [
        (1024, 1024, r"about 3.9 GB .* 1.0 GB are free; .* that fits is 512", (512, 512)),
        # A long picture counts with all its pixels.
        (100, 10_000, r"size 100 .* the largest size that fits is 48", (48, 4800)),
        (16, 100_000, r"but 1.0 GB are free; the largest size that fits is none", (8, 8)),
    ],
)
def test_the_largest_size_that_fits_is_named_and_fits(
    height: int, width: int, match: str, fits: tuple[int, int]
) -> None:
    with pytest.raises(InputError, match=match):
        memory.check_memory(height, width, "relu_1_1", "gram")
    memory.check_memory(*fits, "relu_1_1", "gram")


@pytest.mark.usefixtures("one_gigabyte")
def test_float64_needs_twice_as_much(bundled: Encoder) -> None:
    style = torch.zeros(3, 400, 400)
    plan(style, encoder=bundled).check_memory()
    with pytest.raises(InputError, match="size 400 with gram"):
        plan(style, encoder=load_encoder("bundled", dtype=torch.float64)).check_memory()


@pytest.mark.usefixtures("one_gigabyte")
def test_a_sweep_is_refused_before_its_first_run(tmp_path: Path) -> None:
    losses = ["gram", "mmd-vector"]
    with pytest.raises(InputError, match="size 256 with mmd-vector at relu_1_1"):
        sweep(["bundled:dots"], layers=["relu_1_1"], losses=losses, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
