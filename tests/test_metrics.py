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
    # 17 right calls are off by 0.1, 3 wrong ones by 0.9.
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


def weighted_figures(scored, weights):
    """What scikit-learn says of recordings that were drawn so often, at their own prevalence."""
    labels, scores = scored.labels, scored.scores
    prevalence = labels.mean()
    share = weights[labels].sum() / weights.sum()
    # Weights that put the prevalence of the draw back to that of the sample.
    fixed = weights * np.where(labels, prevalence / share, (1 - prevalence) / (1 - share))
    return {
        "roc_auc": reference.roc_auc_score(labels, scores, sample_weight=fixed),
        "pr_auc": reference.average_precision_score(labels, scores, sample_weight=fixed),
        "brier": reference.brier_score_loss(labels, scores, sample_weight=fixed),
        "log_loss": reference.log_loss(labels, scores, sample_weight=fixed),
        "mcc": reference.matthews_corrcoef(labels, scored.calls, sample_weight=fixed),
        "precision": reference.precision_score(labels, scored.calls, sample_weight=fixed),
        "recall": reference.recall_score(labels, scored.calls, sample_weight=fixed),
        "f1": reference.f1_score(labels, scored.calls, sample_weight=fixed),
        "accuracy": reference.accuracy_score(labels, scored.calls, sample_weight=fixed),
    }


@pytest.mark.parametrize("grouped", [False, True])
def test_each_draw_is_what_scikit_learn_says_of_the_recordings_drawn(monkeypatch, grouped):
    scored = random_scored(200)
    groups = np.arange(200) // 9 if grouped else None
    drawn_weights = []
    real = metrics._weights

    def keep(strata, seed):
        for weights in real(strata, seed):
            drawn_weights.append(weights)
            yield weights

    monkeypatch.setattr(metrics, "_weights", keep)
    figures = metrics.draw(scored, groups).figures()
    weights = np.concatenate(drawn_weights, axis=1)
    assert weights.shape[1] == metrics.BOOTSTRAP_DRAWS
    if grouped:
        assert (weights.sum(axis=0) == 23).all()
        weights = weights[groups]
    else:
        assert (weights[scored.labels].sum(axis=0) == scored.labels.sum()).all()
    for draw in (0, 1, 500, 999):
        for name, expected in weighted_figures(scored, weights[:, draw]).items():
            assert figures[name][draw] == pytest.approx(expected), name
        false_rate, recall, _ = reference.roc_curve(
            scored.labels, scored.scores, sample_weight=weights[:, draw], drop_intermediate=False
        )
        for at in metrics.SPECIFICITIES:
            expected = recall[false_rate <= 1 - at + 1e-9].max()
            assert figures[metrics.sensitivity_name(at)][draw] == pytest.approx(expected)


def test_groups_of_one_recording_are_recordings():
    scored = random_scored(1000)
    alone = metrics.draw(scored).figures()
    single = metrics.draw(scored, np.arange(1000)).figures()
    # 4: every recording stands there with three copies of itself, which is no news.
    twins = Scored(*(np.repeat(part, 4) for part in (scored.labels, scored.scores, scored.calls)))
    copied = metrics.draw(twins, np.repeat(np.arange(1000), 4)).figures()
    naive = metrics.draw(twins).figures()
    for name in ("mcc", "roc_auc", "pr_auc", "brier", "log_loss", "recall", "precision"):
        width = np.diff(metrics.interval(alone[name]))
        assert np.diff(metrics.interval(single[name])) == pytest.approx(width, rel=0.15)
        assert np.diff(metrics.interval(copied[name])) == pytest.approx(width, rel=0.15)
        assert np.diff(metrics.interval(naive[name])) == pytest.approx(width / 2, rel=0.2)


def test_the_interval_by_group_holds_the_truth():
    # 20 mice that differ; the truth is the ROC AUC over all mice there could be.
    rng = np.random.default_rng(0)

    def study(mice, each):
        mouse = np.repeat(np.arange(mice), each)
        labels = rng.random(mice * each) < 0.3
        skill = rng.normal(1.5, 0.7, mice)[mouse]
        scores = 1 / (1 + np.exp(-rng.normal(skill * labels, 1.0)))
        return Scored.check(labels, scores, scores >= 0.6), mouse

    truth = metrics.measure(study(4000, 40)[0]).roc_auc
    held = {"mouse": 0, "recording": 0}
    for _ in range(40):
        scored, mouse = study(20, 40)
        for name, groups in (("mouse", mouse), ("recording", None)):
            low, high = metrics.interval(metrics.draw(scored, groups).roc_auc)
            held[name] += low <= truth <= high
    assert held["mouse"] >= 34
    assert held["recording"] < held["mouse"] - 3


