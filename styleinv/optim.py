"""Minimise a loss over the pixels of an image, which stay in [0, 1].

* `adam`: as the chapter has it;
* `l_bfgs`: a projected limited-memory BFGS method, on the image's device;
* `l_bfgs_b`: SciPy's L-BFGS-B, the reference for it;
* `torch_l_bfgs`: PyTorch's L-BFGS, which knows no bounds.

Each walks through `Stage`s, tells a `Monitor` about every iterate and stops when it says so. The
first two can be interrupted anywhere and go on from the monitor's checkpoint to the same bits; the
other two keep their state to themselves.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from styleinv.checkpoint import Checkpoint, State
from styleinv.errors import InputError
from styleinv.lbfgs import CurvatureHistory
from styleinv.protocol import Protocol

# The loss that is descended and the exact loss, both of the same image.
Objective = Callable[[Tensor], tuple[Tensor, Tensor]]

# On a GPU, Adam reads the losses of so many iterations at once...
ITERATIONS_PER_CHECK = 50
# ...or of as many as keep their images within so many bytes.
CHECK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Stage:
    """A stretch of a minimisation: what is descended, for how long.

    Attributes:
        name: what the trace calls it.
        objective: image (1, 3, H, W) -> (loss to descend, exact loss); the same tensor twice where
            the exact loss is descended.
        budget: evaluations at most; None for all that are left.
        enough: the stage is over as soon as the descended loss is below; None for never.
        generators: those that the objective draws from.
        explain: names what is not a finite number first when the loss of an image is computed.
    """

    name: str
    objective: Objective
    budget: int | None = None
    enough: float | None = None
    generators: Sequence[torch.Generator] = ()
    explain: Callable[[Tensor], str] = lambda image: "the loss"


@dataclass(frozen=True)
class Iterate:
    """What a callback sees: the image after `iteration` steps and its exact style loss.

    For SciPy's L-BFGS-B it is the best image evaluated so far. `image` is (3, H, W) in [0, 1] and
    shares memory with the optimiser: copy it to keep it.
    """

    iteration: int
    evaluations: int
    loss: float
    seconds: float
    image: Tensor
    stage: str


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
    """Keeps the trace, decides when a run is over, and keeps checkpoints if it is given one.

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
        """Whether the loss of `image` is a number; notes what was not.

        Raises:
            InputError: the first loss is none, so that there is no image to return.
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

    def keep(self, state: State) -> None:
        """Write a checkpoint with the optimiser's state, if there is to be any."""
        if self.checkpoint is None:
            return
        own = {
            "trace": [asdict(point) for point in self.trace],
            "seconds": time.perf_counter() - self.started,
        }
        self.checkpoint.write(replace(state, values={**state.values, "monitor": own}))

    def taken_up(self) -> State | None:
        """The optimiser's state in the checkpoint, if any; the trace goes on from there."""
        state = None if self.checkpoint is None else self.checkpoint.read()
        if state is not None:
            own = state.values["monitor"]
            self.trace = [TracePoint(**point) for point in own["trace"]]
            self.started = time.perf_counter() - own["seconds"]
        return state

    def see(
        self, iteration: int, evaluations: int, loss: float, image: Tensor, stage: Stage
    ) -> str | None:
        """Note an iterate; returns the reason to stop, or None to go on."""
        seconds = time.perf_counter() - self.started
        if self._is_due(iteration, stage):
            self.trace.append(TracePoint(iteration, evaluations, loss, seconds, stage.name))
        if self.callback is not None:
            shown = image.detach()[0]
            iterate = Iterate(iteration, evaluations, loss, seconds, shown, stage.name)
            if self.callback(iterate) is True:
                return "stopped"
        if self.passed_theta(loss):
            return "theta"
        return "time" if self.seconds is not None and seconds > self.seconds else None

    def finish(
        self,
        iteration: int,
        evaluations: int,
        loss: float,
        image: Tensor,
        stage: Stage,
        reason: str,
    ) -> Minimum:
        """Close the trace with the last iterate."""
        seconds = time.perf_counter() - self.started
        last = TracePoint(iteration, evaluations, loss, seconds, stage.name)
        if self.trace and self.trace[-1].iteration == iteration:
            self.trace.pop()
        self.trace.append(last)
        final = image.detach()[0].clone()
        return Minimum(
            final, loss, iteration, evaluations, seconds, reason, self.trace, self.not_finite
        )

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
    single_stage = {
        "adam": adam,
        "l-bfgs-b": l_bfgs_b,
        "l-bfgs unbounded": torch_l_bfgs,
        "l-bfgs clamped": torch_l_bfgs,
    }
    return single_stage[protocol.method](stages[-1], start, protocol, budget, monitor)


