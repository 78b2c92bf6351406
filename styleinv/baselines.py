"""The optimisers that ours are compared with.

* `l_bfgs_b`: SciPy's L-BFGS-B, the reference for `styleinv.optim.l_bfgs`;
* `torch_l_bfgs`: PyTorch's L-BFGS, which has no bounds.

They have no checkpoints: an interrupted run starts again from the beginning.
"""

import math
from typing import Any

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from styleinv.optim import Minimum, Monitor, Stage
from styleinv.protocol import Protocol


def minimise_by_rival(
    stage: Stage, start: Tensor, protocol: Protocol, budget: int, monitor: Monitor
) -> Minimum:
    """`styleinv.optim.minimise` for the methods of this module."""
    monitor.stage = stage
    method = l_bfgs_b if protocol.method == "l-bfgs-b" else torch_l_bfgs
    return method(start, protocol, budget, monitor)


class _Halt(Exception):
    """Leaves another optimiser's loop from inside an evaluation; the message is the reason."""


def _halt_if(reason: str | None) -> None:
    if reason is not None:
        raise _Halt(reason)


class _Best:
    """Evaluates the monitor's stage, and holds the best image so far with its loss."""

    def __init__(self, start: Tensor, monitor: Monitor) -> None:
        self.monitor = monitor
        self.image, self.loss = start.clamp(0, 1), math.inf

    def evaluate(self, image: Tensor) -> Tensor:
        """The loss of an image. Halts the run if it is not finite."""
        loss, _ = self.monitor.stage.objective(image)
        value = loss.item()
        self.monitor.evaluations += 1
        _halt_if(None if self.monitor.is_finite(value, image) else "not finite")
        if value < self.loss:
            self.image, self.loss = image.detach().clamp(0, 1), value
        return loss

    def show(self) -> None:
        """Show the monitor the best image. Halts the run if the monitor asks for that."""
        _halt_if(self.monitor.see(self.loss, self.image))


def l_bfgs_b(start: Tensor, protocol: Protocol, budget: int, monitor: Monitor) -> Minimum:
    """SciPy's L-BFGS-B (Byrd et al. 1995) with every pixel bounded to [0, 1].

    `budget` counts evaluations of loss and gradient; the image returned is the best one evaluated.
    The objective is computed on the image's device and in its dtype, SciPy's algebra in float64.
    """
    best = _Best(start, monitor)

    def evaluate(pixels: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        image = torch.from_numpy(pixels).to(start).view_as(start).requires_grad_()
        loss = best.evaluate(image)
        (gradient,) = torch.autograd.grad(loss, image)
        if monitor.evaluations == 1:
            best.show()
        _halt_if("theta" if monitor.passed_theta(loss.item()) else None)
        _halt_if("budget" if monitor.evaluations >= budget else None)
        return loss.item(), gradient.cpu().double().numpy().ravel()

    def after_step(_: NDArray[np.float64]) -> None:
        monitor.iteration += 1
        best.show()

    limits = {"maxcor": protocol.memory, "maxiter": budget, "maxfun": budget}
    # Between SciPy's small products, OpenBLAS's idle threads would take the cores from PyTorch's.
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
                options={**limits, "ftol": 0, "gtol": 0},
            )
        reason = "stalled"
    except _Halt as halt:
        reason = str(halt)
    return monitor.finish(best.loss, best.image, reason)


def torch_l_bfgs(start: Tensor, protocol: Protocol, budget: int, monitor: Monitor) -> Minimum:
    """`torch.optim.LBFGS` with its strong Wolfe line search, without bounds or clamped.

    Method ``l-bfgs unbounded`` lets pixels leave [0, 1]; ``l-bfgs clamped`` clamps the image inside
    the closure, before every evaluation. That is often done, but the optimiser then computes with a
    point other than the one evaluated. The trace has the losses that the optimiser saw, at
    its best evaluation so far; the loss returned is that of the image returned, which is clamped.
    """
    image = start.detach().clone().requires_grad_()
    best = _Best(start, monitor)
    limits: dict[str, Any] = {"max_iter": budget, "max_eval": budget}
    optimizer = torch.optim.LBFGS(
        [image],
        **limits,
        history_size=protocol.memory,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        if protocol.method == "l-bfgs clamped":
            with torch.no_grad():
                image.clamp_(0, 1)
        optimizer.zero_grad()
        loss = best.evaluate(image)
        torch.autograd.backward(loss)
        monitor.iteration = optimizer.state[image].get("n_iter", 0)
        best.show()
        return loss.detach()

    try:
        optimizer.step(closure)
        reason = "budget" if monitor.evaluations >= budget else "stalled"
    except _Halt as halt:
        reason = str(halt)
    monitor.iteration = optimizer.state[image].get("n_iter", 0)
    with torch.no_grad():
        _, clamped_loss = monitor.stage.objective(best.image)
    return monitor.finish(clamped_loss.item(), best.image, reason)
