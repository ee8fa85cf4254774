"""Predictions against labels, and the plots of both."""

import json
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from stallscan import evaluate, metrics, plots
from stallscan.errors import InputError, TableError
from stallscan.metrics import Scored
from stallscan.tables import HISTORY_COLUMNS, PREDICTION_COLUMNS

# filename, status, score, call, label
ROWS = (
    ("a/1.mp4", "ok", 0.9, "stalled", 1),
    ("a/2.mp4", "ok", 0.2, "flowing", 1),
    ("a/3.mp4", "ok", 0.1, "flowing", 0),
    ("a/4.mp4", "ok", 0.8, "stalled", 0),
    ("a/5.mp4", "ok", 0.3, "flowing", 0),
    ("a/6.mp4", "damaged", 0.7, "unscorable", 1),
    ("a/7.mp4", "no_outline", "", "unscorable", 0),
    ("a/8.mp4", "ok", 0.55, "review", 0),
    ("a/9.mp4", "ok", 0.4, "flowing", None),
)


def prediction(filename, status="ok", score=0.9, call="stalled", **others):
    row = {
        "filename": filename,
        "status": status,
        "reason": "" if status == "ok" else f"/data/{filename}: why not",
        "frames": 56,
        "frames_declared": 57,
        "score": score,
        "call": call,
        "threshold": 0.6,
        "bundle": "default",
    }
    return row | others


@pytest.fixture
def tables(tmp_path):
    """Write `ROWS` as predictions.csv and labels.csv (which knows one more); return the paths."""
    return write_tables(
        tmp_path,
        [prediction(name, status, score, call) for name, status, score, call, _ in ROWS],
        [(name, label) for name, *_, label in ROWS if label is not None] + [("b/0.mp4", 1)],
    )


def write_tables(folder, predictions, labels):
    paths = folder / "predictions.csv", folder / "labels.csv"
    pd.DataFrame(predictions, columns=list(PREDICTION_COLUMNS)).to_csv(paths[0], index=False)
    pd.DataFrame(labels, columns=["filename", "stalled"]).to_csv(paths[1], index=False)
    return paths


def test_every_row_is_accounted_for(tables):
    evaluation = evaluate.evaluate(*tables)
    rows = evaluation.rows
    assert (rows.predictions, rows.labels, rows.labelled, rows.evaluated) == (9, 9, 8, 5)
    assert rows.without_call == evaluate.Left(3, ("a/6.mp4", "a/7.mp4", "a/8.mp4"))
    assert rows.without_call_by_status == {"damaged": 1, "no_outline": 1, "review": 1}
    assert rows.without_label == evaluate.Left(1, ("a/9.mp4",))
    assert rows.without_prediction == evaluate.Left(1, ("b/0.mp4",))
    assert rows.coverage == 5 / 8
    assert evaluation.metrics.confusion == (1, 1, 2, 1)
    assert evaluation.scored.thresholds == (0.6,)
    assert evaluation.bundles == ("default",)
    assert evaluation.metrics.prevalence == 2 / 5


def test_mcc_is_restated_for_rarer_stalls(tables):
    evaluation = evaluate.evaluate(*tables)
    assert [at.prevalence for at in evaluation.mcc_at] == [0.09, 0.046, 0.02, 0.01, 0.003]
    at = evaluation.mcc_at[1]
    assert at.mcc == pytest.approx(metrics.reweighted_mcc(1 / 2, 2 / 3, 0.046))
    assert at.interval.low < at.mcc < at.interval.high


def test_one_class_gives_no_reweighted_mcc(tmp_path):
    predictions = [prediction("1.mp4"), prediction("2.mp4", score=0.1, call="flowing")]
    tables = write_tables(tmp_path, predictions, [("1.mp4", 0), ("2.mp4", 0)])
    evaluation = evaluate.evaluate(*tables)
    assert evaluation.mcc_interval is None
    assert {(at.mcc, at.interval) for at in evaluation.mcc_at} == {(None, None)}
    assert evaluation.curve is None
    assert ("ROC AUC", "not defined", "") in evaluate.figures(evaluation)
    assert any(note.startswith("All 2 labels are flowing") for note in evaluate.notes(evaluation))
    evaluate.write(evaluation, tmp_path / "out")
    plots.evaluation(evaluation.scored, tmp_path / "out")


