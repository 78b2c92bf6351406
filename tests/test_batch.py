"""Inversions side by side: each result is that of the same run alone."""

import copy
import itertools
import math
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec import UNSET

from styleinv import InputError
from styleinv.batch import Batch, how_many, kind_of
from styleinv.checkpoint import Checkpoint
from styleinv.encoder import Encoder, load_encoder
from styleinv.inversion import Inversion, Task, plan
from styleinv.losses import LOSSES, REDRAWN
from styleinv.protocol import CHAPTER, FAST
from styleinv.runs import store
from styleinv.runs.record import Record
from styleinv.runs.sweeps import Execution, make_runs
from tests.conftest import wait_for
from tests.long import timeless

SIDE_BY_SIDE = [loss for loss in LOSSES if loss not in REDRAWN]
STYLES = ("bundled:strokes", "bundled:mosaic", "bundled:dots")
SIZE = 32


def planned(encoder: Encoder, losses: Sequence[str] = SIDE_BY_SIDE, **asked: Any) -> list[Task]:
    """A task for each loss, each with its own style and seed, and theta where it gets there."""
    given = {"layer": "relu_1_2", "size": SIZE, "encoder": encoder} | asked
    given = {"protocol": CHAPTER.limited_to(6)} | given
    return [
        plan(STYLES[number % 3], loss=loss, seed=number, **given)
        for number, loss in enumerate(losses)
    ]


def side_by_side(tasks: Sequence[Task], most: int = 100) -> list[Inversion]:
    batch, waiting, found = Batch(), dict(enumerate(tasks)), dict[int, Inversion]()
    while waiting or len(batch):
        while waiting and len(batch) < most:
            number = min(waiting)
            batch.enter(number, waiting.pop(number))
        found |= batch.run()
    return [found[number] for number in range(len(tasks))]


def have_same_bits(encoder: Encoder, size: int) -> bool:
    """Whether this machine's convolutions have the same bits for three pictures as for one.

    PyTorch gives small maps of a single picture to other code than those of several.
    """
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    each = [encoder(image[None], "relu_2_1") for image in images]
    return torch.equal(encoder(images, "relu_2_1"), torch.cat(each))


def test_every_loss_ends_as_it_does_alone(bundled: Encoder) -> None:
    """All mixed, over 200 iterations, at a size at which PyTorch may round otherwise than alone.

    Every other one has a theta that it passes.
    """
    endless = replace(CHAPTER.limited_to(200), theta=-math.inf)
    tasks = planned(bundled, layer="relu_1_1", protocol=endless, size=16)
    alone = list[list[float]]()
    for number, task in enumerate(tasks):
        losses: list[float] = []
        task.run(lambda iterate, kept=losses: kept.append(iterate.loss))
        alone.append(losses)
        if number % 2:
            theta = (losses[120] + losses[121]) / 2
            tasks[number] = replace(task, protocol=replace(endless, theta=theta))
    for task, losses, run in zip(tasks, alone, side_by_side(tasks), strict=True):
        below = (number for number, loss in enumerate(losses) if loss < task.protocol.theta)
        reason = "budget" if task.protocol.theta == -math.inf else "theta"
        assert (run.iterations, run.stop_reason) == (next(below, 200), reason)
        assert run.evaluations == run.iterations + 1
        expected = [losses[point.iteration] for point in run.trace]
        assert [point.loss for point in run.trace] == pytest.approx(expected, rel=1e-4)


def test_one_leaves_and_the_next_one_enters(bundled: Encoder) -> None:
    """Three places for runs of different lengths; who enters late starts at its beginning."""
    tasks = [
        replace(task, protocol=CHAPTER.limited_to(1 + 5 * number % 7), along=True)
        for number, task in enumerate(planned(bundled, layer="relu_2_1"))
    ]
    for task, run in zip(tasks, side_by_side(tasks, most=3), strict=True):
        alone = task.run()
        assert run.task is task
        assert (run.iterations, run.stop_reason) == (alone.iterations, alone.stop_reason)
        assert run.loss == pytest.approx(alone.loss, rel=1e-4)
        assert [kept.iteration for kept in run.along] == [kept.iteration for kept in alone.along]
        assert torch.equal(run.image, alone.image) or not have_same_bits(bundled, SIZE)
        assert 1 < run.together <= 3


def test_what_can_be_side_by_side(bundled: Encoder) -> None:
    (task,) = planned(bundled, ["gram"])
    same = [
        *planned(bundled),
        replace(task, seed=5, protocol=CHAPTER.limited_to(7, seconds=60)),
        replace(task, protocol=replace(task.protocol, theta=0.1, extra_rounds=3)),
    ]
    assert {kind_of(one) for one in same} == {kind_of(task)}
    others = [
        replace(task, layer="relu_1_1"),
        replace(task, protocol=replace(task.protocol, learning_rate=0.1)),
        *planned(bundled, ["gram"], size=24),
        *planned(load_encoder("random"), ["gram"]),
    ]
    assert len({kind_of(one) for one in [task, *others]}) == 5
    for alone in (*planned(bundled, REDRAWN), replace(task, protocol=FAST)):
        assert kind_of(alone) is None
        assert how_many([alone, alone], 8) == 1


