"""Compute curves of scores against labels: ROC, precision-recall, by threshold, reliability."""

from dataclasses import dataclass

import numpy as np

from stallscan.scores import intervals
from stallscan.scores.metrics import Confusion, Floats, Interval, Scored, divide, mcc_of_counts

# Ten bins of equal width: enough to show the shape, few enough to fill the bins. A division,
# because linspace returns 0.30000000000000004 for 0.3, and a score of 0.3 would fall into the bin
# below.
RELIABILITY_EDGES = np.arange(11) / 10
# Thresholds 0, 0.001, ... 1, finer than the resolution of a plot.
GRID = np.arange(1001) / 1000


@dataclass(frozen=True)
class Bin:
    """Recordings whose scores lie in one bin of the reliability plot."""

    # low, high: bounds of the bin; the lower one is included.
    low: float
    high: float
    # count, stalled: number of recordings, and of those labelled stalled.
    count: int
    stalled: int
    mean_score: float  # mean of their scores: the predicted share of stalled
    share: float  # the observed share of stalled
    interval: Interval  # 95 % of the share (Wilson)


def reliability(scored: Scored) -> tuple[Bin, ...]:
    """Compare scores with the shares of stalled, in every bin that contains recordings."""
    count = len(RELIABILITY_EDGES) - 1
    # Bin of each recording, (N,). The last bin includes 1.
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
    """Compute the metrics at every threshold of `GRID`.

    A recording is called stalled if its score is at or above the threshold. The values are float64
    (1001,), NaN where undefined, by the names of `Metrics`.
    """
    stalled, flowing = scored.scores[scored.labels], scored.scores[~scored.labels]
    missed = np.searchsorted(np.sort(stalled), GRID, side="left")  # (1001,), as all below
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
    """Compute false-positive rate and sensitivity, float64 (M,) each; None with one class."""
    from sklearn.metrics import roc_curve

    if scored.labels.all() or not scored.labels.any():
        return None
    false_rate, recall, _ = roc_curve(scored.labels, scored.scores)
    return false_rate, recall


def precision_recall(scored: Scored) -> tuple[Floats, Floats] | None:
    """Compute recall (descending) and precision, float64 (M,) each; None with one class."""
    from sklearn.metrics import precision_recall_curve

    if scored.labels.all() or not scored.labels.any():
        return None
    precision, recall, _ = precision_recall_curve(
        scored.labels, scored.scores, drop_intermediate=True
    )
    return recall, precision
