"""Paired comparison of two models on the same recordings."""

import json

import pandas as pd
import pytest
from rich.console import Console

from stallscan.errors import InputError
from stallscan.evaluation import evaluate, present
from stallscan.evaluation.breakdown import Group
from stallscan.evaluation.comparison import compare
from stallscan.scores import metrics
from stallscan.scores.metrics import Scored
from tests.scored import gain_by_hand


def test_paired_comparison(study, tmp_path):
    old, new = (
        evaluate.evaluate(study / name / "predictions.csv", study / "labels.csv")
        for name in ("old", "new")
    )
    comparison = compare(old, new)
    assert (comparison.count, comparison.stalled) == (600, 120)
    assert comparison.group == Group("mouse", 12)
    by_name = {figure.name: figure for figure in comparison.differences}
    mcc = by_name["mcc"]
    assert mcc.difference == pytest.approx(new.metrics.mcc - old.metrics.mcc)
    # Both models are measured on the same draws of mice.
    expected = gain_by_hand(old.scored, new.scored, old.evaluated["group"].to_numpy(str))
    assert mcc.interval == pytest.approx(expected, abs=0.02)
    assert (mcc.verdict, by_name["brier"].verdict) == ("better", "better")
    assert by_name["brier"].difference < 0
    back = {figure.name: figure for figure in compare(new, old).differences}
    assert back["mcc"].verdict == back["brier"].verdict == "worse"
    assert back["mcc"].interval == pytest.approx((-mcc.interval.high, -mcc.interval.low))
    same = compare(old, old).differences
    assert {figure.verdict for figure in same} == {"no difference can be told"}
    assert {figure.interval for figure in same} == {(0, 0)}
    content = json.loads(present.write_metrics(new, tmp_path / "out", comparison).read_text())
    assert content["comparison"]["differences"][0]["verdict"] == "better"
    assert content["comparison"]["old"]["bundles"] == ["old"]
    assert content["bundles"] == ["new"]
    said = present.compared(comparison)
    assert "New minus old on 600 recordings" in said
    assert f"{mcc.difference:+.3f}" in said
    assert said.endswith("new is better.")
    assert present.compared(compare(old, old)).endswith("no difference can be told.")


def test_comparison_is_on_what_both_called(study):
    path = study / "new" / "predictions.csv"
    table = pd.read_csv(path).iloc[100:]
    table.loc[100:149, ["call", "status"]] = ["unscorable", "damaged"]
    table.to_csv(path, index=False)
    old, new = (
        evaluate.evaluate(study / name / "predictions.csv", study / "labels.csv")
        for name in ("old", "new")
    )
    comparison = compare(old, new)
    assert comparison.count == 450
    assert not comparison.is_on_all
    rest = old.evaluated.iloc[150:]
    expected = metrics.measure(
        Scored.check(rest["stalled"], rest["score"], rest["call"] == "stalled")
    )
    assert comparison.differences[0].first == pytest.approx(expected.mcc)
    assert present.as_json(new, comparison)["comparison"]["only_old"] == 150
    console = Console(width=220, record=True, file=(study / "printed").open("w"))
    with console.file:
        for laid in present.tables(new, comparison):
            console.print(laid)
    text = console.export_text()
    assert "450 recordings" in text
    assert "600 recordings" in text  # all that the first one called


def test_recordings_that_cannot_be_compared_are_refused(study):
    path, labels = study / "new" / "predictions.csv", pd.read_csv(study / "labels.csv")
    old = evaluate.evaluate(study / "old" / "predictions.csv", study / "labels.csv")
    labels.assign(stalled=1 - labels["stalled"]).to_csv(study / "flipped.csv", index=False)
    flipped = evaluate.evaluate(path, study / "flipped.csv")
    with pytest.raises(InputError, match=r"labels\.csv.*flipped\.csv.*600 .*0\.mp4, 1\.mp4"):
        compare(old, flipped)
    for table in (path, study / "flipped.csv"):
        table.write_text(table.read_text().replace(".mp4", "b.mp4"))
    others = evaluate.evaluate(path, study / "flipped.csv")
    with pytest.raises(InputError, match=r"old.predictions\.csv and .*new.predictions\.csv"):
        compare(old, others)
