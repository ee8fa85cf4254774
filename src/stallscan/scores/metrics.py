"""How good calls and scores are against labels; stalled is the positive class throughout.

A value that the data cannot tell (precision without a stalled call, ROC AUC with one class) is
None: never a warning, never a made-up 0. The one exception is MCC, which by the usual convention is
0 where a row or column of the confusion matrix is empty: such calls carry no information.

Every figure is a function of what happens among the stalled, what happens among the flowing, and
how common stalls are. How far chance may have moved it says `bootstrap`.

scikit-learn takes half a second to import and is imported where it is needed: prediction, which
imports this module, does without.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stallscan.errors import InputError
from stallscan.scores import intervals
from stallscan.words import listed

# Shares of stalled at which MCC is stated besides the data's own (docs/facts.md 2, 4 and 6): the
# third place's selection, the competition's test set, Alzheimer's models, half of that, the
# competition's training set.
PREVALENCES = (0.09, 0.046, 0.02, 0.01, 0.003)
# Specificities at which the sensitivity is stated (docs/facts.md 6): that of a good published net,
# and what a comparison of mice needs.
SPECIFICITIES = (0.993, 0.999)


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
    brier, log_loss : float
        Mean squared error of the scores, 0 (best) to 1, and their mean negative log-likelihood in
        nats, 0 (best) upwards. What answering the prevalence every time would get is p (1 - p)
        and the entropy of p. A score of exactly 0 or 1 that is wrong costs 36 nats, not infinity.
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
    brier: float
    log_loss: float

    def as_json(self) -> dict[str, Any]:
        """Give the figures by name, in JSON's types."""
        return asdict(self) | {"confusion": self.confusion._asdict()}


class SensitivityAt(NamedTuple):
    """How many stalls are found where the threshold leaves this specificity.

    The threshold is chosen on the very recordings that are measured: on others the same threshold
    gives another specificity.

    Attributes
    ----------
    specificity : float
        What is asked for, 0 to 1.
    sensitivity : float or None
        Share of stalled at or above the threshold; None with one class.
    threshold : float or None
        The lowest that leaves the specificity; None where none above a flowing one is left.
    false_alarms : int
        How many flowing recordings may be called stalled; at 0 there are too few flowing ones to
        tell the specificity from a perfect one.
    """

    specificity: float
    sensitivity: float | None
    threshold: float | None
    false_alarms: int


def measure(scored: Scored) -> Metrics:
    """Compute the metrics of `scored`."""
    from sklearn.metrics import (
        average_precision_score,
        brier_score_loss,
        log_loss,
        roc_auc_score,
    )

    cells = count(scored)
    whole = len(scored.labels)
    both = 0 < cells.stalled < whole
    return Metrics(
        count=whole,
        prevalence=cells.stalled / whole,
        confusion=cells,
        mcc=float(mcc_of_counts(*cells)),
        accuracy=_ratio(cells.true_flowing + cells.true_stalled, whole),
        precision=_ratio(cells.true_stalled, cells.true_stalled + cells.false_stalled),
        recall=_ratio(cells.true_stalled, cells.stalled),
        specificity=_ratio(cells.true_flowing, cells.flowing),
        f1=_ratio(
            2 * cells.true_stalled,
            2 * cells.true_stalled + cells.false_stalled + cells.missed_stalled,
        ),
        roc_auc=float(roc_auc_score(scored.labels, scored.scores)) if both else None,
        pr_auc=float(average_precision_score(scored.labels, scored.scores)) if both else None,
        brier=float(brier_score_loss(scored.labels, scored.scores, labels=[False, True])),
        log_loss=float(log_loss(scored.labels, scored.scores, labels=[False, True])),
    )


def count(scored: Scored) -> Confusion:
    """Count calls against labels."""
    from sklearn.metrics import confusion_matrix

    counts = confusion_matrix(scored.labels, scored.calls, labels=[False, True])
    true_flowing, false_stalled, missed_stalled, true_stalled = map(int, counts.ravel())
    return Confusion(true_stalled, false_stalled, true_flowing, missed_stalled)


def sensitivity_at(scored: Scored, specificity: float) -> SensitivityAt:
    """Find the sensitivity that the scores have at a specificity, on these recordings.

    Parameters
    ----------
    scored : Scored
        The recordings; their calls do not matter.
    specificity : float
        Above 0, at most 1.
    """
    stalled, flowing = scored.scores[scored.labels], scored.scores[~scored.labels]
    allowed = len(flowing) - math.ceil(intervals.portion(specificity, len(flowing)))
    if not len(stalled) or not len(flowing):
        return SensitivityAt(specificity, None, None, allowed)
    highest_not_allowed = np.sort(flowing)[-(allowed + 1)]
    found = stalled[stalled > highest_not_allowed]
    threshold = float(found.min()) if found.size else None
    return SensitivityAt(specificity, len(found) / len(stalled), threshold, allowed)


def sensitivity_name(specificity: float) -> str:
    """Name that `Drawn.figures` gives a sensitivity at a specificity."""
    return f"sensitivity_at_{specificity:g}"


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


def divide(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Divide element by element, NaN where the whole is 0 (or not above it)."""
    undefined = np.full(part.shape, np.nan)
    return np.asarray(np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0))


def bad_scores(scores: Floats) -> Bools:
    """Tell which scores are no probabilities: NaN, below 0 or above 1."""
    # NaN fails every comparison, so it must be this way round.
    return ~((scores >= 0.0) & (scores <= 1.0))


def _refuse(what: str, values: Floats, wrong: Bools, expected: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        named = listed([f"row {row + 1} ({values[row]:g})" for row in rows])
        raise InputError(f"{what} not {expected}: {named}")


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
