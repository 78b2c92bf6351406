"""HTML from Jinja2 templates, which escape every value that is filled in."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# `tojson` keeps the order of names, and refuses what JSON cannot hold.
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}


def render(template: str, **values: Any) -> str:
    """The HTML of a template, a file in `templates`, with its variables set to `values`.

    Raises:
        jinja2.UndefinedError: the template has a variable that is not among the values.
    """
    return _ENVIRONMENT.get_template(template).render(values)


def render_macro(template: str, macro: str, *values: Any) -> str:
    """The HTML of one macro of a template, called with `values`.

    It has no empty line, which would end the HTML where a page passes it through Markdown.
    """
    module = _ENVIRONMENT.get_template(template).module
    return str(getattr(module, macro)(*values)).strip()
