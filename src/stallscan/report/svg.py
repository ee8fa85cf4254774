"""Plots as SVG elements inside a page: readable in light and dark, several in one page."""

import re
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import Markup

from stallscan.errors import InputError
from stallscan.report.style import VARIABLES

# All that Matplotlib draws with. Everything else is left out: a file may have been changed.
TAGS = {"svg", "g", "defs", "path", "use", "clipPath", "rect", "text", "tspan"}
ATTRIBUTES = {"d", "x", "y", "width", "height", "transform", "clip-path", "id", "href", "style"}
# Scaling within a plot keeps its digits, because glyphs are scaled by factors such as 0.015625.
ROUNDED = {"d", "x", "y", "width", "height"}
# The rules that Matplotlib sets for all elements, and the colour and font of the page.
ROOT_STYLE = "fill: var(--ink); stroke-linejoin: round; stroke-linecap: butt; font-family: inherit"

_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
# Functions, and escapes that may spell them. Matplotlib needs none, and url() loads something.
_FUNCTION = re.compile(r"[(\\]")
_FONT = re.compile(r"font-family:[^;]*;? ?")
_REFERENCE = re.compile(r"#([\w-]+)")
_NAMESPACE = re.compile(r"\{[^}]*\}")


def inline(source: str, words: str, name: str) -> Markup:
    """Convert an SVG file of Matplotlib to an element for a page with ``page.css``.

    Parameters
    ----------
    source : str
        The file's content.
    words : str
        Description of the plot, for screen readers.
    name : str
        Another one for each plot of a page, because identifiers begin with it.

    Returns
    -------
    Markup
        The element. It contains no script, no style sheet and no address, its colours are variables
        of the page, and coordinates have two decimals.

    Raises
    ------
    xml.etree.ElementTree.ParseError
        If the content is not XML.
    """
    root = ElementTree.fromstring(source)
    _clean(root)
    used = set()
    for element in root.iter():
        for key in ("href", "clip-path"):
            used.update(_REFERENCE.findall(element.get(key, "")))
    prefix = re.sub(r"[^\w-]+", "-", name)
    numbers = {old: f"{prefix}-{number}" for number, old in enumerate(sorted(used))}
    for element in root.iter():
        _translate(element, numbers)
    box = " ".join(f"{float(size):g}" for size in _size(source))
    root.attrib = {
        "viewBox": f"0 0 {box}",
        "role": "img",
        "aria-label": words,
        "style": ROOT_STYLE,
    }
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def inline_file(path: Path, words: str, name: str) -> Markup:
    """Convert a saved plot as `inline` does.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        return inline(path.read_text(encoding="utf-8"), words, name)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"{path}: cannot be read as a plot ({error}). Remove it, and run the same command again"
        ) from None


def _size(source: str) -> list[str]:
    """Return the width and height of the view box."""
    numbers = re.search(r'viewBox="([\d. -]+)"', source)
    if numbers is None or len(numbers[1].split()) != 4:
        raise ValueError("it has no view box")
    return numbers[1].split()[2:]


def _clean(parent: Element) -> None:
    """Remove namespaces, unknown elements and attributes, and white space between elements."""
    parent.tag = _NAMESPACE.sub("", parent.tag)
    attributes = {_NAMESPACE.sub("", key): value for key, value in parent.attrib.items()}
    parent.attrib = {key: value for key, value in attributes.items() if key in ATTRIBUTES}
    if parent.tag not in ("text", "tspan"):
        parent.text = None
    for child in list(parent):
        if _NAMESPACE.sub("", child.tag) not in TAGS:
            parent.remove(child)
            continue
        _clean(child)
        if parent.tag not in ("text", "tspan"):
            child.tail = None


def _translate(element: Element, numbers: dict[str, str]) -> None:
    """Give an element the page's names and colours, and fewer digits."""
    for key, value in list(element.attrib.items()):
        if key in ROUNDED:
            short = _NUMBER.sub(lambda match: f"{float(match[0]):.2f}", value)
            element.set(key, " ".join(short.split()))
        elif key == "id":
            if value in numbers:
                element.set(key, numbers[value])
            else:
                del element.attrib[key]
        elif key in ("href", "clip-path"):
            old = _REFERENCE.search(value)
            new = f"#{numbers[old[1]]}" if old else "#"
            element.set(key, new if key == "href" else f"url({new})")
        elif key == "style":
            rules = [rule.strip() for rule in _FONT.sub("", value).split(";")]
            plain = [rule for rule in rules if rule and not _FUNCTION.search(rule)]
            element.set(key, _COLOUR.sub(_variable, "; ".join(plain)))


def _variable(match: re.Match[str]) -> str:
    name = VARIABLES.get(match[0])
    return f"var({name})" if name else match[0]
