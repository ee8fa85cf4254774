"""Draws and intervals against scikit-learn, brute force, published variation and known truth."""

import numpy as np
import pytest
import sklearn.metrics as reference

from stallscan.scores import bootstrap, metrics, resample
from stallscan.scores.metrics import Confusion, Scored
from tests.scored import gain_by_hand, random_scored, scored_from_counts


@pytest.mark.parametrize(
    ("cells", "spread"),
    [
        # docs/facts.md 6: 85 % and 99.3 % on the whole test set (650 of 14,160 stalled) ...
        (Confusion(553, 95, 13415, 97), 0.011),
        # ... and on 800 validation clips with 71 stalls.
        (Confusion(60, 5, 724, 11), 0.03),
    ],
)
def test_interval_has_the_published_spread(cells, spread):
    prevalence = cells.stalled / sum(cells)
    low, high = bootstrap.mcc_interval(cells, prevalence)
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
    interval = bootstrap.mcc_interval(measured.confusion, measured.prevalence)
    assert interval == pytest.approx(expected, abs=0.02)


def test_interval_is_repeatable_and_never_certain():
    perfect = Confusion(30, 0, 70, 0)
    low, high = bootstrap.mcc_interval(perfect, 0.3)
    assert low < 0.97
    assert high == 1.0
    assert bootstrap.mcc_interval(perfect, 0.3) == (low, high)
    assert bootstrap.mcc_interval(Confusion(4, 0, 0, 1), 0.5) is None


def weighted_figures(scored, weights):
    """Compute the figures with scikit-learn for recordings drawn this often."""
    labels, scores = scored.labels, scored.scores
    prevalence = labels.mean()
    share = weights[labels].sum() / weights.sum()
    # Weights that restore the prevalence of the sample.
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
def test_the_figures_of_each_draw_agree_with_scikit_learn(monkeypatch, grouped):
    scored = random_scored(200)
    groups = np.arange(200) // 9 if grouped else None
    drawn_weights = []
    real = resample.draw_weights

    def keep(strata, seed):
        for weights in real(strata, seed):
            drawn_weights.append(weights)
            yield weights

    monkeypatch.setattr(bootstrap, "draw_weights", keep)
    figures = bootstrap.draw(scored, groups).figures()
    weights = np.concatenate(drawn_weights, axis=1)
    assert weights.shape[1] == resample.BOOTSTRAP_DRAWS
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
    alone = bootstrap.draw(scored).figures()
    single = bootstrap.draw(scored, np.arange(1000)).figures()
    # 4: every recording occurs four times, which adds no information.
    twins = Scored(*(np.repeat(part, 4) for part in (scored.labels, scored.scores, scored.calls)))
    copied = bootstrap.draw(twins, np.repeat(np.arange(1000), 4)).figures()
    naive = bootstrap.draw(twins).figures()
    for name in ("mcc", "roc_auc", "pr_auc", "brier", "log_loss", "recall", "precision"):
        width = np.diff(bootstrap.interval(alone[name]))
        assert np.diff(bootstrap.interval(single[name])) == pytest.approx(width, rel=0.15)
        assert np.diff(bootstrap.interval(copied[name])) == pytest.approx(width, rel=0.15)
        assert np.diff(bootstrap.interval(naive[name])) == pytest.approx(width / 2, rel=0.2)


def test_the_interval_by_group_contains_the_truth():
    # 20 mice that differ; the truth is the ROC AUC over the population of mice.
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
            low, high = bootstrap.interval(bootstrap.draw(scored, groups).roc_auc)
            held[name] += low <= truth <= high
    assert held["mouse"] >= 34
    assert held["recording"] < held["mouse"] - 3


def test_poisson_weights_are_equivalent(monkeypatch):
    scored = random_scored(3000)
    drawn = bootstrap.draw(scored).figures()
    monkeypatch.setattr(resample, "POISSON_FROM", 0)
    poisson = bootstrap.draw(scored).figures()
    for name, values in drawn.items():
        assert bootstrap.interval(poisson[name]) == pytest.approx(
            bootstrap.interval(values), rel=0.04
        )
    table = resample.POISSON_TABLE
    assert (table.mean(), table.var()) == (pytest.approx(1, abs=1e-3), pytest.approx(1, abs=1e-2))


def test_many_distinct_scores_are_thinned(monkeypatch):
    scored = random_scored(20_000)
    scores = (scored.scores + np.random.default_rng(0).random(20_000) * 1e-3).clip(0, 1)
    scored = Scored.check(scored.labels, scores, scored.calls)
    exact = bootstrap.draw(scored)
    monkeypatch.setattr(resample, "MOST_CUTS", 1000)
    thinned = bootstrap.draw(scored)
    for name in ("roc_auc", "pr_auc"):
        assert getattr(thinned, name) == pytest.approx(getattr(exact, name), abs=1e-3)


def test_both_models_of_a_pair_are_measured_on_the_same_draws():
    scored = random_scored(300)
    worse = Scored.check(scored.labels, scored.scores[::-1], scored.calls)
    again, other = bootstrap.draw(scored), bootstrap.draw(worse)
    assert (again.roc_auc == bootstrap.draw(scored).roc_auc).all()
    # The calls are equal, so the draws of figures that depend on calls are, too.
    assert (again.figures()["mcc"] == other.figures()["mcc"]).all()


