"""An inversion from end to end: what it finds, what it reports, and that it is repeatable."""

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from styleinv_book.ablation import ABLATION

import styleinv
from styleinv import InputError, invert, load_style
from styleinv.encoder import Encoder
from styleinv.inversion import noise_image, plan
from styleinv.losses import make_loss
from styleinv.protocol import CHAPTER, PROTOCOLS, QUANTILES_FIRST, RELEASED, Protocol
from styleinv.runs import store
from tests.conftest import ROOT

SIZE = 32


@pytest.fixture(scope="module")
def style() -> torch.Tensor:
    return load_style("bundled:mosaic", SIZE)


@pytest.mark.parametrize("loss", ["gram", "moment-2"])
@pytest.mark.parametrize("layer", styleinv.LAYERS)
def test_the_statistic_is_matched(
    style: torch.Tensor, bundled: Encoder, layer: str, loss: str
) -> None:
    result = invert(style, layer=layer, loss=loss, encoder=bundled, iterations=150)
    assert result.loss < 0.02 * result.trace[0].loss
    assert result.image.shape == style.shape
    assert result.image.min() >= 0
    assert result.image.max() <= 1


@pytest.mark.parametrize("loss", ["gram", "moment-3", "mmd"])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_starts_as_the_protocol_says(
    style: torch.Tensor, bundled: Encoder, name: str, loss: str
) -> None:
    """Its convention of the loss, its seed, its noise, clamped to the bounds."""
    protocol = PROTOCOLS[name]
    convention = "released" if name == "released" else "chapter"
    start = noise_image(style[None], protocol, 13 if name == "released" else 0).clamp(0, 1)
    criterion = make_loss(loss, bundled(style[None], "relu_1_1"), convention)
    expected = criterion(bundled(start, "relu_1_1")).item()
    # The trace holds the exact loss, also where a warm-up is what is descended.
    result = invert(
        style, layer="relu_1_1", loss=loss, encoder=bundled, protocol=name, iterations=1
    )
    assert result.trace[0].loss == pytest.approx(expected, rel=1e-4)


def test_released_theta_is_on_the_weighted_loss(style: torch.Tensor, bundled: Encoder) -> None:
    """Theta just above 100 times the loss at the start: no step is made."""
    first = invert(style, encoder=bundled, protocol="released", iterations=1).trace[0].loss
    for theta, steps in ((101 * first, 0), (99 * first, 1)):
        protocol = dataclasses.replace(PROTOCOLS["released"].limited_to(1), theta=theta)
        assert invert(style, encoder=bundled, protocol=protocol).iterations == steps


def test_signed_mmd_turns_negative(style: torch.Tensor, bundled: Encoder) -> None:
    """As printed it passes theta that way under `chapter`; `fast` goes on to its budget."""
    arguments = {"layer": "relu_1_1", "loss": "mmd", "encoder": bundled, "iterations": 40}
    assert invert(style, protocol="fast", **arguments).loss < -1
    assert invert(style, protocol="fast", **arguments).stop_reason == "budget"
    low = dataclasses.replace(PROTOCOLS["chapter"], learning_rate=0.1)
    stopped = invert(style, protocol=low, **arguments)
    assert stopped.stop_reason == "theta"
    assert stopped.loss < 0


def test_a_picture_that_is_not_square(bundled: Encoder) -> None:
    result = invert("skimage:coffee", size=SIZE, fit="keep", encoder=bundled, iterations=2)
    assert result.image.shape == (3, 32, 48)


def test_a_limit_in_seconds(style: torch.Tensor, bundled: Encoder) -> None:
    endless = dataclasses.replace(CHAPTER, theta=0.0)
    result = invert(style, encoder=bundled, protocol=endless, seconds=0.5)
    assert result.stop_reason == "time"
    assert 0.5 <= result.seconds < 30


