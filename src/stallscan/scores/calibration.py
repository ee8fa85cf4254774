"""Calibrate scores as probabilities, and shift them to another prevalence."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from stallscan.settings import Settings

Floats = NDArray[np.float64]

# Scores closer to 0 or 1 than this are rounded, or more certain than any calibration can be.
CERTAIN = 1e-6


class Calibration(Settings):
    """How a logit becomes a probability: score = sigmoid(scale * logit + bias).

    Attributes
    ----------
    scale : float
        Inverse temperature; a value below 1 corrects an overconfident net.
    bias : float
        Shift of the log-odds, which includes the shift to the prevalence of the calibration set.
    """

    scale: float = Field(default=1.0, gt=0)
    bias: float = 0.0

    def score(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Return the probability of stalled, 0..1, for each logit."""
        odds = self.scale * np.asarray(logits, np.float64) + self.bias
        return np.exp(-np.logaddexp(0.0, -odds))

    def at(self, before: float, now: float) -> "Calibration":
        """Return the calibration for the prevalence `now` instead of `before`; equals `shift`."""
        change = math.log(now / (1 - now)) - math.log(before / (1 - before))
        return Calibration(scale=self.scale, bias=self.bias + change)


def fit_calibration(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> Calibration:
    """Fit scale and bias by maximum likelihood, on recordings not used for training.

    The logits of a net that ranks recordings no better than chance are not changed (scale 1).

    Labels are 0 for flowing and 1 for stalled; both must be present.
    """
    # Takes half a second to import, and prediction does not need it.
    from sklearn.linear_model import LogisticRegression

    # Standardise, so that the penalty does not depend on the unit of the logits.
    middle, spread = float(logits.mean()), float(logits.std())
    if not spread > 0:
        return Calibration()
    standardised = (logits - middle) / spread
    # A weak penalty, only to keep the scale finite if the classes are perfectly separated.
    model = LogisticRegression(C=1e3, tol=1e-8, max_iter=1000)
    model.fit(standardised.reshape(-1, 1), labels)
    scale = float(model.coef_[0, 0]) / spread
    bias = float(model.intercept_[0]) - scale * middle
    return Calibration(scale=scale, bias=bias) if scale > 0 else Calibration()


def shift(scores: ArrayLike, before: ArrayLike, now: float) -> Floats:
    """Convert scores to another prevalence, by adding the change of the prior log-odds.

    Valid if only the shares of the classes change, not how recordings of each class look (Saerens
    et al. 2002, docs/facts.md 6).

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
    """Return the log-odds of scores, clipped to `CERTAIN`..1 - `CERTAIN` first."""
    scores = np.clip(np.asarray(scores, np.float64), CERTAIN, 1 - CERTAIN)
    odds: Floats = np.log(scores) - np.log1p(-scores)
    return odds
