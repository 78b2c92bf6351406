"""HTML from the macros in `templates/`, which escape what they are given."""

from jinja2 import Environment, PackageLoader, StrictUndefined

_templates = Environment(
    loader=PackageLoader("styleinv_book"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, macro: str, *values: object) -> str:
    """What a macro of `templates/TEMPLATE.html` makes of `values`; without an empty line.

    Pages pass it through Markdown, in which an empty line would end the HTML.
    """
    found = str(getattr(_templates.get_template(f"{template}.html").module, macro)(*values))
    return found.strip()
