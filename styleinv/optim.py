"""Minimise a loss over the pixels of an image, which stay in [0, 1].

* `adam`: as the chapter has it;
* `l_bfgs`: a projected limited-memory BFGS method, on the image's device.

Both walk through `Stage`s, report every iterate to a `Monitor` and stop when it says so. They can
be interrupted anywhere and then continue from the monitor's checkpoint to the same bits. The
optimisers they are compared with are in `styleinv.baselines`.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import torch
from torch import Tensor

from styleinv.checkpoint import Checkpoint
from styleinv.errors import InputError
from styleinv.lbfgs import CurvatureHistory
from styleinv.protocol import Protocol

# Image (1, 3, H, W) -> (loss to descend, exact loss), both of that image.
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Stage:
    """A stretch of a minimisation: what is descended, and for how long.

    Attributes:
        name: what the trace calls it.
        objective: image (1, 3, H, W) -> (loss to descend, exact loss); the same tensor twice where
            the exact loss is descended.
        budget: evaluations at most; None for all that are left.
        enough: the stage ends as soon as the descended loss is below this; None for never.
        generators: the random generators that the objective draws from.
        explain: for an image whose loss is not a finite number, names what is not finite first.
    """

    name: str
    objective: Objective
    budget: int | None = None
    enough: float | None = None
    generators: Sequence[torch.Generator] = ()
    explain: Callable[[Tensor], str] = lambda image: "the loss"


@dataclass(frozen=True)
class TracePoint:
    """One row of a trace: the exact loss after so many iterations, evaluations and seconds.

    `stage` names the loss that was being descended.
    """

    iteration: int
    evaluations: int
    loss: float
    seconds: float
    stage: str


@dataclass(frozen=True)
class Iterate(TracePoint):
    """What a callback sees: the image after `iteration` steps and its exact style loss.

    For SciPy's L-BFGS-B it is the best image evaluated so far. `image` is (3, H, W) in [0, 1] and
    shares memory with the optimiser: copy it to keep it.
    """

    image: Tensor


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended, and why.

    Attributes:
        image: (3, H, W), RGB in [0, 1].
        loss: the exact loss of `image`, without the protocol's weight.
        iterations: steps of the optimiser, over all stages.
        evaluations: evaluations of loss and gradient, over all stages.
        seconds: wall time.
        stop_reason: see `Monitor`.
        trace: loss over iterations, evaluations and seconds, log-spaced.
        not_finite: for the stop reason of that name, what was not finite first.
    """

    image: Tensor
    loss: float
    iterations: int
    evaluations: int
    seconds: float
    stop_reason: str
    trace: list[TracePoint]
    not_finite: str | None


