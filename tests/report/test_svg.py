"""Plots inside a page: identifiers, colours, and what is left out."""

import re

import pytest

from stallscan.errors import InputError
from stallscan.report import figures, svg
from stallscan.report.style import BLACK, BLUE, as_svg, new_axes


def draw():
    figure, axes = new_axes("A < B & C")
    axes.plot([0, 1, 2], [0, 1, 0], "o-", color=BLUE)
    return as_svg(figure)


def test_identifiers_of_two_plots_differ_and_are_the_referenced_ones():
    source = draw()
    plots = [svg.inline(source, "words", name) for name in ("one", "two/a b")]
    of = [re.findall(r' id="([^"]*)"', plot) for plot in plots]
    assert of[0]
    assert not set(of[0]) & set(of[1])
    for identifiers, plot in zip(of, plots, strict=True):
        assert len(identifiers) == len(set(identifiers))
        assert set(re.findall(r'(?:href="|url\()#([\w-]+)', plot)) == set(identifiers)


def test_colours_are_variables_and_text_is_text():
    plot = svg.inline(draw(), 'Plot of "it"', "it")
    assert "var(--blue)" in plot
    assert BLUE.lower() not in plot
    assert BLACK not in plot
    assert "A &lt; B &amp; C" in plot
    assert 'aria-label="Plot of &quot;it&quot;"' in plot
    # Rules for all elements would apply to the page.
    assert "<style" not in plot
    assert "xmlns" not in plot
    assert not re.search(r' d="[^"]*\.\d{3}', plot)


def test_whatever_is_not_drawing_is_left_out():
    source = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 3 4" onload="alert(1)">'
        "<script>alert(1)</script><foreignObject><p>alert(1)</p></foreignObject>"
        '<a href="https://example.org"><path d="M 0 0"/></a>'
        '<use href="https://example.org/x.svg#y" onclick="alert(1)"/><path d="M 1.23456 2"/></svg>'
    )
    plot = svg.inline(source, "words", "x")
    assert "alert" not in plot
    assert "example" not in plot
    assert 'viewBox="0 0 3 4"' in plot
    assert 'd="M 1.23 2"' in plot


@pytest.mark.parametrize(
    "rule",
    [
        "fill: url(http://evil/x)",
        "mask:URL('//evil/x')",
        "background: image-set('http://evil/x' 1x)",
        r"fill: u\72l(http://evil/x)",
        r"fill: url\28 http://evil/x)",
        "fill: url/**/(http://evil/x); cursor: url(http://evil/y), auto",
    ],
)
def test_styles_load_nothing(rule):
    source = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 3 4">'
        f'<path d="M 0 0" style="stroke-width: 2; {rule}; stroke: #0072b2"/></svg>'
    )
    plot = svg.inline(source, "words", "x")
    assert "evil" not in plot
    assert 'style="stroke-width: 2; stroke: var(--blue)"' in plot


@pytest.mark.parametrize("content", ["", "<svg", "<svg></svg>", "\udcff"])
def test_a_file_that_is_no_plot_is_refused(tmp_path, content):
    path = tmp_path / "x.svg"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=r"x\.svg"):
        svg.inline_file(path, "words", "x")
    with pytest.raises(InputError, match=r"none\.svg"):
        svg.inline_file(tmp_path / "none.svg", "words", "x")


def test_saved_plots_can_be_inlined(tmp_path):
    figure, axes = new_axes("Title")
    axes.plot([0, 1], [0, 1])
    path = figures.save({"plot": figure}, tmp_path)[1]
    assert svg.inline_file(path, "words", "x").startswith("<svg ")