def test_poisson_weights_come_to_the_same(monkeypatch):
    scored = random_scored(3000)
    drawn = metrics.draw(scored).figures()
    monkeypatch.setattr(metrics, "POISSON_FROM", 0)
    poisson = metrics.draw(scored).figures()
    for name, values in drawn.items():
        assert metrics.interval(poisson[name]) == pytest.approx(metrics.interval(values), rel=0.04)
    table = metrics.POISSON_TABLE
    assert (table.mean(), table.var()) == (pytest.approx(1, abs=1e-3), pytest.approx(1, abs=1e-2))


def test_many_stalled_scores_are_thinned(monkeypatch):
    scored = random_scored(20_000)
    scores = (scored.scores + np.random.default_rng(0).random(20_000) * 1e-3).clip(0, 1)
    scored = Scored.check(scored.labels, scores, scored.calls)
    exact = metrics.draw(scored)
    monkeypatch.setattr(metrics, "MOST_CUTS", 1000)
    thinned = metrics.draw(scored)
    for name in ("roc_auc", "pr_auc"):
        assert getattr(thinned, name) == pytest.approx(getattr(exact, name), abs=1e-3)


def test_equal_recordings_are_drawn_for_both_of_a_pair():
    scored = random_scored(300)
    worse = Scored.check(scored.labels, scored.scores[::-1], scored.calls)
    again, other = metrics.draw(scored), metrics.draw(worse)
    assert (again.roc_auc == metrics.draw(scored).roc_auc).all()
    # The calls are the same, so are the draws of what depends on them.
    assert (again.figures()["mcc"] == other.figures()["mcc"]).all()


def test_what_draws_cannot_tell():
    one = Scored.check([0] * 50, np.linspace(0, 1, 50), [0] * 40 + [1] * 10)
    figures = metrics.draw(one).figures(metrics.smoothed_rates(metrics.count(one)))
    told = {name for name, values in figures.items() if metrics.interval(values)}
    assert told == {"specificity", "accuracy", "brier", "log_loss"}
    # A single stalled recording is in two of three draws of groups: no interval from those.
    rare = Scored.check([1] + [0] * 49, np.linspace(1, 0, 50), [1] + [0] * 49)
    assert metrics.interval(metrics.draw(rare, np.arange(50)).roc_auc) is None
    assert metrics.interval(metrics.draw(rare).roc_auc) == (1, 1)


def test_rates_by_group_are_never_certain():
    cells = Confusion(30, 0, 70, 0)
    scored = scored_from_counts(cells)
    groups = np.arange(100) % 12
    expected = metrics.smoothed_rates(cells)
    assert (metrics.group_rates(scored, groups).recall == expected.recall).all()
    drawn = metrics.marginal_rates(metrics.draw(scored, groups), cells, grouped=True)
    assert metrics.interval(drawn.recall).low < 0.95


def test_rates_by_group_are_those_of_all_figures():
    scored = random_scored(600)
    groups = np.arange(600) % 25
    rates, drawn = metrics.group_rates(scored, groups), metrics.draw(scored, groups).rates
    assert rates.recall == pytest.approx(drawn.recall)
    assert rates.specificity == pytest.approx(drawn.specificity)


def test_the_curve_passes_through_the_stated_prevalences():
    cells = Confusion(553, 95, 13415, 97)
    scored = scored_from_counts(cells)
    curve = metrics.mcc_curve(metrics.smoothed_rates(cells), metrics.measure(scored))
    for at in metrics.PREVALENCES:
        nearest = np.abs(curve.prevalence - at).argmin()
        expected = metrics.reweighted_mcc(553 / 650, 13415 / 13510, curve.prevalence[nearest])
        assert curve.mcc[nearest] == pytest.approx(expected)
        low, high = metrics.mcc_interval(cells, curve.prevalence[nearest])
        assert (curve.low[nearest], curve.high[nearest]) == pytest.approx((low, high))
    flowing = scored_from_counts(Confusion(0, 1, 5, 0))
    measured = metrics.measure(flowing)
    assert metrics.mcc_curve(metrics.smoothed_rates(measured.confusion), measured) is None


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    # Newcombe (1998), table I: 81/263, 15/148, 0/20, 1/29.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_as_published(part, whole, low, high):
    assert metrics.wilson(part, whole) == pytest.approx((low, high), abs=5e-5)
    assert metrics.wilson(whole - part, whole) == pytest.approx((1 - high, 1 - low), abs=5e-5)
    assert metrics.wilson(0, 0) is None


def test_hand_worked_reliability():
    labels = [0, 1, 0, 0, 1, 1]
    scores = [0.0, 0.05, 0.1, 0.12, 0.95, 1.0]
    bins = metrics.reliability(Scored.check(labels, scores, np.zeros(6)))
    # A bin holds its lower bound, and the last one 1, too; empty ones are left out.
    assert [(one.count, one.stalled) for one in bins] == [(2, 1), (2, 0), (2, 2)]
    assert [one.low for one in bins] == pytest.approx([0.0, 0.1, 0.9])
    assert [one.mean_score for one in bins] == pytest.approx([0.025, 0.11, 0.975])
    assert [one.share for one in bins] == [0.5, 0.0, 1.0]
    assert bins[1].interval == metrics.wilson(0, 2)
