"""What a run needs and what there is: memory, processors, other programs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from styleinv import LAYERS, LOSSES, InputError, load_encoder, machine
from styleinv.encoder import Encoder
from styleinv.inversion import plan
from styleinv.runs.sweeps import sweep


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_an_estimate(loss: str, layer: str) -> None:
    assert 0.1e9 < machine.needed_memory(256, 256, layer, loss) < 2e9


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
    assert 0.6 < measured / machine.needed_memory(320, 320, "relu_2_1", "gram") < 1.1


def put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def test_available_memory(tmp_path: Path) -> None:
    """The kernel's word, or the limit of a container, without the cache that it gives back."""
    assert machine.available_memory(tmp_path) > 1e8  # where the kernel says nothing
    group = "sys/fs/cgroup/memory"
    for file, content, expected in [
        ("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    2000 kB\n", 2_048_000),
        (f"{group}.current", "500\n", 2_048_000),
        (f"{group}.max", "max\n", 2_048_000),
        (f"{group}.max", "1500\n", 1000),
        (f"{group}.stat", "anon 7\ninactive_file 300\nactive_file 9\n", 1300),
        # A limit of the group that the process itself is in, and one of the group above.
        ("proc/self/cgroup", "0::/user.slice/run\n", 1300),
        ("sys/fs/cgroup/user.slice/run/memory.max", "800\n", 800),
        ("sys/fs/cgroup/user.slice/memory.max", "700\n", 700),
        # cgroup v1, in which a container sees its own group as the root.
        ("proc/self/cgroup", "4:memory:/docker/4f3a\n1:name=systemd:/\n", 2_048_000),
        (f"{group}/memory.limit_in_bytes", "9223372036854771712\n", 2_048_000),
        (f"{group}/memory.limit_in_bytes", "1200\n", 1200),
        (f"{group}/memory.usage_in_bytes", "1100\n", 100),
        (f"{group}/memory.stat", "inactive_file 1\ntotal_inactive_file 40\n", 140),
    ]:
        put(tmp_path / file, content)
        assert machine.available_memory(tmp_path) == expected, file


def test_available_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the process may run on, or as many as a container's time is worth."""
    monkeypatch.setattr(machine, "_processors", lambda: 16)
    group = "sys/fs/cgroup"
    for file, content, expected in [
        ("proc/self/cgroup", "0::/\n", 16),
        (f"{group}/cpu.max", "max 100000\n", 16),
        (f"{group}/cpu.max", "250000 100000\n", 2.5),
        ("proc/self/cgroup", "0::/pod/one\n", 2.5),
        (f"{group}/pod/cpu.max", "50000 100000\n", 0.5),
        # cgroup v1
        ("proc/self/cgroup", "5:cpu,cpuacct:/docker/4f3a\n2:cpuset:/\n", 16),
        (f"{group}/cpu/cpu.cfs_quota_us", "-1\n", 16),
        (f"{group}/cpu/cpu.cfs_period_us", "100000\n", 16),
        (f"{group}/cpu/cpu.cfs_quota_us", "150000\n", 1.5),
    ]:
        put(tmp_path / file, content)
        assert machine.available_processors(tmp_path) == expected, file


@pytest.mark.parametrize(
    ("processors", "given", "threads"),
    [(64.0, {}, None), (2.5, {}, "2"), (0.5, {}, "1"), (0.5, {"OMP_NUM_THREADS": "3"}, "3")],
)
def test_threads_respect_the_limit(
    monkeypatch: pytest.MonkeyPatch, processors: float, given: dict[str, str], threads: str | None
) -> None:
    monkeypatch.setattr(machine, "_processors", lambda: 64)
    monkeypatch.setattr(machine, "available_processors", lambda: processors)
    machine.share_processors(given)
    assert given.get("OMP_NUM_THREADS") == threads


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_the_readers_way_to_wait_is_left(name: str) -> None:
    given = {name: "ACTIVE"}
    machine.share_processors(given)
    assert given.keys() - {"OMP_NUM_THREADS"} == {name}


def test_threads_wait_shortly_from_the_start() -> None:
    """OpenMP reads its variables when PyTorch loads it."""
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch': print(os.environ.get('GOMP_SPINCOUNT'))\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import styleinv"
    )
    own = {name: value for name, value in os.environ.items() if name not in machine.WAIT_VARIABLES}
    printed = subprocess.check_output([sys.executable, "-c", code], text=True, env=own)
    assert printed.split() == [machine.SHORT_WAIT["GOMP_SPINCOUNT"]]


@pytest.fixture
def one_gigabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: 1e9)


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
        machine.check_memory(height, width, "relu_1_1", "gram")
    machine.check_memory(*fits, "relu_1_1", "gram")


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
