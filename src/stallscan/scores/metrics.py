"""Measure calls and scores against labels. Stalled is the positive class.

A figure that is undefined (precision without a stalled call, ROC AUC with one class) is None. MCC
is the exception: by the usual convention it is 0 where a row or column of the confusion matrix is
empty.

Every figure is a function of the results among the stalled recordings, the results among the
flowing ones, and the share of stalled. `bootstrap` computes the sampling error.

scikit-learn takes half a second to import, so it is imported inside the functions: prediction
imports this module but does not need it.
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

# Shares of stalled at which MCC is reported besides that of the data (docs/facts.md 2, 4 and 6):
# the third place's selection, the competition's test set, Alzheimer's models, half of that, the
# competition's training set.
PREVALENCES = (0.09, 0.046, 0.02, 0.01, 0.003)
# Specificities at which the sensitivity is reported (docs/facts.md 6): that of a good published
# net, and the one that a comparison of mice needs.
SPECIFICITIES = (0.993, 0.999)


Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """The labels, scores and calls of N recordings."""

    labels: Bools  # bool (N,), whether the recording is stalled
    scores: Floats  # float64 (N,), probability of stalled, 0 to 1
    calls: Bools  # bool (N,), whether it was called stalled
    # The distinct thresholds of the calls, ascending; normally one.
    thresholds: tuple[float, ...] = ()

    @classmethod
    def check(
        cls,
        labels: ArrayLike,
        scores: ArrayLike,
        calls: ArrayLike,
        thresholds: Sequence[float] = (),
    ) -> "Scored":
        """Check and convert arrays (N,): labels and calls of 0 or 1, and scores within 0 to 1.

        Raises
        ------
        InputError
            If the lengths differ, the arrays are empty, or a label, score or call is out of range.
            The message names the rows, counted from 1.
        """
        arrays = {
            "labels": np.asarray(labels, dtype=np.float64),
            "scores": np.asarray(scores, dtype=np.float64),
            "calls": np.asarray(calls, dtype=np.float64),
        }
        shapes = {array.shape for array in arrays.values()}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            given = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
            raise InputError(f"labels, scores and calls must be lists of one length, got {given}")
        if arrays["labels"].size == 0:
            raise InputError("no recording has a label, a score and a call")
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
    """Counts of calls against labels, or arrays of such counts."""

    # true_stalled, false_stalled: recordings called stalled that are labelled stalled, and flowing.
    true_stalled: Any
    false_stalled: Any
    # true_flowing, missed_stalled: recordings called flowing that are labelled flowing, and
    # stalled.
    true_flowing: Any
    missed_stalled: Any

    @property
    def stalled(self) -> Any:
        """Number of recordings labelled stalled."""
        return self.missed_stalled + self.true_stalled

    @property
    def flowing(self) -> Any:
        """Number of recordings labelled flowing."""
        return self.true_flowing + self.false_stalled


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Metrics:
    """The figures of one set of calls; None where undefined."""

    count: int  # recordings measured
    # Share of stalled among them; MCC, accuracy, precision, F1 and PR AUC depend on it.
    prevalence: float
    confusion: Confusion
    mcc: float  # Matthews correlation coefficient, -1 to 1; 0 where a margin of the matrix is empty
    # accuracy, precision, recall, specificity, f1, roc_auc, pr_auc: 0 to 1. Recall is the
    # sensitivity. PR AUC is the average precision.
    accuracy: float | None
    precision: float | None
    recall: float | None
    specificity: float | None
    f1: float | None
    roc_auc: float | None
    pr_auc: float | None
    # brier, log_loss: mean squared error of the scores, 0 (best) to 1, and their mean negative
    # log-likelihood in nats, 0 (best) or more. Constant scores equal to the prevalence p have a
    # Brier score of p (1 - p) and the entropy of p as log-loss. A wrong score of 0 or 1 counts 36
    # nats, not infinity.
    brier: float
    log_loss: float

    def as_json(self) -> dict[str, Any]:
        """Return the figures by name, as JSON types."""
        return asdict(self) | {"confusion": self.confusion._asdict()}


class SensitivityAt(NamedTuple):
    """The sensitivity at a given specificity.

    The threshold is chosen on the measured recordings themselves; on other recordings it has
    another specificity.
    """

    specificity: float  # the required specificity, 0 to 1
    sensitivity: float | None  # share of stalled at or above the threshold; None with one class
    # The lowest score of a stalled recording that has the specificity; None if there is none.
    threshold: float | None
    # Number of flowing recordings that may be called stalled. At 0 the flowing recordings are too
    # few to distinguish the specificity from a perfect one.
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
    """Compute the sensitivity of the scores at a specificity above 0 and at most 1."""
    stalled, flowing = scored.scores[scored.labels], scored.scores[~scored.labels]
    allowed = len(flowing) - math.ceil(intervals.portion(specificity, len(flowing)))
    if not len(stalled) or not len(flowing):
        return SensitivityAt(specificity, None, None, allowed)
    highest_not_allowed = np.sort(flowing)[-(allowed + 1)]
    hits = stalled[stalled > highest_not_allowed]
    threshold = float(hits.min()) if hits.size else None
    return SensitivityAt(specificity, len(hits) / len(stalled), threshold, allowed)


def sensitivity_name(specificity: float) -> str:
    """Return the name of a sensitivity at a specificity in `Drawn.figures`."""
    return f"sensitivity_at_{specificity:g}"


def mcc_of_counts(
    true_stalled: ArrayLike,
    false_stalled: ArrayLike,
    true_flowing: ArrayLike,
    missed_stalled: ArrayLike,
) -> Floats:
    """Compute the Matthews correlation coefficient from counts or shares, as in `Confusion`.

    Returns float64 of the common shape, -1 to 1; 0 where a row or column of the matrix is empty.
    """
    given = (true_stalled, false_stalled, true_flowing, missed_stalled)
    tp, fp, tn, fn = (np.asarray(cell, dtype=np.float64) for cell in given)
    spread = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.divide(tp * tn - fp * fn, spread, out=np.zeros_like(spread), where=spread > 0)


def reweighted_mcc(sensitivity: ArrayLike, specificity: ArrayLike, prevalence: ArrayLike) -> Floats:
    """Compute the MCC from sensitivity and specificity at a prevalence, all 0 to 1.

    Returns float64 of the common shape, -1 to 1.
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
    """Divide element by element; NaN where the divisor is not above 0."""
    undefined = np.full(part.shape, np.nan)
    return np.asarray(np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0))


def bad_scores(scores: Floats) -> Bools:
    """Return which scores are not probabilities: NaN, below 0 or above 1."""
    # Negated, because every comparison with NaN is false.
    return ~((scores >= 0.0) & (scores <= 1.0))


def _refuse(what: str, values: Floats, wrong: Bools, expected: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        named = listed([f"row {row + 1} ({values[row]:g})" for row in rows])
        raise InputError(f"{what} not {expected}: {named}")


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