def test_join_by_name_then_by_unique_base_name():
    predictions = pd.DataFrame({"filename": ["x/1.mp4", "2.mp4", "y/2.mp4", "x/3.mp4", "z/3.mp4"]})
    labels = pd.DataFrame(
        {"filename": ["1.mp4", "2.mp4", "3.mp4", "w/4.mp4"], "stalled": [1, 0, 1, 1]}
    )
    joined = evaluate.join(predictions, labels)
    # y/2.mp4 must not take the label of 2.mp4; which 3.mp4 is meant nobody knows.
    assert joined["label_filename"].tolist() == ["1.mp4", "2.mp4", "", "", ""]
    assert joined["stalled"].tolist()[:2] == [1.0, 0.0]
    assert joined["stalled"].isna().tolist() == [False, False, True, True, True]


def test_join_by_base_name_is_counted(tmp_path):
    predictions = [prediction("1.mp4"), prediction("2.mp4", score=0.1, call="flowing")]
    tables = write_tables(tmp_path, predictions, [("train/1.mp4", 1), ("2.mp4", 0)])
    evaluation = evaluate.evaluate(*tables)
    assert evaluation.rows.joined_by_base_name == 1
    assert evaluation.rows.without_prediction.count == 0


def test_json_holds_the_figures_and_where_they_come_from(tables, tmp_path):
    path = evaluate.write(evaluate.evaluate(*tables), tmp_path / "new" / "out")
    assert path == tmp_path / "new" / "out" / "metrics.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["metrics"]["confusion"]["true_stalled"] == 1
    assert len(content["metrics"]["mcc_interval_95"]) == 2
    assert content["rows"]["without_call"]["count"] == 3
    assert content["rows"]["coverage"] == 5 / 8
    assert content["thresholds"] == [0.6]
    assert content["mcc_at"][4]["prevalence"] == 0.003
    assert len(content["sources"]["labels"]["sha256"]) == 64


def test_table_for_the_terminal(tmp_path):
    predictions = [
        prediction("[red]1.mp4"),
        prediction("2.mp4", score=0.1, call="flowing"),
        prediction("[/b]3.mp4", status="unreadable", score="", call="unscorable"),
    ]
    labels = [("[red]1.mp4", 1), ("2.mp4", 0), ("[/b]3.mp4", 0)]
    tables = write_tables(tmp_path, predictions, labels)
    console = Console(width=120, record=True, file=(tmp_path / "printed").open("w"))
    with console.file:
        console.print(evaluate.as_table(evaluate.evaluate(*tables)))
    text = console.export_text()
    assert "MCC at 50 % stalled" in text
    assert "MCC re-weighted to 0.3 %" in text
    assert "1: [/b]3.mp4" in text
    assert "66.7 % of 3 with a label" in text


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([prediction("1.mp4"), prediction("1.mp4")], r"line 2 \(1.mp4\), line 3 \(1.mp4\)"),
        ([prediction("1.mp4", score=1.5)], r"score: expected 0 to 1.*line 2 \(1.mp4: '1.5'\)"),
        ([prediction("1.mp4", score="high")], r"score: expected a number.*'high'"),
        ([prediction("1.mp4", score="nan")], r"score: expected a number"),
        ([prediction("1.mp4", score="")], r"score: expected a number where the call is"),
        ([prediction("1.mp4", call="maybe")], r"call: expected flowing, stalled, review or"),
        ([prediction("1.mp4", threshold=7)], r"threshold: expected 0 to 1"),
    ],
)
def test_wrong_rows_are_refused_by_line(tmp_path, predictions, message):
    tables = write_tables(tmp_path, predictions, [("1.mp4", 1)])
    with pytest.raises(TableError, match=message):
        evaluate.evaluate(*tables)


