"""Metrics against hand-worked tables, scikit-learn, brute force and published figures."""

import math

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from stallscan import metrics
from stallscan.errors import InputError
from stallscan.metrics import Confusion, Scored


def scored_from_counts(cells: Confusion) -> Scored:
    """Recordings with these counts; called ones score 0.9, the others 0.1."""
    labels = np.repeat([1, 0, 0, 1], cells)
    calls = np.repeat([1, 1, 0, 0], cells)
    return Scored.check(labels, np.where(calls == 1, 0.9, 0.1), calls)


def random_scored(count: int, seed: int = 0) -> Scored:
    rng = np.random.default_rng(seed)
    labels = rng.random(count) < 0.3
    scores = np.clip(rng.normal(0.3 + 0.35 * labels, 0.2), 0, 1).round(2)
    return Scored.check(labels, scores, scores >= 0.5, [0.5])


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
    # Pairs ranked right, ties counted half: (6 * 11 + (6 * 1 + 2 * 11) / 2) / (8 * 12)
    assert measured.roc_auc == pytest.approx(80 / 96)
    # Recall steps to 6/8 at precision 6/7, then to 1 at precision 8/20.
    assert measured.pr_auc == pytest.approx(6 / 8 * 6 / 7 + 2 / 8 * 8 / 20)


def test_same_as_scikit_learn():
    scored = random_scored(500)
    measured = metrics.measure(scored)
    labels, calls = scored.labels, scored.calls
    assert measured.mcc == pytest.approx(reference.matthews_corrcoef(labels, calls))
    assert measured.accuracy == pytest.approx(reference.accuracy_score(labels, calls))
    assert measured.precision == pytest.approx(reference.precision_score(labels, calls))
    assert measured.recall == pytest.approx(reference.recall_score(labels, calls))
    assert measured.f1 == pytest.approx(reference.f1_score(labels, calls))


def test_what_the_data_cannot_tell_is_none():
    quiet = metrics.measure(scored_from_counts(Confusion(0, 0, 5, 3)))
    assert quiet.precision is None
    assert (quiet.mcc, quiet.recall, quiet.f1) == (0.0, 0.0, 0.0)

    flowing = metrics.measure(scored_from_counts(Confusion(0, 0, 5, 0)))
    undefined = (flowing.precision, flowing.recall, flowing.f1, flowing.roc_auc, flowing.pr_auc)
    assert undefined == (None,) * 5
    assert (flowing.mcc, flowing.specificity, flowing.accuracy) == (0.0, 1.0, 1.0)

    stalled = metrics.measure(scored_from_counts(Confusion(4, 0, 0, 1)))
    assert (stalled.specificity, stalled.roc_auc, stalled.pr_auc) == (None, None, None)
    assert metrics.roc(scored_from_counts(Confusion(4, 0, 0, 1))) is None
    assert metrics.mcc_interval(stalled.confusion, 0.5) is None


@pytest.mark.parametrize(
    ("prevalence", "expected"), [(0.046, 0.85), (0.02, 0.77), (0.01, 0.68), (0.003, 0.475)]
)
def test_reweighted_mcc_as_published(prevalence, expected):
    # FACTS 6
    assert metrics.reweighted_mcc(0.85, 0.993, prevalence) == pytest.approx(expected, abs=0.006)


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), st.integers(0, 200))
def test_reweighting_to_the_own_prevalence_changes_nothing(tp, fp, tn, fn):
    if tp + fn == 0 or tn + fp == 0:
        return
    again = metrics.reweighted_mcc(tp / (tp + fn), tn / (tn + fp), (tp + fn) / (tp + fp + tn + fn))
    assert again == pytest.approx(metrics.mcc_of_counts(tp, fp, tn, fn), abs=1e-9)


