"""Minimise a loss over the pixels of an image, which stay in [0, 1].

* `styleinv.adam`: as the chapter has it;
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
from styleinv.images import to_uint8
from styleinv.lbfgs import CurvatureHistory
from styleinv.protocol import SLOW_AFTER, Protocol

# Image (1, 3, H, W) -> (loss to descend, exact loss), both of that image.
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Stage:
    """A part of a minimisation: which loss is descended, and for how long.

    Attributes:
        name: what the trace calls it.
        objective: image (1, 3, H, W) -> (loss to descend, exact loss); the same tensor twice where
            the exact loss is descended.
        budget: the largest number of evaluations; by default all that are left.
        enough: the stage ends as soon as the descended loss is below this; by default never.
        generators: the random generators that the objective draws from.
    """

    name: str
    objective: Objective
    budget: float = math.inf
    enough: float = -math.inf
    generators: Sequence[torch.Generator] = ()


@dataclass(frozen=True)
class TracePoint:
    """One row of a trace: the exact loss after a number of iterations, evaluations and seconds.

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
class Kept:
    """An iterate kept on the way: its image in 8 bits, (3, H, W), its exact loss, when it was."""

    loss: float
    iteration: int
    evaluations: int
    image: Tensor


def decade(loss: float) -> int:
    """Between which powers of ten a loss above 0 lies: floor(log10(loss))."""
    return math.floor(math.log10(loss))


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
        not_finite: the first value that was not finite, if that is the stop reason.
        along: the first iterate on each decade of the loss, if the monitor keeps them.
    """

    image: Tensor
    loss: float
    iterations: int
    evaluations: int
    seconds: float
    stop_reason: str
    trace: list[TracePoint]
    not_finite: str | None
    along: list[Kept]


@dataclass
class Monitor:
    """Counts, keeps the trace, decides when a run ends, and writes checkpoints if it has a file.

    Stop reasons: ``theta`` (weight x exact loss fell below theta), ``budget`` (all iterations or
    evaluations used up), ``time`` (all seconds used up), ``stopped`` (the callback returned True),
    ``not finite`` (loss became NaN or infinite; the image is the last one with a finite loss),
    ``stalled`` (no step lowers the loss any more), ``slow`` (see `has_slowed_down`). The MMD as
    printed, the only loss that can be negative, passes theta when it becomes negative.

    `budget` counts iterations (Adam) or evaluations (all others), over all stages.

    An optimiser sets `stage` and counts its `iteration`s and `evaluations` here. Given an image
    whose loss is not finite, `explain` names the first value that is not.

    If it `keeps` iterates, these are the ones whose loss is on a lower decade (powers
    of ten) than all before; losses of 0 and below have none.
    """

    budget: int
    theta: float | None
    weight: float = 1.0
    callback: Callable[[Iterate], object] | None = None
    seconds: float | None = None
    checkpoint: Checkpoint | None = None
    explain: Callable[[Tensor], str] = lambda image: "the loss"
    least_gain: float | None = None
    keeps: bool = False
    stage: Stage = field(init=False)
    iteration: int = 0
    evaluations: int = 0
    trace: list[TracePoint] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    not_finite: str | None = None
    along: list[Kept] = field(default_factory=list)

    def passed_theta(self, loss: float) -> bool:
        return self.theta is not None and self.weight * loss < self.theta

    def has_slowed_down(self, loss: float) -> bool:
        """Whether the later half of the stage has divided the loss by less than `least_gain`.

        Halves are counted in evaluations; the loss in the middle is that of the trace at or just
        before it.
        """
        if self.least_gain is None:  # before the trace is gone through, at every iterate
            return False
        own = [point for point in self.trace if point.stage == self.stage.name]
        if not own:
            return False
        began = own[0].evaluations
        if self.evaluations - began < SLOW_AFTER:
            return False
        middle = (began + self.evaluations) / 2
        before = [point.loss for point in own if point.evaluations <= middle]
        return before[-1] < self.least_gain * loss

    def is_finite(self, loss: float, image: Tensor) -> bool:
        """Whether the loss of `image` is finite; if not, note the first value that was not.

        Raises:
            InputError: the very first loss is not finite, so that there is no image to return.
        """
        if math.isfinite(loss):
            return True
        self.not_finite = self.explain(image.detach())
        if self.evaluations == 1:
            raise InputError(
                f"the loss of the noise image is {loss}, because {self.not_finite} is not finite; "
                "the encoder's activations must be smaller"
            )
        return False

    def keep(self, optimiser: dict[str, Any], at_once: bool = False) -> None:
        """Write a checkpoint with the optimiser's state, if there is a file and it is time."""
        if self.checkpoint is not None and (at_once or self.checkpoint.is_due()):
            state = {
                "optimiser": optimiser,
                "counts": (self.iteration, self.evaluations),
                "trace": [astuple(point) for point in self.trace],
                "along": [tuple(vars(kept).values()) for kept in self.along],
                "seconds": self.clock(),
            }
            self.checkpoint.write(state)

    def take_up(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """Continue from the checkpoint, if there is one; returns the optimiser's state in it."""
        if self.checkpoint is None or (state := self.checkpoint.read(device)) is None:
            return None
        self.iteration, self.evaluations = state["counts"]
        self.trace = [TracePoint(*point) for point in state["trace"]]
        self.along = [Kept(*kept) for kept in state["along"]]
        self.started = time.perf_counter() - state["seconds"]
        optimiser: dict[str, Any] = state["optimiser"]
        return optimiser

    def clock(self) -> float:
        """The run's seconds until now."""
        return time.perf_counter() - self.started

    def note(self, loss: float, seconds: float | None = None) -> TracePoint:
        """An iterate, now or after so many seconds, which the trace gets where it is due."""
        point = self._point(loss, self.clock() if seconds is None else seconds)
        if self._is_due(point):
            self.trace.append(point)
        return point

    def see(self, loss: float, image: Tensor) -> str | None:
        """Note an iterate; returns the reason to stop, or None to go on."""
        point = self.note(loss)
        if self.keeps and loss > 0 and decade(loss) < self._lowest_kept():
            pixels = torch.from_numpy(to_uint8(image[0])).permute(2, 0, 1)
            self.along.append(Kept(loss, self.iteration, self.evaluations, pixels))
        if self.callback is not None:
            iterate = Iterate(**vars(point), image=image.detach()[0])
            if self.callback(iterate) is True:
                return "stopped"
        if self.passed_theta(loss):
            return "theta"
        if self.has_slowed_down(loss):
            return "slow"
        return "time" if self.seconds is not None and point.seconds > self.seconds else None

    def finish(self, loss: float, image: Tensor, stop_reason: str) -> Minimum:
        """Close the trace with the last iterate."""
        last = self._point(loss, self.clock())
        if self.trace and self.trace[-1].iteration == self.iteration:
            self.trace.pop()
        self.trace.append(last)
        image = image.detach()[0].clone()
        counts = self.iteration, self.evaluations, last.seconds
        found = self.trace, self.not_finite, self.along
        return Minimum(image, loss, *counts, stop_reason, *found)

    def _lowest_kept(self) -> float:
        return decade(self.along[-1].loss) if self.along else math.inf

    def _point(self, loss: float, seconds: float) -> TracePoint:
        return TracePoint(self.iteration, self.evaluations, loss, seconds, self.stage.name)

    def _is_due(self, point: TracePoint) -> bool:
        """Whether the trace gets this point.

        Points are log-spaced: every iteration up to 20, then each 5% further on. A stage's first
        step gets a point, too.
        """
        if not self.trace:
            return True
        last = self.trace[-1]
        spaced = math.ceil(1.05 * last.iteration) if point.stage == last.stage else 0
        return point.iteration >= max(spaced, last.iteration + 1)


def minimise(
    stages: Sequence[Stage], start: Tensor, protocol: Protocol, monitor: Monitor
) -> Minimum:
    """Minimise from `start` (1, 3, H, W), stage after stage, by the protocol's method.

    Only `l_bfgs` takes more than one stage; the last one descends the exact loss.
    """
    if protocol.method == "l-bfgs":
        return l_bfgs(stages, start, protocol, monitor)
    # Imported here because these modules build on this one; SciPy is slow to import besides.
    if protocol.method == "adam":
        from styleinv.adam import adam

        return adam(stages[-1], start, protocol, monitor)
    from styleinv.baselines import minimise_by_rival

    return minimise_by_rival(stages[-1], start, protocol, monitor)


# The Armijo condition requires this fraction of the decrease that the gradient predicts.
SUFFICIENT_DECREASE = 1e-4
# If a pair's curvature s^T y is less than this fraction of y^T y, it is rounding error.
LEAST_CURVATURE = 1e-10
MOST_BACKTRACKS = 25


def l_bfgs(stages: Sequence[Stage], start: Tensor, protocol: Protocol, monitor: Monitor) -> Minimum:
    """Limited-memory BFGS, projected to the box [0, 1].

    Pixels that sit on a bound and whose gradient points outwards are held, as are pixels without
    a gradient. The others move along -H g (`CurvatureHistory`), where g has the held pixels'
    entries set to zero: the two-metric projection of Bertsekas (1982). The line search walks the
    projected arc x(t) = clamp(x + t d) back from t = 1 by quadratic interpolation until the Armijo
    condition holds, so that every image evaluated is feasible. Each stage starts from the image of
    the previous one, with an empty history; evaluations that it does not need go to the later
    stages.

    The host reads a few numbers per evaluation; vectors never leave the image's device.
    """
    descent = _ProjectedLBFGS(start, protocol.memory, monitor)
    if (saved := monitor.take_up(start.device)) is not None:
        descent.restore(saved)
    for number, stage in enumerate(stages):
        if number < descent.number:
            continue
        monitor.stage = stage
        if number > descent.number:
            descent.begin(number, min(stage.budget, monitor.budget - monitor.evaluations))
        reason = descent.run()
        if (
            reason not in ("budget", "enough", "stalled", "slow")
            or monitor.evaluations >= monitor.budget
        ):
            break
    return monitor.finish(*descent.loss_and_image(), reason)


@dataclass(frozen=True)
class _Point:
    """An evaluated image as a vector, its two losses, and the gradient of the descended one."""

    x: Tensor
    descended: float
    exact: float
    gradient: Tensor


class _ProjectedLBFGS:
    """The state of `l_bfgs` in stage `number` (-1: none yet), which ends at evaluation `last`."""

    def __init__(self, start: Tensor, memory: int, monitor: Monitor) -> None:
        self.shape, self.monitor = start.shape, monitor
        self.number, self.last = -1, 0.0
        x = start.detach().clamp(0, 1).flatten()
        self.history = CurvatureHistory(memory, x)
        self.point = _Point(x, math.nan, math.nan, torch.zeros_like(x))

    def loss_and_image(self) -> tuple[float, Tensor]:
        """The exact loss of the current image, and the image."""
        return self.point.exact, self.point.x.view(self.shape)

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on; tensors are not copied."""
        own = {"number": self.number, "last": self.last}
        return {**own, "history": vars(self.history), "point": vars(self.point)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the point at which another run's `state` was taken."""
        self.number, self.last = state["number"], state["last"]
        self.point = _Point(**state["point"])
        vars(self.history).update(state["history"])

    def begin(self, number: int, budget: float) -> None:
        """Start a stage at the current image, with an empty history."""
        self.number, self.last = number, self.monitor.evaluations + budget
        self.history.clear()
        self.point = self._evaluate(self.point.x)
        self.monitor.is_finite(*self.loss_and_image())

    def run(self) -> str:
        """Descend the stage; returns why it ended."""
        monitor = self.monitor
        reason = monitor.see(*self.loss_and_image())
        while reason is None:
            monitor.keep(self.state())
            if monitor.evaluations >= self.last:
                reason = "budget"
            elif self.point.descended < monitor.stage.enough:
                reason = "enough"
            else:
                reason = self._step()
        if reason == "stopped":
            monitor.keep(self.state(), at_once=True)
        return reason

    def _step(self) -> str | None:
        """One iteration; returns the reason to stop, or None to go on."""
        x, gradient = self.point.x, self.point.gradient
        # 0 where a whole step down the gradient's sign leads nowhere, 1 elsewhere; in floating
        # point throughout, which is faster on a CPU than comparisons.
        free = (x - (x - gradient.sign()).clamp_(0, 1)).abs_().ceil_()
        free_gradient = gradient * free
        direction = self.history.direction(free_gradient).mul_(free)
        slope = torch.dot(free_gradient, direction).item()
        is_found, tried = self._search(direction, slope) if slope < 0 else (False, self.point)
        if not is_found:
            return self._give_up(tried)
        moved, change = tried.x - x, tried.gradient - gradient
        products = torch.stack((torch.dot(moved, change), torch.dot(change, change)))
        curvature, squared_change = products.tolist()
        if curvature > LEAST_CURVATURE * squared_change:
            self.history.add(moved, change, curvature, squared_change)
        self.point = tried
        self.monitor.iteration += 1
        return self.monitor.see(*self.loss_and_image())

    def _give_up(self, tried: _Point) -> str | None:
        """Where no step was found: drop the history, which may mislead, or say why the run ends."""
        if self.monitor.evaluations >= self.last:
            return "budget"
        if len(self.history) > 0:
            self.history.clear()
            return None
        if not math.isfinite(tried.descended + tried.exact):
            self.monitor.not_finite = self.monitor.explain(tried.x.view(self.shape))
        elif not tried.gradient.isfinite().all():
            self.monitor.not_finite = "the gradient"
        else:
            return "stalled"
        return "not finite"

    def _search(self, direction: Tensor, slope: float) -> tuple[bool, _Point]:
        """Whether a point on the projected arc lowers the loss enough, and the last point tried."""
        point = self.point
        # Without curvature, a first step of length 1: a few thousandths for each pixel.
        step = 1.0 if len(self.history) else 1 / math.sqrt(-slope)
        for _ in range(MOST_BACKTRACKS):
            trial = self._evaluate((point.x + step * direction).clamp_(0, 1))
            promised = torch.dot(point.gradient, trial.x - point.x).item()
            gained = trial.descended - point.descended
            # A step that rounds to zero promises no decrease and is not accepted.
            descends = promised < 0 and gained <= SUFFICIENT_DECREASE * promised
            if descends and math.isfinite(trial.exact):
                return True, trial
            if self.monitor.evaluations >= self.last:
                break
            # The minimum of the parabola through both losses and the slope.
            excess = gained - promised
            shrunk = -promised * step / (2 * excess) if 0 < excess < math.inf else 0.0
            step = min(max(shrunk, 0.1 * step), 0.5 * step)
        return False, trial

    def _evaluate(self, x: Tensor) -> _Point:
        image = x.view(self.shape).requires_grad_()
        descended, exact = self.monitor.stage.objective(image)
        (gradient,) = torch.autograd.grad(descended, image)
        self.monitor.evaluations += 1
        descended, exact = torch.stack((descended.detach(), exact.detach())).tolist()
        return _Point(x.detach(), descended, exact, gradient.flatten())
