"""From logits to scores to calls: calibration and threshold."""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from sklearn.linear_model import LogisticRegression

from stallscan import metrics
from stallscan.settings import Settings

Call = Literal["flowing", "stalled", "unscorable"]


class Calibration(Settings):
    """How a logit becomes a probability: score = sigmoid(scale * logit + bias).

    Attributes
    ----------
    scale : float
        Inverse temperature; below 1 it makes an overconfident net more modest.
    bias : float
        Shift of the log-odds, among other things to the prevalence in the calibration set.
    """

    scale: float = Field(default=1.0, gt=0)
    bias: float = 0.0

    def score(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Give the probability of stalled, 0..1, for each logit."""
        odds = self.scale * np.asarray(logits, np.float64) + self.bias
        return np.exp(-np.logaddexp(0.0, -odds))


def fit_calibration(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration:
    """Fit scale and bias by maximum likelihood on recordings that were not trained on.

    A net that orders the recordings no better than chance has nothing to calibrate: it gets scale
    1, and its logits stay as they are.

    Parameters
    ----------
    logits : ndarray
        float (N,).
    labels : ndarray
        int (N,), 0 flowing, 1 stalled; both present.
    """
    # Nearly no penalty: it only keeps perfectly separated logits from an infinite scale.
    model = LogisticRegression(C=1e3).fit(logits.reshape(-1, 1), labels)
    scale, bias = float(model.coef_[0, 0]), float(model.intercept_[0])
    return Calibration(scale=scale, bias=bias) if scale > 0 else Calibration()


def best_mcc_threshold(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Choose the threshold with the highest MCC; in the middle, where a range of them is best.

    Parameters
    ----------
    scores : ndarray
        float (N,), 0..1, of recordings that were not trained on and are not reported on.
    labels : ndarray
        int (N,), 0 or 1; both present.

    Returns
    -------
    float
        Stalled is called at or above it.
    """
    scored = metrics.Scored.check(labels, scores, np.zeros_like(labels))
    mcc = metrics.by_threshold(scored)["mcc"]
    best = np.flatnonzero(mcc >= mcc.max() - 1e-12)
    return float(metrics.GRID[best[len(best) // 2]])


def call(score: float, threshold: float) -> Call:
    """Call one score: stalled at or above the threshold."""
    return "stalled" if score >= threshold else "flowing"
