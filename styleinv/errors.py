"""The one exception that is meant for the person at the keyboard."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one sentence that names the argument and what is allowed. The command
    line prints it without a traceback and exits with code 2.
    """


def one_of(argument: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return `value` if it is in `allowed`, else raise an `InputError` that lists `allowed`."""
    if value not in allowed:
        raise InputError(f"{argument} is {value!r}, but must be one of: {', '.join(allowed)}")
    return value
