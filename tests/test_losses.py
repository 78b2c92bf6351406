"""The losses against NumPy in float64, closed forms, invariances and a published identity.

The fast functions of `styleinv.fused` are held equal to the plain ones of `styleinv.losses`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jupytext
import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from styleinv_book.ablation import ABLATION
from torch import Tensor

from styleinv import InputError, fused, load_encoder, losses
from styleinv.encoder import BUNDLED_WEIGHTS, LAYERS
from styleinv.losses import (
    BEYOND,
    LOSSES,
    REDRAWN,
    GramLoss,
    HistogramLoss,
    MMDLoss,
    MomentLoss,
    SlicedWassersteinLoss,
    StyleLoss,
    VectorMMDLoss,
    make_loss,
    moments,
)
from styleinv.protocol import PROTOCOLS
from tests.conftest import ROOT

Array = NDArray[np.float64]


def maps(features: Tensor) -> Array:
    return features[0].flatten(1).numpy()


def numpy_gram(s: Array, n: Array) -> float:
    """Equations 1.1 to 1.3, entry by entry."""
    c, positions = s.shape
    total = 0.0
    for i in range(c):
        for j in range(c):
            total += (np.dot(s[i], s[j]) - np.dot(n[i], n[j])) ** 2
    return total / (c**2 * positions**2)


def numpy_whitened_gram(s: Array, n: Array) -> float:
    """The difference along pairs of the style's eigenvectors, each over how stiff it is."""
    c, positions = s.shape
    difference = (s @ s.T - n @ n.T) / positions
    values, vectors = np.linalg.eigh(s @ s.T / positions)
    total = 0.0
    for i in range(c):
        for j in range(c):
            along = vectors[:, i] @ difference @ vectors[:, j]
            total += along**2 / ((values[i] + values[j]) / (2 * values.max()) + 0.1)
    return total / c**2


def numpy_moments(x: Array, unit: Array | None = None) -> list[Array]:
    """M_1 to M_4; skewness and kurtosis in another unit than the deviation, if one is given."""
    mean, deviation = x.mean(axis=1), np.sqrt(x.var(axis=1, ddof=1) + 1e-5)
    scaled = (x - mean[:, None]) / (deviation if unit is None else unit)[:, None]
    return [mean, deviation, (scaled**3).mean(axis=1), (scaled**4).mean(axis=1)]


def numpy_moment_loss(s: Array, n: Array, *weights: float, kind: str = "") -> float:
    """Equations 1.4 and 1.5 with the rule for a negative psi, each order with a weight."""
    style = numpy_moments(s)
    noise = numpy_moments(n, unit=style[1] if kind == "raw" else None)
    if kind == "compressed":
        style[2:], noise[2:] = np.arcsinh(style[2:]), np.arcsinh(noise[2:])
    total = 0.0
    for wanted, found, weight in zip(style, noise, weights, strict=False):
        psi = min(1.0, 1 / abs(wanted.mean()))
        total += weight * psi * ((wanted - found) ** 2).sum()
    return total / s.shape[0]


