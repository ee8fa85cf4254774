"""Estimate the share of stalled recordings from scores alone."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stallscan.errors import InputError
from stallscan.scores import intervals
from stallscan.scores.calibration import CERTAIN
from stallscan.scores.metrics import Interval

Floats = NDArray[np.float64]

# Chosen: below this many stalled recordings, or above this ratio of the interval's bounds, an
# estimate is reported as unreliable.
FEWEST_STALLED = 10
WIDEST = 4.0


@dataclass(frozen=True)
class Estimate:
    """The share of stalled recordings, estimated from scores alone."""

    prevalence: float  # the maximum-likelihood estimate, 0..1
    # 95 %, from the sampling of the recordings. Errors of the calibration are not included.
    interval: Interval
    doubt: str  # a clause on why the estimate is unreliable; empty if it is reliable


def estimate_prevalence(scores: Floats, before: float) -> Estimate:
    """Estimate the share of stalled recordings from their scores, without labels.

    The estimate maximises the likelihood, as the EM steps of Saerens et al. (2002) do. Bisection
    finds it faster: the likelihood has a single maximum, and EM needs thousands of steps where
    stalls are rare. The interval is that of the likelihood-ratio test.

    The scores (N,) are calibrated at the prevalence `before`.

    Raises
    ------
    InputError
        If there are no scores.
    """
    if len(scores) == 0:
        raise InputError("no scores are given to estimate the share of stalled recordings from")
    scores = np.clip(scores, CERTAIN, 1 - CERTAIN)
    # Likelihood ratio of each recording: stalled against flowing, (N,).
    ratios = scores / (1 - scores) * ((1 - before) / before)

    def fit(share: float) -> float:
        return float(np.log1p(share * (ratios - 1)).sum())

    def rises(share: float) -> bool:
        return bool(((ratios - 1) / (1 + share * (ratios - 1))).sum() > 0)

    share = _bisect(rises, 0.0, 1.0)
    # Z squared is the 95 % quantile of chi-squared with one degree of freedom.
    lowest = fit(share) - intervals.Z**2 / 2
    interval = Interval(
        _bisect(lambda share: fit(share) < lowest, 0.0, share),
        _bisect(lambda share: fit(share) >= lowest, share, 1.0),
    )
    doubt = ""
    if share * len(scores) < FEWEST_STALLED:
        doubt = (
            f"about {share * len(scores):.0f} stalled among {len(scores):,} recordings are too few "
            "to distinguish from errors of the calibration"
        )
    elif interval.high > WIDEST * interval.low:
        doubt = f"any share from {interval.low:.2%} to {interval.high:.2%} fits the scores"
    return Estimate(share, interval, doubt)


def _bisect(is_below: Callable[[float], bool], low: float, high: float) -> float:
    """Return by bisection where a condition that holds at `low` stops holding."""
    for _ in range(40):  # to 1e-12
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return (low + high) / 2
