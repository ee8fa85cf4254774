import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import norm
from sklearn.metrics import log_loss, matthews_corrcoef

from stallscan.errors import InputError
from stallscan.scores import calibration, thresholds, vote
from stallscan.scores.calibration import Calibration
from stallscan.scores.prevalence import estimate_prevalence
from stallscan.scores.thresholds import ReviewBand


def test_calibration_is_a_sigmoid():
    scores = Calibration(scale=2.0, bias=-1.0).score([-1000.0, 0.0, 0.5, 1000.0])
    assert scores == pytest.approx([0.0, 1 / (1 + np.e), 0.5, 1.0])


def test_a_fit_recovers_the_calibration():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000)
    truth = Calibration(scale=0.5, bias=-1.0)
    labels = (rng.random(20_000) < truth.score(logits)).astype(np.int64)
    fitted = calibration.fit_calibration(logits, labels)
    assert fitted.scale == pytest.approx(0.5, abs=0.03)
    assert fitted.bias == pytest.approx(-1.0, abs=0.06)
    assert log_loss(labels, fitted.score(logits)) <= log_loss(labels, truth.score(logits))


def test_separated_logits_give_a_finite_calibration():
    fitted = calibration.fit_calibration(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    assert 0 < fitted.scale < 100


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-5, 5), st.integers(0, 5))
def test_the_calibration_does_not_depend_on_the_unit_of_the_logits(unit, shift, seed):
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % 3 == 0
    logits = rng.normal(2.0 * labels, 1.0)
    plain = calibration.fit_calibration(logits, labels.astype(np.int64))
    scaled = calibration.fit_calibration(unit * (logits + shift), labels.astype(np.int64))
    assert scaled.scale * unit == pytest.approx(plain.scale, rel=1e-4)
    assert scaled.score(unit * (logits + shift)) == pytest.approx(plain.score(logits), abs=1e-4)


def test_small_logits_are_calibrated():
    # The maximum of the likelihood is known: the logits are log-odds in another unit.
    rng = np.random.default_rng(0)
    odds = rng.normal(-1, 2, 20_000)
    labels = (rng.random(20_000) < expit(odds)).astype(np.int64)
    fitted = calibration.fit_calibration(odds / 1000, labels)
    assert fitted.scale == pytest.approx(1000, rel=0.05)
    assert calibration.fit_calibration(np.zeros(4), np.array([0, 0, 1, 1])) == Calibration()


def test_logits_with_the_wrong_order_are_not_calibrated():
    fitted = calibration.fit_calibration(np.array([3.0, 2.0, -2.0, -3.0]), np.array([0, 0, 1, 1]))
    assert fitted == Calibration()


def test_the_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    labels = (rng.random(500) < 0.3).astype(np.int64)
    scores = np.clip(rng.normal(0.3 + 0.4 * labels, 0.15), 0, 1)
    threshold = thresholds.best_mcc_threshold(scores, labels)
    ours = matthews_corrcoef(labels, scores >= threshold)
    best = max(matthews_corrcoef(labels, scores >= cut) for cut in np.linspace(0, 1, 201))
    assert ours >= best - 1e-9


def test_the_middle_of_equally_good_thresholds_is_chosen():
    threshold = thresholds.best_mcc_threshold(
        np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1])
    )
    assert threshold == pytest.approx(0.5, abs=0.002)


def test_a_call_is_stalled_at_the_threshold():
    assert [thresholds.call(score, 0.5) for score in (0.49, 0.5, 0.51)] == [
        "flowing",
        "stalled",
        "stalled",
    ]


def _draw(rng, count, prevalence):
    """Draw scores calibrated at 30 % stalled, and labels with another share of stalled."""
    labels = (rng.random(count) < prevalence).astype(np.int64)
    # Log-odds from two normal distributions with means 3 apart and unit variance.
    values = rng.normal(3.0 * labels, 1.0)
    odds = 3.0 * values - 4.5 + np.log(0.3 / 0.7)
    return 1 / (1 + np.exp(-odds)), labels


def test_shifted_scores_are_calibrated_at_the_other_prevalence():
    scores, labels = _draw(np.random.default_rng(0), 400_000, 0.02)
    shifted = calibration.shift(scores, 0.3, 0.02)
    for low in (0.01, 0.1, 0.5):
        some = (shifted >= low) & (shifted < 1.5 * low)
        assert labels[some].mean() == pytest.approx(shifted[some].mean(), rel=0.1)
    assert calibration.shift(shifted, 0.02, 0.3) == pytest.approx(scores)
    assert calibration.shift([0.0, 1.0], 0.3, 0.01).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("prevalence", [0.01, 0.046, 0.3])
