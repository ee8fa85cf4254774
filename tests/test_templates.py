"""Rendering of pages and model cards."""

from types import SimpleNamespace

import jinja2
import pytest

from stallscan import templates


def card(**others):
    values = {
        "name": "a < b & c",
        "net": SimpleNamespace(name="r3d_18"),
        "provenance": {"imported_from": "w.pt", "imported_sha256": "00"},
        "prevalence": 0.089,
        "threshold": 0.5,
    }
    return SimpleNamespace(**values | others)


def test_markdown_is_not_escaped():
    assert templates.render("imported.md.j2", spec=card()).startswith("# a < b & c\n")


def test_pages_are():
    values = {
        "title": "a < b & c",
        "headline": "39 of 48 stalled found",
        "sources": {"Labels": "<b>"},
        "rows": SimpleNamespace(
            evaluated=1,
            measurable=3,
            coverage=1 / 3,
            learned=0,
            chose=0,
            joined_by_base_name=0,
            **dict.fromkeys(
                ("without_call", "without_label", "without_prediction"),
                SimpleNamespace(count=0, first=()),
            ),
        ),
        **dict.fromkeys(("figures", "notes", "sheets", "plots"), ()),
        "version": "0",
    }
    page = templates.render("evaluation.html.j2", **values)
    assert "<h1>a &lt; b &amp; c</h1>" in page
    assert "<dd>&lt;b&gt;</dd>" in page
    assert "33.3 %" in page


def test_what_is_missing_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="spec"):
        templates.render("imported.md.j2")
