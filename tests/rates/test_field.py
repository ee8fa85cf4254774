"""The rate of a single stack says what 'stallscan rate' says of it."""

import pandas as pd
import pytest

from stallscan.calls.predictions import read_predictions
from stallscan.rates import field
from stallscan.rates.correction import PUBLISHED
from stallscan.runs import LEARNED
from tests.rates.test_rates import write_calls


def write_stack(folder, stalled, flowing, review=0):
    calls = ["stalled"] * stalled + ["flowing"] * flowing + ["review"] * review
    return write_calls(folder, [(f"{index}.mp4", call) for index, call in enumerate(calls)])


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        ((0, 1000), "fewer than the false calls expected"),
        ((9, 991), "cannot be distinguished from the 7 false calls"),
        ((60, 900, 60), "60 of 1,020 recordings are left out"),
    ],
)
def test_what_limits_the_rate_is_noted(tmp_path, calls, said):
    field.write_rate(write_stack(tmp_path, *calls), "stack.tif", tmp_path / "out", PUBLISHED)
    (row,) = pd.read_csv(tmp_path / "out" / "rates.csv").itertuples()
    assert said in row.note
    # An impossible rate is not stated as certain.
    assert pd.isna(row.low) == pd.isna(row.high) == (calls[0] == 0)


def test_a_rate_without_limits_has_no_note(tmp_path):
    rate = field.write_rate(write_stack(tmp_path, 60, 940), "stack.tif", tmp_path, PUBLISHED)
    assert rate["note"].item() == ""


def test_recordings_that_the_model_knows_are_counted(tmp_path):
    path = write_stack(tmp_path, 60, 940)
    table = read_predictions(path)
    table.loc[:2, "reason"] = LEARNED
    table.to_csv(path, index=False)
    rate = field.write_rate(path, "stack.tif", tmp_path, PUBLISHED)
    assert "learned from 3 of these recordings" in rate["note"].item()
