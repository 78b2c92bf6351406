"""The notebooks' parameters: which variables a reader may set, and to which values.

A parameter is a variable of a notebook's cell tagged "parameters". The type of its value there
decides what is allowed: a text, a whole number, None or a whole number, or a list of one of these.
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

from styleinv.encoder import load_encoder
from styleinv.errors import InputError, nearest, shorten, whole_number
from styleinv.images import MIN_SIZE, load_style
from styleinv.styles import LARGEST_SEED


def read_parameters(assignments: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Parameters from a YAML file and from ``name=value`` texts, which win over the file.

    The value in such a text stays a text: what it means depends on the notebooks.

    Raises:
        InputError: the file cannot be read or holds something else, or a text is not of that form.
    """
    parameters: dict[str, Any] = {}
    if file is not None:
        name = f"parameters-file {str(file)!r}"
        if not os.path.isfile(file):  # reading from a pipe might never end
            raise InputError(f"{name} cannot be read: it is not an existing file")
        try:
            parameters = yaml.safe_load(file.read_text())
        except Exception as error:  # PyYAML passes on whatever a value's constructor raises
            raise InputError(f"{name} cannot be read as YAML") from error
        if not isinstance(parameters, dict):
            raise InputError(f"{name} must hold NAME: VALUE pairs")
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals):
            raise InputError(f"parameter is {shorten(assignment)}, but must be NAME=VALUE")
        parameters[name] = value
    return parameters


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
        if name not in defaults:
            raise InputError(
                f"parameter {shorten(name)} is unknown; known are: {', '.join(sorted(defaults))}"
                f"{nearest(name, defaults)}"
            )
    given = {name: _like(defaults[name], name, value) for name, value in parameters.items()}
    if given.get("encoder", "vgg19") != "vgg19":  # a notebook may have to download its weights
        load_encoder(given["encoder"])
    with warnings.catch_warnings(action="ignore"):  # the notebooks that use a style warn
        for style in given.get("styles", []):
            load_style(style, MIN_SIZE)
    return given


def _like(default: Any, name: str, value: Any) -> Any:
    """`value` if it has the type of `default`; a list may be written as ``a.jpg,b.png``."""
    if isinstance(default, list):
        values = value.split(",") if isinstance(value, str) else value
        values = values if isinstance(values, list) else [values]
        if not values:
            raise InputError(f"parameter {name!r} is empty, but must name at least one")
        return [_like(default[0], name, one) for one in values]
    if isinstance(default, str):
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"parameter {name!r} is {shorten(value)}, but must be a text")
        return value.strip()
    if default is None and value in (None, "", "None"):
        return None
    with suppress(ValueError):  # a text that is no number is refused below
        value = int(value) if isinstance(value, str) else value
    return whole_number(f"parameter {name!r}", value, 0, LARGEST_SEED)
