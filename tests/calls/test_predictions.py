"""Reading predictions, and what stands beside them."""

import json

import pandas as pd
import pytest

from stallscan import words
from stallscan.calls.predictions import (
    Predictions,
    find_table,
    read_chosen,
    read_predictions,
    read_run,
    read_text,
)
from stallscan.catalog.names import match
from stallscan.errors import InputError, TableError
from stallscan.runs import PREDICTION_COLUMNS
from tests.predicted import prediction, write_tables


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([prediction("1.mp4"), prediction("1.mp4")], r"line 2 \(1.mp4\), line 3 \(1.mp4\)"),
        ([prediction("1.mp4", score=1.5)], r"score: expected 0 to 1.*line 2 \(1.mp4: '1.5'\)"),
        ([prediction("1.mp4", score="high")], r"score: expected a number.*'high'"),
        ([prediction("1.mp4", score="nan")], r"score: expected a number"),
        ([prediction("1.mp4", score="")], r"score: expected a number .*flowing or stalled"),
        ([prediction("1.mp4", call="maybe")], r"call: expected flowing, stalled, review or"),
        ([prediction("1.mp4", threshold=7)], r"threshold: expected 0 to 1"),
    ],
)
def test_wrong_rows_are_refused_by_line(tmp_path, predictions, message):
    tables = write_tables(tmp_path, predictions, [("1.mp4", 1)])
    with pytest.raises(TableError, match=message):
        read_predictions(tables[0])


def test_missing_column_is_refused(tables):
    predictions, _ = tables
    pd.read_csv(predictions).drop(columns="call").to_csv(predictions, index=False)
    with pytest.raises(TableError, match="column call is missing"):
        read_predictions(predictions)


def test_torn_last_line_is_refused(tables):
    predictions, _ = tables
    predictions.write_text(predictions.read_text()[:-30])
    with pytest.raises(TableError, match=r"line 10 \(a/9.mp4"):
        read_predictions(predictions)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, InputError, "no such file"),
        ("", TableError, "is empty"),
        ("\0", TableError, "zero bytes"),
        (",".join(PREDICTION_COLUMNS) + "\n", InputError, "holds no predictions"),
    ],
)
def test_unreadable_predictions(tmp_path, content, error, message):
    path = tmp_path / "predictions.csv"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(error, match=message):
        read_predictions(path)


def test_folder_in_place_of_the_table(tmp_path):
    with pytest.raises(InputError, match=r"predictions\.csv"):
        read_predictions(tmp_path)


def test_cells_are_not_converted(tmp_path):
    path = tmp_path / "mice.csv.gz"
    pd.DataFrame({"filename": ["1.mp4"], "mouse": ["007"], "note": [""]}).to_csv(path, index=False)
    assert read_text(path).to_dict("list") == {
        "filename": ["1.mp4"],
        "mouse": ["007"],
        "note": [""],
    }
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"mice\.csv\.gz: .*gzip"):
        read_text(path)
    with pytest.raises(InputError, match=r"none\.csv: .*a list of mice"):
        read_text(tmp_path / "none.csv", "a list of mice")


def test_partners_have_one_name_or_one_base_name():
    filenames = pd.Series(["x/1.mp4", "2.mp4", "y/2.mp4", "x/3.mp4", "z/3.mp4"])
    partners = match(filenames, pd.Series(["1.mp4", "2.mp4", "3.mp4", "w/4.mp4"]), "labels.csv")
    # y/2.mp4 must not be matched with 2.mp4; either file could be 3.mp4.
    assert partners.fillna("").tolist() == ["1.mp4", "2.mp4", "", "", ""]


def test_the_run_beside_a_table(tmp_path):
    table, notes = tmp_path / "predictions.csv", tmp_path / "run.json"
    assert read_run(table) == {}
    notes.write_text(json.dumps({"prevalence": 0.3}))
    assert read_run(table) == {"prevalence": 0.3}
    for content in ("{", "[]"):
        notes.write_text(content)
        with pytest.raises(InputError, match=r"run\.json: "):
            read_run(table)


