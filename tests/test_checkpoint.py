"""A run that is interrupted ends as if it had not been; what cannot be taken up is said."""

import dataclasses
import itertools
import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from styleinv import InputError, invert
from styleinv.checkpoint import MOST_OF_THE_TIME, Checkpoint
from styleinv.encoder import Encoder
from styleinv.optim import Iterate, Minimum, Monitor, Stage, minimise
from styleinv.protocol import CHAPTER, FAST, Protocol
from tests.test_inputs import Trap
from tests.test_optim import stage

ROUNDS = dataclasses.replace(
    CHAPTER.limited_to(12), extra_rounds=2, extra_iterations=5, extra_above=0.0
)


def stages(protocol: Protocol) -> list[Stage]:
    """Losses that both optimisers need some dozens of steps for; Adam's is drawn anew each time."""
    generator = torch.Generator().manual_seed(5)

    def exact(image: Tensor) -> Tensor:
        weights = 1.0
        if protocol.method == "adam":
            weights = 1 + torch.rand(image.shape, generator=generator, dtype=image.dtype)
        return ((image - 0.8).pow(4) * weights + (image - 0.3).square() * image).sum()

    def first(image: Tensor) -> tuple[Tensor, Tensor]:
        return (image - 0.2).pow(4).sum(), exact(image)

    last = stage(exact, "second", generators=[generator])
    return [last] if protocol.method == "adam" else [Stage("first", first, 9), last]


def start() -> Tensor:
    return torch.rand(1, 3, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def run(protocol: Protocol, callback: Any = None, checkpoint: Checkpoint | None = None) -> Minimum:
    monitor = Monitor(30, 0.0, 1.0, callback, checkpoint=checkpoint, keeps=True)
    return minimise(stages(protocol), start(), protocol, monitor)


def without_times(minimum: Minimum) -> dict[str, Any]:
    trace = [dataclasses.replace(point, seconds=0.0) for point in minimum.trace]
    along = [{**vars(kept), "image": kept.image.tolist()} for kept in minimum.along]
    found = {**vars(minimum), "image": minimum.image.tolist(), "seconds": 0.0, "trace": trace}
    found["along"] = along
    return {name: found[name] for name in Minimum.__dataclass_fields__}


def a_file(path: Path, every: float = 1000, run: str = "a run", results: int = 1) -> Checkpoint:
    return Checkpoint(path, run, results, every)


BOTH = pytest.mark.parametrize("protocol", [ROUNDS, FAST], ids=["adam", "l-bfgs"])


@BOTH
@settings(max_examples=25, deadline=None)
@given(ends=st.lists(st.tuples(st.integers(0, 25), st.booleans()), max_size=6))
@example(ends=[(iteration, True) for iteration in range(1, 26, 3)])
def test_goes_on_to_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, protocol: Protocol, ends: list[tuple[int, bool]]
) -> None:
    """Wherever it is stopped or killed, as often as you like; it goes on from where it was."""
    path = tmp_path_factory.mktemp("run") / "a.checkpoint"
    expected = run(protocol)
    last = 0
    for end, is_killed in sorted((min(end, expected.iterations), kill) for end, kill in ends):
        seen: list[int] = []

        def callback(
            iterate: Iterate, end: int = end, is_killed: bool = is_killed, seen: list[int] = seen
        ) -> bool:
            seen.append(iterate.iteration)
            if is_killed and iterate.iteration >= end:
                raise KeyboardInterrupt  # as sudden as a kill: nothing is written after it
            return iterate.iteration >= end

        with pytest.raises(KeyboardInterrupt) if is_killed else nullcontext():
            stopped = run(protocol, callback, a_file(path, every=0 if is_killed else 1000))
            assert stopped.stop_reason == "stopped"
        assert seen[0] >= last - 1
        last = end
    ended = run(protocol, checkpoint=a_file(path))
    assert without_times(ended) == without_times(expected)


@BOTH
def test_theta_counts_at_the_iterate_where_somebody_stopped(
    protocol: Protocol, tmp_path: Path
) -> None:
    """The wish to stop comes first; the run that goes on sees what it would have seen."""
    losses: list[float] = []
    run(protocol, lambda iterate: losses.append(iterate.loss))
    theta = losses[6] * 1.0001

    def once(callback: Callable[[Iterate], bool]) -> Minimum:
        monitor = Monitor(30, theta, 1.0, callback, checkpoint=a_file(tmp_path / "a.checkpoint"))
        return minimise(stages(protocol), start(), protocol, monitor)

    expected = next(number for number, loss in enumerate(losses) if loss < theta)
    assert once(lambda iterate: iterate.loss < theta).stop_reason == "stopped"
    ended = once(lambda iterate: False)
    assert (ended.stop_reason, ended.iterations) == ("theta", expected)


