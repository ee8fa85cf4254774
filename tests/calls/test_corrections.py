import pandas as pd

from stallscan.calls import corrections
from stallscan.calls.corrections import Verdicts
from stallscan.calls.predictions import read_predictions
from tests.predicted import prediction, write_tables


def read(folder, calls):
    rows = [prediction(name, call=call) for name, call in calls]
    return read_predictions(write_tables(folder, rows, [])[0])


def test_answers_replace_calls_and_are_counted(tmp_path, caplog):
    calls = [
        ("a", "stalled"),
        ("b", "stalled"),
        ("c", "flowing"),
        ("d", "review"),
        ("e", "stalled"),
    ]
    table = read(tmp_path, calls)
    before = table.copy()
    answers = {"a": "flowing", "b": "stalled", "d": "flowing", "e": "unscorable", "gone": "stalled"}
    corrected = corrections.apply(table, answers)
    assert corrected.table["call"].tolist() == [
        *("flowing", "stalled", "flowing", "flowing", "unscorable")
    ]
    assert corrected.table["called"].tolist() == [call for _, call in calls]
    assert corrected.table["answer"].tolist() == ["flowing", "stalled", "", "flowing", "unscorable"]
    assert corrected.answered == 4
    assert corrected.verdicts == Verdicts(confirmed=1, overturned=2, decided=1)
    # A part of the table is counted on its own.
    assert corrections.count(corrected.table[3:]) == Verdicts(0, 1, 1)
    assert corrected.unknown == 1
    assert "1 answer of the review not used" in caplog.text
    assert "gone" in caplog.text
    pd.testing.assert_frame_equal(table, before)


def test_without_answers_nothing_changes(tmp_path, caplog):
    table = read(tmp_path, [("a", "stalled"), ("b", "flowing")])
    corrected = corrections.apply(table, {})
    assert corrected.verdicts == Verdicts(0, 0, 0)
    assert corrected.unknown == 0
    assert not caplog.text
    pd.testing.assert_frame_equal(corrected.table[table.columns], table)


def test_an_answer_to_an_open_call_overturns_nothing(tmp_path):
    calls = [("a", "review"), ("b", "unscorable"), ("c", "unscorable"), ("d", "review")]
    answers = {"a": "stalled", "b": "flowing", "c": "unscorable", "d": "unscorable"}
    corrected = corrections.apply(read(tmp_path, calls), answers)
    assert corrected.verdicts == Verdicts(confirmed=1, overturned=0, decided=3)
    assert "3 decided" in str(corrected)
    assert "decided" in corrections.verdict("review", "stalled")
    assert "overturned" in corrections.verdict("flowing", "stalled")
    assert corrections.verdict("flowing", "") == ""