def test_the_gain_is_the_difference_of_the_draws():
    rng = np.random.default_rng(0)
    labels = rng.random(600) < 0.3
    scores = np.where(labels, 0.9, 0.1)
    right = Scored.check(labels, scores, labels, (0.5,))
    flipped = rng.random(600) < 0.2
    wrong = Scored.check(labels, scores, labels ^ flipped, (0.5,))
    assert bootstrap.mcc_gain(right, right) == (0, 0)
    gain = bootstrap.mcc_gain(wrong, right)
    assert gain == pytest.approx(gain_by_hand(wrong, right, np.arange(600)), abs=0.02)
    assert 0.3 < gain.low < gain.high < 0.6
    # Random groups have no effect: the interval is as wide as that of single recordings.
    groups = np.arange(600) // 10
    by_group = bootstrap.mcc_gain(wrong, right, groups)
    assert by_group == pytest.approx(gain_by_hand(wrong, right, groups), abs=0.02)
    assert by_group.high - by_group.low == pytest.approx(gain.high - gain.low, rel=0.5)
    # The one group with stalls is missing from a third of the draws.
    rare = Scored.check([1] + [0] * 9, [0.9] * 10, [1] + [0] * 9)
    assert bootstrap.mcc_gain(rare, rare, np.arange(10)) is None


def test_draws_without_a_class_are_undefined():
    one = Scored.check([0] * 50, np.linspace(0, 1, 50), [0] * 40 + [1] * 10)
    figures = bootstrap.draw(one).figures(bootstrap.smoothed_rates(metrics.count(one)))
    told = {name for name, values in figures.items() if bootstrap.interval(values)}
    assert told == {"specificity", "accuracy", "brier", "log_loss"}
    # A third of the draws of groups lack the only stalled recording: too many for an interval.
    rare = Scored.check([1] + [0] * 49, np.linspace(1, 0, 50), [1] + [0] * 49)
    assert bootstrap.interval(bootstrap.draw(rare, np.arange(50)).roc_auc) is None
    assert bootstrap.interval(bootstrap.draw(rare).roc_auc) == (1, 1)


def test_rates_by_group_are_never_certain():
    cells = Confusion(30, 0, 70, 0)
    scored = scored_from_counts(cells)
    groups = np.arange(100) % 12
    expected = bootstrap.smoothed_rates(cells)
    assert (bootstrap.group_rates(scored, groups).recall == expected.recall).all()
    drawn = bootstrap.marginal_rates(bootstrap.draw(scored, groups), cells, grouped=True)
    assert bootstrap.interval(drawn.recall).low < 0.95


def test_recordings_of_a_mouse_count_as_fewer():
    # Ten of 20 mice have all ten stalled recordings found, the others none: 20 recordings, not 200,
    # and fewer for the error of a variance of 20 mice. All flowing recordings are called so.
    mice = np.repeat(np.arange(20), 20)
    labels = np.tile(np.repeat([True, False], 10), 20)
    found = labels & (mice % 2 == 0)
    scored = Scored.check(labels, np.where(found, 0.9, 0.1), found)
    stalled, flowing = bootstrap.effective_counts(scored, mice)
    assert stalled == pytest.approx(19 * (1.959964 / 2.093024) ** 2)
    assert flowing == 200
    # Each recording on its own; and a class in one mouse alone, of which nothing is known.
    single = bootstrap.effective_counts(scored, np.arange(400))
    assert single == pytest.approx((200, 200), rel=0.03)
    assert bootstrap.effective_counts(scored, np.where(labels, 0, mice)) == (200, 200)


def test_rates_by_group_are_those_of_all_figures():
    scored = random_scored(600)
    groups = np.arange(600) % 25
    rates, drawn = bootstrap.group_rates(scored, groups), bootstrap.draw(scored, groups).rates
    assert rates.recall == pytest.approx(drawn.recall)
    assert rates.specificity == pytest.approx(drawn.specificity)


def test_the_curve_passes_through_the_stated_prevalences():
    cells = Confusion(553, 95, 13415, 97)
    scored = scored_from_counts(cells)
    curve = bootstrap.mcc_curve(bootstrap.smoothed_rates(cells), metrics.measure(scored))
    for at in metrics.PREVALENCES:
        nearest = np.abs(curve.prevalence - at).argmin()
        expected = metrics.reweighted_mcc(553 / 650, 13415 / 13510, curve.prevalence[nearest])
        assert curve.mcc[nearest] == pytest.approx(expected)
        low, high = bootstrap.mcc_interval(cells, curve.prevalence[nearest])
        assert (curve.low[nearest], curve.high[nearest]) == pytest.approx((low, high))
    flowing = scored_from_counts(Confusion(0, 1, 5, 0))
    measured = metrics.measure(flowing)
    assert bootstrap.mcc_curve(bootstrap.smoothed_rates(measured.confusion), measured) is None


def test_one_group_gives_no_interval():
    scored = Scored.check([0, 1, 0, 1], [0.1, 0.9, 0.8, 0.7], [0, 1, 1, 1])
    figures = bootstrap.draw(scored, np.zeros(4)).figures()
    assert {name: bootstrap.interval(draws) for name, draws in figures.items()} == dict.fromkeys(
        figures
    )
    rates = bootstrap.group_rates(scored, np.zeros(4))
    assert np.isnan(rates.specificity).all()
    assert bootstrap.interval(bootstrap.of_rates(rates, 0.5)["mcc"]) is None
    assert bootstrap.mcc_curve(rates, metrics.measure(scored)) is None