@pytest.mark.parametrize(
    ("loss", "protocol", "iterations"),
    [("moment-4", "fast", 120), ("mmd-random", "chapter", 30), ("moment-2", "released", 30)],
)
def test_inversions_go_on(
    bundled: Encoder, tmp_path: Path, loss: str, protocol: str, iterations: int
) -> None:
    arguments = {"size": 24, "encoder": bundled, "loss": loss, "protocol": protocol}
    once = partial(invert, "bundled:strokes", iterations=iterations, **arguments)
    path = tmp_path / "a.checkpoint"
    for stop in (3, 11, 20):
        stopped = once(checkpoint=path, callback=lambda i, at=stop: i.iteration == at)
        assert (stopped.stop_reason, stopped.iterations) == ("stopped", stop)
        assert path.is_file()
    seen: list[int] = []
    ended = once(checkpoint=path, callback=lambda i: seen.append(i.iteration))
    assert seen[0] == 20
    assert without_times(ended) == without_times(once())
    assert not path.exists()


def test_seconds_add_up(tmp_path: Path) -> None:
    """Over 6 and 5 iterations of 0.02 s at least; the pause between the two runs does not count."""

    def slowly(iterate: Iterate) -> bool:
        time.sleep(0.02)
        return iterate.iteration in (5, 9)

    path = tmp_path / "a.checkpoint"
    first = run(ROUNDS, slowly, a_file(path))
    time.sleep(0.2)
    began = time.perf_counter()
    second = run(ROUNDS, lambda i: slowly(i) and i.iteration > 5, a_file(path))
    assert 0.219 <= second.seconds <= first.seconds + time.perf_counter() - began
    assert [p.seconds for p in second.trace] == sorted(p.seconds for p in second.trace)


STATE = {
    "loss": math.nan,
    "numbers": [1, (2, None)],
    "inner": {"x": torch.arange(6.0).view(2, 3), "half": torch.tensor([0.5], dtype=torch.bfloat16)},
}


def assert_is_state(found: dict[str, Any] | None) -> None:
    assert found is not None
    assert math.isnan(found["loss"])
    assert found["numbers"] == [1, (2, None)]
    assert torch.equal(found["inner"]["x"], STATE["inner"]["x"])
    assert torch.equal(found["inner"]["half"], STATE["inner"]["half"])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A file that was cut, or in which one byte was changed, is refused, or holds the same."""
    checkpoint = a_file(tmp_path_factory.mktemp("run") / "a.checkpoint")
    checkpoint.write(STATE)
    content = bytearray(checkpoint.path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    checkpoint.path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoint.read()
    if found is None:
        assert "a.checkpoint is damaged or of another version" in str(caught[-1].message)
    else:
        assert_is_state(found)


def test_what_a_checkpoint_holds_is_not_executed(tmp_path: Path) -> None:
    checkpoint = a_file(tmp_path / "a.checkpoint")
    checkpoint.write({"state": Trap(tmp_path / "executed")})
    with pytest.warns(UserWarning, match="is damaged"):
        assert checkpoint.read() is None
    assert not (tmp_path / "executed").exists()


def test_no_other_file_is_taken_for_a_checkpoint(bundled: Encoder, tmp_path: Path) -> None:
    """It would be replaced, and in the end removed."""
    (tmp_path / "folder.checkpoint").mkdir()
    for name in ("precious.png", "folder.checkpoint"):
        with pytest.raises(InputError, match=f"{name}', but must be a file whose name ends in"):
            invert("bundled:dots", encoder=bundled, size=24, checkpoint=tmp_path / name)


def test_what_would_not_end_the_same_is_not_taken_up(tmp_path: Path) -> None:
    path = tmp_path / "a.checkpoint"
    a_file(path).write(STATE)
    with pytest.raises(InputError, match=r"a.checkpoint' is of another run; remove it, or name"):
        a_file(path, run="another").read()
    with pytest.warns(UserWarning, match="of another version of styleinv: the run starts from"):
        assert a_file(path, results=2).read() is None


def test_other_digits_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number of threads or release of PyTorch; the run goes on all the same."""
    checkpoint = a_file(tmp_path / "a.checkpoint")
    checkpoint.write(STATE)
    for name, other in (("__version__", "9.9"), ("get_num_threads", lambda: 99)):
        with monkeypatch.context() as patch:
            patch.setattr(torch, name, other)
            with pytest.warns(UserWarning, match=r" 9{1,2}(\.9)? .*: its last digits may differ"):
                assert_is_state(checkpoint.read())


def test_writing_takes_a_small_part_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that jumps 3 s at each look: a checkpoint that takes 3 s comes once a minute."""
    clock = itertools.count(step=3)
    monkeypatch.setattr("styleinv.checkpoint.time.monotonic", lambda: next(clock))
    checkpoint = a_file(tmp_path / "a.checkpoint", every=10)
    checkpoint.write(STATE)
    written = next(clock)
    while not checkpoint.is_due():
        pass
    assert next(clock) - written >= 3 / MOST_OF_THE_TIME