def test_missing_column_is_refused(tables):
    predictions, labels = tables
    pd.read_csv(predictions).drop(columns="call").to_csv(predictions, index=False)
    with pytest.raises(TableError, match="column call is missing"):
        evaluate.evaluate(predictions, labels)


def test_torn_last_line_is_refused(tables):
    predictions, labels = tables
    predictions.write_text(predictions.read_text()[:-30])
    with pytest.raises(TableError, match=r"line 10 \(a/9.mp4"):
        evaluate.evaluate(predictions, labels)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, InputError, "no such file"),
        ("", TableError, "not readable as a CSV table"),
        (b"\xff\xfe\x00".decode("latin-1"), TableError, "column"),
        (",".join(PREDICTION_COLUMNS) + "\n", InputError, "holds no predictions"),
    ],
)
def test_unreadable_predictions(tmp_path, content, error, message):
    path = tmp_path / "predictions.csv"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(error, match=message):
        evaluate.read_predictions(path)


def test_folder_in_place_of_the_table(tmp_path):
    with pytest.raises(InputError, match=r"cannot be opened .*give the file predictions.csv"):
        evaluate.read_predictions(tmp_path)


def test_nothing_to_measure(tmp_path):
    tables = write_tables(tmp_path, [prediction("1.mp4")], [("2.mp4", 1)])
    with pytest.raises(InputError, match="no filename in common"):
        evaluate.evaluate(*tables)
    failed = prediction("1.mp4", status="unreadable", score="", call="unscorable")
    tables = write_tables(tmp_path, [failed], [("1.mp4", 1)])
    with pytest.raises(InputError, match="none of the 1 labelled recordings"):
        evaluate.evaluate(*tables)


def test_missing_labels_are_listed_and_refused_unless_asked_for(tables):
    predictions, labels = tables
    with pytest.raises(InputError) as raised:
        evaluate.evaluate(predictions, labels, partial=False)
    message = str(raised.value)
    assert message.startswith(f"{labels}: 1 of 9 recordings in {predictions} have no label here")
    assert "a/9.mp4; add their labels, or measure the others only, with --partial" in message
    # A label without a prediction is counted, and no error: tables of labels hold more.
    table = pd.read_csv(predictions)
    table[table["filename"] != "a/9.mp4"].to_csv(predictions, index=False)
    evaluation = evaluate.evaluate(predictions, labels, partial=False)
    assert evaluation.rows.without_prediction == evaluate.Left(1, ("b/0.mp4",))


@pytest.fixture
def study(tmp_path):
    """Two models' predictions for 600 recordings of 12 mice, labels, and a table about them."""
    rng = np.random.default_rng(0)
    labels = np.arange(600) % 5 == 0
    logits = 3.0 * labels - 2.0
    names = [f"{row}.mp4" for row in range(600)]
    for model, spread in (("old", 1.5), ("new", 0.7)):
        scores = 1 / (1 + np.exp(-logits - rng.normal(0, spread, 600)))
        rows = [
            prediction(
                name,
                score=score,
                call="stalled" if score >= 0.5 else "flowing",
                threshold=0.5,
                bundle=model,
                frames=20 + index % 100,
            )
            for index, (name, score) in enumerate(zip(names, scores, strict=True))
        ]
        (tmp_path / model).mkdir()
        write_tables(tmp_path / model, rows, [])
    known = pd.DataFrame({"filename": names, "stalled": labels.astype(int)})
    known["mouse"] = [f"m{row // 50}" for row in range(600)]
    known.to_csv(tmp_path / "labels.csv", index=False)
    about = pd.DataFrame({"filename": [f"train/{name}" for name in names]})
    about["kind"] = np.where(labels, np.where(np.arange(600) % 2, "plug", "rouleau"), "flow")
    about.to_csv(tmp_path / "about.csv", index=False)
    return tmp_path


