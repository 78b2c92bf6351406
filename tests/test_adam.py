"""Adam for pictures side by side, and how often the host looks at them."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from styleinv.adam import Descent, Walk, adam
from styleinv.optim import Iterate, Minimum, Monitor
from styleinv.protocol import CHAPTER, Protocol
from tests.test_checkpoint import a_file, without_times
from tests.test_optim import Loss, stage

ROUNDS = dataclasses.replace(CHAPTER.limited_to(12), extra_rounds=2, extra_iterations=5)
MOST = 12 + 2 * 5


def bowl(image: Tensor) -> Tensor:
    return (image - 0.2).square().sum()


def valley(image: Tensor) -> Tensor:
    return (image - 0.8).pow(4).sum()


def cliff(image: Tensor) -> Tensor:
    """No number as soon as the pixels' mean, which steps of 0.001 lower, is below 0.49."""
    return image.sum() * (math.nan if image.mean() < 0.49 else 1.0)


LOSSES: tuple[Loss, ...] = (bowl, valley, cliff)


def start(number: int) -> Tensor:
    generator = torch.Generator().manual_seed(number)
    return 0.5 + 0.001 * torch.rand(1, 3, 4, 5, generator=generator, dtype=torch.float64)


def walk(
    number: int, theta: float, protocol: Protocol = ROUNDS, budget: int = 12, **monitor: object
) -> Walk:
    watching = Monitor(budget, theta, 1 + number, **monitor)
    return Walk(stage(LOSSES[number]), start(number), protocol, watching)


def together(walks: Sequence[Walk], numbers: Sequence[int], every: int) -> None:
    """Let all of them go on to their ends; those that have ended leave."""
    going = list(zip(walks, numbers, strict=True))
    while going := [(one, number) for one, number in going if one.minimum is None]:
        losses = [LOSSES[number] for _, number in going]

        def evaluate(images: Tensor, losses: list[Loss] = losses) -> list[Tensor]:
            return [loss(row[None]) for loss, row in zip(losses, images, strict=True)]

        descent = Descent([one for one, _ in going], evaluate, every)
        while all(one.minimum is None for one, _ in going):
            descent.go_on()


def ended(one: Walk) -> Minimum:
    assert one.minimum is not None
    return one.minimum


def alone(number: int, theta: float, budget: int) -> tuple[Minimum, list[float]]:
    """Where it ends as the only one, looked at after every iteration, and its losses."""
    losses: list[float] = []

    def note(iterate: Iterate) -> None:
        losses.append(iterate.loss)

    monitor = Monitor(budget, theta, 1 + number, note)
    return adam(stage(LOSSES[number]), start(number), ROUNDS, monitor), losses


@settings(max_examples=60, deadline=None)
@given(
    every=st.integers(1, 40),
    ends=st.lists(st.integers(1, MOST + 3), min_size=3, max_size=3),
    budgets=st.lists(st.integers(1, 14), min_size=3, max_size=3),
)
@example(every=8, ends=[5, 25, 25], budgets=[12, 12, 12])
@example(every=40, ends=[25, 25, 25], budgets=[12, 1, 14])
def test_each_ends_as_it_does_alone(every: int, ends: list[int], budgets: list[int]) -> None:
    """By theta, by the budget or a round, or where its loss is no number, seen or passed by."""
    thetas = []
    for number, end in enumerate(ends):
        losses = alone(number, -math.inf, budgets[number])[1]
        thetas.append((1 + number) * losses[end] * (1 + 1e-9) if end < len(losses) else -1e9)
    walks = [walk(number, thetas[number], budget=budgets[number]) for number in range(3)]
    together(walks, range(3), every)
    for number, one in enumerate(walks):
        expected, _ = alone(number, thetas[number], budgets[number])
        assert without_times(ended(one)) == without_times(expected)


def test_all_reasons_to_end_occur() -> None:
    """Or the test before would say less than it seems to."""
    losses = alone(0, -math.inf, 12)[1]
    found = {alone(number, -math.inf, 12)[0].stop_reason for number in range(3)}
    found.add(alone(0, losses[5] * 1.0001, 12)[0].stop_reason)
    assert found == {"budget", "not finite", "theta"}


@pytest.mark.parametrize("every", [1, 7, 64])
def test_the_host_looks_no_more_often_than_it_must(every: int) -> None:
    """At the end of the budget and of each round, and else after `every` iterations at most."""
    seen: list[int] = []

    def note(iterate: Iterate) -> None:
        seen.append(iterate.iteration)

    long = dataclasses.replace(CHAPTER.limited_to(200), extra_rounds=1, extra_iterations=50)
    one = walk(1, -1.0, long, budget=200, callback=note)
    together([one], [1], every)
    assert {0, 200, 250} <= set(seen)
    gaps = [after - before for before, after in itertools.pairwise(seen)]
    assert max(gaps) <= every
    assert ended(one).trace[-1].iteration == 250
    if every == 64:
        assert len(seen) < 15
        assert [point.iteration for point in ended(one).trace[:21]] == list(range(21))
        seconds = [point.seconds for point in ended(one).trace]
        assert seconds == sorted(set(seconds))


@pytest.mark.parametrize("every", [1, 6])
def test_begun_side_by_side_ended_alone_and_the_other_way_round(tmp_path: Path, every: int) -> None:
    """A checkpoint does not tell which it was."""
    expected, losses = alone(1, -math.inf, 12)

    def stop_at(iteration: int) -> Callable[[Iterate], bool]:
        return lambda iterate: iterate.iteration >= iteration

    for first, second in ((True, False), (False, True)):
        file = a_file(tmp_path / f"{first}.checkpoint")
        for is_together, callback in ((first, stop_at(7)), (second, None)):
            one = walk(1, -math.inf, callback=callback, checkpoint=file)
            others = [walk(0, -math.inf)] if is_together else []
            together([one, *others], [1, 0][: 1 + len(others)], every)
            stopped = ended(one).stop_reason == "stopped"
            assert stopped == (callback is not None)
        assert without_times(ended(one)) == without_times(expected)
    assert len(losses) == expected.evaluations


def test_random_draws_are_made_at_every_look() -> None:
    """A loss that draws on the host is looked at after every iteration, however seldom asked."""
    generator = torch.Generator().manual_seed(1)
    seen: list[int] = []

    def note(iterate: Iterate) -> None:
        seen.append(iterate.iteration)

    drawn = stage(lambda image: bowl(image) * (1 + torch.rand(1, generator=generator).item()))
    monitor = Monitor(12, -1.0, callback=note)
    one = Walk(dataclasses.replace(drawn, generators=[generator]), start(0), ROUNDS, monitor)
    descent = Descent([one], lambda images: drawn.objective(images)[:1], every=16)
    while one.minimum is None:
        descent.go_on()
    assert seen == list(range(MOST + 1))
