"""Metrics against hand-worked tables, scikit-learn and published figures."""

import math

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from stallscan import words
from stallscan.errors import InputError
from stallscan.scores import curves, intervals, metrics
from stallscan.scores.metrics import Confusion, Scored
from tests.scored import random_scored, scored_from_counts


def test_hand_worked_table():
    # 8 stalled, 12 flowing: MCC = (6 * 11 - 1 * 2) / sqrt(7 * 8 * 12 * 13)
    measured = metrics.measure(scored_from_counts(Confusion(6, 1, 11, 2)))
    assert measured.confusion == (6, 1, 11, 2)
    assert measured.count == 20
    assert measured.prevalence == 8 / 20
    assert measured.mcc == pytest.approx(64 / math.sqrt(7 * 8 * 12 * 13))
    assert measured.accuracy == 17 / 20
    assert measured.precision == 6 / 7
    assert measured.recall == 6 / 8
    assert measured.specificity == 11 / 12
    assert measured.f1 == 12 / 15
    # Correctly ranked pairs, ties counted half: (6 * 11 + (6 * 1 + 2 * 11) / 2) / (8 * 12)
    assert measured.roc_auc == pytest.approx(80 / 96)
    # Recall steps to 6/8 at precision 6/7, then to 1 at precision 8/20.
    assert measured.pr_auc == pytest.approx(6 / 8 * 6 / 7 + 2 / 8 * 8 / 20)
    # The scores of 17 right calls have an error of 0.1, those of 3 wrong calls 0.9.
    assert measured.brier == pytest.approx((17 * 0.1**2 + 3 * 0.9**2) / 20)
    assert measured.log_loss == pytest.approx(-(17 * math.log(0.9) + 3 * math.log(0.1)) / 20)


def test_hand_worked_sensitivity_at_a_specificity():
    # Ten flowing: 0.05, 0.15, ... 0.95; at 80 % two may be called, so the threshold is above 0.75.
    flowing = np.arange(10) / 10 + 0.05
    stalled = [0.2, 0.75, 0.8, 0.9]
    scored = Scored.check(np.repeat([0, 1], (10, 4)), [*flowing, *stalled], np.zeros(14))
    assert metrics.sensitivity_at(scored, 0.8) == (0.8, 2 / 4, 0.8, 2)
    assert metrics.sensitivity_at(scored, 0.7) == (0.7, 3 / 4, 0.75, 3)
    # At 99.9 % none of ten may be called, and no stalled one is above all of them.
    assert metrics.sensitivity_at(scored, 0.999) == (0.999, 0.0, None, 0)
    one_class = Scored.check([0, 0], [0.1, 0.2], [0, 0])
    assert metrics.sensitivity_at(one_class, 0.5) == (0.5, None, None, 1)


@pytest.mark.parametrize(("flowing", "allowed"), [(999, 0), (1000, 1), (2000, 2), (571_161, 571)])
def test_false_alarms_that_a_specificity_allows(flowing, allowed):
    scored = Scored.check(
        np.repeat([0, 1], (flowing, 1)), np.zeros(flowing + 1), [0] * flowing + [0]
    )
    assert metrics.sensitivity_at(scored, 0.999).false_alarms == allowed


def test_same_as_scikit_learn():
    scored = random_scored(500)
    measured = metrics.measure(scored)
    labels, calls = scored.labels, scored.calls
    assert measured.mcc == pytest.approx(reference.matthews_corrcoef(labels, calls))
    assert measured.accuracy == pytest.approx(reference.accuracy_score(labels, calls))
    assert measured.precision == pytest.approx(reference.precision_score(labels, calls))
    assert measured.recall == pytest.approx(reference.recall_score(labels, calls))
    assert measured.f1 == pytest.approx(reference.f1_score(labels, calls))
    assert measured.roc_auc == pytest.approx(reference.roc_auc_score(labels, scored.scores))
    assert measured.pr_auc == pytest.approx(
        reference.average_precision_score(labels, scored.scores)
    )
    assert measured.brier == pytest.approx(reference.brier_score_loss(labels, scored.scores))
    assert measured.log_loss == pytest.approx(reference.log_loss(labels, scored.scores))
    specificity = reference.recall_score(labels, calls, pos_label=False)
    assert measured.specificity == pytest.approx(specificity)
    false_rate, recall, _ = reference.roc_curve(labels, scored.scores, drop_intermediate=False)
    for at in (0.5, 0.9, *metrics.SPECIFICITIES):
        expected = recall[false_rate <= 1 - at + 1e-12].max()
        assert metrics.sensitivity_at(scored, at).sensitivity == pytest.approx(expected)


def test_undefined_figures_are_none():
    quiet = metrics.measure(scored_from_counts(Confusion(0, 0, 5, 3)))
    assert quiet.precision is None
    assert (quiet.mcc, quiet.recall, quiet.f1) == (0.0, 0.0, 0.0)

    flowing = metrics.measure(scored_from_counts(Confusion(0, 0, 5, 0)))
    undefined = (flowing.precision, flowing.recall, flowing.f1, flowing.roc_auc, flowing.pr_auc)
    assert undefined == (None,) * 5
    assert (flowing.mcc, flowing.specificity, flowing.accuracy) == (0.0, 1.0, 1.0)

    stalled = metrics.measure(scored_from_counts(Confusion(4, 0, 0, 1)))
    assert (stalled.specificity, stalled.roc_auc, stalled.pr_auc) == (None, None, None)
    assert curves.roc(scored_from_counts(Confusion(4, 0, 0, 1))) is None


