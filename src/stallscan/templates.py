"""The pages and model cards that are made of the templates in ``assets``."""

import functools
from typing import Any

import jinja2

from stallscan import words


def render(name: str, **values: Any) -> str:
    """Fill in a template of ``assets``; in HTML every value is escaped, in Markdown none is.

    Parameters
    ----------
    name : str
        File name of the template.
    **values
        What it names; one that is missing is an error of ours.
    """
    return _environment().get_template(name).render(values)


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
