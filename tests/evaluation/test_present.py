"""Evaluations as text and files: the terminal, metrics.json, the page, and the command."""

import json

import pandas as pd
import pytest
from markupsafe import Markup
from rich.console import Console

from stallscan.calls.predictions import SIMULATED
from stallscan.errors import InputError
from stallscan.evaluation import comparison, evaluate, present
from stallscan.rates import correction
from stallscan.report import figures
from stallscan.scores import bootstrap
from tests.predicted import prediction, write_tables


def test_one_class_gives_no_reweighted_mcc(tmp_path):
    predictions = [prediction("1.mp4"), prediction("2.mp4", score=0.1, call="flowing")]
    tables = write_tables(tmp_path, predictions, [("1.mp4", 0), ("2.mp4", 0)])
    evaluation = evaluate.evaluate(*tables)
    assert evaluation.mcc_interval is None
    assert {(at.mcc, at.interval) for at in evaluation.mcc_at} == {(None, None)}
    assert evaluation.curve is None
    assert ("ROC AUC", "not defined", "") in present.figures(evaluation)
    assert any("2 labels" in note and "flowing" in note for note in present.notes(evaluation))
    present.write_metrics(evaluation, tmp_path / "out")
    figures.evaluation(evaluation.scored, tmp_path / "out")


def test_json_holds_the_figures_and_where_they_come_from(tables, tmp_path):
    path = present.write_metrics(evaluate.evaluate(*tables, partial=True), tmp_path / "new" / "out")
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
        console.print(present.as_table(evaluate.evaluate(*tables)))
    text = console.export_text()
    assert "MCC at 50 % stalled" in text
    assert "MCC re-weighted to 0.3 %" in text
    assert "1: [/b]3.mp4" in text
    assert "66.7 % of 3" in text


def test_the_page_stands_by_itself(study):
    evaluation = evaluate.evaluate(
        study / "old" / "predictions.csv", study / "labels.csv", about=[study / "about.csv"]
    )
    other = evaluate.evaluate(study / "new" / "predictions.csv", study / "labels.csv")
    path = present.write_page(
        evaluation,
        [Markup('<svg aria-label="a plot"></svg>')],
        study / "out",
        comparison.compare(evaluation, other),
    )
    page = path.read_text(encoding="utf-8")
    assert path.name == "evaluation.html"
    assert "http" not in page.replace("http-equiv", "")
    for words in (
        "MCC re-weighted to 9 %",
        "sensitivity at 99.9 % specificity",
        "log-loss at 20 % stalled",
        "12 by mouse",
        "By kind",
        "By frames",
        "600 recordings",
        "new minus old",
        present.headline(evaluation),
        '<svg aria-label="a plot">',
    ):
        assert words in page


def test_all_in_json(study):
    evaluation = evaluate.evaluate(
        study / "old" / "predictions.csv", study / "labels.csv", about=[study / "about.csv"]
    )
    content = json.loads(
        present.write_metrics(evaluation, study / "out").read_text(encoding="utf-8")
    )
    assert set(content["intervals_95"]) == set(present.WORDS)
    assert content["drawn_by"]["unit"] == "mouse"
    assert [at["specificity"] for at in content["sensitivity_at"]] == [0.993, 0.999]
    assert len(content["mcc_by_prevalence"]["low"]) == len(bootstrap.PREVALENCE_GRID)
    assert sum(part["count"] for part in content["reliability"]) == 600
    assert {part["name"] for part in content["breakdowns"]["kind"]} == {"flow", "plug", "rouleau"}
    assert content["sources"]["about"][0]["path"] == str(study / "about.csv")


