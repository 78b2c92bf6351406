"""What the page on many runs adds up."""

from types import SimpleNamespace
from typing import Any

import pytest
from styleinv_book.pages import scaling

from styleinv import LAYERS
from styleinv.protocol import FAST


def a_record(loss: str, layer: str, seconds: float, budget: int | None = None) -> Any:
    budget = FAST.budget(loss, layer) if budget is None else budget
    asked = SimpleNamespace(
        loss=loss, layer=layer, width=64, protocol=SimpleNamespace(name="fast", budget=budget)
    )
    return SimpleNamespace(
        asked=asked,
        made_with=SimpleNamespace(threads=1),
        result=SimpleNamespace(seconds=seconds),
    )


def test_losses_and_layers_count_alike_however_many_runs_they_have() -> None:
    runs = [a_record("gram", "relu_1_1", s) for s in (1, 1, 1, 1)] + [
        a_record("gram", "relu_2_2", 9)
    ]
    assert scaling.mean_seconds(runs) == 5


def test_only_complete_groups_of_whole_runs_are_extrapolated() -> None:
    losses = ("gram", "moment-1", "moment-2", "moment-3", "moment-4")
    whole = [a_record(loss, layer, 1) for loss in losses for layer in LAYERS]
    assert scaling.whole_groups(whole) == {(64, 1): whole}
    assert scaling.whole_groups(whole[1:]) == {}
    short = a_record("gram", "relu_1_1", 1, budget=7)
    assert scaling.whole_groups([short, *whole[1:]]) == {}
    assert scaling.whole_groups([*whole, a_record("mmd", "relu_1_1", 1)]) == {(64, 1): whole}


@pytest.mark.parametrize(("size", "taken"), [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)])
def test_files_take_whole_blocks(size: int, taken: int) -> None:
    assert scaling.on_disk(size) == taken
