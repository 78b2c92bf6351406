"""What the page on provenance counts."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bs4 import BeautifulSoup
from styleinv_book.pages import provenance


def a_record(width: int, seconds: float, picture: bool, torch: str = "2", date: str = "") -> Any:
    return SimpleNamespace(
        picture=picture,
        asked=SimpleNamespace(
            width=width, protocol=SimpleNamespace(name="fast"), encoder="bundled"
        ),
        result=SimpleNamespace(seconds=seconds),
        made_with=SimpleNamespace(results=1, torch=torch, date=f"{date}T00:00:00"),
    )


def rows(html: str) -> list[list[str]]:
    soup = BeautifulSoup(html, "html.parser")
    return [[cell.text for cell in row.find_all("td")] for row in soup.select("tbody tr")]


def test_values_are_counted_where_there_are_several() -> None:
    assert provenance.counted([64, 64, 128]) == "64 (2), 128 (1)"
    assert provenance.counted([64, 64]) == "64"


def test_runs_are_added_up_by_folder() -> None:
    records = {
        Path("runs/one/a.json"): a_record(64, 1800, True),
        Path("runs/one/b.json"): a_record(128, 5400, False),
        Path("runs/two/c.json"): a_record(64, 360, True),
    }
    assert rows(provenance.folders_table(records)) == [
        ["one", "2", "1", "64 (1), 128 (1)", "fast", "2.0"],
        ["two", "1", "1", "64", "fast", "0.1"],
    ]


def test_runs_are_counted_by_what_made_them() -> None:
    dated = (("2", "2026-11-03"), ("3", "2026-11-02"), ("2", "2026-11-01"))
    records = [a_record(64, 1, True, torch, date) for torch, date in dated]
    assert rows(provenance.made_with_table(records)) == [
        ["bundled", "1", "2", "2", "2026-11-01 to 2026-11-03"],
        ["bundled", "1", "3", "1", "2026-11-02 to 2026-11-02"],
    ]
