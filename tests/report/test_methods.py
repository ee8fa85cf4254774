"""The paragraph for a paper."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from stallscan import __version__
from stallscan.calls import corrections, decide
from stallscan.calls.predictions import read_predictions, read_run
from stallscan.calls.settings import CallSettings
from stallscan.evaluation import evaluate
from stallscan.report import methods
from tests.predicted import ROWS, prediction

RUN = {
    "stallscan": "1.2.3",
    "git": "abc123",
    "simulated_training": True,
    "prevalence": 0.4,
    "recordings": 12,
}


def table():
    table = pd.DataFrame([prediction(*row[:4]) for row in ROWS])
    return table.assign(score=pd.to_numeric(table["score"]))


def describe(predictions, run, evaluation=None, answers=()):
    return methods.describe(corrections.apply(predictions, dict(answers)), run, evaluation)


def test_a_review_is_part_of_the_methods():
    how, _ = describe(table(), RUN, answers={"a/2.mp4": "stalled", "a/3.mp4": "flowing"})
    assert "3 stalled" in how
    assert "reviewed 2 recordings: they confirmed 1 call and overturned 1." in how
    assert "9 recordings after the review" in how


def test_what_people_decided_is_told_from_what_the_model_did(study):
    # A flowing recording, one left for review, and one without an outline.
    answers = {"a/3.mp4": "unscorable", "a/8.mp4": "unscorable", "a/7.mp4": "flowing"}
    how, _ = describe(table(), RUN, answers=answers)
    for words in ("confirmed 0", "overturned 1", "decided 2", "1 without", "2 judged by people"):
        assert words in how
    assert "left for a person" not in how
    evaluation = evaluate.evaluate(study / "new" / "predictions.csv", study / "labels.csv")
    _, measured, _ = describe(evaluation.table, RUN, evaluation, answers={"1.mp4": "stalled"})
    assert "model's own" in measured
    _, measured, _ = describe(evaluation.table, RUN, evaluation)
    assert "model's own" not in measured


def test_what_was_left_to_a_person_is_part_of_the_methods():
    how, _ = describe(table(), RUN)
    assert "flowing if" not in how
    assert "left to a person if" not in how
    how, _ = describe(table(), RUN | {"decision": {"low": 0.25}})
    assert "at least 0.6, and flowing if it was below 0.25." in how
    how, _ = describe(table(), RUN | {"consistency": True})
    assert "left to a person if" in how


def test_a_commit_is_not_cited_for_several_versions():
    assert "version 1.2.3, commit abc123" in describe(table(), RUN | {"versions": ["1.2.3"]})[-1]
    cited = describe(table(), RUN | {"versions": ["1.2.0", "1.2.3"]})[-1]
    assert "version 1.2.0 and 1.2.3 (report" in cited


def test_the_score_of_a_vote_is_no_probability():
    how, _ = describe(table(), RUN)
    assert "estimates the probability" in how
    how, _ = describe(table(), RUN | {"bundle": "voted 1a2b", "prevalence": None})
    assert "vote" in how
    assert "estimates the probability" not in how
    assert "at least 0.6" in how
    # Nothing is claimed of scores that nothing is known of.
    how, _ = describe(table(), {})
    assert "probability" not in how


def test_what_made_the_calls_is_named():
    how, citation = describe(table(), RUN)
    for words in ("stallscan 1.2.3", "default", "simulated", "0.6", "40 %", "9 recordings"):
        assert words in how
    assert "3 recordings were not scored" in how
    for count in ("2 stalled", "4 flowing", "1 left", "2 without"):
        assert count in how
    assert "1.2.3" in citation
    assert "abc123" in citation


def test_what_is_unknown_is_left_out():
    how, citation = describe(table(), {"prevalence": None, "git": 3})
    assert "None" not in how + citation
    assert "share of stalled" not in how
    assert "simulated" not in how
    assert "commit" not in citation


def test_a_chosen_threshold_and_several_versions_are_named():
    run = {"versions": ["0.1", "0.2"], "decision": {"chosen_on": 300}}
    how, citation = describe(table(), run)
    assert "0.1 and 0.2" in how
    assert "300 labelled recordings" in how
    assert "0.1 and 0.2" in citation


CALIBRATED = {"steps": [{"calibration": {"slope": 1.0, "intercept": 0.0}}]}


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (
            CALIBRATED | {"rule": "mcc", "chosen_on": 9},
            "Calibration and threshold were chosen on 9",
        ),
        (CALIBRATED | {"rule": "keep", "chosen_on": 9}, "The calibration was chosen on 9"),
        (
            CALIBRATED | {"rule": "keep", "like": {"name": "rare", "chosen_on": 1}, "chosen_on": 0},
            "Calibration and threshold were taken from an earlier decision on other recordings "
            "(rare), which chose on 1 labelled recording of its own.",
        ),
        (
            {"rule": "keep", "like": {"name": "rare", "chosen_on": 0}, "chosen_on": 7},
            "The threshold was taken from an earlier decision on other recordings (rare).",
        ),
        ({"rule": "mcc", "prevalence": 0.4}, "Scores were converted to an expected share of 40 %"),
        ({"prevalence": "estimate"}, "a share of 40 % stalled recordings, estimated from the"),
        ({"prevalence": None}, "Scores are calibrated for a share of 40 %"),
        # A calibration replaces the share that 'predict' was told to expect.
        (CALIBRATED | {"expected": 0.02}, "Scores are calibrated for a share of 40 %"),
        (
            {"steps": [*CALIBRATED["steps"], {"to": 0.4}, {}], "expected": 0.02},
            "Scores were converted to an expected share of 40 %",
        ),
        ({"steps": [{}], "expected": 0.4}, "Scores were converted to an expected share of 40 %"),
    ],
)
def test_where_calibration_threshold_and_share_are_from_is_said(decision, said):
    run = RUN | {"decision": decision, "expected_prevalence": decision.get("expected")}
    how, _ = describe(table(), run)
    assert said in how
    assert how.count("threshold w") + how.count("calibration was") <= 1


def test_a_threshold_of_ones_own_was_not_chosen_on_labels(study, tmp_path):
    predictions, labels = study / "new" / "predictions.csv", study / "labels.csv"

    def decided(name, given, labels=None, **settings):
        path = decide.write_calls(
            decide.decide(given, CallSettings(**settings), labels), tmp_path / name
        )
        rows, run = read_predictions(path), read_run(path)
        return path, describe(rows, run)[0]

    chosen, how = decided("chosen", predictions, labels, rule="mcc")
    assert "The threshold was chosen on 600 labelled recordings" in how
    _, how = decided("kept", chosen)
    assert "The threshold was chosen on 600 labelled recordings" in how
    own, how = decided("own", chosen, threshold=0.9)
    assert "labelled recording" not in how
    _, how = decided("again", own)
    assert "labelled recording" not in how
    _, how = decided("short", chosen, rule="load", load=0.2)
    assert "labelled recording" not in how
    _, how = decided("calibrated", predictions, labels, calibrate=True, threshold=0.5)
    assert "The calibration was chosen on 600 labelled recordings" in how


def test_a_share_that_was_stated_is_told_from_that_of_the_bundle():
    how, _ = describe(table(), RUN | {"expected_prevalence": 0.4})
    assert "Scores and threshold were converted to an expected share of 40 %" in how
    how, _ = describe(table(), RUN | {"expected_prevalence": None})
    assert "Scores and threshold are calibrated for a share of 40 %" in how


def test_regions_of_a_stack_are_said_with_where_they_are_from():
    stack = {"name": "field3.tif", "axis": "depth", "regions": 9, "source": "vessels.zip"}
    how, _ = describe(table(), RUN | {"stack": stack})
    assert "regions of a z-stack: field3.tif, 9 regions from vessels.zip." in how
    how, _ = describe(table(), RUN | {"stack": stack | {"source": "", "axis": "time"}})
    assert "a time series: field3.tif, 9 capillary segments that stallscan found in it." in how
    for other in (None, {"name": "field3.tif"}, "field3.tif"):
        how, _ = describe(table(), RUN | {"stack": other})
        assert "regions" not in how


def test_figures_come_with_intervals(study):
    by_mouse = evaluate.evaluate(study / "new" / "predictions.csv", study / "labels.csv")
    _, measured, _ = describe(by_mouse.table, RUN, by_mouse)
    recall, bounds = by_mouse.metrics.recall, by_mouse.intervals["recall"]
    within = f"{bounds.low:.3f} to {bounds.high:.3f}"
    assert f"a sensitivity of {recall:.3f} (95 % interval {within})" in measured
    assert "12 by mouse" in measured
    assert "600" in measured
    labels = pd.read_csv(study / "labels.csv", usecols=["filename", "stalled"])
    labels.to_csv(study / "without_mice.csv", index=False)
    alone = evaluate.evaluate(study / "new" / "predictions.csv", study / "without_mice.csv")
    _, measured, _ = describe(alone.table, RUN, alone)
    assert "by mouse" not in measured
    assert "animal" in measured


def test_the_command_prints_what_the_report_shows(run, tables):
    predictions, labels = tables
    code, shown, _ = run("methods", predictions, "--labels", labels)
    assert code == 0
    evaluation = evaluate.evaluate(predictions, labels, partial=True)
    corrected = corrections.apply(evaluation.table, {})
    assert shown == "\n\n".join(methods.describe(corrected, {}, evaluation)) + "\n"
    _, shown, _ = run("methods", predictions.parent)
    assert "sensitivity" not in shown


def test_the_citation_names_this_version():
    citation = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["title"] == "stallscan"
