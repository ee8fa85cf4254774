"""Predictions against labels: which recordings count, and the figures."""

import json
import time

import numpy as np
import pandas as pd
import pytest

from stallscan.calls import decide
from stallscan.calls.predictions import find_table
from stallscan.calls.settings import CallSettings
from stallscan.errors import InputError
from stallscan.evaluation import comparison, evaluate, present
from stallscan.evaluation.breakdown import Group
from stallscan.evaluation.rows import join
from stallscan.report import figures
from stallscan.scores import bootstrap, metrics
from stallscan.words import Excluded
from tests.predicted import prediction, write_tables


def test_every_row_is_accounted_for(tables):
    evaluation = evaluate.evaluate(*tables, partial=True)
    rows = evaluation.rows
    assert (rows.predictions, rows.labels, rows.labelled, rows.evaluated) == (9, 9, 8, 5)
    assert rows.without_call == Excluded(3, ("a/6.mp4", "a/7.mp4", "a/8.mp4"))
    assert rows.without_call_by_status == {"damaged": 1, "no_outline": 1, "review": 1}
    assert rows.without_call_by_label == {"stalled": 1, "flowing": 2}
    assert rows.without_label == Excluded(1, ("a/9.mp4",))
    assert rows.without_prediction == Excluded(1, ("b/0.mp4",))
    assert rows.coverage == 5 / 8
    assert evaluation.metrics.confusion == (1, 1, 2, 1)
    assert evaluation.scored.thresholds == (0.6,)
    assert evaluation.bundles == ("default",)
    assert evaluation.metrics.prevalence == 2 / 5


def test_mcc_is_restated_for_rarer_stalls(tables):
    evaluation = evaluate.evaluate(*tables, partial=True)
    assert [at.prevalence for at in evaluation.mcc_at] == [0.09, 0.046, 0.02, 0.01, 0.003]
    at = evaluation.mcc_at[1]
    assert at.mcc == pytest.approx(metrics.reweighted_mcc(1 / 2, 2 / 3, 0.046))
    assert at.interval.low < at.mcc < at.interval.high


def test_join_by_name_then_by_unique_base_name():
    predictions = pd.DataFrame({"filename": ["x/1.mp4", "2.mp4", "y/2.mp4", "x/3.mp4", "z/3.mp4"]})
    labels = pd.DataFrame(
        {"filename": ["1.mp4", "2.mp4", "3.mp4", "w/4.mp4"], "stalled": [1, 0, 1, 1]}
    )
    joined = join(predictions, labels, "labels.csv")
    # y/2.mp4 must not take the label of 2.mp4. 3.mp4 is ambiguous.
    assert joined["label_filename"].tolist() == ["1.mp4", "2.mp4", "", "", ""]
    assert joined["stalled"].tolist()[:2] == [1.0, 0.0]
    assert joined["stalled"].isna().tolist() == [False, False, True, True, True]


def test_join_by_base_name_is_counted(tmp_path):
    predictions = [prediction("1.mp4"), prediction("2.mp4", score=0.1, call="flowing")]
    tables = write_tables(tmp_path, predictions, [("train/1.mp4", 1), ("2.mp4", 0)])
    evaluation = evaluate.evaluate(*tables)
    assert evaluation.rows.joined_by_base_name == 1
    assert evaluation.rows.without_prediction.count == 0


def test_nothing_to_measure(tmp_path):
    tables = write_tables(tmp_path, [prediction("1.mp4")], [("2.mp4", 1)])
    with pytest.raises(InputError, match=r"labels\.csv.*'1\.mp4'.*'2\.mp4'"):
        evaluate.evaluate(*tables)
    failed = prediction("1.mp4", status="unreadable", score="", call="unscorable")
    tables = write_tables(tmp_path, [failed], [("1.mp4", 1)])
    with pytest.raises(InputError, match=r"1 without a call \(unreadable\)"):
        evaluate.evaluate(*tables)


