"""The one exception that is meant for the person at the keyboard, and the commonest checks."""

import numbers
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

# A longer sentence loses its middle: it names the argument first and says last what is allowed.
LONGEST_SENTENCE = 1000

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
    """The sentence without line breaks and control characters, cut to about `LONGEST_SENTENCE`."""
    line = " ".join(part.strip() for part in sentence.splitlines()).strip()
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= LONGEST_SENTENCE else f"{line[:300]} ... {line[-600:]}"


def shorten(value: Any) -> str:
    """Write `value` as Python code, shortened, because a text may have a million characters."""
    try:
        return _short.repr(value)
    except ValueError:  # Python refuses to write integers of several thousand digits
        return "too long a number"


def nearest(value: Any, known: Iterable[str]) -> str:
    """The end of a sentence that suggests the name in `known` most like `value`, if one is."""
    names = {name.casefold(): name for name in known}
    alike = get_close_matches(shorten(value).strip("'").casefold(), names, n=1)
    return f"; the nearest is {names[alike[0]]!r}" if alike else ""


def whole_number(argument: str, value: Any, low: int, high: int) -> int:
    """Return `value` if it is an integer from `low` to `high`, else raise an `InputError`."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or not low <= value <= high:
        allowed = f"a whole number from {low:,} to {high:,}"
        raise InputError(f"{argument} is {shorten(value)}, but must be {allowed}")
    return int(value)


def one_of(argument: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return `value` if it is in `allowed`, else raise an `InputError` that lists `allowed`."""
    if value not in allowed:
        listed = ", ".join(allowed) + nearest(value, allowed)
        raise InputError(f"{argument} is {shorten(value)}, but must be one of: {listed}")
    return value
