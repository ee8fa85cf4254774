"""Scores and calls of several models made one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stallscan.errors import InputError
from stallscan.scores.calibration import CERTAIN, log_odds, shift

Floats = NDArray[np.float64]


def check_vote(needed: int, models: int) -> None:
    """Raise InputError if a vote of so many models cannot need so many."""
    if not 1 <= needed <= models:
        raise InputError(
            f"a vote needs between 1 and {models} of {models} models, not {needed}; change --vote"
        )


def vote(calls: NDArray[np.bool_], needed: int) -> NDArray[np.bool_]:
    """Call stalled what at least so many models call stalled.

    Parameters
    ----------
    calls : ndarray
        bool (models, N).
    needed : int
        1 to the number of models; published: 2 of 3 (docs/facts.md 2).
    """
    check_vote(needed, len(calls))
    return np.asarray(np.count_nonzero(calls, axis=0) >= needed)


def vote_margin(scores: Floats, thresholds: Sequence[float], needed: int) -> Floats:
    """Give what orders recordings that are voted on: how near the vote is to the other outcome.

    The distance of the last model that is needed from its own threshold, as if all thresholds were
    a half. It is no probability.

    Parameters
    ----------
    scores : ndarray
        float (models, N), 0..1.
    thresholds : sequence of float
        Of the models.
    needed : int
        As in `vote`.

    Returns
    -------
    ndarray
        float64 (N,), 0..1: a half and more where the vote is for stalled.
    """
    cuts = np.asarray(thresholds, np.float64)[:, np.newaxis]
    voted = vote(scores >= cuts, needed)
    margins = shift(scores, np.clip(cuts, CERTAIN, 1 - CERTAIN), 0.5)
    margin: Floats = np.sort(margins, axis=0)[-needed]
    # Rounding must not part it from the vote.
    margin = np.where(voted, np.maximum(margin, 0.5), np.minimum(margin, 0.5 - CERTAIN))
    return margin


def average(scores: ArrayLike, weights: Sequence[float] | None = None) -> Floats:
    """Average calibrated scores of several models, as log-odds.

    Parameters
    ----------
    scores : array-like
        float (models, N), 0..1.
    weights : sequence of float, optional
        Of the models; alike if not given.
    """
    odds = np.average(log_odds(scores), axis=0, weights=weights)
    return 1 / (1 + np.exp(-odds))
