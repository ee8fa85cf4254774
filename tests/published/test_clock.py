import json
import os

import pytest

from stallscan.errors import InputError
from stallscan.published.clock import Clock, Stage


@pytest.fixture
def now(monkeypatch):
    """Both clocks, in seconds, to be put forward by hand."""
    at = [1000.0]
    monkeypatch.setattr("time.time", lambda: at[0])
    monkeypatch.setattr("time.monotonic", lambda: at[0] - 900.0)
    return at


def test_sittings_are_summed(now, tmp_path):
    for seconds in (5.0, 2.0):
        with Clock(tmp_path / "times.json").stage("train", tmp_path / "run"):
            now[0] += seconds
    assert Clock(tmp_path / "times.json").stages == {"train": Stage(7.0, 2)}


def test_a_stage_that_stands_is_not_counted(now, tmp_path):
    clock = Clock(tmp_path / "times.json")
    with clock.stage("train", tmp_path):
        now[0] += 5
    with clock.stage("train", tmp_path) as sitting:
        now[0] += 1
        sitting.stands = True
    assert Clock(tmp_path / "times.json").stages == {"train": Stage(5.0, 1)}


def test_an_error_ends_the_sitting(now, tmp_path):
    def stop():
        with Clock(tmp_path / "times.json").stage("train", tmp_path):
            now[0] += 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert Clock(tmp_path / "times.json").stages == {"train": Stage(3.0, 1)}


def test_a_killed_sitting_counts_until_its_last_file(now, tmp_path):
    folder = tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "history.csv").touch()
    os.utime(folder / "deep" / "history.csv", (1040.0, 1040.0))
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"train": {"seconds": 2.0, "sittings": 1, "opened": 1000.0}}))
    now[0] = 5000.0
    with Clock(path).stage("train", folder):
        now[0] += 10
    assert Clock(path).stages == {"train": Stage(2.0 + 40.0 + 10.0, 2)}


def test_a_killed_sitting_that_wrote_nothing_counts_nothing(now, tmp_path):
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"train": {"seconds": 2.0, "sittings": 1, "opened": 1000.0}}))
    with Clock(path).stage("train", tmp_path / "nowhere"):
        now[0] += 1
    assert Clock(path).stages["train"].seconds == 3.0


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"hours": 1}}'])
def test_a_file_that_holds_something_else_is_said(tmp_path, text):
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"times\.json: not readable as the times of a run"):
        Clock(path)
