"""The vote of several models on each recording, and a score that ranks recordings by it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stallscan.scores.calibration import CERTAIN, shift

Floats = NDArray[np.float64]


def vote_margin(scores: Floats, thresholds: Sequence[float], needed: int) -> Floats:
    """Compute how far each recording is from the opposite outcome of the vote.

    Each score is shifted so that its model's threshold becomes 0.5. The margin is the shifted score
    of the model whose vote decides: the one ranked at `needed` from the top. It ranks recordings
    but is not a probability.

    Parameters
    ----------
    scores : ndarray
        float (models, N), 0..1.
    thresholds : sequence of float
        One per model.
    needed : int
        The number of models that must call a recording stalled, from 1 to the number of models;
        published: 2 of 3 (docs/facts.md 2).

    Returns
    -------
    ndarray
        float64 (N,), 0..1: at least 0.5 where the vote is for stalled.
    """
    cuts = np.asarray(thresholds, np.float64)[:, np.newaxis]  # (models, 1)
    stalled = np.count_nonzero(scores >= cuts, axis=0) >= needed  # (N,)
    margins = shift(scores, np.clip(cuts, CERTAIN, 1 - CERTAIN), 0.5)  # (models, N)
    margin: Floats = np.sort(margins, axis=0)[-needed]  # (N,)
    # Rounding errors must not make the margin contradict the vote.
    margin = np.where(stalled, np.maximum(margin, 0.5), np.minimum(margin, 0.5 - CERTAIN))
    return margin
