"""The losses against NumPy in float64, closed forms, invariances and a published identity."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from styleinv import InputError
from styleinv.losses import LOSSES, GramLoss, MMDLoss, MomentLoss, StyleLoss, make_loss, moments

Array = NDArray[np.float64]


def maps(features: Tensor) -> Array:
    return features[0].flatten(1).numpy()


def numpy_gram(s: Array, n: Array, convention: str) -> float:
    """Equations 1.1 to 1.3, entry by entry."""
    c, positions = s.shape
    total = 0.0
    for i in range(c):
        for j in range(c):
            total += (np.dot(s[i], s[j]) - np.dot(n[i], n[j])) ** 2
    return total / (c**2 * positions**2 * (1 if convention == "chapter" else c**2))


def numpy_moment(x: Array, order: int) -> Array:
    if order == 1:
        return x.mean(axis=1)
    deviation = np.sqrt(x.var(axis=1, ddof=1) + 1e-5)
    if order == 2:
        return deviation
    return (((x - x.mean(axis=1, keepdims=True)) / deviation[:, None]) ** order).mean(axis=1)


def numpy_moment_loss(s: Array, n: Array, n_moments: int) -> float:
    """Equations 1.4 and 1.5 with the rule for a negative psi."""
    total = 0.0
    for order in range(1, n_moments + 1):
        psi = min(1.0, 1 / abs(numpy_moment(s, order).mean()))
        total += psi * ((numpy_moment(s, order) - numpy_moment(n, order)) ** 2).sum()
    return total / s.shape[0]


def numpy_mmd(s: Array, n: Array, alpha: float) -> float:
    """Equation 1.6, pair by pair, signed."""

    def k(a: float, b: float) -> float:
        return float(np.exp(-alpha * (a - b) ** 2))

    total = 0.0
    for i in range(s.shape[0]):
        for j in range(0, s.shape[1] // 2 * 2, 2):
            x, x2, y, y2 = s[i, j], s[i, j + 1], n[i, j], n[i, j + 1]
            total += k(x, x2) + k(y, y2) - k(x, y2) - k(x2, y)
    return total


@pytest.mark.parametrize("convention", ["chapter", "released"])
def test_gram_agrees_with_numpy(features: Tensor, other_features: Tensor, convention: str) -> None:
    loss = GramLoss(features, convention)(other_features).item()
    assert loss == pytest.approx(numpy_gram(maps(features), maps(other_features), convention))


@pytest.mark.parametrize("n_moments", [1, 2, 3, 4])
def test_moments_agree_with_numpy(features: Tensor, other_features: Tensor, n_moments: int) -> None:
    loss = MomentLoss(features, n_moments)(other_features).item()
    assert loss == pytest.approx(numpy_moment_loss(maps(features), maps(other_features), n_moments))


@pytest.mark.parametrize("convention", ["chapter", "released"])
def test_mmd_agrees_with_numpy(features: Tensor, other_features: Tensor, convention: str) -> None:
    signed = numpy_mmd(maps(features), maps(other_features), 0.1)
    loss = MMDLoss(features, convention=convention)(other_features).item()
    assert loss == pytest.approx(signed if convention == "chapter" else abs(signed))


def test_mmd_as_printed_can_be_negative() -> None:
    """Each noise value equal to its neighbour's style value: h = 2 k(x, x') - 2 < 0."""
    style = torch.tensor([0.0, 3.0, 1.0, 5.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    noise = torch.tensor([3.0, 0.0, 5.0, 1.0], dtype=torch.float64).reshape(1, 1, 2, 2)
    expected = (2 * np.exp(-0.9) - 2) + (2 * np.exp(-1.6) - 2)
    assert MMDLoss(style)(noise).item() == pytest.approx(expected)
    assert MMDLoss(style, convention="released")(noise).item() == pytest.approx(-expected)


def test_standardised_moments_are_skewness_and_kurtosis(features: Tensor) -> None:
    """SciPy's biased skewness and kurtosis, rescaled to the unbiased variance and its floor."""
    x = maps(features)
    ratio = np.sqrt(x.var(axis=1) / (x.var(axis=1, ddof=1) + 1e-5))
    _, _, skewness, kurtosis = moments(features[0].flatten(1), 4).numpy()
    np.testing.assert_allclose(skewness, scipy.stats.skew(x, axis=1) * ratio**3)
    np.testing.assert_allclose(kurtosis, scipy.stats.kurtosis(x, axis=1, fisher=False) * ratio**4)


def test_gram_is_mmd_with_second_order_polynomial_kernel(
    features: Tensor, other_features: Tensor
) -> None:
    """Li et al. 2017: sum_ij (G(s) - G(n))_ij^2 = sum over all pairs of positions of
    k(s, s') + k(n, n') - 2 k(s, n) with k(a, b) = <a, b>^2, a and b whole feature vectors."""
    s, n = maps(features), maps(other_features)
    c, positions = s.shape
    polynomial = ((s.T @ s) ** 2).sum() + ((n.T @ n) ** 2).sum() - 2 * ((s.T @ n) ** 2).sum()
    loss = GramLoss(features)(other_features).item()
    assert loss == pytest.approx(polynomial / (c**2 * positions**2))


