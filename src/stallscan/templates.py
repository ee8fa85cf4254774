"""Rendering of the templates for pages and model cards in ``assets``."""

import functools
from collections.abc import Iterator
from typing import Any

import jinja2

from stallscan import words


def render(name: str, **values: Any) -> str:
    """Render a template of ``assets``. Values are escaped in HTML, but not in Markdown.

    Raises jinja2's UndefinedError if the template uses a name that is not in `values`.
    """
    return _environment().get_template(name).render(values)


def stream(name: str, **values: Any) -> Iterator[str]:
    """Render a template as `render` does, and yield the page in pieces."""
    return _environment().get_template(name).generate(values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stallscan", "assets"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = words.percent
    return environment