def test_the_prevalence_is_estimated_from_scores_alone(prevalence):
    scores, labels = _draw(np.random.default_rng(1), 20_000, prevalence)
    found = estimate_prevalence(scores, 0.3)
    assert found.prevalence == pytest.approx(prevalence, rel=0.2)
    assert found.interval.low < labels.mean() < found.interval.high
    assert found.doubt == ""
    # The fixed point of the EM steps of Saerens et al.
    assert calibration.shift(scores, 0.3, found.prevalence).mean() == pytest.approx(
        found.prevalence
    )


def test_an_unreliable_prevalence_is_doubted():
    rng = np.random.default_rng(2)
    assert "300 recordings" in estimate_prevalence(_draw(rng, 300, 0.01)[0], 0.3).doubt
    blind = np.clip(rng.normal(0.3, 0.005, 5000), 0, 1)
    assert "%" in estimate_prevalence(blind, 0.3).doubt
    with pytest.raises(InputError):
        estimate_prevalence(np.array([]), 0.3)


def test_the_best_threshold_depends_on_the_prevalence():
    scores, labels = _draw(np.random.default_rng(3), 100_000, 0.3)
    chosen = [thresholds.best_mcc_threshold(scores, labels, share) for share in (0.3, 0.046, 0.01)]
    assert chosen == sorted(chosen)
    rare, truth = _draw(np.random.default_rng(4), 400_000, 0.01)
    mcc = [matthews_corrcoef(truth, rare >= threshold) for threshold in chosen]
    assert mcc == sorted(mcc)


def test_the_threshold_for_a_specificity():
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.95])
    labels = np.array([0, 0, 0, 0, 1, 0])
    threshold, doubt = thresholds.specificity_threshold(scores, labels, 0.8)
    assert threshold == pytest.approx(0.65)
    assert doubt == ""
    threshold, doubt = thresholds.specificity_threshold(scores, labels, 0.999)
    assert threshold > 0.95
    assert "5 flowing" in doubt
    assert "99.90%" in doubt
    assert "1,000" in doubt
    with pytest.raises(InputError, match="2 of 2"):
        thresholds.specificity_threshold(scores[:2], np.array([1, 1]), 0.9)


SCORES = st.lists(st.integers(0, 10**6).map(lambda step: step / 10**6), min_size=4, max_size=30)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0, 1))
def test_a_threshold_on_the_grid_keeps_the_calls_of_rounded_scores(scores, threshold):
    scores, cut = thresholds.rounded(scores), thresholds.on_grid(threshold)
    assert ((scores >= threshold) == (scores >= cut)).all()
    assert cut == float(f"{cut:.6f}") <= 1
    assert scores.tolist() == [float(f"{score:.6f}") for score in scores]


@settings(deadline=None)
@given(SCORES, st.integers(1, 99))
def test_a_load_is_not_exceeded_and_used_as_far_as_ties_allow(scores, percent):
    scores = np.array(scores)
    allowed = percent * len(scores) // 100
    try:
        threshold = thresholds.workload_threshold(scores, percent / 100)
    except InputError:
        assert np.count_nonzero(scores == 1) > allowed
        return
    assert threshold == float(f"{threshold:.6f}") <= 1
    assert np.count_nonzero(scores >= threshold) <= allowed
    below = scores[scores < threshold]
    assert not below.size or np.count_nonzero(scores >= below.max()) > allowed