@pytest.mark.parametrize(
    ("cells", "spread"),
    [
        # FACTS 6: 85 % and 99.3 % on the whole test set (650 of 14,160 stalled) ...
        (Confusion(553, 95, 13415, 97), 0.011),
        # ... and on 800 validation clips with 71 stalls.
        (Confusion(60, 5, 724, 11), 0.03),
    ],
)
def test_interval_has_the_published_spread(cells, spread):
    prevalence = cells.stalled / sum(cells)
    low, high = metrics.mcc_interval(cells, prevalence)
    assert low < metrics.mcc_of_counts(*cells) < high
    # A 95 % interval is 3.92 SD wide.
    assert (high - low) / 3.92 == pytest.approx(spread, rel=0.25)


def test_interval_agrees_with_drawing_recordings():
    scored = random_scored(400)
    measured = metrics.measure(scored)
    rng = np.random.default_rng(1)
    stalled, flowing = scored.calls[scored.labels], scored.calls[~scored.labels]
    hits = rng.choice(stalled, (2000, len(stalled))).sum(axis=1)
    alarms = rng.choice(flowing, (2000, len(flowing))).sum(axis=1)
    draws = metrics.mcc_of_counts(hits, alarms, len(flowing) - alarms, len(stalled) - hits)
    expected = np.percentile(draws, [2.5, 97.5])
    interval = metrics.mcc_interval(measured.confusion, measured.prevalence)
    assert interval == pytest.approx(expected, abs=0.02)


def test_interval_is_repeatable_and_never_certain():
    perfect = Confusion(30, 0, 70, 0)
    low, high = metrics.mcc_interval(perfect, 0.3)
    assert low < 0.97
    assert high == 1.0
    assert metrics.mcc_interval(perfect, 0.3) == (low, high)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.25, 0.5, 0.731, 1.0]))
def test_by_threshold_is_what_calls_at_that_threshold_give(seed, threshold):
    scored = random_scored(60, seed)
    if scored.labels.all() or not scored.labels.any():
        return
    index = round(threshold * 1000)
    calls = scored.scores >= metrics.GRID[index]
    expected = metrics.measure(Scored.check(scored.labels, scored.scores, calls))
    for name, values in metrics.by_threshold(scored).items():
        value = getattr(expected, name)
        assert values[index] == pytest.approx(math.nan if value is None else value, nan_ok=True)


def test_curves():
    scored = random_scored(300)
    false_rate, recall = metrics.roc(scored)
    assert np.trapezoid(recall, false_rate) == pytest.approx(metrics.measure(scored).roc_auc)
    recall, precision = metrics.precision_recall(scored)
    assert (recall[0], recall[-1], precision[-1]) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.5, math.inf])
def test_bad_scores_are_named_by_row(wrong):
    with pytest.raises(InputError, match=r"score not within 0 to 1: row 2 \("):
        Scored.check([0, 1, 1], [0.1, wrong, 0.3], [0, 0, 1])


def test_many_bad_rows_are_counted():
    with pytest.raises(InputError, match=r"row 5 \(2\) and 15 more"):
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
    ("share", "text"), [(0.3, "30 %"), (0.046, "4.6 %"), (0.003, "0.3 %"), (1, "100 %")]
)
def test_percent(share, text):
    assert metrics.percent(share) == text


def test_the_interval_of_the_gain_is_that_of_the_difference():
    rng = np.random.default_rng(0)
    labels = rng.random(600) < 0.3
    scores = np.where(labels, 0.9, 0.1)
    right = Scored.check(labels, scores, labels, (0.5,))
    flipped = rng.random(600) < 0.2
    wrong = Scored.check(labels, scores, labels ^ flipped, (0.5,))
    same = metrics.bootstrap_gain(right, right, np.arange(600), 0)
    assert same == (0, 0)
    gain = metrics.bootstrap_gain(wrong, right, np.arange(600), 0)
    assert 0.3 < gain.low < gain.high < 0.6
    # Twins bring no news: the interval is as wide as that of half the recordings.
    groups = metrics.bootstrap_gain(wrong, right, np.arange(600) // 10, 0)
    assert groups.high - groups.low == pytest.approx(gain.high - gain.low, rel=0.5)