def test_intervals_are_by_the_mouse_where_there_is_one(study):
    labels = study / "labels.csv"
    by_mouse = evaluate.evaluate(study / "old" / "predictions.csv", labels)
    assert by_mouse.group == evaluate.Group("mouse", 12)
    groups = by_mouse.evaluated["group"].to_numpy(str)
    drawn = metrics.draw(by_mouse.scored, groups)
    assert by_mouse.intervals["roc_auc"] == metrics.interval(drawn.roc_auc)
    assert "whole groups (12 by mouse)" in evaluate.notes(by_mouse)[0]
    alone = evaluate.evaluate(study / "old" / "predictions.csv", labels, group="")
    assert alone.group == evaluate.Group("", 600)
    assert alone.mcc_interval == metrics.mcc_interval(
        alone.metrics.confusion, alone.metrics.prevalence
    )
    assert "single recordings" in evaluate.notes(alone)[0]
    assert set(alone.intervals) == set(evaluate.WORDS)


def test_few_groups_are_not_to_be_trusted(study):
    table = pd.read_csv(study / "labels.csv")
    table["cage"] = table["mouse"].map(lambda mouse: int(mouse[1:]) // 4)
    table.to_csv(study / "labels.csv", index=False)
    sides = [
        evaluate.evaluate(study / name / "predictions.csv", study / "labels.csv", group="cage")
        for name in ("old", "new")
    ]
    assert sides[0].group.is_too_few
    assert "not to be trusted" in evaluate.notes(sides[0])[0]
    verdicts = {one.verdict for one in evaluate.compare(*sides).differences}
    assert verdicts == {"too few groups to tell"}


def test_breakdowns_by_hand(study):
    evaluation = evaluate.evaluate(
        study / "old" / "predictions.csv",
        study / "labels.csv",
        about=[study / "about.csv"],
        by=["kind", "mouse", "frames"],
    )
    kinds, mice, frames = evaluation.breakdowns
    assert [part.name for part in kinds.parts] == ["flow", "plug", "rouleau"]
    assert [(part.count, part.stalled) for part in kinds.parts] == [(480, 0), (60, 60), (60, 60)]
    flow, plug, _ = kinds.parts
    assert (flow.recall, flow.mcc, flow.intervals["mcc"]) == (None, None, None)
    assert flow.specificity == evaluation.metrics.specificity
    assert flow.by_group
    assert plug.specificity is None
    assert plug.intervals["recall"].low < plug.recall < plug.intervals["recall"].high
    table = evaluation.evaluated
    first = table[table["group"] == "m0"]
    found = (first["call"] == "stalled")[first["stalled"] == 1].mean()
    assert mice.parts[0].recall == pytest.approx(found)
    assert not mice.parts[0].by_group
    kept = (first["call"] == "flowing")[first["stalled"] == 0].mean()
    assert mice.parts[0].mcc == pytest.approx(metrics.reweighted_mcc(found, kept, 0.2))
    # 20 to 119 frames, six recordings each.
    assert [(part.name, part.count) for part in frames.parts] == [
        ("up to 49", 180),
        ("50 to 56", 42),
        ("57 to 66", 60),
        ("67 to 100", 204),
        ("over 100", 114),
    ]
    assert sum(part.stalled for part in frames.parts) == 120


def test_what_there_is_is_broken_down_by(study):
    evaluation = evaluate.evaluate(
        study / "old" / "predictions.csv", study / "labels.csv", about=[study / "about.csv"]
    )
    assert [one.column for one in evaluation.breakdowns] == ["kind", "frames"]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"group": "cage"}, "no column cage .*the columns are .*mouse.*--group"),
        ({}, {"by": ["cage"]}, "no column cage .*--by"),
        ({"mouse": ["", *["m1"] * 599]}, {"group": "mouse"}, "empty for 1 evaluated .*: 0.mp4"),
        ({"cage": range(600)}, {"by": ["cage"]}, "600 different values"),
        ({"filename": [f"x{row}" for row in range(600)]}, {}, "no filename in common"),
        ({"filename": ["0.mp4"] * 600}, {}, "expected to stand in one row only"),
    ],
)
def test_wrong_tables_about_the_recordings(study, change, options, message):
    about = pd.read_csv(study / "labels.csv")[["filename"]].assign(**change)
    about.to_csv(study / "about.csv", index=False)
    with pytest.raises(InputError, match=message):
        evaluate.evaluate(
            study / "old" / "predictions.csv",
            study / "labels.csv",
            about=[study / "about.csv"],
            **options,
        )