@settings(deadline=None)
@given(SCORES, st.integers(1, 999))
def test_the_lowest_threshold_with_the_specificity_is_chosen(scores, permille):
    scores = np.array(scores)
    labels = np.arange(len(scores)) % 2
    flowing = scores[labels == 0]
    allowed = len(flowing) - -(-permille * len(flowing) // 1000)
    try:
        threshold, _ = thresholds.specificity_threshold(scores, labels, permille / 1000)
    except InputError:
        assert np.count_nonzero(flowing == 1) > allowed
        return
    assert np.count_nonzero(flowing >= threshold) <= allowed
    below = flowing[flowing < threshold]
    assert not below.size or np.count_nonzero(flowing >= below.max()) > allowed


def test_no_threshold_is_above_a_score_of_1():
    sure = np.array([0.1, 1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="a score of 1"):
        thresholds.workload_threshold(sure, 0.5)
    with pytest.raises(InputError, match="--specificity"):
        thresholds.specificity_threshold(sure, np.array([1, 0, 0, 1]), 0.9)
    assert thresholds.best_mcc_threshold(sure, np.array([1, 0, 0, 0])) <= 1
    with pytest.raises(InputError, match="a score of 1"):
        ReviewBand.of(np.repeat([0.5, 1.0], 400), np.repeat([1, 0], 400), missed=0.05, false=0.01)


def test_the_threshold_for_a_load():
    scores = np.array([0.1, 0.2, 0.2, 0.2, 0.9])
    for share, called in ((1.0, 5), (0.8, 4), (0.7, 1), (0.2, 1), (0.1, 0)):
        assert np.count_nonzero(scores >= thresholds.workload_threshold(scores, share)) == called


def test_the_expected_best_threshold_is_about_half_the_precision():
    rng = np.random.default_rng(5)
    scores, labels = _draw(rng, 200_000, 0.046)
    shifted = calibration.shift(scores, 0.3, 0.046)
    threshold = thresholds.expected_mcc_threshold(shifted)
    best = thresholds.best_mcc_threshold(shifted, labels)
    achieved, possible = (matthews_corrcoef(labels, shifted >= cut) for cut in (threshold, best))
    assert achieved > possible - 0.003
    # docs/facts.md 6: half the positive predictive value there.
    assert threshold == pytest.approx(labels[shifted >= threshold].mean() / 2, abs=0.05)


def test_the_guarantees_of_limits_hold_with_the_stated_confidence():
    rng = np.random.default_rng(6)
    missed, false = [], []
    for _ in range(400):
        limits = ReviewBand.of(*_draw(rng, 500, 0.3), missed=0.05, false=0.02)
        # Exact shares of new recordings, from the normal distributions of `_draw`.
        cuts = [
            (np.log(cut / (1 - cut)) - np.log(0.3 / 0.7) + 4.5) / 3
            for cut in (limits.low, limits.high)
        ]
        missed.append(norm.cdf(cuts[0] - 3) <= 0.05)
        false.append(norm.sf(cuts[1]) <= 0.02)
    for held in (missed, false):
        assert 0.93 < np.mean(held) < 0.99


def test_limits_call_three_ways():
    limits = ReviewBand(0.2, 0.8, 0.05, 0.01, 0.95)
    assert limits.call([0.1, 0.2, 0.5, 0.8]).tolist() == ["flowing", "review", "review", "stalled"]


def test_well_separated_classes_need_no_review():
    scores = np.concatenate([np.linspace(0, 0.3, 300), np.linspace(0.7, 1, 300)])
    limits = ReviewBand.of(scores, np.repeat([0, 1], 300), missed=0.02, false=0.02)
    assert limits.low == limits.high
    assert 0.3 < limits.low < 0.7


def test_too_few_recordings_guarantee_nothing():
    scores, labels = _draw(np.random.default_rng(7), 200, 0.3)
    with pytest.raises(InputError, match=r"flowing.*2,995"):
        ReviewBand.of(scores, labels, missed=0.1, false=0.001)


# Scores of three models for eight recordings.
VOTED = np.array(
    [
        [0.96, 0.94, 0.30, 0.99, 0.10, 0.97, 0.95, 0.20],
        [0.85, 0.93, 0.31, 0.95, 0.92, 0.20, 0.90, 0.10],
        [0.79, 0.81, 0.85, 0.82, 0.10, 0.20, 0.10, 0.05],
    ]
)


def test_the_published_vote():
    margins = vote.vote_margin(VOTED, (0.95, 0.90, 0.80), 2)  # docs/facts.md 2
    assert (margins >= 0.5).astype(int).tolist() == [0, 1, 0, 1, 0, 0, 1, 0]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.integers(1, 3))
def test_the_margin_agrees_with_the_vote(scores, needed):
    thresholds = (0.0, 0.5, 1.0)
    votes = sum(score >= cut for score, cut in zip(scores, thresholds, strict=True))
    (margin,) = vote.vote_margin(np.array(scores)[:, np.newaxis], thresholds, needed)
    assert 0 <= margin <= 1
    assert (margin >= 0.5) == (votes >= needed)
