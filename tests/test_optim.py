"""Optimisers and protocols on objectives whose answers are known."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from styleinv import optim
from styleinv.encoder import LAYERS
from styleinv.optim import Iterate, Minimum, Monitor, Stage, minimise
from styleinv.protocol import (
    CHAPTER,
    CLAMPED,
    FAST,
    RELEASED,
    SCIPY,
    UNBOUNDED,
    Protocol,
)

Loss = Callable[[Tensor], Tensor]
METHODS = [CHAPTER, FAST, SCIPY]

SHAPE = (1, 3, 4, 5)


def start() -> Tensor:
    return torch.full(SHAPE, 0.5, dtype=torch.float64)


def stage(loss: Loss, name: str = "exact", **limits: Any) -> Stage:
    """A stage that descends `loss` and calls it exact."""

    def objective(image: Tensor) -> tuple[Tensor, Tensor]:
        value = loss(image)
        return value, value

    return Stage(name, objective, **limits)


def run(loss: Loss, protocol: Protocol, budget: int, theta: float = 0.0, **monitor: Any) -> Minimum:
    return minimise([stage(loss)], start(), protocol, Monitor(budget, theta, **monitor))


def valley(image: Tensor) -> Tensor:
    """A flat one, which takes every method many steps."""
    return (image - 0.2).pow(4).sum()


def constant(value: float) -> Loss:
    """A loss that no step changes (its gradient is zero)."""
    return lambda image: value + 0 * image.sum()


@pytest.mark.parametrize("protocol", METHODS, ids=lambda own: own.name)
def test_keeps_the_first_iterate_on_each_decade(protocol: Protocol) -> None:
    """Counted by hand: powers of ten, each crossed once, however the loss goes in between."""
    seen: list[tuple[float, int, int, list[Any]]] = []

    def note(it: Iterate) -> None:
        pixels = (255 * it.image).round().int().tolist()
        seen.append((it.loss, it.iteration, it.evaluations, pixels))

    kept = run(valley, protocol, 250, theta=1e-9, callback=note, keeps=True).along
    bounds = [10.0**k for k in range(-11, 3)]
    crossed = [next((x for x in seen if x[0] < bound), None) for bound in reversed(bounds)]
    first = [x for i, x in enumerate(crossed) if x is not None and x not in crossed[:i]]
    assert [(x.loss, x.iteration, x.evaluations, x.image.tolist()) for x in kept] == first
    assert len(first) > 1
    assert run(valley, protocol, 20).along == []
    assert run(constant(-1.0), protocol, 5, keeps=True).along == []


# Iterations in thousands, per layer; the released code differs in two of them.
TABLE_1_1 = {
    "gram": (100, 150, 200, 250),
    "mmd": (100, 150, 200, 250),
    "moment-1": (20, 40, 60, 80),
    "moment-2": (40, 80, 120, 160),
    "moment-3": (60, 120, 180, 240),
    "moment-4": (100, 200, 300, 400),
}
RELEASED_TABLE = TABLE_1_1 | {"gram": (100, 200, 300, 400), "moment-4": (80, 160, 240, 320)}


@pytest.mark.parametrize("loss", TABLE_1_1)
def test_table_1_1(loss: str) -> None:
    for protocol, table in ((CHAPTER, TABLE_1_1), (RELEASED, RELEASED_TABLE)):
        budgets = [protocol.budget(loss, layer) for layer in LAYERS]
        assert budgets == [1000 * thousands for thousands in table[loss]]


def test_protocols_as_documented() -> None:
    assert (CHAPTER.theta, CHAPTER.default_seed, CHAPTER.extra_rounds) == (1e-5, 0, 240)
    assert (RELEASED.theta, RELEASED.default_seed, RELEASED.extra_rounds) == (1e-6, 13, 450)
    assert (RELEASED.weight("gram"), RELEASED.weight("mmd")) == (100, 1000)
    for adam in (CHAPTER, RELEASED):
        assert (adam.learning_rate, adam.betas) == (1e-3, (0.9, 0.999))
        assert (adam.extra_iterations, adam.extra_above) == (1000, 1e-5)


def test_adam_is_the_published_algorithm() -> None:
    """Kingma and Ba 2015, algorithm 1, with a clamp before each evaluation, in plain floats."""
    target = 0.2
    x = m = v = 0.0
    x = 0.5
    for t in range(1, 51):
        x = min(max(x, 0), 1)
        g = 4 * (x - target) ** 3
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x -= 1e-3 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    result = run(lambda image: ((image - target) ** 4).sum(), CHAPTER.limited_to(50), 50)
    assert result.iterations == 50
    torch.testing.assert_close(result.image, torch.full_like(result.image, x))


def test_budget_then_extra_rounds() -> None:
    """A loss that never falls runs all rounds; 1 is above every `extra_above`."""
    short = dataclasses.replace(CHAPTER, extra_rounds=3, extra_iterations=7)
    result = run(constant(1.0), short, 11, theta=1e-5)
    assert (result.iterations, result.stop_reason) == (11 + 3 * 7, "budget")
    assert result.evaluations == result.iterations + 1


def test_extra_rounds_end_when_the_loss_is_low_enough() -> None:
    """Released: above theta = 1e-6 but not above 1e-5 gets no extra round."""
    short = dataclasses.replace(RELEASED, extra_iterations=5)
    assert run(constant(5e-6), short, 11, theta=1e-6).iterations == 11
    weighted = dataclasses.replace(short, extra_rounds=2)
    assert run(constant(5e-6), weighted, 11, theta=1e-6, weight=100.0).iterations == 21


@pytest.mark.parametrize("protocol", METHODS, ids=lambda p: p.method)
def test_theta_stops_at_the_first_iterate_below_it(protocol: Protocol) -> None:
    seen: list[float] = []

    def objective(image: Tensor) -> Tensor:
        loss = (image - 0.2).square().sum()
        seen.append(loss.item())
        return loss

    result = run(objective, protocol, 5000, theta=1e-5)
    assert result.stop_reason == "theta"
    assert result.loss == seen[-1] < 1e-5 <= min(seen[:-1])
    assert (result.image - 0.2).square().sum().item() == pytest.approx(result.loss, rel=1e-6)


@pytest.mark.parametrize("protocol", [*METHODS, CLAMPED], ids=lambda p: p.method)
def test_stays_inside_the_bounds(protocol: Protocol) -> None:
    """The minimum, -1 in one half and 2 in the other, is out of bounds: 0 and 1 are found."""
    target = torch.full(SHAPE, -1.0, dtype=torch.float64)
    target[..., 2:] = 2.0
    evaluated: list[Tensor] = []

    def objective(image: Tensor) -> Tensor:
        evaluated.append(image.detach().clone())
        return (image - target).square().sum()

    result = run(objective, protocol.limited_to(1500), 1500)
    assert all(image.min() >= 0 and image.max() <= 1 for image in evaluated)
    torch.testing.assert_close(result.image, target[0].clamp(0, 1))


@pytest.mark.parametrize("protocol", METHODS, ids=lambda p: p.method)
def test_callback_sees_every_iterate_and_can_stop(protocol: Protocol) -> None:
    seen: list[Iterate] = []

    def callback(iterate: Iterate) -> bool:
        seen.append(iterate)
        return iterate.iteration == 4

    result = run(valley, protocol, 100, callback=callback)
    assert [iterate.iteration for iterate in seen] == [0, 1, 2, 3, 4]
    assert result.stop_reason == "stopped"
    assert result.iterations == 4
    assert seen[-1].image.shape == SHAPE[1:]


@pytest.mark.parametrize("protocol", METHODS, ids=lambda p: p.method)
def test_keeps_the_last_finite_image(protocol: Protocol) -> None:
    calls = itertools.count(1)

    def objective(image: Tensor) -> Tensor:
        return valley(image) * (math.nan if next(calls) > 3 else 1.0)

    result = run(objective, protocol, 100)
    assert result.stop_reason == "not finite"
    assert math.isfinite(result.loss)
    assert valley(result.image).item() == pytest.approx(result.loss)


def test_stages_follow_each_other() -> None:
    """Each stage starts where the one before ended; count, trace and exact loss are one."""

    def exact(image: Tensor) -> Tensor:
        return (image - 0.9).square().sum()

    def objective(image: Tensor) -> tuple[Tensor, Tensor]:
        return (image - 0.1).square().sum(), exact(image)

    stages = [Stage("first", objective, budget=50, enough=1e-6), stage(exact, "second")]
    seen: list[Iterate] = []
    result = minimise(stages, start(), FAST, Monitor(100, 1e-12, callback=seen.append))
    turn = [iterate.stage for iterate in seen].index("second")
    before = seen[turn - 1]
    assert before.stage == "first"
    assert (before.image - 0.1).abs().max() < 1e-3
    assert before.loss == pytest.approx(60 * 0.8**2, rel=1e-2)
    assert torch.equal(seen[turn].image, before.image)
    assert (result.stop_reason, result.evaluations) == ("theta", seen[-1].evaluations)
    assert [point.stage for point in result.trace] == sorted(p.stage for p in result.trace)
    assert (result.image - 0.9).abs().max() < 1e-5


def test_nothing_to_descend() -> None:
    """A gradient that is zero everywhere, or no number, ends the run at once, and says so."""
    flat = run(constant(1.0), FAST, 100)
    assert (flat.stop_reason, flat.evaluations) == ("stalled", 1)
    kink = run(lambda image: (image - 0.5).abs().sqrt().sum() + 1, FAST, 100)
    assert (kink.stop_reason, kink.loss) == ("not finite", 1.0)


def test_steps_that_round_to_nothing_end_the_run() -> None:
    """On a plateau of float32 no step changes the loss: stalled, not at the budget's end."""
    result = run(lambda x: 1 + 1e-2 * (x.float() - 0.2).square().sum(), FAST, 3000)
    assert result.stop_reason == "stalled"
    assert result.evaluations < 300