def test_paired_comparison(study, tmp_path):
    old, new = (
        evaluate.evaluate(study / name / "predictions.csv", study / "labels.csv")
        for name in ("old", "new")
    )
    comparison = evaluate.compare(old, new)
    assert (comparison.count, comparison.stalled) == (600, 120)
    assert comparison.group == evaluate.Group("mouse", 12)
    by_name = {one.name: one for one in comparison.differences}
    mcc = by_name["mcc"]
    assert mcc.difference == pytest.approx(new.metrics.mcc - old.metrics.mcc)
    # The draws of the old and the new are of the same mice.
    expected = metrics.bootstrap_gain(
        old.scored, new.scored, old.evaluated["group"].to_numpy(str), seed=1
    )
    assert mcc.interval == pytest.approx(expected, abs=0.02)
    assert (mcc.verdict, by_name["brier"].verdict) == ("better", "better")
    assert by_name["brier"].difference < 0
    back = {one.name: one for one in evaluate.compare(new, old).differences}
    assert back["mcc"].verdict == back["brier"].verdict == "worse"
    assert back["mcc"].interval == pytest.approx((-mcc.interval.high, -mcc.interval.low))
    same = evaluate.compare(old, old).differences
    assert {one.verdict for one in same} == {"no difference can be told"}
    assert {one.interval for one in same} == {(0, 0)}
    content = json.loads(evaluate.write(old, tmp_path / "out", comparison).read_text())
    assert content["comparison"]["differences"][0]["verdict"] == "better"
    assert content["comparison"]["second"]["bundles"] == ["new"]


def test_comparison_is_on_what_both_called(study):
    path = study / "new" / "predictions.csv"
    table = pd.read_csv(path).iloc[100:]
    table.loc[100:149, ["call", "status"]] = ["unscorable", "damaged"]
    table.to_csv(path, index=False)
    old, new = (
        evaluate.evaluate(study / name / "predictions.csv", study / "labels.csv")
        for name in ("old", "new")
    )
    comparison = evaluate.compare(old, new)
    assert comparison.count == 450
    assert not comparison.is_on_all
    rest = old.evaluated.iloc[150:]
    expected = metrics.measure(
        Scored.check(rest["stalled"], rest["score"], rest["call"] == "stalled")
    )
    assert comparison.differences[0].first == pytest.approx(expected.mcc)
    assert comparison.as_json()["only_first"] == 150
    console = Console(width=220, record=True, file=(study / "printed").open("w"))
    with console.file:
        for laid in evaluate.tables(old, comparison):
            console.print(laid)
    text = console.export_text()
    assert "Paired comparison on 450 recordings" in text
    assert "B, all its own" in text


def test_recordings_that_cannot_be_compared_are_refused(study):
    path, labels = study / "new" / "predictions.csv", pd.read_csv(study / "labels.csv")
    old = evaluate.evaluate(study / "old" / "predictions.csv", study / "labels.csv")
    labels.assign(stalled=1 - labels["stalled"]).to_csv(study / "flipped.csv", index=False)
    flipped = evaluate.evaluate(path, study / "flipped.csv")
    with pytest.raises(InputError, match=r"label 600 recordings differently: 0\.mp4, 1\.mp4"):
        evaluate.compare(old, flipped)
    for table in (path, study / "flipped.csv"):
        table.write_text(table.read_text().replace(".mp4", ".avi"))
    others = evaluate.evaluate(path, study / "flipped.csv")
    with pytest.raises(InputError, match="no recording in common"):
        evaluate.compare(old, others)


