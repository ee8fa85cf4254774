"""The plot and the page of stall rates."""

import dataclasses

import numpy as np
import pytest

from stallscan.errors import InputError
from stallscan.rates import rates, tables
from stallscan.rates.correction import PUBLISHED
from stallscan.report import rate_page, stallogram
from stallscan.series.stallogram import Stallogram
from tests.rates.test_rates import MICE, write_study

ALONE = [("m1", "wild", [(2, 98)])]


@pytest.mark.parametrize(
    ("mice", "columns", "dots"),
    [
        (MICE, ("field", "mouse", "group"), 6),
        (MICE, ("field", "group"), 12),
        (MICE, ("group",), 0),
        (ALONE, ("mouse",), 1),
    ],
)
def test_page_and_plot(tmp_path, mice, columns, dots):
    result = rates.rate(*write_study(tmp_path, mice, columns), PUBLISHED)
    path = rate_page.write_page(result, tmp_path / "out", {"Calls": "<predictions>.csv"})
    page = path.read_text(encoding="utf-8")
    assert {file.name for file in (tmp_path / "out").glob("[!.]*")} == {
        *("rates.html", "rates.png", "rates.svg")
    }
    assert "http" not in page.replace("http-equiv", "")
    assert "&lt;predictions&gt;.csv" in page
    for text in (*tables.headlines(result), *result.sentences()):
        assert text in page
    axes = rate_page.draw(result).axes[0]
    drawn = [line for line in axes.lines if line.get_marker() == "o"]
    assert len(drawn) == dots
    diamonds = [line for line in axes.lines if line.get_marker() == "D"]
    assert [float(line.get_ydata()[0]) for line in diamonds] == [
        unit.rate.estimate for unit in result.groups
    ]
    # A group of one mouse has no interval.
    intervals = sum(line.get_marker() == "None" for line in axes.lines)
    assert intervals == dots + sum(unit.rate.interval is not None for unit in result.groups)


def test_the_result_is_said_first(tmp_path):
    result = rates.rate(*write_study(tmp_path, MICE), PUBLISHED)
    wild, model, difference = tables.headlines(result)
    assert wild.startswith("wild: ")
    assert "1,200 recordings of 3 mice" in model
    assert difference.startswith("model minus wild: +")
    assert f"p = {result.comparisons[0].welch_p:.2g}" in difference
    assert [sheet.title for sheet in tables.sheets(result, every=False)] == [
        *("Groups", "Differences")
    ]


def test_groups_with_the_same_rate_differ_by_nothing(tmp_path):
    again = [(f"{mouse}b", "model", fields) for mouse, group, fields in MICE if group == "wild"]
    same = [mouse for mouse in MICE if mouse[1] == "wild"] + again
    result = rates.rate(*write_study(tmp_path, same), PUBLISHED)
    (comparison,) = result.comparisons
    rounded = dataclasses.replace(comparison, difference=-1.11e-16)
    result = dataclasses.replace(result, comparisons=[rounded])
    assert "minus wild: +0 points" in tables.headlines(result)[-1]
    assert "+0 points" in tables.sheets(result)[1].rows[0]


def test_dollar_signs_in_a_name_are_dollar_signs(tmp_path):
    mice = [(mouse, rf"$\{group}$", fields) for mouse, group, fields in MICE]
    result = rates.rate(*write_study(tmp_path, mice), PUBLISHED)
    page = rate_page.write_page(result, tmp_path / "out", {}).read_text(encoding="utf-8")
    assert r">$\wild$</text>" in page
    named = Stallogram(("$a$",), np.zeros((1, 3), np.int8), 1.0)
    stallogram.write_picture(tmp_path / "stalls.png", named, r"$\foo$")
    assert (tmp_path / "stalls.png").is_file()


def test_a_page_of_somebody_else_is_kept(tmp_path):
    (tmp_path / "rates.html").write_text("mine")
    result = rates.rate(*write_study(tmp_path, MICE), PUBLISHED)
    with pytest.raises(InputError, match=r"rates\.html"):
        rate_page.write_page(result, tmp_path, {})
    assert (tmp_path / "rates.html").read_text() == "mine"