@pytest.mark.parametrize(
    ("prevalence", "expected"), [(0.046, 0.85), (0.02, 0.77), (0.01, 0.68), (0.003, 0.475)]
)
def test_reweighted_mcc_as_published(prevalence, expected):
    # docs/facts.md 6
    assert metrics.reweighted_mcc(0.85, 0.993, prevalence) == pytest.approx(expected, abs=0.006)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), st.integers(0, 200))
def test_reweighting_to_the_own_prevalence_changes_nothing(tp, fp, tn, fn):
    if tp + fn == 0 or tn + fp == 0:
        return
    again = metrics.reweighted_mcc(tp / (tp + fn), tn / (tn + fp), (tp + fn) / (tp + fp + tn + fn))
    assert again == pytest.approx(metrics.mcc_of_counts(tp, fp, tn, fn), abs=1e-9)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.25, 0.5, 0.731, 1.0]))
def test_by_threshold_agrees_with_calls_at_that_threshold(seed, threshold):
    scored = random_scored(60, seed)
    if scored.labels.all() or not scored.labels.any():
        return
    index = round(threshold * 1000)
    calls = scored.scores >= curves.GRID[index]
    expected = metrics.measure(Scored.check(scored.labels, scored.scores, calls))
    for name, values in curves.by_threshold(scored).items():
        value = getattr(expected, name)
        assert values[index] == pytest.approx(math.nan if value is None else value, nan_ok=True)


def test_curves():
    scored = random_scored(300)
    false_rate, recall = curves.roc(scored)
    assert np.trapezoid(recall, false_rate) == pytest.approx(metrics.measure(scored).roc_auc)
    recall, precision = curves.precision_recall(scored)
    assert (recall[0], recall[-1], precision[-1]) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.5, math.inf])
def test_bad_scores_are_named_by_row(wrong):
    with pytest.raises(InputError, match=r"row 2 \("):
        Scored.check([0, 1, 1], [0.1, wrong, 0.3], [0, 0, 1])


def test_many_bad_rows_are_counted():
    with pytest.raises(InputError, match=r"row 3 \(2\) and 17 more"):
        Scored.check([0] * 20, [2.0] * 20, [0] * 20)


@pytest.mark.parametrize(
    ("labels", "scores", "calls", "message"),
    [
        ([0, 2], [0.1, 0.2], [0, 1], r"label not 0 or 1: row 2 \(2\)"),
        ([0, 1], [0.1, 0.2], [0, 3], r"call not 0 or 1: row 2 \(3\)"),
        ([0, 1], [0.1], [0, 1], "one length"),
        ([], [], [], "no recording"),
    ],
)
def test_bad_labels_calls_and_lengths(labels, scores, calls, message):
    with pytest.raises(InputError, match=message):
        Scored.check(labels, scores, calls)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.3, "30 %"),
        (0.046, "4.6 %"),
        (0.003, "0.3 %"),
        (0.993, "99.3 %"),
        (571_094 / 571_161, "99.988 %"),
        (573_047 / 573_048, "99.99983 %"),
        (1, "100 %"),
    ],
)
def test_percent(share, text):
    assert words.percent(share) == text


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_a_score_at_the_edge_of_a_bin_is_in_the_upper_one(step):
    score = step / 1000
    (found,) = curves.reliability(Scored.check([1], [score], [1]))
    place = min(step // 100, 9)
    assert (found.low, found.high) == (place / 10, (place + 1) / 10)
    assert curves.by_threshold(Scored.check([1, 0], [score, 0], [1, 0]))["recall"][step] == 1


@settings(deadline=None)
@given(st.integers(1, 999), st.integers(1, 3000))
def test_false_alarms_are_counted_exactly(permille, flowing):
    scored = Scored.check([1] + [0] * flowing, [0.5] * (flowing + 1), [1] * (flowing + 1))
    found = metrics.sensitivity_at(scored, permille / 1000)
    assert found.false_alarms == (1000 - permille) * flowing // 1000


def test_hand_worked_reliability():
    labels = [0, 1, 0, 0, 1, 1]
    scores = [0.0, 0.05, 0.1, 0.12, 0.95, 1.0]
    bins = curves.reliability(Scored.check(labels, scores, np.zeros(6)))
    # A bin includes its lower bound, the last one also 1; empty bins are left out.
    assert [(one.count, one.stalled) for one in bins] == [(2, 1), (2, 0), (2, 2)]
    assert [one.low for one in bins] == pytest.approx([0.0, 0.1, 0.9])
    assert [one.mean_score for one in bins] == pytest.approx([0.025, 0.11, 0.975])
    assert [one.share for one in bins] == [0.5, 0.0, 1.0]
    assert bins[1].interval == intervals.wilson(0, 2)[1:]
