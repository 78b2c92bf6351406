"""What section A.1 counts, on runs whose evaluations are known."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from styleinv_book.pages import iterations

TOOK = {
    ("one", "relu_1_1", "gram"): (30, "theta"),
    ("two", "relu_1_1", "gram"): (50, "budget"),
    ("three", "relu_1_1", "gram"): (90, "theta"),
    ("one", "relu_1_1", "moment-2"): (10, "theta"),
    ("two", "relu_1_1", "moment-2"): (20, "theta"),
    ("three", "relu_1_1", "moment-2"): (20, "theta"),
    ("one", "relu_2_2", "gram"): (70, "theta"),
}


def a_run(evaluations: int, stop_reason: str, method: str = "lbfgs") -> Any:
    counts = {"iterations": evaluations - 1, "evaluations": evaluations}
    result = SimpleNamespace(**counts, stop_reason=stop_reason)
    asked = SimpleNamespace(protocol=SimpleNamespace(method=method))
    return SimpleNamespace(record=SimpleNamespace(result=result, asked=asked))


RUNS = {key: a_run(*took) for key, took in TOOK.items()}


def test_a_run_that_misses_theta_has_no_number() -> None:
    assert iterations.to_theta(RUNS, "relu_1_1", "gram") == [30, None, 90]
    assert iterations.to_theta(RUNS, "relu_1_2", "gram") == []


def test_of_adam_the_iterations_count() -> None:
    """Its first evaluation is that of the noise, before any iteration."""
    key = ("one", "relu_1_1", "gram")
    assert iterations.to_theta({key: a_run(31, "theta", "adam")}, *key[1:]) == [30]


@pytest.mark.parametrize(
    ("counts", "median"),
    [([30, None, 90], 60), ([30, None], 30), ([30, None, None], None), ([], None)],
)
def test_a_median_needs_half_of_the_runs(counts: list[int | None], median: float | None) -> None:
    assert iterations.median_of_passed(counts) == median


def test_a_ratio_needs_both_losses_below_theta() -> None:
    assert iterations.ratios(RUNS, "gram", "moment-2") == [3, 4.5]
    assert iterations.median_ratio(RUNS, "gram", "moment-2") == 3.75
    assert math.isnan(iterations.median_ratio(RUNS, "gram", "moment-1"))
