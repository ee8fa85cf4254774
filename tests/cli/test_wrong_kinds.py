"""A path of the wrong kind is refused with what it is and the command or file that is right."""

import json

import numpy as np
import pytest
import tifffile

from stallscan.errors import InputError
from stallscan.rates.correction import CallAccuracy
from stallscan.recordings import kinds
from stallscan.vessels.region_files import read_regions
from stallscan.vessels.regions import Field
from tests import drawing
from tests.predicted import prediction, write_tables


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """One path of each kind, and where to write."""
    folder = tmp_path_factory.mktemp("given")
    drawing.write(folder / "films" / "film.mp4", count=6)
    tifffile.imwrite(
        folder / "stack.tif", np.zeros((4, 64, 64), np.uint16), photometric="minisblack"
    )
    (folder / "series").mkdir()
    (folder / "series" / "series.json").write_text("{}")
    for name in ("results", "stacked"):
        (folder / name).mkdir()
        write_tables(folder / name, [prediction("1.mp4")], [("1.mp4", 1)])
    (folder / "stacked" / "stack.json").write_text("{}")
    (folder / "stacked" / "clips").mkdir()
    return folder


CASES = [
    ("stack films", "stallscan predict"),
    ("stack films/film.mp4", "stallscan predict"),
    ("stack results/predictions.csv", "stallscan report"),
    ("stack results", "stallscan report"),
    ("segment films/film.mp4", "stallscan predict"),
    ("evaluate stack.tif --labels results/labels.csv", "stallscan stack"),
    ("report films/film.mp4", "stallscan predict"),
    ("fine-tune stacked --labels results/labels.csv", "stacked/clips"),
    ("predict stacked", "stacked/clips"),
    ("predict results", "stallscan report"),
    ("review series --no-browser", "time series"),
    ("predict series", "time series"),
    ("review results/predictions.csv --no-browser", "results"),
]


@pytest.mark.parametrize(("command", "named"), CASES, ids=[command for command, _ in CASES])
def test_the_right_command_is_named(run, given, tmp_path, monkeypatch, command, named):
    monkeypatch.chdir(given)
    out = [] if command.startswith("review") else ["-o", tmp_path / "out"]
    code, printed, said = run(*command.split(), *out)
    assert (code, printed) == (2, "")
    errors = [line for line in said.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert f"error: {command.split()[1]}: " in errors[0]
    assert named in errors[0]
    assert "damaged" not in errors[0]
    assert "again" not in errors[0]


def test_a_folder_of_regions_is_refused(given):
    with pytest.raises(InputError, match=r"films: is a folder\. .*\.csv"):
        read_regions(given / "films", Field((4, 64, 64), (1.0, 1.0, 1.0)))


def test_the_accuracy_may_be_the_folder_of_an_evaluation(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.json: cannot be opened.*stallscan evaluate"):
        CallAccuracy.read(tmp_path)
    counts = {"true_stalled": 8, "false_stalled": 2, "true_flowing": 88, "missed_stalled": 2}
    told = {"metrics": {"confusion": counts}, "bundles": ["a@1"], "thresholds": [0.5]}
    (tmp_path / "metrics.json").write_text(json.dumps(told))
    assert CallAccuracy.read(tmp_path) == CallAccuracy.read(tmp_path / "metrics.json")


def test_every_kind_has_a_sentence():
    for kind in kinds.Kind.__args__:
        what, remedy = kinds._WHAT[kind]
        assert what
        assert remedy
