"""Minimise a loss over the pixels of an image: Adam as the chapter has it, and bounded L-BFGS.

Both take a differentiable objective and a start image, keep the image in [0, 1], tell a `Monitor`
about every iterate and stop when it says so.
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from styleinv.errors import InputError
from styleinv.protocol import Protocol

Objective = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Iterate:
    """What a callback sees: the image after `iteration` steps and its style loss.

    For L-BFGS-B it is the best image evaluated so far. `image` is (3, H, W) in [0, 1] and shares
    memory with the optimiser: copy it to keep it.
    """

    iteration: int
    evaluations: int
    loss: float
    seconds: float
    image: Tensor


@dataclass(frozen=True)
class TracePoint:
    """One row of a trace: the loss after so many iterations, evaluations and seconds."""

    iteration: int
    evaluations: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Minimum:
    """Where a minimisation ended, and why.

    Attributes:
        image: (3, H, W), RGB in [0, 1].
        loss: the loss of `image`, without the protocol's weight.
        iterations: steps of the optimiser.
        evaluations: evaluations of loss and gradient.
        seconds: wall time.
        stop_reason: see `Monitor`.
        trace: loss over iterations, evaluations and seconds, log-spaced.
    """

    image: Tensor
    loss: float
    iterations: int
    evaluations: int
    seconds: float
    stop_reason: str
    trace: list[TracePoint]


@dataclass
class Monitor:
    """Keeps the trace and decides when a run is over.

    Stop reasons: ``theta`` (weight x loss fell below theta), ``budget`` (all iterations used up),
    ``stopped`` (the callback returned True), ``not finite`` (loss became NaN or infinite; the
    image is the last one with a finite loss), ``stalled`` (no step lowers the loss any more).
    A loss that can be negative, which only the MMD as printed can, passes theta by becoming so.
    """

    theta: float | None
    weight: float = 1.0
    callback: Callable[[Iterate], object] | None = None
    trace: list[TracePoint] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

    def passed_theta(self, loss: float) -> bool:
        return self.theta is not None and self.weight * loss < self.theta

    def is_finite(self, loss: float, evaluations: int) -> bool:
        """Whether a loss is a number. If the first one is not, there is no image to return.

        Raises:
            InputError: the loss of the start image is NaN or infinite.
        """
        if evaluations == 1 and not math.isfinite(loss):
            raise InputError(
                f"the loss of the noise image is {loss}; the encoder's activations must be smaller"
            )
        return math.isfinite(loss)

    def see(self, iteration: int, evaluations: int, loss: float, image: Tensor) -> str | None:
        """Note an iterate; returns the reason to stop, or None to go on."""
        seconds = time.perf_counter() - self.started
        if self._is_due(iteration):
            self.trace.append(TracePoint(iteration, evaluations, loss, seconds))
        if self.callback is not None:
            iterate = Iterate(iteration, evaluations, loss, seconds, image.detach()[0])
            if self.callback(iterate) is True:
                return "stopped"
        return "theta" if self.passed_theta(loss) else None

    def finish(
        self, iteration: int, evaluations: int, loss: float, image: Tensor, reason: str
    ) -> Minimum:
        """Close the trace with the last iterate."""
        seconds = time.perf_counter() - self.started
        last = TracePoint(iteration, evaluations, loss, seconds)
        if self.trace and self.trace[-1].iteration == iteration:
            self.trace.pop()
        self.trace.append(last)
        final = image.detach()[0].clone()
        return Minimum(final, loss, iteration, evaluations, seconds, reason, self.trace)

    def _is_due(self, iteration: int) -> bool:
        """Log-spaced: every iteration up to 20, then each 5% further on."""
        return not self.trace or iteration >= max(
            self.trace[-1].iteration + 1, math.ceil(1.05 * self.trace[-1].iteration)
        )


def minimise(
    objective: Objective, start: Tensor, protocol: Protocol, budget: int, monitor: Monitor
) -> Minimum:
    """Minimise `objective` from `start` (1, 3, H, W) by the protocol's method."""
    method = adam if protocol.method == "adam" else l_bfgs_b
    return method(objective, start, protocol, budget, monitor)


def adam(
    objective: Objective, start: Tensor, protocol: Protocol, budget: int, monitor: Monitor
) -> Minimum:
    """Adam (Kingma and Ba 2015) with the chapter's stopping rule.

    One iteration: clamp the image to [0, 1], evaluate the loss, stop if weight x loss is below
    theta, else step along the gradient of weight x loss. After `budget` steps the loss decides
    whether a round of further steps follows; Adam's state carries on.
    """
    image = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=protocol.learning_rate, betas=protocol.betas)
    limit, rounds_left = budget, protocol.extra_rounds
    last_finite, last_loss = start.clamp(0, 1), math.inf
    for iteration in itertools.count():
        with torch.no_grad():
            image.clamp_(0, 1)
        loss = objective(image)
        value = loss.item()
        if not monitor.is_finite(value, iteration + 1):
            return monitor.finish(iteration, iteration + 1, last_loss, last_finite, "not finite")
        reason = monitor.see(iteration, iteration + 1, value, image)
        if reason is None and iteration == limit:
            if rounds_left and monitor.weight * value > protocol.extra_above:
                rounds_left -= 1
                limit += protocol.extra_iterations
            else:
                reason = "budget"
        if reason is not None:
            return monitor.finish(iteration, iteration + 1, value, image, reason)
        last_finite, last_loss = image.detach().clone(), value
        optimizer.zero_grad()
        (monitor.weight * loss).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    raise AssertionError("unreachable")


class _Halt(Exception):
    """Leaves SciPy's loop from inside an evaluation."""


def l_bfgs_b(
    objective: Objective, start: Tensor, protocol: Protocol, budget: int, monitor: Monitor
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
        loss = objective(image)
        (gradient,) = torch.autograd.grad(monitor.weight * loss, image)
        value = loss.item()
        evaluations += 1
        if not monitor.is_finite(value, evaluations):
            raise _Halt("not finite")
        if value < best_loss:
            best, best_loss = image.detach(), value
        if evaluations == 1:
            _halt_if(monitor.see(iteration, evaluations, value, image))
        _halt_if("theta" if monitor.passed_theta(value) else None)
        _halt_if("budget" if evaluations >= budget else None)
        return monitor.weight * value, gradient.cpu().double().numpy().ravel()

    def after_step(_: NDArray[np.float64]) -> None:
        nonlocal iteration
        iteration += 1
        _halt_if(monitor.see(iteration, evaluations, best_loss, best))

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
    return monitor.finish(iteration, evaluations, best_loss, best, reason)


def _halt_if(reason: str | None) -> None:
    if reason is not None:
        raise _Halt(reason)