@pytest.mark.parametrize(("power", "end"), [(0.5, 201), (0.4, 201), (0.7, None)])
def test_a_run_that_has_slowed_down_ends(power: float, end: int | None) -> None:
    """The loss falls like a power of the evaluations, whose doubling divides it by 2 ** power."""
    monitor = Monitor(1000, None, least_gain=1.5)
    monitor.stage = stage(valley)
    ends = []
    for evaluations in range(1, 1000):
        monitor.iteration = monitor.evaluations = evaluations
        if monitor.see(evaluations**-power, start()) == "slow":
            ends.append(evaluations)
    assert ends[:1] == ([] if end is None else [end])


def test_a_stage_that_has_slowed_down_makes_room_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It descends, but the exact loss stays what it is."""

    def objective(image: Tensor) -> tuple[Tensor, Tensor]:
        return valley(image), torch.ones((), dtype=image.dtype)

    monkeypatch.setattr(optim, "SLOW_AFTER", 50)
    stages = [Stage("first", objective), stage(constant(1.0), "second")]
    seen: list[Iterate] = []
    result = minimise(stages, start(), FAST, Monitor(1000, 0.0, 1.0, seen.append, least_gain=1.5))
    last = [iterate.evaluations for iterate in seen if iterate.stage == "first"][-1]
    assert 51 <= last < 60
    assert (seen[-1].stage, result.stop_reason) == ("second", "stalled")


def test_a_stage_keeps_to_its_share() -> None:
    hard = [stage(valley, name, budget=7) for name in "ab"]
    result = minimise([*hard, stage(constant(1.0), "c")], start(), FAST, Monitor(20, 0.0))
    ends = {point.stage: point.evaluations for point in result.trace}
    assert ends["a"] <= 7
    assert ends["b"] <= 14
    assert result.trace[-1].stage == "c"


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_projected_l_bfgs_finds_the_bounded_minimum(seed: int) -> None:
    """Random convex quadratics with minima in and out of the box: as SciPy's L-BFGS-B."""
    generator = torch.Generator().manual_seed(seed)
    n = start().numel()
    root = torch.randn(n, n, generator=generator, dtype=torch.float64) / n**0.5
    hessian = root @ root.T + 0.1 * torch.eye(n, dtype=torch.float64)
    centre = 0.5 + torch.randn(n, generator=generator, dtype=torch.float64)

    def loss(image: Tensor) -> Tensor:
        offset = image.flatten() - centre
        return offset @ hessian @ offset

    ours, scipys = run(loss, FAST, 500), run(loss, SCIPY, 500)
    assert ours.loss <= scipys.loss * (1 + 1e-9) + 1e-12
    torch.testing.assert_close(ours.image, scipys.image, atol=1e-5, rtol=0)


