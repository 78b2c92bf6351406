"""The compact form of L-BFGS against the textbook's dense update, in float64."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from styleinv.lbfgs import CurvatureHistory

LENGTH = 9


def convex_pairs(number: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Steps and changes of gradient of a quadratic with a random positive definite matrix."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(LENGTH, LENGTH, generator=generator, dtype=torch.float64)
    hessian = root @ root.T + torch.eye(LENGTH, dtype=torch.float64)
    steps = torch.randn(number, LENGTH, generator=generator, dtype=torch.float64)
    return [(step, hessian @ step) for step in steps]


def history_of(pairs: list[tuple[Tensor, Tensor]], memory: int) -> CurvatureHistory:
    history = CurvatureHistory(memory, torch.zeros(LENGTH, dtype=torch.float64))
    for number, (s, y) in enumerate(pairs):
        history.add(s, y, (s @ y).item(), (y @ y).item())
        if number % 2:  # products of a new pair are taken with the next direction, or never
            history.direction(torch.ones(LENGTH, dtype=torch.float64))
        else:
            history.direction(s)
    return history


def dense_inverse(pairs: list[tuple[Tensor, Tensor]]) -> NDArray[np.float64]:
    """H <- (I - rho s y^T) H (I - rho y s^T) + rho s s^T, from (s^T y / y^T y) I of the newest."""
    s, y = (vector.numpy() for vector in pairs[-1])
    h = np.eye(LENGTH) * (s @ y) / (y @ y)
    for pair in pairs:
        s, y = (vector.numpy() for vector in pair)
        left = np.eye(LENGTH) - np.outer(s, y) / (s @ y)
        h = left @ h @ left.T + np.outer(s, s) / (s @ y)
    return h


@pytest.mark.parametrize("number", [1, 2, 4, 5, 11])
def test_direction_is_that_of_the_dense_matrix(number: int) -> None:
    pairs = convex_pairs(number)
    gradient = torch.linspace(-1, 2, LENGTH, dtype=torch.float64)
    found = history_of(pairs, memory=4).direction(gradient)
    expected = -dense_inverse(pairs[-4:]) @ gradient.numpy()
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_without_pairs_it_is_steepest_descent() -> None:
    gradient = torch.linspace(-1, 2, LENGTH, dtype=torch.float64)
    history = history_of(convex_pairs(3), memory=4)
    history.clear()
    assert len(history) == 0
    assert torch.equal(history.direction(gradient), -gradient)


def test_cleared_history_leaves_nothing_behind() -> None:
    gradient = torch.linspace(-1, 2, LENGTH, dtype=torch.float64)
    history = history_of(convex_pairs(4, seed=1), memory=4)
    history.clear()
    pairs = convex_pairs(2, seed=2)
    for s, y in pairs:
        history.add(s, y, (s @ y).item(), (y @ y).item())
        found = history.direction(gradient)
    np.testing.assert_allclose(found.numpy(), -dense_inverse(pairs) @ gradient.numpy(), rtol=1e-9)
