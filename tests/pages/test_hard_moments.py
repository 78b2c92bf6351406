"""What makes N = 4 hard: what the page says of runs whose losses and dead channels are known."""

from typing import Any

import pytest
from bs4 import BeautifulSoup
from msgspec.structs import replace
from styleinv_book.pages import hard_moments
from styleinv_book.pages.hard_moments import FAST, METHODS, NOISE, SHUFFLED, Attempt, Channel, Seen

from styleinv.encoder import LAYERS, Encoder
from styleinv.runs.store import Run
from styleinv.runs.sweeps import sweep
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, bundled: Encoder) -> list[Run]:
    """One for each layer."""
    folder = tmp_path_factory.mktemp("runs")
    asked: dict[str, Any] = {"layers": LAYERS, "encoder": bundled, "size": 16, "iterations": 1}
    found = sweep(["bundled:dots"], losses=["moment-4"], folder=folder, **asked)
    return list(found.values())


def attempt(
    run: Run, loss: float, of_dead: float = 0.0, reason: str = "budget", dead_at_start: int = 0
) -> Attempt:
    result = replace(run.record.result, loss=loss, stop_reason=reason)
    channel = Channel(loss=loss / 4, active=1, positions=64, skewness=8.0, kurtosis=64.0)
    seen = Seen(
        channels=8,
        dead_at_start=dead_at_start,
        loss=loss,
        loss_of_dead=of_dead * loss,
        heaviest=channel,
    )
    return Attempt(Run(replace(run.record, result=result), None), seen)


def cells(content: str) -> list[list[str]]:
    rows = BeautifulSoup(content, "html.parser").select("tbody tr")
    return [[cell.get_text() for cell in row.select("td")] for row in rows]


def test_a_high_loss_of_dead_channels_is_told_from_others(runs: list[Run]) -> None:
    deepest = runs[-1]
    some = [
        attempt(deepest, 1e-4, of_dead=0.9),
        attempt(deepest, 2.0, of_dead=0.9),
        attempt(deepest, 2.0, of_dead=0.4),
        attempt(runs[0], 2e-3),
    ]
    assert [one.is_dead for one in some] == [False, True, False, False]
    assert cells(hard_moments.failures({NOISE: some})) == [[NOISE, "1", "2", "1 of 3"]]


def test_a_change_is_counted_run_by_run(runs: list[Run]) -> None:
    """Of the first method's four runs one is low and at theta, of the second's three and two."""
    high, low, theta = (1.0, "budget"), (1e-4, "budget"), (1e-6, "theta")
    before, after = (
        [attempt(run, loss, reason=reason) for run, (loss, reason) in zip(runs, ends, strict=True)]
        for ends in ((theta, high, high, high), (theta, theta, low, high))
    )
    attempts = {NOISE: before, FAST: after}
    assert hard_moments.change(attempts, "below 1e-3", [(NOISE, FAST)])[0] == pytest.approx(50)
    assert hard_moments.change(attempts, "theta reached", [(NOISE, FAST)])[0] == pytest.approx(25)
    assert hard_moments.change(attempts, "below 1e-3", [(FAST, NOISE)])[0] == pytest.approx(-50)
    assert hard_moments.percent("below 1e-3", after) == 75


def test_dead_channels_are_counted_by_layer(runs: list[Run]) -> None:
    attempts = {
        NOISE: [attempt(run, 1.0, dead_at_start=i) for i, run in enumerate([*runs, runs[0]])],
        SHUFFLED: [attempt(run, 1.0, dead_at_start=7) for run in runs],
    }
    first, *others = cells(hard_moments.dead_at_start(attempts))
    assert first == [LAYERS[0], "8", "0 to 4", "7"]
    assert others == [[layer, "8", str(i), "7"] for i, layer in enumerate(LAYERS[1:], start=1)]


def test_the_heaviest_come_first(runs: list[Run]) -> None:
    some = [attempt(runs[0], 1.0, 0.5), attempt(runs[1], 9.0, 0.0), attempt(runs[2], 3.0, 0.9)]
    rows = cells(hard_moments.heaviest(some, rows=2))
    assert rows == [
        [f"dots, {LAYERS[2]}, 0", "3", "25%", "1 of 64", "8", "64"],
        [f"dots, {LAYERS[0]}, 0", "1", "25%", "1 of 64", "8", "64"],
    ]


def test_every_method_has_the_same_styles_layers_and_seeds() -> None:
    found = hard_moments.read(ROOT / "results/hard_moments.json", str(ROOT / "results"))
    assert list(found) == list(METHODS)
    kinds = [
        [(one.run.record.source, one.layer, one.run.record.asked.seed) for one in some]
        for some in found.values()
    ]
    assert all(kind == kinds[0] for kind in kinds)
    assert len(set(kinds[0])) == len(kinds[0]) > 1