def held_out_table(rows, seed, **more):
    """What `train` writes of its held-out recordings."""
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
        evaluate.evaluate(evaluate.find_table(tmp_path / run), by=by, partial=False)
        for run, by in (("random", ["fold"]), ("by-project", []))
    )
    assert random.bundles == ("random",)
    assert random.predictions.name == "out_of_fold.csv"
    assert [part.count for part in random.breakdowns[0].parts] == [80] * 5
    assert any("the figures flatter" in note for note in evaluate.notes(random))
    comparison = evaluate.compare(random, by_project)
    assert (comparison.count, comparison.is_on_all) == (100, False)
    assert evaluate.find_table(tmp_path) == tmp_path / "predictions.csv"
    path, _ = write_tables(tmp_path, [prediction("1.mp4")], [])
    with pytest.raises(InputError, match=r"no column stalled.*give them with --labels"):
        evaluate.evaluate(path)


def test_the_page_stands_by_itself(study):
    evaluation = evaluate.evaluate(
        study / "old" / "predictions.csv", study / "labels.csv", about=[study / "about.csv"]
    )
    other = evaluate.evaluate(study / "new" / "predictions.csv", study / "labels.csv")
    path = evaluate.write_page(
        evaluation,
        {"a plot": "data:image/svg+xml;base64,AA=="},
        study / "out",
        evaluate.compare(evaluation, other),
    )
    page = path.read_text(encoding="utf-8")
    assert path.name == "evaluation.html"
    assert "http" not in page.replace("http-equiv", "")
    for words in (
        "MCC re-weighted to 9 %",
        "sensitivity at 99.9 % specificity",
        "log-loss at 20 % stalled",
        "whole groups (12 by mouse)",
        "By kind",
        "By frames",
        "Paired comparison on 600 recordings",
        'alt="a plot"',
    ):
        assert words in page


def test_all_in_json(study):
    evaluation = evaluate.evaluate(
        study / "old" / "predictions.csv", study / "labels.csv", about=[study / "about.csv"]
    )
    content = json.loads(evaluate.write(evaluation, study / "out").read_text(encoding="utf-8"))
    assert set(content["intervals_95"]) == set(evaluate.WORDS)
    assert content["drawn_by"]["unit"] == "mouse"
    assert [at["specificity"] for at in content["sensitivity_at"]] == [0.993, 0.999]
    assert len(content["mcc_by_prevalence"]["low"]) == len(metrics.PREVALENCE_GRID)
    assert sum(part["count"] for part in content["reliability"]) == 600
    assert {part["name"] for part in content["breakdowns"]["kind"]} == {"flow", "plug", "rouleau"}
    assert content["sources"]["about"][0]["path"] == str(study / "about.csv")


def test_a_byte_order_mark_is_no_part_of_a_name(study):
    labels = study / "labels.csv"
    labels.write_text(labels.read_text(), encoding="utf-8-sig")
    evaluation = evaluate.evaluate(study / "old" / "predictions.csv", labels)
    assert evaluation.group.column == "mouse"


def test_the_command(study, capsys):
    from stallscan import cli

    words = ["evaluate", study / "old", "--labels", study / "labels.csv", "-o", study / "out"]
    other = pd.read_csv(study / "new" / "predictions.csv")
    extra = pd.DataFrame([prediction("unlabelled.mp4", bundle="new")])
    pd.concat([other, extra]).to_csv(study / "new" / "predictions.csv", index=False)
    more = ["--against", study / "new", "--about", study / "about.csv", "--by", "kind", "--partial"]
    cli.app([*map(str, words), *map(str, more)], result_action="return_value")
    printed = capsys.readouterr().out
    assert "By kind" in printed
    assert "Paired comparison" in printed
    names = {path.name for path in (study / "out").iterdir()}
    assert names == {"metrics.json", "evaluation.html"} | {
        f"{name}.{suffix}" for name in plots.WORDS for suffix in ("png", "svg")
    }
    pd.read_csv(study / "labels.csv").iloc[1:].to_csv(study / "labels.csv", index=False)
    with pytest.raises(InputError, match=r"1 of 600 recordings .*: 0\.mp4;"):
        cli.app([*map(str, words)], result_action="return_value")


