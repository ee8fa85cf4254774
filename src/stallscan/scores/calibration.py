"""Scores as probabilities: calibrated on labels, and shifted to another prevalence."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from stallscan.settings import Settings

Floats = NDArray[np.float64]

# A score nearer to 0 or 1 was rounded, or says more than any calibration can know.
CERTAIN = 1e-6


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

    def at(self, before: float, now: float) -> "Calibration":
        """Give scores at the prevalence `now` instead of `before`, as `shift` would."""
        change = math.log(now / (1 - now)) - math.log(before / (1 - before))
        return Calibration(scale=self.scale, bias=self.bias + change)


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
    # Half a second, which prediction does without.
    from sklearn.linear_model import LogisticRegression

    # Standardised, so that the same logits in another unit get the same penalty and scores.
    middle, spread = float(logits.mean()), float(logits.std())
    if not spread > 0:
        return Calibration()
    standardised = (logits - middle) / spread
    # Nearly no penalty: it only keeps perfectly separated logits from an infinite scale.
    model = LogisticRegression(C=1e3, tol=1e-8, max_iter=1000)
    model.fit(standardised.reshape(-1, 1), labels)
    scale = float(model.coef_[0, 0]) / spread
    bias = float(model.intercept_[0]) - scale * middle
    return Calibration(scale=scale, bias=bias) if scale > 0 else Calibration()


def shift(scores: ArrayLike, before: ArrayLike, now: float) -> Floats:
    """Read scores at another prevalence: the log-odds move by the change in those of a stall.

    True where what stalled and what flowing recordings look like is the same and only their shares
    differ (Saerens et al. 2002, docs/facts.md 6).

    Parameters
    ----------
    scores : array-like
        float (N,), 0..1, calibrated at the prevalence `before`.
    before, now : float, or array-like and float
        Shares of stalled, above 0 and below 1.

    Returns
    -------
    ndarray
        float64 (N,), 0..1.
    """
    scores, before = np.asarray(scores, np.float64), np.asarray(before, np.float64)
    stalled, flowing = scores * (now / before), (1 - scores) * ((1 - now) / (1 - before))
    return stalled / (stalled + flowing)


def log_odds(scores: ArrayLike) -> Floats:
    """Log-odds of scores, those that are too near to 0 or 1 to be meant taken as `CERTAIN`."""
    scores = np.clip(np.asarray(scores, np.float64), CERTAIN, 1 - CERTAIN)
    odds: Floats = np.log(scores) - np.log1p(-scores)
    return odds
