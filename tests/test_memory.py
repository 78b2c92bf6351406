"""Memory: the estimate before a run, and the refusal of what does not fit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import styleinv
from styleinv import InputError, memory
from styleinv.encoder import Encoder, load_encoder
from styleinv.inversion import plan
from styleinv.losses import LOSSES
from styleinv.runs.sweeps import sweep


def test_every_loss_has_an_estimate() -> None:
    for loss in LOSSES:
        for layer in styleinv.LAYERS:
            assert 0.1e9 < memory.needed_memory(256, 256, layer, loss) < 2e9


def test_the_estimate_is_near_what_is_measured() -> None:
    """A third less at most: the pairs of L-BFGS, not all there after a few steps, are counted."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("the peak of a process is read from /proc")
    code = (
        "import re; from styleinv.inversion import plan; from styleinv.protocol import FAST\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: 1024 * int(re.search(r'VmHWM:\\s*(\\d+)', status())[1])\n"
        "task = plan('bundled:strokes', size=320, protocol=FAST.limited_to(6))\n"
        "before = peak(); task.run(); print(peak() - before)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    measured = float(finished.stdout)
    assert 0.6 < measured / memory.needed_memory(320, 320, "relu_2_1", "gram") < 1.1


def test_available_memory(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:    2000 kB\n")
    assert memory.available_memory(meminfo, tmp_path) == 2_048_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    assert memory.available_memory(meminfo, tmp_path) == 2_048_000
    (tmp_path / "memory.max").write_text("1500\n")
    assert memory.available_memory(meminfo, tmp_path) == 1000
    (tmp_path / "memory.stat").write_text("anon 7\ninactive_file 300\nactive_file 9\n")
    assert memory.available_memory(meminfo, tmp_path) == 1300
    assert memory.available_memory(tmp_path / "absent", tmp_path / "absent") > 1e8


@pytest.fixture
def one_gigabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1e9)


@pytest.mark.usefixtures("one_gigabyte")
def test_the_largest_size_that_fits_is_named_and_fits() -> None:
    with pytest.raises(InputError, match=r"about 3.9 GB .* 1.0 GB are free; .* that fits is 512"):
        memory.check_memory(1024, 1024, "relu_1_1", "gram")
    memory.check_memory(512, 512, "relu_1_1", "gram")
    with pytest.raises(InputError):
        memory.check_memory(528, 528, "relu_1_1", "gram")


@pytest.mark.usefixtures("one_gigabyte")
def test_a_long_picture_counts_with_all_its_pixels() -> None:
    with pytest.raises(InputError, match=r"size 100 .* the largest size that fits is 48"):
        memory.check_memory(100, 10_000, "relu_1_1", "gram")
    memory.check_memory(48, 4800, "relu_1_1", "gram")
    with pytest.raises(InputError, match=r"but 1.0 GB are free; no size fits"):
        memory.check_memory(16, 100_000, "relu_1_1", "gram")


@pytest.mark.usefixtures("one_gigabyte")
def test_float64_needs_twice_as_much(bundled: Encoder) -> None:
    style = torch.zeros(3, 400, 400)
    plan(style, encoder=bundled).check_memory()
    with pytest.raises(InputError, match="size 400 with gram"):
        plan(style, encoder=load_encoder("bundled", dtype=torch.float64)).check_memory()


@pytest.mark.usefixtures("one_gigabyte")
def test_a_sweep_is_refused_before_its_first_run(bundled: Encoder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="size 256 with mmd-vector at relu_1_1"):
        sweep(
            ["bundled:dots"],
            layers=["relu_2_2", "relu_1_1"],
            losses=["gram", "mmd-vector"],
            folder=tmp_path,
            encoder=bundled,
            size=256,
        )
    assert list(tmp_path.iterdir()) == []
