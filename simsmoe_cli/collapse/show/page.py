"""The frame of all HTML pages: templates, and figures inside a page.

A page loads nothing: styles, script and figures are in it, and a content security policy forbids
the rest. Whatever a name, a path or a recipe holds is escaped.
"""

from __future__ import annotations

from typing import Any

import jinja2
from markupsafe import Markup

from simsmoe_cli.collapse.show.figures.style import Drawing, inline_svg
from simsmoe_cli.errors import escaped


def render(template: str, **fields: Any) -> str:
    """The HTML of a template in `templates/`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("simsmoe_cli.collapse.show"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    environment.filters["with_code"] = _with_code
    return environment.get_template(template).render(**fields)


def _with_code(text: str) -> Markup:
    """A sentence as HTML, what stands between two ` as code."""
    parts = [Markup.escape(escaped(part)) for part in text.split("`")]
    return Markup().join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(parts)
    )


def on_page(drawing: Drawing) -> dict[str, Any]:
    """What templates need of a figure."""
    return {
        "name": drawing.name,
        "section": drawing.section,
        "title": drawing.title,
        "caption": drawing.caption,
        "numbers": drawing.numbers,
        "svg": Markup(inline_svg(drawing)),
    }
