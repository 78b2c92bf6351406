"""The optimisers that ours are compared with.

* `l_bfgs_b`: SciPy's L-BFGS-B, the reference for `styleinv.optim.l_bfgs`;
* `torch_l_bfgs`: PyTorch's L-BFGS, which knows no bounds.

They keep their state to themselves: a run cannot go on from a checkpoint, but starts anew.
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


def minimise_by_rival(
    stage: Stage, start: Tensor, protocol: Protocol, budget: int, monitor: Monitor
) -> Minimum:
    """`styleinv.optim.minimise` for the methods of this module."""
    method = l_bfgs_b if protocol.method == "l-bfgs-b" else torch_l_bfgs
    return method(stage, start, protocol, budget, monitor)


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