def test_missing_labels_are_listed_and_refused_unless_asked_for(tables):
    predictions, labels = tables
    with pytest.raises(InputError) as raised:
        evaluate.evaluate(predictions, labels)
    message = str(raised.value)
    assert message.startswith(f"{labels}: ")
    for word in ("1 of 9", str(predictions), "a/9.mp4", "--partial"):
        assert word in message
    # Labels without a prediction are only counted: tables of labels often list more recordings.
    table = pd.read_csv(predictions)
    table[table["filename"] != "a/9.mp4"].to_csv(predictions, index=False)
    evaluation = evaluate.evaluate(predictions, labels)
    assert evaluation.rows.without_prediction == Excluded(1, ("b/0.mp4",))


def test_intervals_are_by_the_mouse_where_there_is_one(study):
    labels = study / "labels.csv"
    by_mouse = evaluate.evaluate(study / "old" / "predictions.csv", labels)
    assert by_mouse.group == Group("mouse", 12)
    groups = by_mouse.evaluated["group"].to_numpy(str)
    drawn = bootstrap.draw(by_mouse.scored, groups)
    assert by_mouse.intervals["roc_auc"] == bootstrap.interval(drawn.roc_auc)
    assert "12 by mouse" in present.notes(by_mouse)[0]
    alone = evaluate.evaluate(study / "old" / "predictions.csv", labels, group="")
    assert alone.group == Group("", 600)
    assert alone.mcc_interval == bootstrap.mcc_interval(
        alone.metrics.confusion, alone.metrics.prevalence
    )
    assert "--group" in present.notes(alone)[0]
    assert set(alone.intervals) == set(present.WORDS)


