"""From scores to calls: thresholds, and when to leave a call to a person."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stallscan.errors import InputError
from stallscan.scores import intervals, metrics
from stallscan.scores.calibration import shift

Call = Literal["flowing", "stalled", "unscorable"]
Floats = NDArray[np.float64]

# Digits of scores and thresholds in tables. Calls and thresholds are computed from scores rounded
# to these digits, so that a table gives the same calls as the values it was written from.
DIGITS = 6


def rounded(scores: ArrayLike) -> Floats:
    """Round scores to the digits they are written with."""
    return np.asarray(np.round(np.asarray(scores, np.float64), DIGITS), np.float64)


def on_grid(threshold: float) -> float:
    """Round a threshold up to the digits it is written with; no rounded score changes its call."""
    steps = 10.0**DIGITS
    nearest = float(np.rint(threshold * steps))
    return (nearest + (nearest / steps < threshold)) / steps


def _above(score: float, what: str) -> float:
    """Return the lowest threshold above a rounded score.

    Raises
    ------
    InputError
        If the score is 1. The message begins with `what`, which names the recordings.
    """
    if score >= 1:
        raise InputError(f"{what} a score of 1, and no threshold is above 1")
    return round(score + 10.0**-DIGITS, DIGITS)


@dataclass(frozen=True)
class Thresholds:
    """All distinct thresholds for scores with known labels."""

    # float (M,), ascending, with `DIGITS` digits. The first is 0 (all are called stalled), the last
    # is above the highest score, unless that is 1.
    thresholds: Floats
    # sensitivity, specificity: float (M,), of the calls at each threshold.
    sensitivity: Floats
    specificity: Floats

    @classmethod
    def of(cls, scores: Floats, labels: NDArray[np.int64]) -> "Thresholds":
        """List the thresholds midway between neighbouring rounded scores.

        Raises
        ------
        InputError
            If a class is missing.
        """
        stalled = labels == 1
        if stalled.all() or not stalled.any():
            raise InputError(
                "choosing a threshold takes labels of stalled and of flowing recordings, but "
                f"{int(stalled.sum())} of {len(labels)} are stalled. Label some of the other class"
            )
        values, place = np.unique(rounded(scores), return_inverse=True)  # (K,), (N,)
        middles = [0.0, *(values[1:] + values[:-1]) / 2, (values[-1] + 1) / 2]
        thresholds = np.array([on_grid(middle) for middle in middles])
        # Number of stalled and of flowing recordings below each threshold, (K + 1,) each.
        below = [
            np.concatenate([[0.0], np.cumsum(np.bincount(place[one_class], minlength=len(values)))])
            for one_class in (stalled, ~stalled)
        ]
        possible = slice(len(values) + (values[-1] < 1))
        return cls(
            thresholds[possible],
            (1 - below[0] / below[0][-1])[possible],
            (below[1] / below[1][-1])[possible],
        )


def best_mcc_threshold(
    scores: Floats, labels: NDArray[np.int64], prevalence: float | None = None
) -> float:
    """Choose the threshold with the highest MCC; the middle one if several are equally good.

    Scores and labels are of recordings that are used neither for training nor for reported figures,
    with both classes present. The MCC is computed at `prevalence`, by default that of the labels.
    """
    cuts = Thresholds.of(scores, labels)
    share = float(np.mean(labels)) if prevalence is None else prevalence
    mcc = metrics.reweighted_mcc(cuts.sensitivity, cuts.specificity, share)
    best = np.flatnonzero(mcc >= mcc.max() - 1e-12)
    return float(cuts.thresholds[best[len(best) // 2]])


def specificity_threshold(
    scores: Floats, labels: NDArray[np.int64], specificity: float
) -> tuple[float, str]:
    """Choose the lowest threshold with at least this specificity.

    Returns
    -------
    threshold : float
    doubt : str
        A sentence if there are too few flowing recordings to show the specificity; otherwise empty.

    Raises
    ------
    InputError
        If a class is missing, or too many flowing recordings have a score of 1.
    """
    cuts = Thresholds.of(scores, labels)
    flowing = int(np.count_nonzero(labels == 0))
    enough = np.rint(cuts.specificity * flowing) >= float(intervals.portion(specificity, flowing))
    if not enough.any():
        raise InputError(
            f"no threshold has a specificity of {specificity:.2%}: "
            f"{np.count_nonzero(rounded(scores)[labels == 0] >= 1):,} of {flowing:,} flowing "
            "recordings have a score of 1. Check their labels, or lower --specificity"
        )
    first = int(np.argmax(enough))
    doubt = ""
    needed = math.ceil(1 / (1 - intervals.portion(specificity, 1)))
    if flowing < needed:
        doubt = (
            f"{flowing:,} flowing recordings are too few to show a specificity of "
            f"{specificity:.2%}: one wrong call is {1 / flowing:.2%} of them. Label at least "
            f"{needed:,}"
        )
    return float(cuts.thresholds[first]), doubt


def workload_threshold(scores: Floats, share: float) -> float:
    """Choose the lowest threshold that calls at most this share of the recordings stalled.

    It needs no labels and suits a person who reviews every recording that is called stalled.

    Raises
    ------
    InputError
        If more than that share have a score of 1.
    """
    scores = rounded(scores)
    values = np.unique(scores)
    called = len(scores) - np.searchsorted(np.sort(scores), values)
    within = values[called <= math.floor(intervals.portion(share, len(scores)))]
    if len(within):
        return float(within[0])
    return _above(
        float(values[-1]),
        f"at most {share:.1%} of {len(scores):,} recordings should be called stalled, but "
        f"{called[-1]:,} have",
    )


def expected_mcc_threshold(scores: Floats, weights: Floats | None = None) -> float:
    """Choose the threshold with the highest expected MCC, assuming calibrated scores.

    It needs no labels: a recording with a score of 0.7 counts as 0.7 stalled and 0.3 flowing. The
    scores must be calibrated for the prevalence among these recordings. `weights` (N,) is the
    number of recordings that each one represents, by default 1.
    """
    values, place = np.unique(rounded(scores), return_inverse=True)
    counts = np.bincount(place, weights, minlength=len(values))
    stalled, flowing = values * counts, (1 - values) * counts
    # Expected true and false alarms at each threshold, summed from the highest score down. So the
    # first element is the total, and no rounding error makes a difference from it negative.
    hits = np.cumsum(stalled[::-1])[::-1]
    false = np.cumsum(flowing[::-1])[::-1]
    mcc = metrics.mcc_of_counts(hits, false, false[0] - false, hits[0] - hits)
    best = int(np.argmax(mcc))
    return on_grid(float(values[best] if best == 0 else (values[best - 1] + values[best]) / 2))


def threshold_at(scores: Floats, before: float, now: float) -> float:
    """Choose the threshold for another prevalence than that of the given recordings.

    Recordings are weighted and scores converted from the prevalence `before` to `now`; then the
    threshold with the highest expected MCC is chosen, for converted scores. This assumes only that
    the scores are calibrated, on recordings not used for training.
    """
    weights = scores * (now / before) + (1 - scores) * ((1 - now) / (1 - before))
    return expected_mcc_threshold(shift(scores, before, now), weights)


@dataclass(frozen=True)
class ReviewBand:
    """The range of scores that a person should review, and the error rates outside of it."""

    # low, high: scores below `low` are called flowing, scores at or above `high` stalled.
    low: float
    high: float
    missed: float  # at most this share of the stalled recordings is called flowing
    false: float  # at most this share of the flowing recordings is called stalled
    # Probability of each guarantee, over random draws of the recordings that chose the limits.
    confidence: float

    @classmethod
    def of(
        cls,
        scores: Floats,
        labels: NDArray[np.int64],
        missed: float,
        false: float,
        confidence: float = 0.95,
    ) -> "ReviewBand":
        """Choose the narrowest limits for which both guarantees hold.

        The probability that a new stalled recording falls below the k-th lowest score of n stalled
        recordings has the distribution Beta(k, n + 1 - k), whatever the distribution of the scores:
        the tolerance limits of Wilks (1941). Both shares are within a class, so they hold at any
        prevalence. The recordings must be used neither for training nor for reported figures.

        Raises
        ------
        InputError
            If a class has too few recordings for a guarantee, or the upper limit would be above 1.
        """
        scores = rounded(scores)
        low = _tolerance_limit(scores[labels == 1], missed, confidence, "stalled")
        high = -_tolerance_limit(-scores[labels == 0], false, confidence, "flowing")
        # Flowing recordings with this very score must not be called stalled either.
        high = _above(
            high, f"to call at most {false:.1%} of the flowing recordings stalled, too many have"
        )
        # If the classes are well separated the limits cross, and no score needs a review.
        middle = on_grid((low + high) / 2)
        low, high = (low, high) if low < high else (middle, middle)
        return cls(low, high, missed, false, confidence)

    def call(self, scores: ArrayLike) -> NDArray[np.str_]:
        """Call each score flowing, review or stalled."""
        scores = np.asarray(scores)
        return np.where(
            scores >= self.high, "stalled", np.where(scores < self.low, "flowing", "review")
        )


def _tolerance_limit(scores: Floats, share: float, confidence: float, kind: str) -> float:
    """Return the highest of the scores below which at most this share of new scores lies."""
    from scipy.special import betainc

    count = len(scores)
    ranks = np.arange(1, count + 1)
    # Probability that at most `share` of new scores lie below the k-th lowest, (N,).
    certain = betainc(ranks, count + 1 - ranks, share) if count else ranks
    # The tolerance accounts for rounding errors.
    enough = np.flatnonzero(certain >= confidence - 1e-12)
    if len(enough) == 0:
        needed = math.ceil(math.log1p(-confidence) / math.log1p(-share) - 1e-9)
        raise InputError(
            f"{count} {kind} recordings are too few to guarantee, with {confidence:.0%} "
            f"confidence, that at most {share:.1%} of them are called wrongly. Label at least "
            f"{needed:,}, or allow more errors"
        )
    return float(np.sort(scores)[enough[-1]])


def call(score: float, threshold: float) -> Call:
    """Call one score: stalled at or above the threshold."""
    return "stalled" if score >= threshold else "flowing"
