"""Curves of scores against labels: ROC, precision and recall, metrics by threshold, reliability."""

from dataclasses import dataclass

import numpy as np

from stallscan.scores import intervals
from stallscan.scores.metrics import Confusion, Floats, Interval, Scored, divide, mcc_of_counts

# Ten bins of equal width: enough to see a bend, few enough to hold recordings.
# Divided, because linspace gives 0.30000000000000004 for 0.3, which then lies below its own bin.
RELIABILITY_EDGES = np.arange(11) / 10
# Thresholds 0, 0.001, ... 1: finer than a plot can show.
GRID = np.arange(1001) / 1000


@dataclass(frozen=True)
class Bin:
    """Recordings whose scores lie in one bin of the reliability plot.

    Attributes
    ----------
    low, high : float
        Bounds of the bin, the lower one in it.
    count, stalled : int
        Recordings, and how many are labelled stalled.
    mean_score : float
        Mean of their scores: what was promised.
    share : float
        Share of stalled: what was kept.
    interval : Interval
        95 % of the share (Wilson).
    """

    low: float
    high: float
    count: int
    stalled: int
    mean_score: float
    share: float
    interval: Interval


def reliability(scored: Scored) -> tuple[Bin, ...]:
    """Compare scores with the shares of stalled, in the bins of `RELIABILITY_EDGES` with any."""
    count = len(RELIABILITY_EDGES) - 1
    # The last bin holds 1, too.
    of = np.minimum(np.digitize(scored.scores, RELIABILITY_EDGES) - 1, count - 1)
    counts = np.bincount(of, minlength=count)
    stalled = np.bincount(of, scored.labels, minlength=count).astype(int)
    sums = np.bincount(of, scored.scores, minlength=count)
    bins = []
    for index in np.flatnonzero(counts):
        whole, part = int(counts[index]), int(stalled[index])
        share = intervals.wilson(part, whole)
        low, high = map(float, RELIABILITY_EDGES[index : index + 2])
        bounds = Interval(float(share.low), float(share.high))
        bins.append(Bin(low, high, whole, part, sums[index] / whole, float(share.value), bounds))
    return tuple(bins)


def by_threshold(scored: Scored) -> dict[str, Floats]:
    """Metrics that the scores would have at every threshold of `GRID`.

    A recording counts as called stalled where its score is at or above the threshold.

    Returns
    -------
    dict of ndarray
        ``mcc``, ``accuracy``, ``precision``, ``recall``, ``f1``: float64 (1001,), NaN where
        undefined.
    """
    stalled, flowing = scored.scores[scored.labels], scored.scores[~scored.labels]
    missed = np.searchsorted(np.sort(stalled), GRID, side="left")
    kept = np.searchsorted(np.sort(flowing), GRID, side="left")
    cells = Confusion(len(stalled) - missed, len(flowing) - kept, kept, missed)
    hits = cells.true_stalled
    return {
        "mcc": mcc_of_counts(*cells),
        "accuracy": (hits + kept) / len(scored.scores),
        "precision": divide(hits, hits + cells.false_stalled),
        "recall": divide(hits, cells.stalled),
        "f1": divide(2 * hits, 2 * hits + cells.false_stalled + missed),
    }


def roc(scored: Scored) -> tuple[Floats, Floats] | None:
    """ROC curve: false-positive rate and sensitivity, float64 (M,) each; None with one class."""
    from sklearn.metrics import roc_curve

    if scored.labels.all() or not scored.labels.any():
        return None
    false_rate, recall, _ = roc_curve(scored.labels, scored.scores)
    return false_rate, recall


def precision_recall(scored: Scored) -> tuple[Floats, Floats] | None:
    """Recall (descending) and precision, float64 (M,) each; None with one class."""
    from sklearn.metrics import precision_recall_curve

    if scored.labels.all() or not scored.labels.any():
        return None
    precision, recall, _ = precision_recall_curve(
        scored.labels, scored.scores, drop_intermediate=True
    )
    return recall, precision
