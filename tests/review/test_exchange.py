"""Exports against the documented forms of Label Studio and Panoptes."""

import json
import os
import re
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest

from stallscan.errors import InputError
from stallscan.review.answers import ANSWERS, Answers
from stallscan.review.exchange import write_label_studio, write_panoptes
from tests.predicted import prediction, write_tables

NAMES = ("m1/a b.mp4", "m1/c.mp4", "d.tif", "gone.mp4")
GUIDE = Path(__file__).parents[2] / "docs" / "reference" / "review.md"


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a run over four recordings, one of them gone, with three answers."""
    films, results = tmp_path / "films", tmp_path / "results"
    (films / "m1").mkdir(parents=True)
    results.mkdir()
    for name in NAMES[:3]:
        (films / name).write_bytes(b"x" * (2**20 + 1 if name == "m1/c.mp4" else 1))
    rows = [
        prediction(NAMES[0], score=0.9),
        prediction(NAMES[1], score=0.55, call="review"),
        prediction(NAMES[2], "no_outline", score="", call="unscorable"),
        prediction(NAMES[3], score=0.1, call="flowing"),
    ]
    write_tables(results, rows, [])
    (results / "run.json").write_text(json.dumps({"paths": [str(films)]}))
    answers = Answers(results)
    answers.give("token-01", NAMES[0], "ann@lab.org", "stalled")
    answers.give("token-02", NAMES[0], "bob", "broken")
    answers.give("token-03", NAMES[1], "bob", "flowing")
    return results


def read_configuration():
    """Return control name, object name, data key and choices of the documented configuration."""
    (text,) = re.findall(r"```xml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    view = ElementTree.fromstring(text)
    video, choices = view.find("Video"), view.find("Choices")
    assert choices.get("toName") == video.get("name")
    assert video.get("value").startswith("$")
    values = [choice.get("value") for choice in choices]
    return choices.get("name"), video.get("name"), video.get("value")[1:], values


def check_tasks(tasks):
    """Check tasks against the documented import format and the documented configuration."""
    control, shown, key, choices = read_configuration()
    assert set(choices) == set(ANSWERS)
    used = []
    for task in tasks:
        assert set(task) == {"data", "predictions", "annotations"}
        assert isinstance(task["data"][key], str)
        for made in (*task["predictions"], *task["annotations"]):
            for result in made["result"]:
                assert (result["from_name"], result["to_name"]) == (control, shown)
                assert result["type"] == "choices"
                (choice,) = result["value"]["choices"]
                assert choice in choices
                used.append(result["id"])
        for made in task["predictions"]:
            assert isinstance(made["model_version"], str)
            assert 0 <= made.get("score", 0) <= 1
        for made in task["annotations"]:
            # Label Studio refuses any other form, and takes a missing one for the importing user.
            assert set(made.get("completed_by", {"email": ""})) == {"email"}
            assert made["ground_truth"] is False
    assert len(used) == len(set(used))


def test_label_studio_tasks_have_the_documented_shape(folder, tmp_path):
    written = write_label_studio(folder, tmp_path / "tasks.json")
    tasks = json.loads(written.path.read_text(encoding="utf-8"))
    check_tasks(tasks)
    assert (written.recordings, written.answers, written.missing) == (3, 3, 1)
    assert written.unplayed == 1
    first, second, third = tasks
    assert first["data"]["filename"] == NAMES[0]
    films = (tmp_path / "films").resolve().relative_to(tmp_path.anchor).as_posix()
    assert first["data"]["video"] == f"/data/local-files/?d={films}/m1/a%20b.mp4"
    (prediction_,) = first["predictions"]
    assert (prediction_["model_version"], prediction_["score"]) == ("default", 0.9)
    chosen = [each["result"][0]["value"]["choices"] for each in first["annotations"]]
    assert chosen == [["stalled"], ["broken"]]
    by_mail, by_name = first["annotations"]
    assert by_mail["completed_by"] == {"email": "ann@lab.org"}
    assert "completed_by" not in by_name
    assert by_name["result"][0]["meta"] == {"text": ["bob"]}
    assert first["data"]["answers"] == "ann@lab.org: stalled; bob: broken"
    assert second["predictions"][0]["result"][0]["value"]["choices"] == ["unsure"]
    assert "score" not in third["predictions"][0]
    assert third["annotations"] == []


def test_an_address_needs_no_files(folder, tmp_path):
    out = tmp_path / "tasks.json"
    written = write_label_studio(folder, out, "https://host/films/")
    addresses = [task["data"]["video"] for task in json.loads(out.read_text())]
    assert addresses[0] == "https://host/films/m1/a%20b.mp4"
    assert len(addresses) == written.recordings == 4
    # The same export may be written again, another file may not be replaced.
    write_label_studio(folder, out)
    out.write_text("[]")
    with pytest.raises(InputError, match="already exists"):
        write_label_studio(folder, out)


def test_panoptes_manifest(folder, tmp_path):
    (tmp_path / "out").mkdir()
    written = write_panoptes(folder, tmp_path / "out" / "manifest.csv")
    table = pd.read_csv(written.path, dtype=str, keep_default_na=False)
    # The first column names files, and volunteers see no other.
    assert table.columns[0] == "file"
    assert all(name.startswith("#") for name in table.columns[1:])
    assert all((written.path.parent / name).is_file() for name in table["file"])
    # An empty cell would be taken for the path of a folder.
    assert not (table == "").to_numpy().any()
    assert table["#filename"].tolist() == list(NAMES[:3])
    assert table["#label"].tolist() == ["none", "flowing", "none"]
    assert table["#call"].tolist() == ["stalled", "review", "unscorable"]
    assert (written.missing, written.large) == (1, 1)
    assert "1 MiB" in str(written)
    write_panoptes(folder, written.path)


def test_recordings_without_predictions(folder, tmp_path):
    films = tmp_path / "films"
    tasks = json.loads(write_label_studio(films, tmp_path / "t.json").path.read_text())
    check_tasks(tasks)
    assert all(task["predictions"] == task["annotations"] == [] for task in tasks)
    assert write_panoptes(films, tmp_path / "m.csv").recordings == len(tasks) == 3


@pytest.mark.parametrize("write", [write_label_studio, write_panoptes])
def test_recordings_that_are_gone_are_refused(folder, tmp_path, write):
    (folder / "run.json").unlink()
    with pytest.raises(InputError, match="was found"):
        write(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_name_that_is_not_utf8_is_exported_or_refused_by_name(tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    path = films / os.fsdecode(b"m\xfc.mp4")
    try:
        path.write_bytes(b"x")
    except OSError:
        pytest.skip("this disk refuses such names")
    write_label_studio(films, tmp_path / "tasks.json")
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    assert task["data"]["video"].endswith("/films/m%FC.mp4")
    with pytest.raises(InputError, match=r"m\\xfc\.mp4: .*Rename"):
        write_panoptes(films, tmp_path / "manifest.csv")
