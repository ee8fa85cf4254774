"""The share of stalled recordings, estimated from scores alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stallscan.errors import InputError
from stallscan.scores import intervals
from stallscan.scores.calibration import CERTAIN
from stallscan.scores.metrics import Interval

Floats = NDArray[np.float64]

# chosen: an estimate of fewer stalled recordings, or with bounds further apart, is doubted
FEWEST_STALLED = 10
WIDEST = 4.0


@dataclass(frozen=True)
class Estimate:
    """A share of stalled recordings that was read from scores alone.

    Attributes
    ----------
    prevalence : float
        The likeliest, 0..1.
    interval : Interval
        95 %, from the number of scores. What is wrong with the calibration is not in it.
    doubt : str
        Why it should not be relied on, in a sentence; empty if nothing speaks against it.
    """

    prevalence: float
    interval: Interval
    doubt: str


def estimate_prevalence(scores: Floats, before: float) -> Estimate:
    """Estimate how many recordings are stalled from their scores, without labels.

    The maximum of the likelihood, at which the EM steps of Saerens et al. (2002) stand still. It is
    found by halving: the likelihood has one maximum, and EM takes thousands of steps to it where
    stalls are rare. The interval is that of the likelihood ratio.

    Parameters
    ----------
    scores : ndarray
        float (N,), 0..1, calibrated at the prevalence `before`.
    before : float
        Share of stalled in the set that calibrated them.

    Raises
    ------
    InputError
        If there are no scores.
    """
    if len(scores) == 0:
        raise InputError("there is no score to estimate the share of stalled recordings from")
    scores = np.clip(scores, CERTAIN, 1 - CERTAIN)
    # By how much more often each score comes from a stalled recording than from a flowing one.
    likelier = scores / (1 - scores) * ((1 - before) / before)

    def fit(share: float) -> float:
        return float(np.log1p(share * (likelier - 1)).sum())

    def rises(share: float) -> bool:
        return bool(((likelier - 1) / (1 + share * (likelier - 1))).sum() > 0)

    share = _halve(rises, 0.0, 1.0)
    # The 95 % quantile of chi-squared with one degree of freedom is the square of Z.
    lowest = fit(share) - intervals.Z**2 / 2
    interval = Interval(
        _halve(lambda at: fit(at) < lowest, 0.0, share),
        _halve(lambda at: fit(at) >= lowest, share, 1.0),
    )
    doubt = ""
    if share * len(scores) < FEWEST_STALLED:
        doubt = (
            f"about {share * len(scores):.0f} stalled among {len(scores):,} recordings are too few "
            "to tell from errors of the calibration"
        )
    elif interval.high > WIDEST * interval.low:
        doubt = f"anything from {interval.low:.2%} to {interval.high:.2%} fits the scores"
    return Estimate(share, interval, doubt)


def _halve(is_below: Callable[[float], bool], low: float, high: float) -> float:
    """Find where a condition that holds at first holds no more."""
    for _ in range(40):  # to 1e-12
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2
