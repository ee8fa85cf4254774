"""From answers to a bundle of one's own, and what it changes."""

import pandas as pd
import pytest

from stallscan.calls.predict import predict
from stallscan.errors import InputError
from stallscan.review.answers import Answers
from stallscan.review.improved import Improved, write
from stallscan.review.run import read_source
from tests import drawing
from tests.predicted import prediction, write_tables


@pytest.fixture
def improved(tmp_path):
    rows = [
        ("1.mp4", "flowing", 0.2, "stalled", 0.9),
        ("2.mp4", "flowing", 0.3, "stalled", 0.7),
        ("3.mp4", "stalled", 0.8, "stalled", 0.9),
        ("<b>.mp4", "stalled", 0.8, "flowing", 0.7),
        ("5.mp4", "unscorable", "", "unscorable", ""),
    ]
    paths = []
    for name, at in (("before", 1), ("after", 3)):
        folder = tmp_path / name
        folder.mkdir()
        table = [prediction(row[0], call=row[at], score=row[at + 1]) for row in rows]
        paths.append(write_tables(folder, table, [])[0])
    labels = pd.DataFrame({"filename": ["1.mp4", "2.mp4", "3.mp4"], "stalled": [1, 0, 1]})
    return Improved.read(*paths, labels, {"1.mp4", "2.mp4"})


def test_changed_calls_are_counted_and_listed_by_how_far_the_score_moved(improved):
    assert improved.changed["filename"].tolist() == ["1.mp4", "2.mp4", "<b>.mp4"]
    counts = improved.counts()
    assert counts.loc["flowing", "stalled"] == 2
    assert counts.loc["stalled", "flowing"] == 1
    assert counts.loc["unscorable", "unscorable"] == 1
    assert counts.to_numpy().sum() == 5


def test_recordings_of_one_run_only_are_counted(tmp_path):
    paths = []
    for folder, names in (("before", "abc"), ("after", "bcd")):
        (tmp_path / folder).mkdir()
        paths += write_tables(tmp_path / folder, [prediction(f"{n}.mp4") for n in names], [])[:1]
    labels = pd.DataFrame({"filename": ["b.mp4"], "stalled": [1]})
    improved = Improved.read(*paths, labels, ())
    assert (len(improved.table), improved.single) == (2, 2)
    assert "2 recordings under names that only one" in " ".join(improved.sentences())


def test_agreement_is_counted_apart_for_answers_that_were_trained_on(improved):
    assert improved.agreement("held out") == (2, 1, 1)
    assert improved.agreement("trained") == (1, 1, 1)
    said = " ".join(improved.sentences())
    assert "2 answered recordings that were held out" in said
    assert "2 stalled, 1 flowing" in said
    assert "Found after: 1 of 1 stalled among them, a sensitivity of 100 %" in said
    assert "(95 % interval 20.7 % to 100 %)" in said
    assert "plus or minus 10 %, 93 stalled ones are needed" in said


def test_the_sensitivity_is_unknown_without_stalls_and_known_with_many():
    row = {"call_before": "flowing", "call_after": "stalled", "use": "held out"}
    row |= {"score_before": 0.2, "score_after": 0.9}
    few = Improved(pd.DataFrame([row | {"answer": "flowing"}]))
    assert "None of them is stalled" in few.sentences()[-1]
    many = Improved(pd.DataFrame([row | {"answer": "stalled"}] * 93))
    assert "needed" not in many.sentences()[-1]


def test_the_page_shows_names_as_text_and_the_table_has_every_recording(improved, tmp_path):
    page = write(improved, tmp_path, [("MCC", "0.1", "0.2")]).read_text(encoding="utf-8")
    assert "&lt;b&gt;.mp4" in page
    assert "<b>.mp4" not in page
    assert len(pd.read_csv(tmp_path / "changes.csv")) == 5


def test_a_folder_without_predictions_cannot_be_improved(tmp_path):
    with pytest.raises(InputError, match=r"stallscan predict"):
        read_source(tmp_path)


@pytest.mark.slow
def test_answers_become_a_bundle_and_new_calls(tmp_path, bundle_dir, run):
    recordings, out, tuned = (tmp_path / name for name in ("recordings", "out", "tuned"))
    recordings.mkdir()
    for index in range(24):
        drawing.write(recordings / f"{index}.mp4", seed=index, count=8, height=64, width=64)
    predict([recordings], out, bundle_dir)
    answers = Answers(out)
    for index in range(20):
        answer = "stalled" if index % 3 == 0 else "flowing"
        answers.give(f"token-{index:02}", f"{index}.mp4", "ann", answer)
    command = ["improve", out, "-o", tuned, "--epochs", "1", "--name", "ours"]
    code, said, _ = run(*command)
    assert code == 0
    assert "held out" in said
    changes = pd.read_csv(tuned / "changes.csv")
    assert len(changes) == 24
    assert changes["use"].value_counts().to_dict() == {"trained": 14, "held out": 6}
    after = pd.read_csv(tuned / "predicted" / "predictions.csv")
    assert set(after["bundle"]) != set(pd.read_csv(out / "predictions.csv")["bundle"])
    assert after["bundle"].str.startswith("ours").all()
    # A later answer does not change a run that has begun.
    answers.give("token-99", "21.mp4", "ann", "flowing")
    code, _, said = run(*command)
    assert code == 0
    assert "resumes with the answers" in said
    assert len(pd.read_csv(tuned / "labels.csv")) == 20
