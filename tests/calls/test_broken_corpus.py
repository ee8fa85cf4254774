"""A corpus with broken files among good ones: each has a row, and none disturbs another's."""

import collections
import csv

import pytest

from benchmarks import broken_files
from stallscan.calls.predict import predict
from stallscan.runs import PREDICTION_COLUMNS
from tests import drawing

GOOD, BROKEN = 485, 15
# Encoded once each; the other good recordings are further names of these files.
DISTINCT = 5


@pytest.mark.slow
def test_broken_files_are_rows_and_leave_all_others_as_they_are(tmp_path, bundle_dir):
    recordings = tmp_path / "recordings"
    (recordings / "good").mkdir(parents=True)
    for number in range(GOOD):
        path = recordings / "good" / f"{number:03d}.mp4"
        first = recordings / "good" / f"{number % DISTINCT:03d}.mp4"
        if number < DISTINCT:
            drawing.write(path, seed=number, count=8 + number)
        else:
            path.write_bytes(first.read_bytes())
    good = broken_files.Good(drawing.frames(count=10), (recordings / "good/002.mp4").read_bytes())

    predict([recordings], tmp_path / "before", bundle_dir, processes=2)
    expected = broken_files.write(recordings / "broken", BROKEN, good)
    predict([recordings], tmp_path / "after", bundle_dir, processes=2)

    before, after = (_lines(tmp_path / run / "predictions.csv") for run in ("before", "after"))
    assert len(after) == GOOD + BROKEN
    rows = {
        row["filename"]: row
        for row in csv.DictReader([",".join(PREDICTION_COLUMNS), *after.values()])
    }
    statuses = {name.rpartition("/")[2]: row["status"] for name, row in rows.items()}
    assert {name: statuses[name] for name in expected} == expected
    counts = collections.Counter(row["status"] for row in rows.values())
    assert counts == collections.Counter(expected.values()) + collections.Counter(ok=GOOD)
    assert all(row["reason"] for row in rows.values() if row["status"] != "ok")
    assert {name: line for name, line in after.items() if name in before} == before


def _lines(path):
    """Return the lines of a table by the name of the recording, as they are in the file."""
    _, *lines = path.read_text().splitlines()
    return {next(csv.reader([line]))[0]: f"{line}\n" for line in lines}