@pytest.mark.slow
def test_crowd_scores_against_the_real_labels(real_dir, tmp_path):
    # FACTS 4: crowd score >= 0.5 against the label gives MCC 0.76 over all 573,048.
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
    plots.evaluation_figures(evaluation.scored)
    assert time.process_time() - started < 30
    assert evaluation.metrics.count == 573_048
    assert evaluation.metrics.confusion.stalled == 1_887
    assert evaluation.metrics.mcc == pytest.approx(0.76, abs=0.005)


@pytest.fixture(scope="module")
def scored():
    rng = np.random.default_rng(0)
    labels = rng.random(3000) < 0.2
    scores = 1 / (1 + np.exp(-rng.normal(3.0 * labels - 1.5, 1.0)))
    return Scored.check(labels, scores, scores >= 0.5, [0.5])


def test_plots_are_written_and_repeatable(scored, tmp_path):
    names = [
        *("confusion", "scores", "roc", "precision_recall", "thresholds"),
        *("reliability", "mcc_by_prevalence"),
    ]
    written = plots.evaluation(scored, tmp_path / "one")
    expected = [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    assert [path.name for path in written] == expected
    assert list(plots.WORDS) == names
    again = plots.as_data_uri(plots.roc(scored))
    assert again == plots.as_data_uri(plots.roc(scored))


def test_no_pyplot_and_no_torch():
    code = (
        "import sys; from stallscan import plots, report; "
        "sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_long_curves_are_thinned(scored):
    figure = plots.precision_recall(scored)
    assert max(len(line.get_xdata()) for line in figure.axes[0].lines) <= plots.CURVE_POINTS


def history_table(epochs):
    rows = np.linspace(0.1, 0.9, max(epochs, 1))[:epochs]
    return pd.DataFrame(dict.fromkeys(HISTORY_COLUMNS, rows)).assign(epoch=range(epochs))


@pytest.mark.parametrize("epochs", [1, 40])
def test_history(tmp_path, epochs):
    path = tmp_path / "history.csv"
    history_table(epochs).assign(val_mcc=np.nan).to_csv(path, index=False)
    written = plots.history(path, tmp_path)
    assert [file.name for file in written] == ["history.png", "history.svg"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (history_table(3).drop(columns="lr"), "column lr is missing"),
        (history_table(0), "no epoch yet"),
        (history_table(3).assign(val_loss="high"), "column val_loss holds text"),
    ],
)
def test_wrong_history(tmp_path, table, message):
    path = tmp_path / "history.csv"
    table.to_csv(path, index=False)
    with pytest.raises(TableError, match=message):
        plots.history(path, tmp_path)
    with pytest.raises(InputError, match="cannot be opened"):
        plots.history(tmp_path / "none.csv", tmp_path)


def test_recordings_that_chose_the_threshold_are_left_out(tmp_path):
    rows = [prediction(f"{index}.mp4") for index in range(6)]
    known = [{"filename": f"{index}.mp4", "stalled": index % 2} for index in range(6)]
    predictions = write_tables(tmp_path, rows, known)[0]
    labels = pd.DataFrame(known)
    labels.to_csv(tmp_path / "labels.csv", index=False)
    labels.head(2).to_csv(tmp_path / "chosen_on.csv", index=False)
    evaluation = evaluate.evaluate(predictions, tmp_path / "labels.csv")
    assert evaluation.metrics.count == 4
    # They are not lost: a report still shows them.
    assert len(evaluation.table) == 6
    assert (evaluation.rows.labelled, evaluation.rows.coverage) == (6, 1.0)
    assert any("2 recordings are left out" in note for note in evaluate.notes(evaluation))
    labels.to_csv(tmp_path / "chosen_on.csv", index=False)
    with pytest.raises(InputError, match="all of its labelled recordings chose the threshold"):
        evaluate.evaluate(predictions, tmp_path / "labels.csv")
