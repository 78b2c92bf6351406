"""The optimisers that ours are compared with.

* `l_bfgs_b`: SciPy's L-BFGS-B, the reference for `styleinv.optim.l_bfgs`;
* `torch_l_bfgs`: PyTorch's L-BFGS, which has no bounds.

They have no checkpoints: an interrupted run starts again from the beginning.
"""

import math

import numpy as np
import scipy.optimize
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

from styleinv.optim import Minimum, Monitor, Stage
from styleinv.protocol import Protocol


def minimise_by_rival(stage: Stage, start: Tensor, protocol: Protocol, monitor: Monitor) -> Minimum:
    """`styleinv.optim.minimise` for the methods of this module: the best image they evaluate."""
    monitor.stage = stage
    best = _Best(start, monitor)
    descend = l_bfgs_b if protocol.method == "l-bfgs-b" else torch_l_bfgs
    try:
        descend(best, start, protocol)
        reason = "budget" if monitor.evaluations >= monitor.budget else "stalled"
    except _Halt as halt:
        reason = str(halt)
    if descend is torch_l_bfgs:  # which may have evaluated an image out of bounds
        with torch.no_grad():
            best.loss = stage.objective(best.image)[1].item()
    return monitor.finish(best.loss, best.image, reason)


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


def l_bfgs_b(best: _Best, start: Tensor, protocol: Protocol) -> None:
    """SciPy's L-BFGS-B (Byrd et al. 1995) with every pixel bounded to [0, 1].

    The objective is computed on the image's device and in its dtype, SciPy's algebra in float64.
    """
    monitor = best.monitor

    def evaluate(pixels: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        image = torch.from_numpy(pixels).to(start).view_as(start).requires_grad_()
        loss = best.evaluate(image)
        (gradient,) = torch.autograd.grad(loss, image)
        if monitor.evaluations == 1:
            best.show()
        _halt_if("theta" if monitor.passed_theta(loss.item()) else None)
        _halt_if("budget" if monitor.evaluations >= monitor.budget else None)
        return loss.item(), gradient.cpu().double().numpy().ravel()

    def after_step(_: NDArray[np.float64]) -> None:
        monitor.iteration += 1
        best.show()

    limits = {"maxcor": protocol.memory, "maxiter": monitor.budget, "maxfun": monitor.budget}
    # Between SciPy's small products, OpenBLAS's idle threads would take the cores from PyTorch's.
    openblas = ThreadpoolController().select(internal_api="openblas")
    with openblas.limit(limits=1):
        scipy.optimize.minimize(
            evaluate,
            best.image.cpu().double().numpy().ravel(),
            jac=True,
            method="L-BFGS-B",
            bounds=scipy.optimize.Bounds(0, 1),
            callback=after_step,
            options={**limits, "ftol": 0, "gtol": 0},
        )


def torch_l_bfgs(best: _Best, start: Tensor, protocol: Protocol) -> None:
    """`torch.optim.LBFGS` with its strong Wolfe line search, without bounds or clamped.

    Method ``l-bfgs unbounded`` lets pixels leave [0, 1]; ``l-bfgs clamped`` clamps the image inside
    the closure, before every evaluation. That is often done, but the optimiser then computes with a
    point other than the one evaluated. The trace has the losses that the optimiser saw, at
    its best evaluation so far; the loss returned is that of the image returned, which is clamped.
    """
    image = start.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [image],
        max_iter=best.monitor.budget,
        max_eval=best.monitor.budget,
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
        best.monitor.iteration = optimizer.state[image].get("n_iter", 0)
        loss = best.evaluate(image)
        torch.autograd.backward(loss)
        best.show()
        return loss.detach()

    optimizer.step(closure)
    best.monitor.iteration = optimizer.state[image]["n_iter"]