def test_more_than_the_memory_holds_is_refused(bundled: Encoder, monkeypatch: Any) -> None:
    tasks = planned(bundled, ["gram"] * 5)
    each = tasks[0].needed_memory()
    monkeypatch.setattr("styleinv.batch.available_memory", lambda: 3.5 * each)
    assert how_many(tasks, 3) == 3
    with pytest.raises(InputError, match=r"batch is 5, but 5 of these runs at a time .*; 3 would"):
        how_many(tasks, 8)
    assert 1 <= how_many(tasks) <= 3


def records(tasks: Sequence[Task], folder: Path, **execution: Any) -> list[Record]:
    """What a sweep makes of the tasks; nothing but records and pictures is left in its folder."""
    made = make_runs(tasks, folder, execution=Execution(checkpoint_every=0, **execution))
    assert {path.suffix for path in folder.iterdir()} == {".json", ".png"}
    return [made[number].record for number in range(len(tasks))]


@pytest.fixture
def mixed(bundled: Encoder) -> list[Task]:
    """Two layers, a loss that runs alone, and a run that is asked for twice."""
    if not have_same_bits(bundled, SIZE):
        pytest.skip("convolutions of several pictures have other bits here than those of one")
    tasks = planned(bundled, ["gram", "moment-1", "mmd-random", "mmd", "moment-4", "moment-2"])
    return [*tasks, replace(tasks[0], layer="relu_1_1"), tasks[1]]


def test_a_sweep_has_the_same_records_however_it_is_made(mixed: list[Task], tmp_path: Path) -> None:
    one_by_one = records(mixed, tmp_path / "alone", batch=1)
    found = records(mixed, tmp_path / "batch", batch=3)
    assert list(map(timeless, found)) == list(map(timeless, one_by_one))
    assert {record.made_with.together for record in one_by_one} == {UNSET}
    together = [record.made_with.together for record in found]
    assert (together[2], together[6]) == (UNSET, UNSET)
    assert {*together[:2], *together[3:6]} <= {2, 3}


def test_a_stopped_sweep_goes_on(mixed: list[Task], tmp_path: Path) -> None:
    """Whatever it is stopped at, and however it goes on: each run is made once, and the same."""
    expected = [timeless(record) for record in records(mixed, tmp_path / "alone", batch=1)]
    for batch, then, looks in ((3, 1, 9), (1, 3, 9), (3, 3, 22)):
        folder, asked = tmp_path / f"{batch}-{then}-{looks}", itertools.count()
        stopping = Execution(lambda n=looks, a=asked: next(a) > n, batch=batch)
        assert len(make_runs(mixed, folder, execution=stopping)) < len(mixed)
        assert list(folder.glob("*.checkpoint"))
        assert not list(folder.glob(".*.lock"))
        assert list(map(timeless, records(mixed, folder, batch=then))) == expected


@pytest.mark.filterwarnings("ignore:another process is making")  # if it is still at work then
def test_who_waits_for_another_process_keeps_nobody_waiting(
    mixed: list[Task], tmp_path: Path
) -> None:
    """The run that another one is making is taken from there, after all others are made."""
    theirs, others = mixed[0], [store.path_of(task, tmp_path) for task in mixed[1:]]
    claimed = threading.Event()

    def make() -> None:
        with closing(store.obtaining(theirs, tmp_path)) as steps:
            checkpoint = next(steps)
            claimed.set()
            wait_for(lambda: all(path.exists() for path in others))
            assert isinstance(checkpoint, Checkpoint)
            steps.send(theirs.run(checkpoint=checkpoint))

    thread = threading.Thread(target=make)
    thread.start()
    claimed.wait()
    made = make_runs(mixed, tmp_path, execution=Execution(batch=3))
    thread.join()
    assert made[0].record == store.read_record(store.path_of(theirs, tmp_path))
    assert made[0].record.made_with.together is UNSET
    assert len(made) == len(mixed)


def test_one_that_cannot_be_run_ends_the_sweep_and_frees_the_others(
    bundled: Encoder, tmp_path: Path
) -> None:
    """As it does where runs are made one by one."""
    tasks = planned(bundled, ["gram", "moment-1"])
    silent = replace(tasks[1], style=torch.zeros(3, SIZE, SIZE), layer="relu_1_1", seed=9)
    dead = copy.deepcopy(bundled)
    dead.convs[0].bias.fill_(-1e4)
    dead_tasks = [replace(task, encoder=dead, layer="relu_1_1") for task in (*tasks, silent)]
    with pytest.raises(InputError, match="returns for strokes is zero everywhere"):
        make_runs(dead_tasks, tmp_path, execution=Execution(batch=3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"batch": 0}, "batch is 0, but must be a whole number from 1 to"),
        ({"batch": 2, "cluster": object()}, "batch is 2, but the workers of a cluster make one"),
    ],
)
def test_refuses(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        Execution(**arguments)