def test_intervals_from_few_groups_are_flagged(study):
    table = pd.read_csv(study / "labels.csv")
    table["cage"] = table["mouse"].map(lambda mouse: int(mouse[1:]) // 4)
    table.to_csv(study / "labels.csv", index=False)
    sides = [
        evaluate.evaluate(study / name / "predictions.csv", study / "labels.csv", group="cage")
        for name in ("old", "new")
    ]
    assert sides[0].group.is_too_few
    assert "fewer than 10" in present.notes(sides[0])[0]
    verdicts = {figure.verdict for figure in comparison.compare(*sides).differences}
    assert verdicts == {"too few groups to tell"}


def held_out_table(rows, seed, **more):
    """A table of held-out recordings as `train` writes it."""
    rng = np.random.default_rng(seed)
    labels = rows % 4 == 0
    scores = 1 / (1 + np.exp(2.0 - 4.0 * labels - rng.normal(0, 1, len(rows))))
    return pd.DataFrame(
        {
            "filename": [f"{row}.mp4" for row in rows],
            "stalled": labels.astype(int),
            "logit": np.log(scores / (1 - scores)),
            "score": scores,
            "call": np.where(scores >= 0.4, "stalled", "flowing"),
            "threshold": 0.4,
            **more,
        }
    )


def test_tables_of_training_runs_side_by_side(tmp_path):
    rows = np.arange(400)
    for run, name, table in (
        ("random", "out_of_fold.csv", held_out_table(rows, 0, fold=rows % 5)),
        ("by-project", "validation.csv", held_out_table(rows[300:], 1)),
    ):
        (tmp_path / run).mkdir()
        table.to_csv(tmp_path / run / name, index=False)
    random, by_project = (
        evaluate.evaluate(find_table(tmp_path / run), by=by)
        for run, by in (("random", ["fold"]), ("by-project", []))
    )
    assert random.bundles == ("random",)
    assert random.predictions.name == "out_of_fold.csv"
    assert [part.count for part in random.breakdowns[0].parts] == [80] * 5
    assert random.held_out
    assert any("held out" in note for note in present.notes(random))
    compared = comparison.compare(random, by_project)
    assert (compared.count, compared.is_on_all) == (100, False)
    assert find_table(tmp_path) == tmp_path / "predictions.csv"
    path, _ = write_tables(tmp_path, [prediction("1.mp4")], [])
    with pytest.raises(InputError, match=r"predictions\.csv: .*stalled.*--labels"):
        evaluate.evaluate(path)


def test_what_is_decided_from_held_out_recordings_is_optimistic_too(tmp_path):
    rows = np.arange(400)
    (tmp_path / "run").mkdir()
    given = tmp_path / "run" / "validation.csv"
    held_out_table(rows, 0).to_csv(given, index=False)
    labels = pd.DataFrame({"filename": [f"{row}.mp4" for row in rows], "stalled": rows % 4 == 0})
    labels.astype({"stalled": int}).to_csv(tmp_path / "labels.csv", index=False)
    for name, threshold in (("rr", 0.5), ("again", 0.6)):
        made = decide.decide(given, CallSettings(threshold=threshold))
        given = decide.write_calls(made, tmp_path / name)
        evaluation = evaluate.evaluate(given, tmp_path / "labels.csv")
        assert evaluation.held_out
        assert any("optimistic" in note for note in present.notes(evaluation))


def test_a_byte_order_mark_is_no_part_of_a_name(study):
    labels = study / "labels.csv"
    labels.write_text(labels.read_text(), encoding="utf-8-sig")
    evaluation = evaluate.evaluate(study / "old" / "predictions.csv", labels)
    assert evaluation.group.column == "mouse"


@pytest.mark.slow
def test_crowd_scores_against_the_real_labels(real_dir, tmp_path):
    # docs/facts.md 4: crowd score >= 0.5 against the label gives MCC 0.76 over all 573,048.
    metadata = pd.read_csv(
        real_dir / "metadata" / "train_metadata.csv.gz", usecols=["filename", "crowd_score"]
    )
    predictions = pd.DataFrame(prediction("", threshold=0.5), index=metadata.index).assign(
        filename=metadata["filename"],
        score=metadata["crowd_score"],
        call=np.where(metadata["crowd_score"] >= 0.5, "stalled", "flowing"),
    )
    path = tmp_path / "predictions.csv"
    predictions.to_csv(path, index=False)
    started = time.process_time()
    evaluation = evaluate.evaluate(path, real_dir / "metadata" / "train_labels.csv.gz")
    figures.evaluation_figures(evaluation.scored)
    assert time.process_time() - started < 30
    assert evaluation.metrics.count == 573_048
    assert evaluation.metrics.confusion.stalled == 1_887
    assert evaluation.metrics.mcc == pytest.approx(0.76, abs=0.005)


def test_recordings_that_chose_the_threshold_are_left_out(tmp_path):
    rows = [prediction(f"{index}.mp4") for index in range(6)]
    known = [{"filename": f"{index}.mp4", "stalled": index % 2} for index in range(6)]
    predictions = write_tables(tmp_path, rows, known)[0]
    labels = pd.DataFrame(known)
    labels.to_csv(tmp_path / "labels.csv", index=False)
    labels.head(2).to_csv(tmp_path / "chosen_on.csv", index=False)
    evaluation = evaluate.evaluate(predictions, tmp_path / "labels.csv")
    assert evaluation.metrics.count == 4
    # A report still shows them.
    assert len(evaluation.table) == 6
    assert (evaluation.rows.labelled, evaluation.rows.coverage) == (6, 1.0)
    assert any(note.startswith("2 ") and "threshold" in note for note in present.notes(evaluation))
    labels.to_csv(tmp_path / "chosen_on.csv", index=False)
    with pytest.raises(InputError, match=r"predictions\.csv: .*6 .*chosen_on\.csv"):
        evaluate.evaluate(predictions, tmp_path / "labels.csv")
    # Others have no call: each reason that applies is counted.
    table = pd.read_csv(predictions)
    table.loc[0, ["call", "status"]] = "unscorable", "damaged"
    table.loc[1, "call"] = "review"
    table.to_csv(predictions, index=False)
    labels.tail(4).to_csv(tmp_path / "chosen_on.csv", index=False)
    reasons = r"4 .*chosen_on\.csv.*1 .*\(damaged\), 1 .*\(review\)"
    with pytest.raises(InputError, match=reasons):
        evaluate.evaluate(predictions, tmp_path / "labels.csv")


def test_a_breakdown_by_frames_needs_frames(tmp_path):
    rows = [prediction(f"{index}.mp4") for index in range(4)]
    known = [{"filename": f"{index}.mp4", "stalled": index % 2} for index in range(4)]
    predictions = write_tables(tmp_path, rows, known)[0]
    pd.read_csv(predictions).assign(frames="").to_csv(predictions, index=False)
    with pytest.raises(InputError, match=r"frames.*--about.*--by frames"):
        evaluate.evaluate(predictions, tmp_path / "labels.csv", by=["frames"])


def test_one_group_is_refused(tmp_path):
    rows = [prediction(f"{index}.mp4") for index in range(4)]
    known = [(f"{index}.mp4", index % 2) for index in range(4)]
    predictions, labels = write_tables(tmp_path, rows, known)
    pd.read_csv(labels).assign(cage="c").to_csv(labels, index=False)
    with pytest.raises(InputError, match=r"column cage is c .*--group"):
        evaluate.evaluate(predictions, labels, group="cage")
    assert evaluate.evaluate(predictions, labels, group="").group.column == ""


def test_labels_of_another_mouse_are_not_taken(tmp_path):
    rows = [prediction("m1/1.mp4"), prediction("m1/2.mp4", score=0.1, call="flowing")]
    tables = write_tables(tmp_path, rows, [("m9/1.mp4", 1), ("m9/2.mp4", 0)])
    with pytest.raises(InputError, match=r"'m1/1\.mp4' and 'm9/1\.mp4'"):
        evaluate.evaluate(*tables)


def test_an_empty_cell_among_the_mice_is_refused(study):
    table = pd.read_csv(study / "labels.csv")
    table.loc[3, "mouse"] = None
    table.to_csv(study / "labels.csv", index=False)
    path = study / "old" / "predictions.csv"
    with pytest.raises(InputError, match=r"labels\.csv: mouse .*3\.mp4.*--group ''"):
        evaluate.evaluate(path, study / "labels.csv")
    assert evaluate.evaluate(path, study / "labels.csv", group="").group == Group("", 600)


def test_rows_of_one_recording_agree_on_what_is_asked_for(study):
    path, labels = study / "old" / "predictions.csv", study / "labels.csv"
    table = pd.read_csv(labels).assign(scorer="X")
    more = table.head(1).assign(scorer="Y")
    pd.concat([table, more]).to_csv(labels, index=False)
    assert evaluate.evaluate(path, labels, by=[]).group.column == "mouse"
    with pytest.raises(InputError, match=r"scorer.*line 2 .*line 602 "):
        evaluate.evaluate(path, labels, by=["scorer"])


@pytest.mark.parametrize("wrong", ["labels", "about"])
def test_tables_of_another_simulated_corpus_are_refused(tables, tmp_path, wrong):
    predictions, labels = tables
    for seed, name in enumerate(("own", "other")):
        (tmp_path / name / "train").mkdir(parents=True)
        (tmp_path / name / "simulation.json").write_text(json.dumps({"settings": {"seed": seed}}))
        for table in ("labels.csv", "truth.csv"):
            (tmp_path / name / table).write_bytes(labels.read_bytes())
    (tmp_path / "run.json").write_text(json.dumps({"paths": [str(tmp_path / "own" / "train")]}))
    own = {"labels": tmp_path / "own" / "labels.csv", "about": tmp_path / "own" / "truth.csv"}
    given = own | {wrong: tmp_path / "other" / own[wrong].name}
    with pytest.raises(InputError, match=rf"other.{given[wrong].name}: .*simulated"):
        evaluate.evaluate(predictions, given["labels"], about=[given["about"]], partial=True)
    evaluate.evaluate(predictions, own["labels"], about=[own["about"]], partial=True)