def test_the_command(study, capsys):
    from stallscan.cli.commands import app

    words = ["evaluate", study / "old", "--labels", study / "labels.csv", "-o", study / "out"]
    cells = evaluate.evaluate(study / "old/predictions.csv", study / "labels.csv").metrics.confusion
    other = pd.read_csv(study / "new" / "predictions.csv")
    extra = pd.DataFrame([prediction("unlabelled.mp4", bundle="new")])
    pd.concat([other, extra]).to_csv(study / "new" / "predictions.csv", index=False)
    more = ["--against", study / "new", "--about", study / "about.csv", "--by", "kind", "--partial"]
    app([*map(str, words), *map(str, more)], result_action="return_value")
    printed = capsys.readouterr().out
    assert printed.startswith(
        f"{cells.true_stalled} of {cells.stalled} stalled found; {cells.false_stalled} of "
        f"{cells.flowing} flowing called stalled"
    )
    assert "New minus old" in printed
    assert "Paired comparison" in printed
    # The rest is behind --all.
    assert "By kind" not in printed
    assert "log-loss at" not in printed.partition("Paired comparison")[0]
    app([*map(str, words), *map(str, more), "--all"], result_action="return_value")
    printed = capsys.readouterr().out
    assert "By kind" in printed
    assert "log-loss at" in printed.partition("By kind")[0]
    names = {path.name for path in (study / "out").glob("[!.]*")}
    assert names == {"metrics.json", "evaluation.html"} | {
        f"{name}.{suffix}" for name in figures.WORDS for suffix in ("png", "svg")
    }
    pd.read_csv(study / "labels.csv").iloc[1:].to_csv(study / "labels.csv", index=False)
    with pytest.raises(InputError, match=r"1 of 600 .*: 0\.mp4\..*--partial"):
        app([*map(str, words)], result_action="return_value")


@pytest.mark.parametrize("is_corpus", [False, True])
def test_what_a_simulation_does_not_tell_is_said(tables, tmp_path, is_corpus):
    run = {"simulated_training": True, "paths": [str(tmp_path / "recordings" / "train")]}
    (tmp_path / "run.json").write_text(json.dumps(run))
    if is_corpus:
        (tmp_path / "recordings" / "train").mkdir(parents=True)
        (tmp_path / "recordings" / "simulation.json").touch()
    evaluation = evaluate.evaluate(*tables, partial=True)
    said = " ".join(present.notes(evaluation))
    assert (SIMULATED in said) != is_corpus
    assert ("recordings are simulated" in said) == is_corpus
    path = present.write_metrics(evaluation, tmp_path / "out")
    assert json.loads(path.read_text())["simulated"] == {"training": True, "recordings": is_corpus}
    # What is measured on simulated recordings corrects only those.
    assert correction.CallAccuracy.read(path).simulated == is_corpus


def test_mice_are_told_to_whoever_corrects_rates(study):
    evaluation = evaluate.evaluate(study / "old" / "predictions.csv", study / "labels.csv")
    errors = correction.CallAccuracy.read(present.write_metrics(evaluation, study / "out"))
    assert errors.grouped_by == "mouse"
    assert errors.effective == evaluation.effective
    assert 0 < errors.effective[0] <= 120
    alone = evaluate.evaluate(study / "old" / "predictions.csv", study / "labels.csv", group="")
    errors = correction.CallAccuracy.read(present.write_metrics(alone, study / "out"))
    assert (errors.grouped_by, errors.effective) == ("", None)


def test_the_command_says_a_note_once(study, capsys, caplog):
    from stallscan.cli.commands import app

    labels = pd.read_csv(study / "labels.csv")
    labels["filename"] = "films/" + labels["filename"]
    labels.drop(columns="mouse").to_csv(study / "labels.csv", index=False)
    words = ["evaluate", study / "new", "--labels", study / "labels.csv", "-o", study / "out"]
    app([*map(str, words), "--against", str(study / "old")], result_action="return_value")
    assert capsys.readouterr().out.count("bootstrap samples") == 1
    assert [message for message in caplog.messages if "by file name alone" in message] == [
        message for message in dict.fromkeys(caplog.messages) if "films/" in message
    ]
    page = (study / "out" / present.PAGE_NAME).read_text(encoding="utf-8")
    assert "Matched by file name alone, without the folder: 600." in page
    assert page.count("bootstrap samples") == 1


def test_specificities_that_cannot_be_told_from_all_share_a_note(tables):
    notes = present.notes(evaluate.evaluate(*tables, partial=True))
    (note,) = [note for note in notes if "false alarm" in note]
    assert "99.3 % or 99.9 %" in note
