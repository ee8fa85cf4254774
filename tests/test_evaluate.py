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
    assert [at.prevalence for at in evaluation.mcc_at] == [0.046, 0.02, 0.01, 0.003]
    at = evaluation.mcc_at[0]
    assert at.mcc == pytest.approx(metrics.reweighted_mcc(1 / 2, 2 / 3, 0.046))
    assert at.interval.low < at.mcc < at.interval.high


def test_one_class_gives_no_reweighted_mcc(tmp_path):
    predictions = [prediction("1.mp4"), prediction("2.mp4", score=0.1, call="flowing")]
    tables = write_tables(tmp_path, predictions, [("1.mp4", 0), ("2.mp4", 0)])
    evaluation = evaluate.evaluate(*tables)
    assert evaluation.mcc_interval is None
    assert {(at.mcc, at.interval) for at in evaluation.mcc_at} == {(None, None)}
    assert ("ROC AUC", "not defined", "") in evaluate.figures(evaluation)
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
    assert content["mcc_at"][3]["prevalence"] == 0.003
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
    started = time.perf_counter()
    evaluation = evaluate.evaluate(path, real_dir / "metadata" / "train_labels.csv.gz")
    plots.evaluation_figures(evaluation.scored)
    assert time.perf_counter() - started < 30
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
    names = ["confusion", "scores", "roc", "precision_recall", "thresholds"]
    written = plots.evaluation(scored, tmp_path / "one")
    expected = [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    assert [path.name for path in written] == expected
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