@dataclass
class Monitor:
    """Keeps the trace, decides when a run is over, and writes checkpoints to the file it is given.

    Stop reasons: ``theta`` (weight x exact loss fell below theta), ``budget`` (all iterations or
    evaluations used up), ``time`` (all seconds used up), ``stopped`` (the callback returned True),
    ``not finite`` (loss became NaN or infinite; the image is the last one with a finite loss),
    ``stalled`` (no step lowers the loss any more). A loss that can be negative, which only the MMD
    as printed can, passes theta by becoming so.
    """

    theta: float | None
    weight: float = 1.0
    callback: Callable[[Iterate], object] | None = None
    seconds: float | None = None
    checkpoint: Checkpoint | None = None
    trace: list[TracePoint] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    not_finite: str | None = None

    def passed_theta(self, loss: float) -> bool:
        return self.theta is not None and self.weight * loss < self.theta

    def is_finite(self, loss: float, evaluations: int, image: Tensor, stage: Stage) -> bool:
        """Whether the loss of `image` is a finite number; if it is not, note what was not.

        Raises:
            InputError: the very first loss is not finite, so that there is no image to return.
        """
        if math.isfinite(loss):
            return True
        self.not_finite = stage.explain(image.detach())
        if evaluations == 1:
            raise InputError(
                f"the loss of the noise image is {loss}, because {self.not_finite} is not finite; "
                "the encoder's activations must be smaller"
            )
        return False

    def wants_state(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.checkpoint is not None and self.checkpoint.is_due()

    def keep(self, optimiser: dict[str, Any]) -> None:
        """Write a checkpoint with the optimiser's state, if there is a file for it."""
        if self.checkpoint is not None:
            trace = [astuple(point) for point in self.trace]
            seconds = time.perf_counter() - self.started
            self.checkpoint.write({"optimiser": optimiser, "trace": trace, "seconds": seconds})

    def take_up(self) -> dict[str, Any] | None:
        """Continue the checkpoint's trace; returns the optimiser's state in it, if there is one."""
        state = None if self.checkpoint is None else self.checkpoint.read()
        if state is None:
            return None
        self.trace = [TracePoint(*point) for point in state["trace"]]
        self.started = time.perf_counter() - state["seconds"]
        optimiser: dict[str, Any] = state["optimiser"]
        return optimiser

    def see(
        self, iteration: int, evaluations: int, loss: float, image: Tensor, stage: Stage
    ) -> str | None:
        """Note an iterate; returns the reason to stop, or None to go on."""
        point = self._point(iteration, evaluations, loss, stage)
        if self._is_due(iteration, stage):
            self.trace.append(point)
        if self.callback is not None:
            iterate = Iterate(**vars(point), image=image.detach()[0])
            if self.callback(iterate) is True:
                return "stopped"
        if self.passed_theta(loss):
            return "theta"
        return "time" if self.seconds is not None and point.seconds > self.seconds else None

    def finish(
        self, iteration: int, evaluations: int, loss: float, image: Tensor, stage: Stage, why: str
    ) -> Minimum:
        """Close the trace with the last iterate; `why` is the stop reason."""
        last = self._point(iteration, evaluations, loss, stage)
        if self.trace and self.trace[-1].iteration == iteration:
            self.trace.pop()
        self.trace.append(last)
        final, seconds = image.detach()[0].clone(), last.seconds
        return Minimum(
            final, loss, iteration, evaluations, seconds, why, self.trace, self.not_finite
        )

    def _point(self, iteration: int, evaluations: int, loss: float, stage: Stage) -> TracePoint:
        seconds = time.perf_counter() - self.started
        return TracePoint(iteration, evaluations, loss, seconds, stage.name)

    def _is_due(self, iteration: int, stage: Stage) -> bool:
        """Log-spaced: every iteration up to 20, then each 5% further on; a stage's first step."""
        if not self.trace:
            return True
        last = self.trace[-1]
        if iteration <= last.iteration:
            return False
        return stage.name != last.stage or iteration >= math.ceil(1.05 * last.iteration)


def minimise(
    stages: Sequence[Stage], start: Tensor, protocol: Protocol, budget: int, monitor: Monitor
) -> Minimum:
    """Minimise from `start` (1, 3, H, W), stage after stage, by the protocol's method.

    `budget` counts iterations (Adam) or evaluations, over all stages. Only `l_bfgs` takes more
    than one stage; the last one descends the exact loss.
    """
    if protocol.method == "l-bfgs":
        return l_bfgs(stages, start, protocol, budget, monitor)
    if protocol.method == "adam":
        return adam(stages[-1], start, protocol, budget, monitor)
    # Only these need SciPy, which is slow to import.
    from styleinv.baselines import minimise_by_rival

    return minimise_by_rival(stages[-1], start, protocol, budget, monitor)


def adam(stage: Stage, start: Tensor, protocol: Protocol, budget: int, monitor: Monitor) -> Minimum:
    """Adam (Kingma and Ba 2015) with the chapter's stopping rule.

    One iteration: clamp the image to [0, 1], evaluate the loss, stop if weight x loss is below
    theta, else step along the gradient of weight x loss. After the budget's steps the loss decides
    whether a round of further steps follows; Adam's state carries on.
    """
    image = start.clone().requires_grad_()
    optimizer = torch.optim.Adam(
        [image], lr=protocol.learning_rate, betas=protocol.betas, fused=True
    )
    # The last image whose loss is finite, and that loss.
    iteration, seen, loss = 0, start.clamp(0, 1), math.inf
    saved = monitor.take_up()
    if saved is not None:
        image.detach().copy_(saved["image"])
        optimizer.load_state_dict(saved["optimizer"])
        iteration, seen, loss = saved["iteration"], saved["seen"].to(image), saved["loss"]
        for generator, drawn in zip(stage.generators, saved["draws"], strict=True):
            generator.set_state(drawn)
    reason = None
    while reason is None:
        state = {
            "image": image.detach(),
            "optimizer": optimizer.state_dict(),
            "iteration": iteration,
            "seen": seen,
            "loss": loss,
            "draws": [generator.get_state() for generator in stage.generators],
        }
        if monitor.wants_state():
            monitor.keep(state)
        with torch.no_grad():
            image.clamp_(0, 1)
        value, _ = stage.objective(image)
        if not monitor.is_finite(value.item(), iteration + 1, image, stage):
            reason = "not finite"
            break
        seen, loss = image.detach().clone(), value.item()
        reason = monitor.see(iteration, iteration + 1, loss, seen, stage)
        if reason is None and _is_used_up(protocol, iteration - budget, monitor.weight * loss):
            reason = "budget"
        if reason is None:
            optimizer.zero_grad()
            torch.autograd.backward(monitor.weight * value)
            optimizer.step()
            iteration += 1
    if reason == "stopped":  # no step was made: the next run evaluates the same image again
        monitor.keep(state)
    return monitor.finish(iteration, iteration + 1, loss, seen, stage, reason)


def _is_used_up(protocol: Protocol, extra: int, weighted_loss: float) -> bool:
    """Whether Adam's run is over, so many iterations after the end of its budget.

    At the end of the budget and of each round of extra iterations, another round follows as long
    as there is one and the loss is too high.
    """
    if extra < 0 or extra % protocol.extra_iterations != 0:
        return False
    rounds = extra // protocol.extra_iterations
    return rounds >= protocol.extra_rounds or weighted_loss <= protocol.extra_above


# The Armijo condition asks for this part of the decrease that the gradient promises.
SUFFICIENT_DECREASE = 1e-4
# A pair with less curvature than this part of y^T y is rounding, not curvature.
LEAST_CURVATURE = 1e-10
MOST_BACKTRACKS = 25


def l_bfgs(
    stages: Sequence[Stage], start: Tensor, protocol: Protocol, budget: int, monitor: Monitor
) -> Minimum:
    """Limited-memory BFGS, projected to the box [0, 1].

    Pixels that sit on a bound and whose gradient points outwards are held, as are pixels without
    a gradient. The others move along -H g (`CurvatureHistory`), where g has the held pixels'
    entries set to zero: the two-metric projection of Bertsekas (1982). The line search walks the
    projected arc x(t) = clamp(x + t d) back from t = 1 by quadratic interpolation until the Armijo
    condition holds, so that every image evaluated is feasible. Each stage starts from the image of
    the one before, with an empty history, and leaves the evaluations that it does not need to the
    later ones.

    The host reads a few numbers per evaluation; vectors never leave the image's device.
    """
    descent = _ProjectedLBFGS(start, protocol.memory, monitor)
    saved = monitor.take_up()
    if saved is not None:
        descent.restore(saved)
    for number, stage in enumerate(stages[descent.stage :], start=descent.stage):
        if number != descent.stage or saved is None:
            left = budget - descent.evaluations
            share = left if stage.budget is None or stage is stages[-1] else stage.budget
            descent.begin(number, stage, min(left, share))
        reason = descent.run(stage)
        if reason not in ("budget", "enough", "stalled") or descent.evaluations >= budget:
            break
    return monitor.finish(
        descent.iteration, descent.evaluations, *descent.exact_loss_and_image(), stage, reason
    )


@dataclass(frozen=True)
class _Point:
    """An evaluated image as a vector: both losses, and the gradient of the descended one."""

    x: Tensor
    descended: float
    exact: float
    gradient: Tensor


class _ProjectedLBFGS:
    """The state of `l_bfgs` from stage to stage; `last` is the evaluation that ends the stage."""

    COUNTS = ("stage", "last", "iteration", "evaluations")

    def __init__(self, start: Tensor, memory: int, monitor: Monitor) -> None:
        self.shape, self.monitor = start.shape, monitor
        self.stage = self.last = self.iteration = self.evaluations = 0
        x = start.detach().clamp(0, 1).flatten()
        self.history = CurvatureHistory(memory, x)
        self.point = _Point(x, math.nan, math.nan, torch.zeros_like(x))

    def exact_loss_and_image(self) -> tuple[float, Tensor]:
        return self.point.exact, self.point.x.view(self.shape)

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on; tensors are not copied."""
        counts = {name: getattr(self, name) for name in self.COUNTS}
        return {**counts, "point": vars(self.point), "history": self.history.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another run's `state` was taken."""
        for name in self.COUNTS:
            setattr(self, name, state[name])
        tensors = {name: state["point"][name].to(self.point.x) for name in ("x", "gradient")}
        self.point = _Point(**state["point"] | tensors)
        self.history.restore(state["history"])

    def begin(self, number: int, stage: Stage, budget: int) -> None:
        """Start a stage at the present image, with nothing known of its curvature."""
        self.stage, self.last = number, self.evaluations + budget
        self.history.clear()
        self.point = self._evaluate(stage, self.point.x)
        exact, image = self.exact_loss_and_image()
        self.monitor.is_finite(exact, self.evaluations, image, stage)

    def run(self, stage: Stage) -> str:
        """Descend one stage; returns why it ended."""
        reason = self._seen(stage)
        while reason is None:
            if self.monitor.wants_state():
                self.monitor.keep(self.state())
            if self.evaluations >= self.last:
                reason = "budget"
            elif stage.enough is not None and self.point.descended < stage.enough:
                reason = "enough"
            else:
                reason = self._step(stage)
        if reason == "stopped":
            self.monitor.keep(self.state())
        return reason

    def _step(self, stage: Stage) -> str | None:
        """One iteration; returns the reason to stop, or None to go on."""
        x, gradient = self.point.x, self.point.gradient
        # 0 where a whole step down the gradient's sign leads nowhere, 1 elsewhere; in floating
        # point throughout, which is faster on a CPU than comparisons.
        free = (x - (x - gradient.sign()).clamp_(0, 1)).abs_().ceil_()
        free_gradient = gradient * free
        direction = self.history.direction(free_gradient).mul_(free)
        slope = torch.dot(free_gradient, direction).item()
        # Without curvature, a first step of length 1: a few thousandths for each pixel.
        step = 1.0 if len(self.history) or slope >= 0 else 1 / math.sqrt(-slope)
        is_found, tried = self._search(stage, direction, step) if slope < 0 else (False, self.point)
        if not is_found:
            return self._give_up(stage, tried)
        moved, change = tried.x - x, tried.gradient - gradient
        products = torch.stack((torch.dot(moved, change), torch.dot(change, change)))
        curvature, squared_change = products.tolist()
        if curvature > LEAST_CURVATURE * squared_change:
            self.history.add(moved, change, curvature, squared_change)
        self.point = tried
        self.iteration += 1
        return self._seen(stage)

    def _give_up(self, stage: Stage, tried: _Point) -> str | None:
        """No step found: forget the history, which may mislead; without one, that was all."""
        if self.evaluations >= self.last:
            return "budget"
        if len(self.history) > 0:
            self.history.clear()
            return None
        if not math.isfinite(tried.descended + tried.exact):
            self.monitor.not_finite = stage.explain(tried.x.view(self.shape))
        elif not tried.gradient.isfinite().all():
            self.monitor.not_finite = "the gradient"
        else:
            return "stalled"
        return "not finite"

    def _search(self, stage: Stage, direction: Tensor, step: float) -> tuple[bool, _Point]:
        """The first point on the projected arc with sufficient decrease; or False, and the last."""
        point = self.point
        for _ in range(MOST_BACKTRACKS):
            trial = self._evaluate(stage, (point.x + step * direction).clamp_(0, 1))
            promised = torch.dot(point.gradient, trial.x - point.x).item()
            gained = trial.descended - point.descended
            # A step that rounds to nothing promises nothing, and is none.
            descends = promised < 0 and gained <= SUFFICIENT_DECREASE * promised
            if descends and math.isfinite(trial.exact):
                return True, trial
            if self.evaluations >= self.last:
                break
            # The minimum of the parabola through both losses and the slope.
            excess = gained - promised
            shrunk = -promised * step / (2 * excess) if 0 < excess < math.inf else 0.0
            step = min(max(shrunk, 0.1 * step), 0.5 * step)
        return False, trial

    def _evaluate(self, stage: Stage, x: Tensor) -> _Point:
        image = x.view(self.shape).requires_grad_()
        descended, exact = stage.objective(image)
        (gradient,) = torch.autograd.grad(descended, image)
        self.evaluations += 1
        values = torch.stack((descended.detach(), exact.detach())).tolist()
        return _Point(x.detach(), values[0], values[1], gradient.flatten())

    def _seen(self, stage: Stage) -> str | None:
        loss, image = self.exact_loss_and_image()
        return self.monitor.see(self.iteration, self.evaluations, loss, image, stage)