def adam(stage: Stage, start: Tensor, protocol: Protocol, budget: int, monitor: Monitor) -> Minimum:
    """Adam (Kingma and Ba 2015) with the chapter's stopping rule.

    One iteration: clamp the image to [0, 1], evaluate the loss, stop if weight x loss is below
    theta, else step along the gradient of weight x loss. After the budget's steps the loss decides
    whether a round of further steps follows; Adam's state carries on.

    A GPU is not asked for the loss at every iteration. It runs ahead while images and losses are
    kept, and what it did past the end is thrown away: where a run stops is exact all the same.
    """
    descent = _Adam(stage, start, protocol, budget, monitor.weight)
    saved = monitor.taken_up()
    if saved is not None:
        descent.restore(saved)
    while True:
        before = descent.state()
        if monitor.wants_state():
            monitor.keep(before)
        reason, image, value = descent.run_ahead(monitor)
        if reason == "stopped":
            monitor.keep(before)
        if reason is not None:
            iteration = descent.iteration
            return monitor.finish(iteration, iteration + 1, value, image, stage, reason)


class _Adam:
    """The state of `adam`, before the iterate number `iteration` is evaluated."""

    def __init__(
        self, stage: Stage, start: Tensor, protocol: Protocol, budget: int, weight: float
    ) -> None:
        self.stage, self.protocol, self.weight = stage, protocol, weight
        self.image = start.clone().requires_grad_()
        self.optimizer = torch.optim.Adam(
            [self.image], lr=protocol.learning_rate, betas=protocol.betas, fused=True
        )
        self.ahead = _iterations_per_check(self.image)
        self.iteration = 0
        self.limit, self.rounds_left = budget, protocol.extra_rounds
        self.last_image, self.last_loss = start.clamp(0, 1), math.inf

    def state(self) -> State:
        """A copy of all that the rest of the run depends on."""
        moments = self.optimizer.state_dict()["state"].get(0, {})
        draws = {f"generator {n}": g.get_state() for n, g in enumerate(self.stage.generators)}
        tensors = {"image": self.image, "last image": self.last_image, **moments, **draws}
        return State(
            {
                "iteration": self.iteration,
                "limit": self.limit,
                "rounds left": self.rounds_left,
                "last loss": self.last_loss,
                "moments": list(moments),
            },
            {name: tensor.detach().clone() for name, tensor in tensors.items()},
        )

    def restore(self, state: State) -> None:
        values, tensors = state.values, state.tensors
        with torch.no_grad():
            self.image.copy_(tensors["image"])
        self.last_image = tensors["last image"].to(self.image)
        self.iteration, self.limit = values["iteration"], values["limit"]
        self.rounds_left, self.last_loss = values["rounds left"], values["last loss"]
        if values["moments"]:
            moments = {name: tensors[name] for name in values["moments"]}
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": {0: moments}})
        for number, generator in enumerate(self.stage.generators):
            generator.set_state(tensors[f"generator {number}"])

    def run_ahead(self, monitor: Monitor) -> tuple[str | None, Tensor, float]:
        """Some iterations, then a look at them: the reason to stop, with the image and its loss."""
        images, losses = self._iterates()
        for image, value in zip(images, losses.tolist(), strict=True):  # waits for the device
            if not monitor.is_finite(value, self.iteration + 1, image, self.stage):
                return "not finite", self.last_image, self.last_loss
            reason = monitor.see(self.iteration, self.iteration + 1, value, image, self.stage)
            if reason is None and self.iteration == self.limit:
                reason = self._next_round(value)
            if reason is not None:
                return reason, image, value
            self.last_image, self.last_loss = image, value
            self.iteration += 1
        return None, self.last_image, self.last_loss

    def _next_round(self, value: float) -> str | None:
        """Allow a further round of iterations, if the protocol does; else the budget is used up."""
        if not self.rounds_left or self.weight * value <= self.protocol.extra_above:
            return "budget"
        self.rounds_left -= 1
        self.limit += self.protocol.extra_iterations
        return None

    def _iterates(self) -> tuple[Tensor, Tensor]:
        """The next images, each as it was evaluated, and their losses."""
        images = self.image.detach().new_empty((self.ahead, *self.image.shape))
        losses = images.new_empty(self.ahead)
        for offset in range(self.ahead):
            with torch.no_grad():
                self.image.clamp_(0, 1)
            images[offset] = self.image.detach()
            loss, _ = self.stage.objective(self.image)
            losses[offset] = loss.detach()
            self.optimizer.zero_grad()
            torch.autograd.backward(self.weight * loss)
            self.optimizer.step()
        return images, losses


