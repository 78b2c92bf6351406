"""The one exception that is meant for the person at the keyboard, and the commonest checks."""

from typing import Any

import numpy as np


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names the argument and what is allowed. The command
    line prints it without a traceback and exits with code 2.
    """


def whole_number(argument: str, value: Any, low: int, high: int) -> int:
    """Return `value` if it is an integer from `low` to `high`, else raise an `InputError`."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or not low <= value <= high:
        raise InputError(
            f"{argument} is {value!r}, but must be a whole number from {low:,} to {high:,}"
        )
    return int(value)


def one_of(argument: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return `value` if it is in `allowed`, else raise an `InputError` that lists `allowed`."""
    if value not in allowed:
        raise InputError(f"{argument} is {value!r}, but must be one of: {', '.join(allowed)}")
    return value