def test_trace_is_log_spaced_and_ends_at_the_end() -> None:
    result = run(constant(1.0), CHAPTER.limited_to(2000), 2000)
    iterations = [point.iteration for point in result.trace]
    assert iterations[:21] == list(range(21))
    assert iterations[-1] == 2000
    assert iterations == sorted(set(iterations))
    assert len(iterations) < 130


def test_unbounded_l_bfgs_pays_when_its_image_is_clamped() -> None:
    """The loss is lowest at 2 for every pixel, which no picture can have."""
    result = run(lambda image: (image - 2).square().sum(), UNBOUNDED, 50)
    assert min(point.loss for point in result.trace) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(result.image, torch.ones_like(result.image))
    assert result.loss == pytest.approx(result.image.numel())


@pytest.mark.parametrize("protocol", [FAST, SCIPY, UNBOUNDED, CLAMPED], ids=lambda p: p.name)
def test_l_bfgs_keeps_to_budget_and_theta(protocol: Protocol) -> None:
    evaluated: list[bool] = []

    def objective(image: Tensor) -> Tensor:
        evaluated.append(image.requires_grad)  # the last look at PyTorch's image takes no gradient
        return valley(image)

    short = run(objective, protocol, 7)
    assert (short.stop_reason, short.evaluations, sum(evaluated)) == ("budget", 7, 7)
    long = run(valley, protocol, 500, theta=1e-5)
    assert long.stop_reason == "theta"
    assert long.loss < 1e-5
    assert valley(long.image).item() == pytest.approx(long.loss)
