"""Section 1.4: receptive fields, and how runs are counted."""

import pytest
import torch
from msgspec.structs import replace
from styleinv_book.pages import experiments

from styleinv import load_encoder
from styleinv.encoder import LAYERS, Encoder
from styleinv.runs.record import Record
from tests.test_claims import record


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random")


@pytest.mark.parametrize("layer", LAYERS)
def test_a_value_depends_on_its_receptive_field_and_on_nothing_else(
    encoder: Encoder, layer: str
) -> None:
    """By the gradients of all channels at one place, over several noise images."""
    images = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images.requires_grad_()
    features = encoder(images, layer)
    middle = features.shape[-1] // 2
    features[..., middle, middle].sum().backward()
    assert images.grad is not None
    rows, columns = images.grad.abs().sum((0, 1)).nonzero(as_tuple=True)
    sides = [int(places.max() - places.min()) + 1 for places in (rows, columns)]
    assert sides == [experiments.receptive_fields(encoder)[layer]] * 2


def test_every_receptive_field_is_drawn_at_its_size(encoder: Encoder) -> None:
    fields = experiments.receptive_fields(encoder)
    plot = experiments.fields_on(torch.zeros(3, 96, 64), fields)
    whole, cut = plot.axes
    assert [square.get_width() for square in cut.patches] == list(fields.values())
    assert [square.get_bbox().bounds for square in whole.patches] == [(15.5, 31.5, 32, 32)]


def ended(record: Record, reason: str) -> Record:
    return replace(record, result=replace(record.result, stop_reason=reason))


def test_stylised_counts_what_ended_below_theta() -> None:
    kept = {"structures": (0.2,) * 5, "artefact_excess": 0.9}
    runs = [record("a"), record("b", **kept), record("c", structures=(0.9,) * 5)]
    runs += [ended(record("d"), "budget"), record("a", layer="relu_2_1", artefact_excess=2.0)]
    assert experiments.stylised(runs, smallest=0.8) == [
        ("Gram", "relu_1_1", "3 of 4", "0.50", "2 of 3"),
        ("Gram", "relu_2_1", "1 of 1", "0.50", "0 of 1"),
    ]
    assert experiments.stylised([ended(runs[0], "budget")], 0.8) == [
        ("Gram", "relu_1_1", "0 of 1", "none", "0 of 0")
    ]