@pytest.mark.parametrize("protocol", ["chapter", "released", "fast", "scipy"])
def test_same_seed_same_bits(style: torch.Tensor, bundled: Encoder, protocol: str) -> None:
    def once(seed: int) -> torch.Tensor:
        return invert(style, encoder=bundled, protocol=protocol, seed=seed, iterations=15).image

    assert torch.equal(once(4), once(4))
    assert not torch.equal(once(4), once(5))


def test_first_stages_get_further(style: torch.Tensor, bundled: Encoder) -> None:
    """In as many evaluations; a loss without first stages is descended as from noise."""
    found = {
        (name, loss): invert(
            style, layer="relu_2_1", loss=loss, encoder=bundled, protocol=name, iterations=most
        )
        for loss, most in (("gram", 60), ("moment-2", 5))
        for name in ("fast", "from-noise")
    }
    assert found["fast", "gram"].loss < found["from-noise", "gram"].loss
    image, same = (found[name, "moment-2"].image for name in ("fast", "from-noise"))
    assert torch.equal(image, same)


def test_noise_is_that_of_the_protocol(style: torch.Tensor) -> None:
    like = style[None].expand(40, -1, -1, -1)
    uniform, normal = noise_image(like, CHAPTER, 0), noise_image(like, RELEASED, 13)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert normal.std().item() == pytest.approx(1, abs=0.01)
    assert (normal.clamp(0, 1) == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_shuffled_pixels_are_the_styles_in_a_seeded_order(style: torch.Tensor) -> None:
    shuffled = ABLATION["n4-shuffled"]
    first, again, other = (noise_image(style[None], shuffled, seed) for seed in (0, 0, 1))
    assert first.shape == style[None].shape
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

    def colours(image: torch.Tensor) -> list[tuple[float, ...]]:
        return sorted(map(tuple, image.flatten(-2).reshape(3, -1).T.tolist()))

    assert colours(first) == colours(style)
    neighbours = (style[:, :, 1:] - style[:, :, :-1]).abs().mean()
    assert (first[..., 1:] - first[..., :-1]).abs().mean() > 2 * neighbours


@pytest.mark.parametrize("protocol", [QUANTILES_FIRST, *ABLATION.values()], ids=lambda p: p.name)
def test_four_moments_by_every_strategy(
    style: torch.Tensor, bundled: Encoder, protocol: Protocol
) -> None:
    """Its stages in order, each with evaluations of its own, one budget, the exact loss last."""
    result = invert(style, loss="moment-4", encoder=bundled, protocol=protocol, iterations=60)
    stages = list(dict.fromkeys(point.stage for point in result.trace))
    warmups = protocol.warmups_of("moment-4", "relu_2_1")
    assert stages == [*(warmup.name for warmup in warmups), "moment-4"]
    criterion = make_loss("moment-4", bundled(style[None], "relu_2_1"))
    exact = criterion(bundled(result.image[None], "relu_2_1")).item()
    assert exact == pytest.approx(result.loss, rel=1e-3)
    assert result.trace[-1].loss == result.loss < result.trace[0].loss
    assert result.trace[-1].evaluations == result.evaluations <= 60


def test_the_address_of_a_kept_run_is_that_of_its_task() -> None:
    record = next(iter(store.read_records(ROOT / "results/runs/random-encoder").values()))
    names = {name: getattr(record.asked, name) for name in ("layer", "loss", "seed")}
    task = plan(record.source, encoder="random", size=record.asked.width, **names)
    assert task.address == record.address


def test_real_features(real_weights: Path, style: torch.Tensor) -> None:
    result = invert(style, encoder=real_weights, layer="relu_2_2", iterations=60)
    assert result.loss < 0.02 * result.trace[0].loss


@pytest.mark.parametrize(
    ("scale", "loss", "name"),
    [
        (1e10, "moment-4", "the kurtosis"),
        (1e20, "gram", "the Gram matrix"),
        (1e38, "moment-1", "what relu_1_1 returns"),
    ],
)
def test_what_is_not_finite_is_named(scale: float, loss: str, name: str) -> None:
    """Activations that grow until their kurtosis, their Gram matrix, or themselves overflow."""
    loud = styleinv.load_encoder("bundled")
    loud.convs[0].weight.mul_(scale)
    loud.convs[0].bias.mul_(scale)
    with pytest.raises(InputError, match=f"because {name} is not finite"):
        invert("bundled:dots", layer="relu_1_1", loss=loss, encoder=loud, size=24)


def test_a_layer_that_is_zero_for_the_style_is_refused() -> None:
    """Any noise has the same statistic: it would be handed out as the inversion."""
    dead = styleinv.load_encoder("bundled")
    dead.convs[0].bias.fill_(-1e4)
    with pytest.raises(
        InputError, match="what relu_1_1 of encoder 'bundled' returns for dots is z"
    ):
        invert("bundled:dots", layer="relu_1_1", encoder=dead, size=16)


def test_a_run_that_breaks_keeps_its_last_good_picture(
    bundled: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient becomes NaN after some iterations: so would the next image."""
    asked: dict[str, Any] = {"size": 24, "encoder": bundled, "protocol": "chapter"}
    good = invert("bundled:dots", iterations=7, **asked)
    step, steps = torch.optim.Adam.step, 0

    def broken(self: Any, closure: Any = None) -> Any:
        nonlocal steps
        steps += 1
        if steps > 7:
            self.param_groups[0]["params"][0].grad.fill_(math.nan)
        return step(self, closure)

    monkeypatch.setattr(torch.optim.Adam, "step", broken)
    result = invert("bundled:dots", iterations=30, **asked)
    assert result.stop_reason == "not finite"
    assert result.not_finite == "the gradient of the iteration before"
    assert result.loss == good.loss
    assert torch.equal(result.image, good.image)


def test_a_negative_psi_is_said_and_kept(bundled: Encoder) -> None:
    """Channels that are nearly always on, and seldom lower: a tail to the left."""
    style = torch.ones(3, 24, 24)
    style[:, ::6, ::6] = 0.0
    identity = styleinv.load_encoder("bundled")
    convolution = identity.convs[0]
    convolution.weight.zero_()
    convolution.weight[:, 0, 1, 1] = 1.0
    convolution.bias.zero_()
    identity.input_weight.copy_(torch.eye(3)[:, :, None, None])
    identity.input_bias.zero_()
    asked: dict[str, Any] = {"loss": "moment-3", "iterations": 3, "protocol": "scipy"}
    with pytest.warns(UserWarning, match="the skewness of relu_1_1 is negative on average"):
        result = invert(style, layer="relu_1_1", encoder=identity, **asked)
    assert result.negative_psi == (3,)
    assert store.run_of(result).record.result.negative_psi == (3,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        usual = invert("bundled:dots", encoder=bundled, size=24, **asked)
    assert usual.negative_psi == ()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"protocol": "slow"}, "protocol is 'slow'.*chapter, released, fast"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"iterations": 2.5}, "iterations is 2.5"),
        ({"iterations": 0}, "iterations is 0, but must be a whole number from 1"),
        ({"seconds": 0}, "seconds is 0"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"size": 64}, "size is 64, but the style tensor's"),
        ({"style": torch.zeros(1, 3, 32, 32)}, r"must be \(3, H, W\)"),
        ({"style": torch.zeros(3, 8, 32)}, "at least 16"),
        ({"style": 2 * torch.ones(3, 32, 32)}, r"values in \[0, 1\]"),
    ],
)
def test_refuses(style: torch.Tensor, arguments: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        invert(**{"style": style, **arguments})


def test_the_kernel_width_is_part_of_what_is_asked_only_where_it_is_another(
    style: torch.Tensor, bundled: Encoder
) -> None:
    usual, same, wider = (
        plan(style, loss="mmd", encoder=bundled, iterations=1, **given)
        for given in ({}, {"alpha": 0.1}, {"alpha": 2.0})
    )
    assert "alpha" not in usual.asked()
    assert same.asked() == usual.asked()
    assert wider.asked() == {**usual.asked(), "alpha": 2.0}
    assert wider.run().loss != usual.run().loss == same.run().loss
