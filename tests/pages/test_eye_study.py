"""The pairs in which eyes and measures contradict each other, on answers made up for it."""

from typing import Any

from styleinv_book.pages import eye_study as page


def pair(
    number: int, measured: list[float], answers: list[int], question: str = "colours"
) -> dict[str, Any]:
    name = page.MEASURED[question].name
    return {"round": number, "measured": {name: measured}, "answers": {question: answers}}


def test_contradictions_are_unanimous_later_than_the_choice_and_the_surest_first() -> None:
    """A smaller distance is closer: 1 against 5 says left, and 1 in the answers is left."""
    slight, sure = pair(4, [1, 2], [-1, -1]), pair(4, [1, 5], [-1, -1])
    agreed, split, early = (
        pair(4, [1, 5], [1, 1]),
        pair(4, [1, 5], [1, -1]),
        pair(3, [1, 5], [-1, -1]),
    )
    study = {"chosen": {"colour_distance": 3}, "pairs": [slight, agreed, split, early, sure]}
    assert page.contradicted(study, "colours") == [sure, slight]


def test_more_structure_is_more() -> None:
    one = pair(2, [0.1, 0.9], [1, 1], "structures")
    assert page.contradicted({"chosen": {}, "pairs": [one]}, "structures") == [one]


def test_answers_that_call_the_closer_colours_the_cleaner_picture_are_counted() -> None:
    answers = [
        {"colours": [1, -1], "artefacts": [-1, -1]},
        {"colours": [1, 0], "artefacts": [0, 1]},
    ]
    assert page.colours_as_artefacts({"pairs": [{"answers": x} for x in answers]}) == 0.5
