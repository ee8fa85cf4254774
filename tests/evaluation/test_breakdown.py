"""Breakdowns and groups against hand-computed values."""

import pandas as pd
import pytest

from stallscan.errors import InputError
from stallscan.evaluation import evaluate
from stallscan.scores import metrics


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
    recall = (first["call"] == "stalled")[first["stalled"] == 1].mean()
    assert mice.parts[0].recall == pytest.approx(recall)
    assert not mice.parts[0].by_group
    specificity = (first["call"] == "flowing")[first["stalled"] == 0].mean()
    assert mice.parts[0].mcc == pytest.approx(metrics.reweighted_mcc(recall, specificity, 0.2))
    # 20 to 119 frames, six recordings each.
    assert [(part.name, part.count) for part in frames.parts] == [
        ("up to 49", 180),
        ("50 to 56", 42),
        ("57 to 66", 60),
        ("67 to 100", 204),
        ("over 100", 114),
    ]
    assert sum(part.stalled for part in frames.parts) == 120


def test_default_columns_are_those_that_exist(study):
    evaluation = evaluate.evaluate(
        study / "old" / "predictions.csv", study / "labels.csv", about=[study / "about.csv"]
    )
    assert [breakdown.column for breakdown in evaluation.breakdowns] == ["kind", "frames"]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"group": "cage"}, "column cage.*mouse.*--group"),
        ({}, {"by": ["cage"]}, "column cage.*--by"),
        (
            {"mouse": ["", *["m1"] * 599]},
            {"group": "mouse"},
            r"about\.csv: mouse .*0\.mp4",
        ),
        ({"cage": range(600)}, {"by": ["cage"]}, "column cage.*600.*40.*--by"),
        ({"filename": [f"x{row}" for row in range(600)]}, {}, r"about\.csv: .*'x0'"),
        ({"filename": ["0.mp4"] * 600}, {}, r"about\.csv: filename: .*0\.mp4"),
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
