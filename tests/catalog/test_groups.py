"""Mice and groups, as tables name them."""

import pytest

from stallscan.catalog import groups
from stallscan.errors import TableError


def check(*cells):
    rows = [f"line {row}" for row in range(2, 2 + len(cells))]
    return groups.check_cells("mice.csv", "mouse", cells, rows, "fill it in, or use --group ''")


def test_names_are_brought_to_one_form():
    assert check("M\u00e4rz", "Ma\u0308rz", "m 1", "m  1") == ["M\u00e4rz"] * 2 + ["m 1"] * 2


@pytest.mark.parametrize(
    ("cells", "lines"),
    [
        (["m1", ""], "line 3"),
        (["m1", "nan", "nan"], "line 3"),
        (["m1", "#N/A"], "line 3"),
        (["WT", "AD", "wt"], "line 2 and .* line 4"),
        (["m 1", "m1"], "line 2 and .* line 3"),
        (["1", "2", "1.0"], "line 2 and .* line 4"),
        (["7", "007"], "line 2 and .* line 3"),
        (["M1", "M2", "M01"], "line 2 and .* line 4"),
        (["KO-7", "ko_7"], "line 2 and .* line 3"),
        (["m_1", "m1"], "line 2 and .* line 3"),
    ],
)
def test_what_may_be_no_name_or_one_in_two_forms_is_refused(cells, lines):
    with pytest.raises(TableError, match=rf"mice\.csv: mouse .*{lines}"):
        check(*cells)


def test_names_that_differ_are_kept_apart():
    cells = ["1-11", "11-1", "1.05", "1.5", "m1", "m10", "m100", "Cre", "Cre-", "Cre+"]
    assert check(*cells) == cells


def test_an_empty_cell_says_what_to_do():
    with pytest.raises(TableError, match=r"line 3\b.*--group ''"):
        check("m1", "", "m2")


def test_words_that_may_be_names_are_names_and_it_is_said(caplog):
    assert check("NA", "None", "m1") == ["NA", "None", "m1"]
    assert "'NA' and 'None'" in caplog.text


def test_the_column_that_names_the_mouse():
    columns = {"mouse": ["", ""], "animal": ["a", "a"], "project": ["p", "q"]}
    assert groups.find_column(columns.get, fewest=1) == "animal"
    assert groups.find_column(columns.get, fewest=2) == "project"
    assert groups.find_column(columns.get, fewest=3) == ""


@pytest.mark.parametrize("name", ["mouse-id", "animal no", "maus nr", "subject_id"])
def test_a_column_of_mice_is_found_under_its_usual_names(name):
    columns = {name: ["1", "2"], "project": ["p", "q"]}
    assert groups.find_column(columns.get, fewest=2) == name
