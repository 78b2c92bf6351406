"""The notebooks' parameters: which variables a reader may set, and to which values.

A parameter is a variable of a notebook's cell tagged "parameters". The type of its value there
decides what is allowed: a text, a whole number, None or a whole number, or a list of one of these.
"""

import ast
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import papermill
import yaml
from nbformat import NotebookNode

from styleinv.encoder import load_encoder
from styleinv.errors import InputError, one_of, shorten, whole_number
from styleinv.images import load_style
from styleinv.styles import LARGEST_SEED, MIN_SIZE


def read_parameters(assignments: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Parameters from a YAML file and from ``name=value`` texts, which win over the file.

    The value in such a text stays a text: what it means depends on the notebooks.

    Raises:
        InputError: the file cannot be read or holds something else, or a text is not of that form.
    """
    parameters = {} if file is None else _read(file)
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise InputError(f"parameter is {shorten(assignment)}, but must be NAME=VALUE")
        parameters[name] = value
    return parameters


def _read(file: Path) -> dict[str, Any]:
    # PyYAML passes on whatever a value's constructor raises. A pipe would be waited for forever.
    with suppress(Exception):
        content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
        if isinstance(content, dict):
            return content
    raise InputError(
        f"parameters-file is {str(file)!r}, but must be a YAML file of NAME: VALUE pairs"
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
    if given.get("encoder", "vgg19") != "vgg19":  # a notebook may have to download its weights
        load_encoder(given["encoder"])
    for style in given.get("styles", []):
        load_style(style, MIN_SIZE)
    return given


def _convert(default: Any, name: str, value: Any) -> Any:
    """`value` if it has the type of `default`; a list may be written as ``a.jpg,b.png``."""
    if isinstance(default, list):
        values = value.split(",") if isinstance(value, str) else value
        values = values if isinstance(values, list) else [values]
        if not values:
            raise InputError(f"parameter {name!r} is empty, but must name at least one")
        return [_convert(default[0], name, one) for one in values]
    if isinstance(default, str):
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"parameter {name!r} is {shorten(value)}, but must be a text")
        return value.strip()
    if default is None and value in (None, "", "None"):
        return None
    with suppress(ValueError):  # a text that is no number is refused below
        value = int(value) if isinstance(value, str) else value
    return whole_number(f"parameter {name!r}", value, 0, LARGEST_SEED)
