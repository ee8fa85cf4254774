import numpy as np
import pytest
from sklearn.metrics import log_loss, matthews_corrcoef

from stallscan import decide
from stallscan.decide import Calibration


def test_calibration_is_a_sigmoid():
    scores = Calibration(scale=2.0, bias=-1.0).score([-1000.0, 0.0, 0.5, 1000.0])
    assert scores == pytest.approx([0.0, 1 / (1 + np.e), 0.5, 1.0])


def test_calibration_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 20_000)
    truth = Calibration(scale=0.5, bias=-1.0)
    labels = (rng.random(20_000) < truth.score(logits)).astype(np.int64)
    fitted = decide.fit_calibration(logits, labels)
    assert fitted.scale == pytest.approx(0.5, abs=0.03)
    assert fitted.bias == pytest.approx(-1.0, abs=0.06)
    assert log_loss(labels, fitted.score(logits)) <= log_loss(labels, truth.score(logits))


def test_separated_logits_give_a_finite_calibration():
    fitted = decide.fit_calibration(np.array([-3.0, -2.0, 2.0, 3.0]), np.array([0, 0, 1, 1]))
    assert 0 < fitted.scale < 100


def test_logits_that_order_the_wrong_way_are_left_alone():
    fitted = decide.fit_calibration(np.array([3.0, 2.0, -2.0, -3.0]), np.array([0, 0, 1, 1]))
    assert fitted == Calibration()


def test_the_best_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    labels = (rng.random(500) < 0.3).astype(np.int64)
    scores = np.clip(rng.normal(0.3 + 0.4 * labels, 0.15), 0, 1)
    threshold = decide.best_mcc_threshold(scores, labels)
    ours = matthews_corrcoef(labels, scores >= threshold)
    best = max(matthews_corrcoef(labels, scores >= cut) for cut in np.linspace(0, 1, 201))
    assert ours >= best - 1e-9


def test_a_range_of_best_thresholds_gives_its_middle():
    threshold = decide.best_mcc_threshold(np.array([0.1, 0.2, 0.8, 0.9]), np.array([0, 0, 1, 1]))
    assert threshold == pytest.approx(0.5, abs=0.002)


def test_a_call_is_stalled_at_the_threshold():
    assert [decide.call(score, 0.5) for score in (0.49, 0.5, 0.51)] == [
        "flowing",
        "stalled",
        "stalled",
    ]