EVERY_LOSS: dict[str, Callable[[Tensor], StyleLoss]] = {
    f"{name} {convention}": partial(make_loss, name, convention=convention)
    for name in LOSSES
    for convention in ("chapter", "released")
}


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_gradient(features: Tensor, other_features: Tensor, name: str) -> None:
    loss = EVERY_LOSS[name](features)
    assert torch.autograd.gradcheck(loss, other_features.clone().requires_grad_())


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_zero_at_the_style_itself(features: Tensor, name: str) -> None:
    assert EVERY_LOSS[name](features)(features).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_keeps_the_dtype(features: Tensor, name: str, dtype: torch.dtype) -> None:
    assert make_loss(name, features.to(dtype))(features.to(dtype)).dtype == dtype


@given(st.permutations(range(42)))
@pytest.mark.parametrize("name", ["gram", "moment-1", "moment-2", "moment-3", "moment-4"])
def test_forgets_positions(name: str, order: list[int]) -> None:
    """Gram matrix and moments do not change under a permutation of the positions."""
    noise = torch.linspace(0, 3, 210, dtype=torch.float64).sin().relu().reshape(1, 5, 6, 7)
    shuffled = noise.flatten(2)[:, :, list(order)].reshape(noise.shape)
    loss = make_loss(name, noise + 0.1)
    assert loss(shuffled).item() == pytest.approx(loss(noise).item(), rel=1e-9, abs=1e-15)


def test_adjacent_mmd_remembers_positions(features: Tensor, other_features: Tensor) -> None:
    loss = MMDLoss(features)
    assert abs(loss(other_features.flip(3)).item() - loss(other_features).item()) > 1e-3


def test_random_pairing_is_redrawn_and_seeded(features: Tensor, other_features: Tensor) -> None:
    loss = MMDLoss(features, pairing="random", seed=3)
    first, second = loss(other_features).item(), loss(other_features).item()
    assert first != second
    again = MMDLoss(features, pairing="random", seed=3)
    assert again(other_features).item() == first


def test_sizes_may_differ_where_positions_are_forgotten(features: Tensor) -> None:
    """Every value twice: the same distribution of features at another size."""
    doubled = torch.cat([features, features], dim=3)
    assert GramLoss(features)(doubled).item() == pytest.approx(0, abs=1e-12)
    assert MomentLoss(features, 1)(doubled).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="positions"):
        MMDLoss(features)(doubled)


class TestNegativePsi:
    """A feature map with more high than low values has a negative skewness."""

    @pytest.fixture
    def skewed(self) -> Tensor:
        values = torch.ones(100, dtype=torch.float64)
        values[:10] = 0
        return values.reshape(1, 1, 10, 10)

    def test_is_reported(self, skewed: Tensor, features: Tensor) -> None:
        assert MomentLoss(skewed, 4).negative_orders == (3,)
        assert MomentLoss(features, 4).negative_orders == ()

    def test_as_printed_falls_without_bound_and_the_rule_mirrors_it(self, skewed: Tensor) -> None:
        printed = MomentLoss(skewed, 3, negative_psi="as printed")
        ruled = MomentLoss(skewed, 3)
        assert printed.psi[2].item() == pytest.approx(
            1 / moments(skewed[0].flatten(1), 3)[2].item()
        )
        assert printed.psi[2] < 0 < ruled.psi[2] <= 1
        # Same mean and deviation, mirrored skewness: only the third term differs.
        mirrored = 2 * skewed.mean() - skewed
        assert ruled(mirrored).item() > 0
        assert printed(mirrored).item() < 0

    def test_rule_leaves_positive_weights_alone(self, features: Tensor) -> None:
        printed = MomentLoss(features, 4, negative_psi="as printed")
        assert torch.equal(printed.psi, MomentLoss(features, 4).psi)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda f: GramLoss(f[0]), r"features must be .*\(1, C, h, w\)"),
        (lambda f: GramLoss(f.long()), "floating point"),
        (lambda f: GramLoss(f, "printed"), "convention is 'printed'.*chapter, released"),
        (lambda f: MomentLoss(f, 5), "n_moments is 5.*1, 2, 3 or 4"),
        (lambda f: MomentLoss(f, 2, negative_psi="clip"), "negative_psi is 'clip'"),
        (lambda f: MomentLoss(f[:, :, :1, :1], 2), "at least 2 positions"),
        (lambda f: MMDLoss(f, alpha=0), "alpha is 0"),
        (lambda f: MMDLoss(f, pairing="all"), "pairing is 'all'"),
        (lambda f: GramLoss(f)(f[:, :3]), "3 channels.*5"),
        (lambda f: make_loss("moment-7", f), "loss is 'moment-7'"),
    ],
)
def test_refuses(features: Tensor, make: Callable[[Tensor], object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        make(features)
