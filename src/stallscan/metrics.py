"""How good calls and scores are against labels; stalled is the positive class throughout.

A value that the data cannot tell (precision without a stalled call, ROC AUC with one class) is
None: never a warning, never a made-up 0. The one exception is MCC, which by the usual convention is
0 where a row or column of the confusion matrix is empty: such calls carry no information.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from stallscan.errors import InputError

# Shares of stalled at which MCC is stated besides the data's own (FACTS 2, 4 and 6): the
# competition's test set, Alzheimer's models, half of that, the competition's training set.
PREVALENCES = (0.046, 0.02, 0.01, 0.003)

BOOTSTRAP_DRAWS = 1000
GAIN_DRAWS = 2000
BOOTSTRAP_SEED = 0
# Bounds of the central 95 % of the draws, in percent.
INTERVAL = (2.5, 97.5)

# Thresholds 0, 0.001, ... 1: finer than a plot can show.
GRID = np.linspace(0.0, 1.0, 1001)

# How many wrong rows a message names before it says "and N more".
ROWS_NAMED = 5

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """Recordings with a label, a score and a call, one element each.

    Attributes
    ----------
    labels : ndarray
        bool (N,), whether the recording is stalled.
    scores : ndarray
        float64 (N,), probability of stalled, 0 to 1.
    calls : ndarray
        bool (N,), whether it was called stalled.
    thresholds : tuple of float
        The distinct thresholds the calls were made with, ascending; normally one.
    """

    labels: Bools
    scores: Floats
    calls: Bools
    thresholds: tuple[float, ...] = ()

    @classmethod
    def check(
        cls,
        labels: ArrayLike,
        scores: ArrayLike,
        calls: ArrayLike,
        thresholds: Sequence[float] = (),
    ) -> "Scored":
        """Check the arrays and convert them.

        Parameters
        ----------
        labels, calls : array-like
            (N,), 0 or 1 (or booleans), 1 for stalled.
        scores : array-like
            (N,), 0 to 1.
        thresholds : sequence of float
            The thresholds the calls were made with, 0 to 1.

        Raises
        ------
        InputError
            If the lengths differ, nothing is given, or a label, score or call is not what it
            must be; the message names the rows, counted from 1.
        """
        arrays = {
            "labels": np.asarray(labels, dtype=np.float64),
            "scores": np.asarray(scores, dtype=np.float64),
            "calls": np.asarray(calls, dtype=np.float64),
        }
        shapes = {array.shape for array in arrays.values()}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            found = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise InputError(f"labels, scores and calls must be lists of one length, got {found}")
        if arrays["labels"].size == 0:
            raise InputError("there is no recording with a label, a score and a call")
        _refuse("score", arrays["scores"], bad_scores(arrays["scores"]), "within 0 to 1")
        for name in ("labels", "calls"):
            wrong = ~np.isin(arrays[name], (0.0, 1.0))
            _refuse(name[:-1], arrays[name], wrong, "0 or 1")
        return cls(
            arrays["labels"] == 1.0,
            arrays["scores"],
            arrays["calls"] == 1.0,
            tuple(sorted({float(threshold) for threshold in thresholds})),
        )


class Confusion(NamedTuple):
    """Counts of calls against labels, or arrays of such counts.

    Attributes
    ----------
    true_stalled, false_stalled : int or ndarray
        Recordings called stalled that are labelled stalled, and flowing.
    true_flowing, missed_stalled : int or ndarray
        Recordings called flowing that are labelled flowing, and stalled.
    """

    true_stalled: Any
    false_stalled: Any
    true_flowing: Any
    missed_stalled: Any

    @property
    def stalled(self) -> Any:
        """How many are labelled stalled."""
        return self.missed_stalled + self.true_stalled

    @property
    def flowing(self) -> Any:
        """How many are labelled flowing."""
        return self.true_flowing + self.false_stalled


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Metrics:
    """The figures of one set of calls; None where the data cannot tell.

    Attributes
    ----------
    count : int
        Recordings measured.
    prevalence : float
        Share of stalled among them; MCC, accuracy, precision, F1 and PR AUC hold for it only.
    confusion : Confusion
        The four counts.
    mcc : float
        Matthews correlation coefficient, -1 to 1; 0 where a margin of the matrix is empty.
    accuracy, precision, recall, specificity, f1, roc_auc, pr_auc : float or None
        0 to 1. Recall is the sensitivity. PR AUC is the average precision.
    """

    count: int
    prevalence: float
    confusion: Confusion
    mcc: float
    accuracy: float | None
    precision: float | None
    recall: float | None
    specificity: float | None
    f1: float | None
    roc_auc: float | None
    pr_auc: float | None


def measure(scored: Scored) -> Metrics:
    """Compute the metrics of `scored`."""
    counts = confusion_matrix(scored.labels, scored.calls, labels=[False, True])
    true_flowing, false_stalled, missed_stalled, true_stalled = map(int, counts.ravel())
    cells = Confusion(true_stalled, false_stalled, true_flowing, missed_stalled)
    count = len(scored.labels)
    both = 0 < cells.stalled < count
    return Metrics(
        count=count,
        prevalence=cells.stalled / count,
        confusion=cells,
        mcc=float(mcc_of_counts(*cells)),
        accuracy=_ratio(cells.true_flowing + cells.true_stalled, count),
        precision=_ratio(cells.true_stalled, cells.true_stalled + cells.false_stalled),
        recall=_ratio(cells.true_stalled, cells.stalled),
        specificity=_ratio(cells.true_flowing, cells.flowing),
        f1=_ratio(
            2 * cells.true_stalled,
            2 * cells.true_stalled + cells.false_stalled + cells.missed_stalled,
        ),
        roc_auc=float(roc_auc_score(scored.labels, scored.scores)) if both else None,
        pr_auc=float(average_precision_score(scored.labels, scored.scores)) if both else None,
    )


def mcc_of_counts(
    true_stalled: ArrayLike,
    false_stalled: ArrayLike,
    true_flowing: ArrayLike,
    missed_stalled: ArrayLike,
) -> Floats:
    """Matthews correlation coefficient of counts or shares, in the order of `Confusion`.

    Parameters
    ----------
    true_stalled, false_stalled, true_flowing, missed_stalled : float or ndarray
        Counts, or shares of the whole.

    Returns
    -------
    ndarray
        float64 of the common shape, -1 to 1; 0 where a row or column of the matrix is empty.
    """
    given = (true_stalled, false_stalled, true_flowing, missed_stalled)
    tp, fp, tn, fn = (np.asarray(cell, dtype=np.float64) for cell in given)
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.divide(tp * tn - fp * fn, spread, out=np.zeros_like(spread), where=spread > 0)


def reweighted_mcc(sensitivity: ArrayLike, specificity: ArrayLike, prevalence: ArrayLike) -> Floats:
    """MCC that calls of this sensitivity and specificity have where stalls are this common.

    Parameters
    ----------
    sensitivity, specificity : float or ndarray
        Shares of stalled called stalled and of flowing called flowing, 0 to 1.
    prevalence : float or ndarray
        Share of stalled, 0 to 1.

    Returns
    -------
    ndarray
        float64 of the common shape, -1 to 1.
    """
    sensitivity, specificity = np.asarray(sensitivity), np.asarray(specificity)
    stalled = np.asarray(prevalence)
    flowing = 1.0 - stalled
    return mcc_of_counts(
        true_stalled=stalled * sensitivity,
        false_stalled=flowing * (1.0 - specificity),
        true_flowing=flowing * specificity,
        missed_stalled=stalled * (1.0 - sensitivity),
    )


def mcc_interval(cells: Confusion, prevalence: float) -> Interval | None:
    """95 % interval of the MCC at `prevalence`, by a stratified bootstrap.

    Recordings drawn with replacement within each class give binomial numbers of right calls, so
    the counts are drawn rather than the recordings, and a million recordings cost no more than
    ten. The rates drawn from are smoothed by half a count, (k + 1/2) / (n + 1): without that, a
    class in which every call happens to be right would look certain.

    Parameters
    ----------
    cells : Confusion
        The counts of the sample.
    prevalence : float
        Share of stalled the MCC is stated for, 0 to 1; the sample's own for its own MCC.

    Returns
    -------
    Interval or None
        None where a class is missing from the sample.
    """
    if cells.stalled == 0 or cells.flowing == 0:
        return None
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    sensitivity = _draw_rate(rng, cells.true_stalled, cells.stalled)
    specificity = _draw_rate(rng, cells.true_flowing, cells.flowing)
    draws = reweighted_mcc(sensitivity, specificity, prevalence)
    return Interval(*(float(bound) for bound in np.percentile(draws, INTERVAL)))


def bootstrap_gain(
    before: Scored, after: Scored, groups: NDArray[np.generic], seed: int
) -> Interval:
    """Bootstrap the difference in MCC of two sets of calls of the same recordings.

    Parameters
    ----------
    before, after : Scored
        (N,) each, in the same order.
    groups : ndarray
        (N,): recordings with the same value are drawn together.
    seed : int
        Of the draws.

    Returns
    -------
    Interval
        95 % of MCC after less MCC before.
    """
    _, of = np.unique(groups, return_inverse=True)
    count = int(of.max()) + 1
    cells = np.stack(
        [
            np.bincount(of, labels & calls, minlength=count)
            for scored in (before, after)
            for labels, calls in (
                (scored.labels, scored.calls),
                (~scored.labels, scored.calls),
                (~scored.labels, ~scored.calls),
                (scored.labels, ~scored.calls),
            )
        ]
    )
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), GAIN_DRAWS)
    old, new = (mcc_of_counts(*(drawn @ part.T).T) for part in (cells[:4], cells[4:]))
    low, high = np.percentile(new - old, INTERVAL)
    return Interval(float(low), float(high))


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
        "precision": _divide(hits, hits + cells.false_stalled),
        "recall": _divide(hits, cells.stalled),
        "f1": _divide(2 * hits, 2 * hits + cells.false_stalled + missed),
    }


def roc(scored: Scored) -> tuple[Floats, Floats] | None:
    """ROC curve: false-positive rate and sensitivity, float64 (M,) each; None with one class."""
    if scored.labels.all() or not scored.labels.any():
        return None
    false_rate, recall, _ = roc_curve(scored.labels, scored.scores)
    return false_rate, recall


def precision_recall(scored: Scored) -> tuple[Floats, Floats] | None:
    """Recall (descending) and precision, float64 (M,) each; None with one class."""
    if scored.labels.all() or not scored.labels.any():
        return None
    precision, recall, _ = precision_recall_curve(
        scored.labels, scored.scores, drop_intermediate=True
    )
    return recall, precision


def bad_scores(scores: Floats) -> Bools:
    """Tell which scores are no probabilities: NaN, below 0 or above 1."""
    # NaN fails every comparison, so it must be this way round.
    return ~((scores >= 0.0) & (scores <= 1.0))


def name_rows(names: Sequence[str]) -> str:
    """Join what a message names: the first few, then how many more."""
    rest = len(names) - ROWS_NAMED
    return ", ".join(names[:ROWS_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")


def percent(share: float) -> str:
    """Write a share as a percentage of three digits: 30 %, 4.6 %, 0.329 %."""
    return f"{100.0 * share:.3g} %"


def _refuse(what: str, values: Floats, wrong: Bools, expected: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        named = name_rows([f"row {row + 1} ({values[row]:g})" for row in rows])
        raise InputError(f"{what} not {expected}: {named}")


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _divide(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    undefined = np.full(part.shape, np.nan)
    return np.asarray(np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0))


def _draw_rate(rng: np.random.Generator, right: int, count: int) -> Floats:
    smoothed = (right + 0.5) / (count + 1.0)
    return rng.binomial(count, smoothed, BOOTSTRAP_DRAWS) / count
