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

# Digits of scores and thresholds in tables. Calls are made with scores of so many, and thresholds
# are chosen among them, so that a table gives the same calls as the memory it was written from.
DIGITS = 6


def rounded(scores: ArrayLike) -> Floats:
    """Round scores to the digits that they are written with."""
    return np.asarray(np.round(np.asarray(scores, np.float64), DIGITS), np.float64)


def on_grid(threshold: float) -> float:
    """Round a threshold up to the digits it is written with: no rounded score changes sides."""
    steps = 10.0**DIGITS
    nearest = float(np.rint(threshold * steps))
    return (nearest + (nearest / steps < threshold)) / steps


def _above(score: float, what: str) -> float:
    """Give the lowest threshold above a rounded score; `what` says who has that score, if it is 1.

    Raises
    ------
    InputError
        If the score is 1: no threshold is above it.
    """
    if score >= 1:
        raise InputError(f"{what} a score of 1, and no threshold is above it")
    return round(score + 10.0**-DIGITS, DIGITS)


@dataclass(frozen=True)
class Thresholds:
    """Every place where a threshold can lie between scores of known label.

    Attributes
    ----------
    thresholds : ndarray
        float (M,), ascending, from 0 (all are called stalled) to above the highest score, unless
        that is 1; with `DIGITS` digits.
    sensitivity, specificity : ndarray
        float (M,), of calling stalled what is at or above each.
    """

    thresholds: Floats
    sensitivity: Floats
    specificity: Floats

    @classmethod
    def of(cls, scores: Floats, labels: NDArray[np.int64]) -> "Thresholds":
        """Cut in the middle between neighbouring scores, which are rounded first.

        Raises
        ------
        InputError
            If a class is missing.
        """
        stalled = labels == 1
        if stalled.all() or not stalled.any():
            raise InputError(
                f"a threshold is chosen on stalled and on flowing recordings; of {len(labels)} "
                f"labelled ones {int(stalled.sum())} are stalled: label some of the other kind"
            )
        values, place = np.unique(rounded(scores), return_inverse=True)
        middles = [0.0, *(values[1:] + values[:-1]) / 2, (values[-1] + 1) / 2]
        thresholds = np.array([on_grid(middle) for middle in middles])
        below = [
            np.concatenate([[0.0], np.cumsum(np.bincount(place[part], minlength=len(values)))])
            for part in (stalled, ~stalled)
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
    """Choose the threshold with the highest MCC; in the middle, where a range of them is best.

    Parameters
    ----------
    scores : ndarray
        float (N,), 0..1, of recordings that were not trained on and are not reported on.
    labels : ndarray
        int (N,), 0 or 1; both present.
    prevalence : float, optional
        Share of stalled for which the MCC is to be highest; that of the labels if not given.

    Returns
    -------
    float
        Stalled is called at or above it.
    """
    cuts = Thresholds.of(scores, labels)
    share = float(np.mean(labels)) if prevalence is None else prevalence
    mcc = metrics.reweighted_mcc(cuts.sensitivity, cuts.specificity, share)
    best = np.flatnonzero(mcc >= mcc.max() - 1e-12)
    return float(cuts.thresholds[best[len(best) // 2]])


def specificity_threshold(
    scores: Floats, labels: NDArray[np.int64], specificity: float
) -> tuple[float, str]:
    """Choose the lowest threshold at which so many of the flowing recordings are called so.

    Raises
    ------
    InputError
        If a class is missing, or so many flowing recordings have a score of 1 that there is none.

    Returns
    -------
    threshold : float
    doubt : str
        Says so if the flowing recordings are too few to tell; otherwise empty.
    """
    cuts = Thresholds.of(scores, labels)
    flowing = int(np.count_nonzero(labels == 0))
    enough = np.rint(cuts.specificity * flowing) >= float(intervals.portion(specificity, flowing))
    if not enough.any():
        raise InputError(
            f"no threshold leaves a specificity of {specificity:.2%}: "
            f"{np.count_nonzero(rounded(scores)[labels == 0] >= 1):,} of {flowing:,} flowing "
            "recordings have a score of 1; check their labels, or ask for less with --specificity"
        )
    first = int(np.argmax(enough))
    doubt = ""
    needed = math.ceil(1 / (1 - intervals.portion(specificity, 1)))
    if flowing < needed:
        doubt = (
            f"{flowing:,} flowing recordings cannot show a specificity of {specificity:.2%}: one "
            f"wrong call among them is {1 / flowing:.2%}; label at least "
            f"{needed:,}"
        )
    return float(cuts.thresholds[first]), doubt


def workload_threshold(scores: Floats, share: float) -> float:
    """Choose the threshold that calls at most a share of the recordings stalled.

    It needs no labels: it is for those who look at all that is called stalled, and have time for so
    many.

    Raises
    ------
    InputError
        If more than that share have a score of 1, which is at or above any threshold.
    """
    scores = rounded(scores)
    values = np.unique(scores)
    called = len(scores) - np.searchsorted(np.sort(scores), values)
    within = values[called <= math.floor(intervals.portion(share, len(scores)))]
    if len(within):
        return float(within[0])
    return _above(
        float(values[-1]),
        f"at most {share:.1%} of {len(scores):,} recordings are to be called stalled, but "
        f"{called[-1]:,} have",
    )


def expected_mcc_threshold(scores: Floats, weights: Floats | None = None) -> float:
    """Choose the threshold with the highest MCC that is to be expected if the scores are right.

    It needs no labels: a recording with a score of 0.7 counts as 0.7 stalled and 0.3 flowing.

    Parameters
    ----------
    scores : ndarray
        float (N,), 0..1, calibrated for the prevalence among these recordings.
    weights : ndarray, optional
        float (N,), how many recordings each stands for; one if not given.
    """
    values, place = np.unique(rounded(scores), return_inverse=True)
    counts = np.bincount(place, weights, minlength=len(values))
    stalled, flowing = values * counts, (1 - values) * counts
    found = np.cumsum(stalled[::-1])[::-1]
    false = np.cumsum(flowing[::-1])[::-1]
    # The sums run from above: their first is the whole, and no rounding makes a rest negative.
    mcc = metrics.mcc_of_counts(found, false, false[0] - false, found[0] - found)
    best = int(np.argmax(mcc))
    return on_grid(float(values[best] if best == 0 else (values[best - 1] + values[best]) / 2))


def threshold_at(scores: Floats, before: float, now: float) -> float:
    """Choose the threshold for another prevalence than that of the recordings it is chosen on.

    The recordings are weighted as if so many of them were stalled, their scores read at that
    prevalence, and the expected MCC made highest. Nothing but the calibration is trusted.

    Parameters
    ----------
    scores : ndarray
        float (N,), 0..1, calibrated at the prevalence `before`, of recordings that were not
        trained on.
    before, now : float
        Shares of stalled, above 0 and below 1.

    Returns
    -------
    float
        On the scale of scores that are read at `now`.
    """
    weights = scores * (now / before) + (1 - scores) * ((1 - now) / (1 - before))
    return expected_mcc_threshold(shift(scores, before, now), weights)


@dataclass(frozen=True)
class ReviewBand:
    """Between which scores a person should look, and what holds for the calls outside.

    Attributes
    ----------
    low, high : float
        Flowing is called below `low`, stalled at or above `high`.
    missed : float
        At most this share of the stalled recordings is called flowing,
    false : float
        and at most this share of the flowing ones stalled,
    confidence : float
        each with this probability, over the draw of the recordings that the limits were chosen on.
    """

    low: float
    high: float
    missed: float
    false: float
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

        The k-th lowest score of n stalled recordings is a limit that a new one falls below with a
        probability that is Beta(k, n + 1 - k) distributed, whatever the scores look like: the
        tolerance limits of Wilks (1941). Both shares are within a class, so they hold at any
        prevalence.

        Parameters
        ----------
        scores : ndarray
            float (N,), of recordings that were not trained on and are not reported on.
        labels : ndarray
            int (N,), 0 or 1; both present.
        missed, false, confidence : float
            See `ReviewBand`.

        Raises
        ------
        InputError
            If there are too few of a class to guarantee anything, or the upper limit would be
            above 1.
        """
        scores = rounded(scores)
        low = _tolerance_limit(scores[labels == 1], missed, confidence, "stalled")
        high = -_tolerance_limit(-scores[labels == 0], false, confidence, "flowing")
        # A flowing recording at the limit itself is one of those that must not be called stalled.
        high = _above(
            high, f"to call at most {false:.1%} of the flowing recordings stalled, too many have"
        )
        # Where the classes are well apart the limits pass each other, and nothing is left between.
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
    """Give the highest of the scores below which at most a share of new ones lies."""
    from scipy.special import betainc

    count = len(scores)
    ranks = np.arange(1, count + 1)
    # The share below the k-th lowest is at most `share` with this probability.
    certain = betainc(ranks, count + 1 - ranks, share) if count else ranks
    # What is exact on paper may be a hair less in binary.
    enough = np.flatnonzero(certain >= confidence - 1e-12)
    if len(enough) == 0:
        needed = math.ceil(math.log1p(-confidence) / math.log1p(-share) - 1e-9)
        raise InputError(
            f"{count} {kind} recordings are too few to guarantee, with {confidence:.0%} "
            f"confidence, that no more than {share:.1%} of them are called wrongly; label at least "
            f"{needed:,}, or allow more errors"
        )
    return float(np.sort(scores)[enough[-1]])


def call(score: float, threshold: float) -> Call:
    """Call one score: stalled at or above the threshold."""
    return "stalled" if score >= threshold else "flowing"