def test_the_recordings_that_chose_the_threshold(tmp_path):
    table = tmp_path / "predictions.csv"
    assert read_chosen(table).to_dict("list") == {"filename": [], "stalled": []}
    (tmp_path / "chosen_on.csv").write_text("filename,stalled\n1.mp4,1\n")
    assert read_chosen(table).to_dict("list") == {"filename": ["1.mp4"], "stalled": [1]}


def test_the_table_in_a_folder(tmp_path):
    assert find_table(tmp_path) == tmp_path / "predictions.csv"
    for name in ("validation.csv", "out_of_fold.csv", "predictions.csv"):
        (tmp_path / name).touch()
        assert find_table(tmp_path) == tmp_path / name
        assert find_table(tmp_path / name) == tmp_path / name


def test_excluded_recordings_are_counted_and_the_first_named():
    names = [f"{row}.mp4" for row in range(1007)]
    assert words.Excluded.of(names) == words.Excluded(1007, tuple(names[:3]))
    assert str(words.Excluded.of(names)) == words.listed(names)
    assert words.listed(names) == "0.mp4, 1.mp4, 2.mp4 and 1,004 more"
    assert words.listed(names[:1]) == "0.mp4"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(",", ";"),
        lambda text: text.replace("default\n", "default,\n"),
        lambda text: text.replace("\n", ",\n"),
        lambda text: text.replace("\n", ",note\n", 1).replace("default\n", "default,x\n"),
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\n,,\n"),
    ],
)
def test_predictions_as_a_spreadsheet_saves_them(tables, change):
    expected = read_predictions(tables[0])
    tables[0].write_text(change(tables[0].read_text()), encoding="utf-8", newline="")
    pd.testing.assert_frame_equal(read_predictions(tables[0]), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("default\n", "default,look again\n", 1),
        lambda text: text.replace("0.9,", "0,9,", 1),
        lambda text: text[:-3],
        lambda text: text.replace(",56,", ",inf,", 1),
        lambda text: text.replace("flowing", "Flowing"),
    ],
)
def test_ambiguous_rows_are_refused_by_line(tables, change):
    tables[0].write_text(change(tables[0].read_text()))
    with pytest.raises(TableError, match=r"predictions\.csv: .*line [0-9]+ "):
        read_predictions(tables[0])


def test_decimal_commas_are_read_unless_they_may_mark_thousands(tables):
    before = read_predictions(tables[0])
    saved = tables[0].read_text().replace(",", ";").replace("0.", "0,")
    assert "0,9" in saved
    tables[0].write_text(saved)
    pd.testing.assert_frame_equal(read_predictions(tables[0]), before)
    tables[0].write_text(saved.replace("0,9", "1,000", 1))
    with pytest.raises(TableError, match=r"score: .*decimal point.*line 2 .*'1,000'"):
        read_predictions(tables[0])


def test_lines_are_those_of_an_editor(tables):
    text = tables[0].read_text().replace("\n", "\n\n", 1).replace("0.2,", "2,")
    tables[0].write_text(text)
    with pytest.raises(TableError, match=r"line 4 \(a/2\.mp4: '2'\)"):
        read_predictions(tables[0])


def test_matches_by_base_name_are_reported(caplog):
    match(pd.Series(["m1/1.mp4", "m1/2.mp4", "m2/2.mp4"]), pd.Series(["1.mp4", "2.mp4"]), "l.csv")
    assert "l.csv: 1 of 3 recordings" in caplog.text
    assert "2 recordings" in caplog.text


@pytest.mark.parametrize(("finished", "warned"), [(None, True), ("2026-01-01T00:00:00", False)])
def test_the_table_of_an_interrupted_run_is_told(tmp_path, caplog, finished, warned):
    table, _ = write_tables(tmp_path, [prediction("1.mp4")], [])
    (tmp_path / "run.json").write_text(json.dumps({"recordings": 3, "finished": finished}))
    Predictions.read(table)
    told = [each.getMessage() for each in caplog.records if str(table) in each.getMessage()]
    assert bool(told) is warned
    assert all("1 of 3 recordings" in each and "Repeat" in each for each in told)
