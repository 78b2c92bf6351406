"""The notebooks' parameters: which variables a reader may set, and to which values.

A parameter is a variable of a notebook's cell tagged "parameters". The type of its value there
decides what is allowed: a text, a whole number, or a list of one of these.
"""

import ast
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import papermill
import yaml
from nbformat import NotebookNode

from styleinv.encoder import DOWNLOADED, load_encoder
from styleinv.errors import InputError, one_of, shorten, whole_number
from styleinv.images import load_style
from styleinv.styles import LARGEST_SEED, MIN_SIZE


def read_parameters(assignments: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Parameters from a YAML file and from ``name=value`` texts, which win over the file.

    Values stay texts, or lists of texts: what they mean depends on the notebooks, so that ``no`` is
    a name and ``010`` is ten in both. A name that comes more than once has a list of its texts.

    Raises:
        InputError: the file cannot be read or holds something else, or a text is not of that form.
    """
    given: dict[str, list[str]] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise InputError(f"parameter is {shorten(assignment)}, but must be NAME=VALUE")
        given.setdefault(name, []).append(value)
    return {
        **({} if file is None else _read(file)),
        **{name: texts if len(texts) > 1 else texts[0] for name, texts in given.items()},
    }


def _read(file: Path) -> dict[str, Any]:
    reason = ""
    # PyYAML passes on whatever goes wrong inside. A pipe would be waited for forever.
    try:
        content = yaml.load(file.read_bytes(), yaml.BaseLoader) if file.is_file() else None
        if isinstance(content, dict):
            return content
    except Exception as error:
        reason = f": {error}"
    raise InputError(
        f"parameters-file is {str(file)!r}, but must be a YAML file of NAME: VALUE pairs{reason}"
    )


def defaults_of(notebook: NotebookNode) -> dict[str, Any]:
    """The notebook's parameters with the values that its cell gives them."""
    found = papermill.inspect_notebook(notebook)
    return {name: ast.literal_eval(parameter["default"]) for name, parameter in found.items()}


def check_parameters(parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with values of their defaults' types; style and encoder can be read.

    Raises:
        InputError: a parameter has no default, or it cannot have this value.
    """
    for name in parameters:
        one_of("parameter", name, tuple(sorted(defaults)))
    given = {name: _convert(defaults[name], name, value) for name, value in parameters.items()}
    if (encoder := given.get("encoder", "vgg19")) not in DOWNLOADED:  # a notebook downloads those
        load_encoder(encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to note is noted before the runs
        for style in given.get("styles", []):
            load_style(style, MIN_SIZE)
    return given


def _convert(default: Any, name: str, value: Any) -> Any:
    """`value` if it has the type of `default`; a list may be written as ``a.jpg,b.png``."""
    if isinstance(default, list):
        values = [one for part in _as_list(value) for one in _split(part)]
        if not values:
            raise InputError(f"parameter {name!r} is empty, but must name at least one")
        return [_convert(default[0], name, one) for one in values]
    if isinstance(default, str):
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"parameter {name!r} is {shorten(value)}, but must be a text")
        return value if os.path.isfile(value) else os.path.expanduser(value.strip())
    with suppress(ValueError):  # a text that is no number is refused below
        value = int(value) if isinstance(value, str) else value
    return whole_number(f"parameter {name!r}", value, 0, LARGEST_SEED)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _split(value: Any) -> list[Any]:
    """The parts of a text between its commas; the name of a file may have commas itself."""
    is_whole = not isinstance(value, str) or os.path.isfile(value)
    return [value] if is_whole else value.split(",")