def _iterations_per_check(image: Tensor) -> int:
    """How many iterations run before the host looks at their losses."""
    if image.device.type == "cpu":
        return 1
    return max(1, min(ITERATIONS_PER_CHECK, CHECK_BYTES // (image.numel() * image.element_size())))


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
    a gradient. The others move along
    -H g (`CurvatureHistory`), where g has the held pixels' entries set to zero: the two-metric
    projection of Bertsekas (1982). The line search walks the projected arc x(t) = clamp(x + t d)
    back from t = 1 by quadratic interpolation until the Armijo condition holds, so that every image
    evaluated is feasible. Each stage starts from the image of the one before, with an empty
    history, and leaves the evaluations that it does not need to the later ones.

    The host reads a few numbers per evaluation; vectors never leave the image's device.
    """
    descent = _ProjectedLBFGS(start, protocol.memory, monitor)
    saved = monitor.taken_up()
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
    """The state of `l_bfgs` from stage to stage."""

    def __init__(self, start: Tensor, memory: int, monitor: Monitor) -> None:
        self.shape, self.monitor = start.shape, monitor
        self.stage = self.last = self.iteration = self.evaluations = 0
        x = start.detach().clamp(0, 1).flatten()
        self.history = CurvatureHistory(memory, x)
        self.point = _Point(x, math.nan, math.nan, torch.zeros_like(x))
        self.failed_at = self.point

    def exact_loss_and_image(self) -> tuple[float, Tensor]:
        return self.point.exact, self.point.x.view(self.shape)

    def state(self) -> State:
        """All that the rest of the run depends on."""
        point, history = self.point, self.history.state()
        own = {
            "stage": self.stage,
            "last": self.last,
            "iteration": self.iteration,
            "evaluations": self.evaluations,
            "descended": point.descended,
            "exact": point.exact,
        }
        return State(
            {**own, "history": history.values},
            {"x": point.x, "gradient": point.gradient, **history.tensors},
        )

    def restore(self, state: State) -> None:
        values, tensors = state.values, state.tensors
        self.stage, self.last = values["stage"], values["last"]
        self.iteration, self.evaluations = values["iteration"], values["evaluations"]
        x, gradient = (tensors[name].to(self.point.x) for name in ("x", "gradient"))
        self.point = _Point(x, values["descended"], values["exact"], gradient)
        self.history.restore(State(values["history"], tensors))

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
        self.failed_at = self.point
        found = None
        if slope < 0:
            # Without curvature, a first step of length 1: a few thousandths for each pixel.
            step = 1.0 if len(self.history) else 1 / math.sqrt(-slope)
            found = self._search(stage, direction, step)
        if found is None:
            return self._failed(stage)
        moved, change = found.x - x, found.gradient - gradient
        products = torch.stack((torch.dot(moved, change), torch.dot(change, change)))
        curvature, squared_change = products.tolist()
        if curvature > LEAST_CURVATURE * squared_change:
            self.history.add(moved, change, curvature, squared_change)
        self.point = found
        self.iteration += 1
        return self._seen(stage)

    def _failed(self, stage: Stage) -> str | None:
        """No step found: forget the history, which may mislead; without one, that was all."""
        if self.evaluations >= self.last:
            return "budget"
        if len(self.history) > 0:
            self.history.clear()
            return None
        tried = self.failed_at
        losses_are_numbers = math.isfinite(tried.descended + tried.exact)
        if losses_are_numbers and tried.gradient.isfinite().all():
            return "stalled"
        self.monitor.not_finite = (
            "the gradient" if losses_are_numbers else stage.explain(tried.x.view(self.shape))
        )
        return "not finite"

    def _search(self, stage: Stage, direction: Tensor, step: float) -> _Point | None:
        """The first point on the projected arc with sufficient decrease, if there is one."""
        point = self.point
        for _ in range(MOST_BACKTRACKS):
            trial = self._evaluate(stage, (point.x + step * direction).clamp_(0, 1))
            self.failed_at = trial
            promised = torch.dot(point.gradient, trial.x - point.x).item()
            gained = trial.descended - point.descended
            # A step that rounds to nothing promises nothing, and is none.
            descends = promised < 0 and gained <= SUFFICIENT_DECREASE * promised
            if descends and math.isfinite(trial.exact):
                return trial
            if self.evaluations >= self.last:
                return None
            # The minimum of the parabola through both losses and the slope.
            excess = gained - promised
            shrunk = -promised * step / (2 * excess) if 0 < excess < math.inf else 0.0
            step = min(max(shrunk, 0.1 * step), 0.5 * step)
        return None

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


class _Halt(Exception):
    """Leaves SciPy's loop from inside an evaluation."""


def l_bfgs_b(
    stage: Stage, start: Tensor, protocol: Protocol, budget: int, monitor: Monitor
) -> Minimum:
    """SciPy's L-BFGS-B (Byrd et al. 1995) with every pixel bounded to [0, 1].

    `budget` counts evaluations of loss and gradient; the image returned is the best one evaluated.
    The objective is computed on the image's device and in its dtype, SciPy's algebra in float64.
    """
    best, best_loss = start.clamp(0, 1), math.inf
    iteration = evaluations = 0

    def evaluate(pixels: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        nonlocal best, best_loss, evaluations
        image = torch.from_numpy(pixels).to(start).view_as(start).requires_grad_()
        loss, _ = stage.objective(image)
        (gradient,) = torch.autograd.grad(loss, image)
        value = loss.item()
        evaluations += 1
        if not monitor.is_finite(value, evaluations, image, stage):
            raise _Halt("not finite")
        if value < best_loss:
            best, best_loss = image.detach(), value
        if evaluations == 1:
            _halt_if(monitor.see(iteration, evaluations, value, image, stage))
        _halt_if("theta" if monitor.passed_theta(value) else None)
        _halt_if("budget" if evaluations >= budget else None)
        return value, gradient.cpu().double().numpy().ravel()

    def after_step(_: NDArray[np.float64]) -> None:
        nonlocal iteration
        iteration += 1
        _halt_if(monitor.see(iteration, evaluations, best_loss, best, stage))

    # OpenBLAS's threads, idle between SciPy's small products, take the cores from PyTorch's.
    openblas = ThreadpoolController().select(internal_api="openblas")
    try:
        with openblas.limit(limits=1):
            scipy.optimize.minimize(
                evaluate,
                start.detach().clamp(0, 1).cpu().double().numpy().ravel(),
                jac=True,
                method="L-BFGS-B",
                bounds=scipy.optimize.Bounds(0, 1),
                callback=after_step,
                options={
                    "maxcor": protocol.memory,
                    "maxiter": budget,
                    "maxfun": budget,
                    "ftol": 0,
                    "gtol": 0,
                },
            )
        reason = "stalled"
    except _Halt as halt:
        reason = str(halt)
    return monitor.finish(iteration, evaluations, best_loss, best, stage, reason)


def torch_l_bfgs(
    stage: Stage, start: Tensor, protocol: Protocol, budget: int, monitor: Monitor
) -> Minimum:
    """`torch.optim.LBFGS` with its strong Wolfe line search, without bounds or clamped.

    Method ``l-bfgs unbounded`` lets pixels leave [0, 1]; ``l-bfgs clamped`` clamps the image inside
    the closure, before every evaluation, as is often done with this optimiser, which then works
    with a point that is not the one evaluated. The trace has the losses that the optimiser saw, at
    its best evaluation so far; the loss returned is that of the image returned, which is clamped.
    """
    image = start.detach().clone().requires_grad_()
    best, best_loss = start.clamp(0, 1), math.inf
    evaluations = 0
    optimizer = torch.optim.LBFGS(
        [image],
        max_iter=budget,
        max_eval=budget,
        history_size=protocol.memory,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        nonlocal best, best_loss, evaluations
        if protocol.method == "l-bfgs clamped":
            with torch.no_grad():
                image.clamp_(0, 1)
        optimizer.zero_grad()
        loss, _ = stage.objective(image)
        torch.autograd.backward(loss)
        value = loss.item()
        evaluations += 1
        finite = monitor.is_finite(value, evaluations, image, stage)
        _halt_if(None if finite else "not finite")
        if value < best_loss:
            best, best_loss = image.detach().clamp(0, 1), value
        _halt_if(monitor.see(iterations(), evaluations, best_loss, best, stage))
        return loss.detach()

    def iterations() -> int:
        done: int = optimizer.state[image].get("n_iter", 0)
        return done

    try:
        optimizer.step(closure)
        reason = "budget" if evaluations >= budget else "stalled"
    except _Halt as halt:
        reason = str(halt)
    with torch.no_grad():
        _, clamped_loss = stage.objective(best)
    clamped = clamped_loss.item()
    return monitor.finish(iterations(), evaluations, clamped, best, stage, reason)


def _halt_if(reason: str | None) -> None:
    if reason is not None:
        raise _Halt(reason)
