"""How an error is worded: on one line, short whatever was given, with the name that was meant."""

import pytest

from styleinv import InputError
from styleinv.errors import LONGEST_SENTENCE, nearest, one_of, shorten, whole_number


def test_a_long_sentence_loses_its_middle() -> None:
    sentence = str(InputError(f"size is {10**6 * 'x'}, but must be a whole number"))
    assert len(sentence) <= LONGEST_SENTENCE
    assert sentence.startswith("size is xxx")
    assert sentence.endswith("xxx, but must be a whole number")


@pytest.mark.parametrize(
    ("value", "known", "expected"),
    [
        ("GRAMS", ("gram", "mmd"), "; the nearest is 'gram'"),
        ("c5", ("C1", "C5"), "; the nearest is 'C5'"),
        ("relu", ("gram", "mmd"), ""),
        ("gram", (), ""),
    ],
)
def test_the_nearest_name(value: object, known: tuple[str, ...], expected: str) -> None:
    assert nearest(value, known) == expected


@pytest.mark.parametrize(
    "value",
    [10**6 * "x", 10**6 * [1], 10**5000, {"a": 10**6 * "x"}, True, 1.0],
    ids=["text", "list", "number", "mapping", "truth", "float"],
)
def test_wrong_values_are_shown_shortened(value: object) -> None:
    assert len(shorten(value)) < 150
    with pytest.raises(InputError, match=r"^size is .*, but must be a whole number from 1 to 9$"):
        whole_number("size", value, 1, 9)
    with pytest.raises(InputError, match=r"^size is .*, but must be one of: small, large$"):
        one_of("size", value, ("small", "large"))