def numpy_mmd(s: Array, n: Array) -> float:
    """Equation 1.6, pair by pair, signed."""

    def k(a: float, b: float) -> float:
        return float(np.exp(-0.1 * (a - b) ** 2))

    total = 0.0
    for i in range(s.shape[0]):
        for j in range(0, s.shape[1] // 2 * 2, 2):
            x, x2, y, y2 = s[i, j], s[i, j + 1], n[i, j], n[i, j + 1]
            total += k(x, x2) + k(y, y2) - k(x, y2) - k(x2, y)
    return total


def scipy_central_moments(s: Array, n: Array) -> float:
    s, n = scipy.special.expit(s), scipy.special.expit(n)
    total = np.linalg.norm(s.mean(axis=1) - n.mean(axis=1))
    for k in range(2, 6):
        difference = scipy.stats.moment(s, k, axis=1) - scipy.stats.moment(n, k, axis=1)
        total += np.linalg.norm(difference)
    return float(total)


EVERY_LOSS: dict[str, Callable[[Tensor], StyleLoss]] = {
    f"{name} {convention}": partial(make_loss, name, convention=convention)
    for name in LOSSES
    if name not in REDRAWN
    for convention in ("chapter", "released")
}
EVERY_LOSS |= {
    warmup.name: warmup.make
    for protocol in [*PROTOCOLS.values(), *ABLATION.values()]
    for by_layer in protocol.warmups.values()
    for stages in by_layer.values()
    for warmup in stages
}
REFERENCES: dict[str, Callable[[Array, Array], float]] = {
    "gram chapter": numpy_gram,
    "gram whitened": numpy_whitened_gram,
    "gram released": lambda s, n: numpy_gram(s, n) / s.shape[0] ** 2,
    "moment-1 chapter": lambda s, n: numpy_moment_loss(s, n, 1),
    "moment-2 chapter": lambda s, n: numpy_moment_loss(s, n, 1, 1),
    "moment-3 chapter": lambda s, n: numpy_moment_loss(s, n, 1, 1, 1),
    "moment-4 chapter": lambda s, n: numpy_moment_loss(s, n, 1, 1, 1, 1),
    "moment-4 at 1%": lambda s, n: numpy_moment_loss(s, n, 1, 1, 0.01, 0.01),
    "moment-4 at 10%": lambda s, n: numpy_moment_loss(s, n, 1, 1, 0.1, 0.1),
    "moment-4 compressed": lambda s, n: numpy_moment_loss(s, n, 1, 1, 1, 1, kind="compressed"),
    "moment-4 raw": lambda s, n: numpy_moment_loss(s, n, 1, 1, 1, 1, kind="raw"),
    "mmd chapter": numpy_mmd,
    "mmd released": lambda s, n: abs(numpy_mmd(s, n)),
    "central-moments chapter": scipy_central_moments,
}


@pytest.mark.parametrize("name", REFERENCES)
def test_agrees_with_numpy(features: Tensor, other_features: Tensor, name: str) -> None:
    expected = REFERENCES[name](maps(features), maps(other_features))
    assert EVERY_LOSS[name](features)(other_features).item() == pytest.approx(expected)


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
    _, _, skewness, kurtosis = moments(features, 4).numpy()
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


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_gradient(features: Tensor, other_features: Tensor, name: str) -> None:
    """Where no two values are equal: sorted values have no gradient at a tie."""
    apart = torch.linspace(0, 0.01, other_features.numel(), dtype=torch.float64)
    noise = other_features + apart.view_as(other_features)
    assert torch.autograd.gradcheck(EVERY_LOSS[name](features), noise.requires_grad_())


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_zero_at_the_style_itself(features: Tensor, name: str) -> None:
    assert EVERY_LOSS[name](features)(features).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_keeps_the_dtype(features: Tensor, name: str, dtype: torch.dtype) -> None:
    assert make_loss(name, features.to(dtype))(features.to(dtype)).dtype == dtype


@given(st.permutations(range(42)))
@pytest.mark.parametrize("name", ["gram", "moment-1", "moment-2", "moment-3", "moment-4", *BEYOND])
def test_forgets_positions(name: str, order: list[int]) -> None:
    """They do not change under a permutation of the positions."""
    noise = torch.linspace(0, 3, 210, dtype=torch.float64).sin().relu().reshape(1, 5, 6, 7)
    shuffled = noise.flatten(2)[:, :, list(order)].reshape(noise.shape)
    loss = make_loss(name, noise + 0.1)
    assert loss(shuffled).item() == pytest.approx(loss(noise).item(), rel=1e-9, abs=1e-15)


def formulas(module: Any, style: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """What `losses` and `fused` both compute of feature maps."""
    pairs = [fused.positions(features) for features in (style, noise)]
    kept = [fused.kernel_of_pairs(pairs[0], 0.1)] if module is fused else []
    return {
        "gram_matrix": module.gram_matrix(noise),
        **{f"central_moments {n}": module.central_moments(noise, n) for n in (1, 2, 5)},
        "sum_of_h": module.sum_of_h(*pairs, 0.1, *kept),
    }


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_fused_functions_are_the_plain_ones(layout: torch.memory_format, seed: int) -> None:
    """In value and gradient: closely in float64; in float32, with channels hardly ever active."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, 16, 24, 22, generator=generator, dtype=torch.float64)
    style, noise = (drawn - torch.linspace(0, 1.5, 16)[:, None, None]).relu().split(1)
    plain = formulas(losses, style, noise.requires_grad_())
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-3)):
        single, other = (
            x.detach().to(dtype).contiguous(memory_format=layout) for x in (style, noise)
        )
        for name, found in formulas(fused, single, other.requires_grad_()).items():
            weights = torch.randn(found.shape, generator=generator, dtype=torch.float64)
            (gradient,) = torch.autograd.grad((weights.to(dtype) * found).sum(), other)
            weighted = (weights * plain[name]).sum()
            (expected,) = torch.autograd.grad(weighted, noise, retain_graph=True)
            scale = plain[name].norm().clamp(min=0.1)  # the signed sum of h may come near 0
            assert (found - plain[name]).norm() < tolerance * scale, name
            assert (gradient - expected).norm() < tolerance * expected.norm(), name


@given(st.lists(st.permutations(range(42)), min_size=5, max_size=5), st.floats(-2, 2))
@settings(deadline=None)
def test_histogram_loss_is_a_distance_of_distributions(orders: list[list[int]], by: float) -> None:
    """Zero for each channel shuffled on its own; for shifted values, W_2^2 is the shift squared."""
    style = torch.linspace(0, 30, 210, dtype=torch.float64).sin().reshape(1, 5, 6, 7)
    rows = style[0].flatten(1)
    shuffled = torch.stack([row[order] for row, order in zip(rows, orders, strict=True)])
    expected = (by**2 / (rows.var(dim=1) + 1e-5)).mean().item()
    loss = HistogramLoss(style)(shuffled.view_as(style) + by).item()
    assert loss == pytest.approx(expected, abs=1e-12)


def test_sliced_wasserstein_agrees_with_numpy(features: Tensor, other_features: Tensor) -> None:
    loss = SlicedWassersteinLoss(features, n_directions=7)
    assert loss.directions is not None
    directions = loss.directions.numpy()
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    s, n = (np.sort(directions @ maps(x), axis=1) for x in (features, other_features))
    per_direction = ((s - n) ** 2).mean(axis=1) / (s.var(axis=1, ddof=1) + 1e-5)
    assert loss(other_features).item() == pytest.approx(per_direction.mean())


def test_vector_mmd_approaches_the_mean_over_all_pairs(
    features: Tensor, other_features: Tensor
) -> None:
    """Against the definition, every pair of positions counted; sigma read off the frequencies."""
    s, n = maps(features).T, maps(other_features).T
    loss = VectorMMDLoss(features, n_frequencies=200_000)
    sigma = 1 / loss.frequencies.std().item()

    def mean_kernel(a: Array, b: Array) -> float:
        squared = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        return float(np.exp(-squared / (2 * sigma**2)).mean())

    exact = mean_kernel(s, s) + mean_kernel(n, n) - 2 * mean_kernel(s, n)
    assert loss(other_features).item() == pytest.approx(exact, rel=0.02)
    distances = np.linalg.norm(s[:, None] - s[None], axis=2)[np.triu_indices(len(s), 1)]
    assert np.quantile(distances, 0.2) < sigma < np.quantile(distances, 0.8)


def test_random_pairing_is_redrawn_and_seeded(features: Tensor, other_features: Tensor) -> None:
    loss, again = (MMDLoss(features, pairing="random", seed=3) for _ in range(2))
    first, second = loss(other_features).item(), loss(other_features).item()
    assert first != second
    assert again(other_features).item() == first


def test_sizes_may_differ_where_positions_are_forgotten(features: Tensor) -> None:
    """Every value twice: the same distribution of features at another size."""
    doubled = torch.cat([features, features], dim=3)
    assert GramLoss(features)(doubled).item() == pytest.approx(0, abs=1e-12)
    assert MomentLoss(features, 1)(doubled).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(InputError, match="positions"):
        MMDLoss(features)(doubled)


def test_a_negative_psi_falls_without_bound_and_the_rule_mirrors_it() -> None:
    """A feature map with more high than low values has a negative skewness."""
    skewed = (torch.arange(100).view(1, 1, 10, 10) >= 10).double()
    printed = MomentLoss(skewed, 3, negative_psi="as printed")
    ruled = MomentLoss(skewed, 3)
    assert torch.equal(printed.psi[:2], ruled.psi[:2])
    assert printed.psi[2].item() == pytest.approx(1 / moments(skewed, 3)[2].item())
    assert printed.psi[2] < 0 < ruled.psi[2] <= 1
    # Same mean and deviation, mirrored skewness: only the third term differs.
    mirrored = 2 * skewed.mean() - skewed
    assert ruled(mirrored).item() > 0
    assert printed(mirrored).item() < 0


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


@pytest.mark.parametrize("layer", LAYERS)
def test_the_page_without_styleinv_computes_the_same(layer: str) -> None:
    weights = {name: x.double() for name, x in load_file(BUNDLED_WEIGHTS).items()}
    page: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "weights_file": weights}
    page["load_file"] = lambda given: given
    cells = jupytext.read(ROOT / "notebooks" / "from_scratch.md").cells
    for source in (cell.source for cell in cells if cell.cell_type == "code"):
        if "def " in source and "pictures" not in source:
            exec(source, page)
    style, noise = torch.rand(2, 1, 3, 17, 21, generator=torch.Generator().manual_seed(0)).double()
    encoder = load_encoder("bundled", dtype=torch.float64)
    s, n = encoder(style, layer), encoder(noise, layer)
    for name, by_hand, loss in (
        ("gram", page["gram_loss"], GramLoss(s)),
        *(
            (f"N = {k}", partial(page["moment_loss"], order=k), MomentLoss(s, k))
            for k in (1, 2, 3, 4)
        ),
        ("mmd", page["mmd_loss"], MMDLoss(s)),
    ):
        found = by_hand(page["features"](style, layer), page["features"](noise, layer))
        assert found.item() == pytest.approx(loss(n).item(), rel=1e-9), name
