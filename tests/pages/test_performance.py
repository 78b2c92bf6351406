"""What the page on speed computes from records of benchmarks."""

from typing import Any

import pytest
from bs4 import BeautifulSoup
from styleinv_book.pages import performance


def a_race(seconds: float, stop_reason: str, **more: object) -> dict[str, Any]:
    fast = {"seconds": seconds, "stop_reason": stop_reason, "evaluations": 9, "final_loss": 0.1}
    where = {"style": "dots", "size": 64, "layer": "relu_1_1", "loss": "gram"}
    return where | {"adam_seconds": 80.0, "adam_iterations": 5000, "fast": fast} | more


def rows(html: str) -> list[list[str]]:
    """The texts of the first table's body."""
    table = BeautifulSoup(html, "html.parser").find("table")
    assert table is not None
    return [[cell.text for cell in row.find_all("td")] for row in table.select("tbody tr")]


def test_only_races_that_fast_wins_or_ends_are_compared() -> None:
    races = [a_race(10, "theta"), a_race(160, "theta"), a_race(1, "budget")]
    assert [performance.sooner(race) for race in races] == [8, 0.5, None]
    found = rows(performance.race_table({"race": [*races, a_race(5, "theta", loss="moment-2")]}))
    assert found == [
        ["Gram", "3", "2", "2.0 (0.5 to 8.0)"],
        ["N = 2", "1", "1", "16.0 (16.0 to 16.0)"],
        ["all", "4", "3", "4.0 (0.5 to 16.0)"],
    ]


def test_pairs_are_compared_where_all_of_them_pass_theta() -> None:
    def ran(evaluations: int, seconds: float, stop_reason: str = "theta") -> dict[str, Any]:
        return {"evaluations": evaluations, "seconds": seconds, "stop_reason": stop_reason}

    cases = [
        {"10": ran(200, 1.0), "40": ran(100, 1.0)},
        {"10": ran(800, 2.0), "40": ran(100, 1.0)},
        {"10": ran(9, 9.0, "budget"), "40": ran(100, 1.0)},
    ]
    assert rows(performance.pairs_table({"pairs": cases})) == [
        ["10", "4.00", "1.41"],
        ["40", "1.00", "1.00"],
    ]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"median": 1.5, "low": 1.0, "high": 2.0}, "1.50 (1.00 to 2.00)"),
        ({"median": 1.5, "low": 1.5, "high": 1.5}, "1.50"),
        (None, "not reached"),
    ],
)
def test_a_range_is_named_where_there_is_one(found: dict[str, float] | None, text: str) -> None:
    assert performance.with_range(found) == text


def test_recipes_are_told_by_their_extremes_and_run_by_run() -> None:
    run = {"style": "bundled:dots", "layer": "relu_1_1", "loss": "mmd", "protocol": "fast"}
    run |= {"size": 64, "ratio": 0.8, "correlation": 0.9876, "another seed": 0.5}
    other = run | {"loss": "gram", "ratio": 1.5, "correlation": 0.95, "another seed": -0.01}
    html = performance.recipes({"recipes": {"blur": 2.0, "runs": [run, other]}})
    said = BeautifulSoup(html, "html.parser").get_text()
    assert "losses are 0.80 to 1.50 times" in said
    assert "a blur of 2 pixels, the two pictures correlate with 0.950 to 0.988." in said
    assert rows(html) == [
        ["dots", "relu_1_1", "MMD", "fast", "64", "0.80", "0.988", "0.50"],
        ["dots", "relu_1_1", "Gram", "fast", "64", "1.50", "0.950", "-0.01"],
    ]
