"""Chapter against code: what the page computes, on networks and numbers whose truth is known."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from styleinv_book.pages import chapter_and_code as page
from styleinv_book.pages.chapter_and_code import Descent

from styleinv.encoder import LAYERS, Encoder
from styleinv.images import load_style
from styleinv.losses import gram_matrix
from styleinv.protocol import CHAPTER, CHAPTER_ITERATIONS, RELEASED, RELEASED_ITERATIONS

PICTURE = load_style("bundled:strokes", 16)[None]


def test_the_codes_theta_stops_where_the_chapters_loss_is_that_small(bundled: Encoder) -> None:
    """Its own loss times its weight, from Gram matrices by hand, is then at its own theta."""
    style, noise = (bundled(x, "relu_1_1") for x in (PICTURE, torch.rand(1, 3, 16, 16)))
    channels = style.shape[1]
    difference = (gram_matrix(style) - gram_matrix(noise)) / channels
    ours = difference.square().sum().item()
    codes = difference.square().mean().item()
    theta = page.released_theta("gram", channels)
    assert theta / ours == pytest.approx(RELEASED.theta / (100 * codes), rel=1e-4)
    assert page.released_theta("moment-3", channels) == pytest.approx(1e-8)


def test_strictness_is_told_by_a_factor_above_one() -> None:
    assert page.strictness("gram", 128) == "16.4 times looser"
    assert page.strictness("mmd", 128) == "10,000 times stricter"


def test_a_name_that_is_taken_takes_the_place_of_the_first() -> None:
    as_released = page.wired(lambda layer: f"loss_{layer[5]}")
    assert page.compared(as_released) == {
        **{"relu_1_1": None, "relu_1_2": "relu_1_1"},
        **{"relu_2_1": None, "relu_2_2": "relu_2_1"},
    }
    assert page.compared(page.wired(lambda layer: f"loss of {layer}")) == dict(
        zip(LAYERS, LAYERS, strict=True)
    )


def test_a_loss_that_sees_nothing_gives_the_start_back(bundled: Encoder) -> None:
    start = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    wired = page.wired(lambda layer: f"loss_{layer[5]}")
    found = page.invert_wired(PICTURE, bundled, start, wired, steps=3)
    unchanged = {layer: torch.equal(image, start) for layer, image in found.items()}
    assert unchanged == {
        **{"relu_1_1": True, "relu_1_2": False, "relu_2_1": True, "relu_2_2": False}
    }
    mended = page.invert_wired(PICTURE, bundled, start, page.wired(str.upper), steps=3)
    own = page.own_losses(PICTURE, bundled, dict.fromkeys(LAYERS, start), mended)
    assert all(after < before for before, after in own.values())


def test_padding_reaches_the_border_alone(bundled: Encoder) -> None:
    """At relu_1_1 a value sees its neighbours: 60 of the 256 positions lie at the border."""
    choices = page.encoder_choices(bundled, PICTURE, torch.rand(1, 3, 16, 16))
    assert 0 < choices["relu_1_1"].touched <= 60 / 256
    assert choices["relu_1_1"].touched < choices["relu_2_2"].touched
    assert page.same_weights(bundled, "reflect").layout.padding == "reflect"
    own = page.same_weights(bundled, bundled.layout.padding)
    for layer in LAYERS:
        assert torch.allclose(own(PICTURE, layer), bundled(PICTURE, layer), atol=1e-5)


def test_the_first_evaluation_below_theta_is_found() -> None:
    result: Any = SimpleNamespace()
    found = Descent([1, 2, 4], [3.0, 0.5, -2.0], result)
    assert [found.first_below(theta) for theta in (1, 0.5, -3)] == [2, 4, None]


def test_a_descent_goes_on_below_theta(bundled: Encoder) -> None:
    limited = CHAPTER.limited_to(4)
    found = page.descent(PICTURE, bundled, "moment-1", limited)
    assert found.evaluations[-1] == found.result.evaluations
    assert found.result.stop_reason == "budget"
    assert found.losses == sorted(found.losses, reverse=True)


def test_budgets_are_those_of_both_tables() -> None:
    rows = {
        label: dict(zip(page.BUDGETS[1:], cells, strict=True))
        for label, *cells in page.budget_rows()
    }
    assert rows["relu_1_2"]["Gram"] == "150,000 → 200,000"
    assert rows["relu_1_2"]["N = 2"] == "80,000"
    totals = [
        sum(table["moment-4"].values()) for table in (CHAPTER_ITERATIONS, RELEASED_ITERATIONS)
    ]
    assert rows["sum"]["N = 4"] == "{:,} → {:,}".format(*totals)
    assert page.longest(CHAPTER, "moment-1", "relu_1_1") == 20_000 + 240 * 1000
