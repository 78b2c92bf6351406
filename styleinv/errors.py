"""The one exception that is meant for the person at the keyboard, and the commonest checks."""

import reprlib
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

import numpy as np

# Longer sentences lose their middle: the argument is named in front, what is allowed behind.
LONGEST_SENTENCE, KEPT_IN_FRONT, GAP = 1000, 300, " ... "
# How alike two names are, from 0 to 1, if one may be meant by the other.
ALIKE = 0.6

_short = reprlib.Repr()
_short.maxlevel = 2
_short.maxstring = _short.maxlong = _short.maxother = 100


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence on one line that names the argument and what is allowed. The
    command line prints it without a traceback and exits with code 2.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))


def one_line(sentence: str) -> str:
    """The sentence without line breaks and control characters, at most 1000 characters of it."""
    line = " ".join(part.strip() for part in sentence.splitlines()).strip()
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(line) <= LONGEST_SENTENCE:
        return line
    kept_behind = LONGEST_SENTENCE - KEPT_IN_FRONT - len(GAP)
    return f"{line[:KEPT_IN_FRONT]}{GAP}{line[-kept_behind:]}"


def shown(value: Any) -> str:
    """`value` as code, shortened: a text may be a megabyte, a list may hold itself many times."""
    try:
        return _short.repr(value)
    except ValueError:  # Python writes no integer of more than some thousand digits
        return "too long a number"


def nearest(value: Any, known: Iterable[str]) -> str:
    """What to add to a sentence: the one of `known` that is most like `value`, if there is one."""
    wanted = value[:LONGEST_SENTENCE].casefold() if isinstance(value, str) else ""
    likeness = {name: SequenceMatcher(None, wanted, name.casefold()).ratio() for name in known}
    most = max(likeness.values(), default=0.0)
    likest = [name for name, ratio in likeness.items() if ratio == most]
    return f"; the nearest is {likest[0]!r}" if most >= ALIKE and len(likest) == 1 else ""


def whole_number(argument: str, value: Any, low: int, high: int) -> int:
    """Return `value` if it is an integer from `low` to `high`, else raise an `InputError`."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or not low <= value <= high:
        raise InputError(
            f"{argument} is {shown(value)}, but must be a whole number from {low:,} to {high:,}"
        )
    return int(value)


def one_of(argument: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return `value` if it is in `allowed`, else raise an `InputError` that lists `allowed`."""
    if value not in allowed:
        raise InputError(
            f"{argument} is {shown(value)}, but must be one of: {', '.join(allowed)}"
            f"{nearest(value, allowed)}"
        )
    return value
