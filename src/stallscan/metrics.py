"""How good calls and scores are against labels; stalled is the positive class throughout.

A value that the data cannot tell (precision without a stalled call, ROC AUC with one class) is
None: never a warning, never a made-up 0. The one exception is MCC, which by the usual convention is
0 where a row or column of the confusion matrix is empty: such calls carry no information.

Every figure is a function of what happens among the stalled, what happens among the flowing, and
how common stalls are. The intervals hold the last one fixed at the sample's own prevalence, or at
the one that a figure is re-weighted to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from stallscan.errors import InputError

# Shares of stalled at which MCC is stated besides the data's own (FACTS 2, 4 and 6): the third
# place's selection, the competition's test set, Alzheimer's models, half of that, the
# competition's training set.
PREVALENCES = (0.09, 0.046, 0.02, 0.01, 0.003)
# The curve between and around them.
PREVALENCE_GRID = np.geomspace(0.001, 0.5, 109)
# Specificities at which the sensitivity is stated (FACTS 6): that of a good published net, and what
# a comparison of mice needs.
SPECIFICITIES = (0.993, 0.999)

BOOTSTRAP_DRAWS = 1000
GAIN_DRAWS = 2000
BOOTSTRAP_SEED = 0
# Bounds of the central 95 % of the draws, in percent.
INTERVAL = (2.5, 97.5)
# Chosen: of fewer groups a bootstrap knows too little, and its intervals come out too narrow.
FEWEST_GROUPS = 10
# Chosen: draws that hold one class only cannot tell; where more than this share cannot, nothing is
# said.
MOST_UNTOLD = 0.1
# A class of more recordings is drawn by independent Poisson(1) weights, twice as fast (Chamandy et
# al. 2012). Measured on 40,000 recordings: intervals as wide as by drawing, but for the 2 % that
# 1,000 draws leave to chance.
POISSON_FROM = 20_000
# Weights held at once, of all draws together: 32 MB.
HELD_WEIGHTS = 4_000_000
# Scores at which the curves of a draw are cut. With no more distinct scores among the stalled than
# this the ROC and PR AUC of a draw are exact; with 20,000 they were off by 0.00005 at most.
MOST_CUTS = 5_000

# Ten bins of equal width: enough to see a bend, few enough to hold recordings.
RELIABILITY_EDGES = np.linspace(0.0, 1.0, 11)
# Two-sided 95 % of the normal distribution.
Z_95 = 1.959964

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


class Rates(NamedTuple):
    """Sensitivity and specificity in each draw, float64 (D,), NaN where a class is missing."""

    recall: Floats
    specificity: Floats


@dataclass(frozen=True)
class Drawn:
    """What each draw of a bootstrap gives, at the prevalence of the sample.

    Attributes
    ----------
    prevalence : float
        Share of stalled in the sample.
    rates : Rates
        Of the calls as made.
    roc_auc, pr_auc, brier, log_loss : ndarray
        float64 (D,), NaN where a draw cannot tell.
    sensitivity_at : dict of ndarray
        The same, for each of `SPECIFICITIES`.
    """

    prevalence: float
    rates: Rates
    roc_auc: Floats
    pr_auc: Floats
    brier: Floats
    log_loss: Floats
    sensitivity_at: dict[float, Floats]

    def figures(self, rates: Rates | None = None) -> dict[str, Floats]:
        """Give the draws of each figure by its name in `Metrics` (and `sensitivity_name`).

        Parameters
        ----------
        rates : Rates, optional
            What to derive the figures of the calls from; the drawn ones if not given.
        """
        return of_rates(rates or self.rates, self.prevalence) | {
            "roc_auc": self.roc_auc,
            "pr_auc": self.pr_auc,
            **{sensitivity_name(at): values for at, values in self.sensitivity_at.items()},
            "brier": self.brier,
            "log_loss": self.log_loss,
        }


class Curve(NamedTuple):
    """MCC against prevalence with its 95 % band, float64 (P,) each."""

    prevalence: Floats
    mcc: Floats
    low: Floats
    high: Floats


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


def measure(scored: Scored) -> Metrics:
    """Compute the metrics of `scored`."""
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
    # 1 - 0.999 times 1,000 is a hair below 1 in binary.
    allowed = int(np.floor((1.0 - specificity) * len(flowing) + 1e-9))
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
    return interval(reweighted_mcc(*smoothed_rates(cells), prevalence))


def interval(draws: Floats) -> Interval | None:
    """95 % interval of draws; None where too many of them are NaN.

    Parameters
    ----------
    draws : ndarray
        float (D,).
    """
    told = draws[~np.isnan(draws)]
    if len(told) < (1.0 - MOST_UNTOLD) * len(draws):
        return None
    low, high = np.percentile(told, INTERVAL)
    return Interval(float(low), float(high))


def wilson(part: int, whole: int) -> Interval | None:
    """95 % interval of a share of independent recordings (Wilson 1927); None of nothing."""
    if whole == 0:
        return None
    share, z2 = part / whole, Z_95**2 / whole
    centre = share + z2 / 2
    half = np.sqrt(z2 * (share * (1 - share) + z2 / 4))
    # Rounding must not put a bound beyond the share itself.
    low, high = (centre - half) / (1 + z2), (centre + half) / (1 + z2)
    return Interval(max(min(float(low), share), 0.0), min(max(float(high), share), 1.0))


def smoothed_rates(cells: Confusion) -> Rates:
    """Draw rates as `mcc_interval` says, each class by itself; NaN of a class that is missing."""
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    return Rates(
        _draw_rate(rng, cells.true_stalled, cells.stalled),
        _draw_rate(rng, cells.true_flowing, cells.flowing),
    )


def group_rates(scored: Scored, groups: NDArray[np.generic]) -> Rates:
    """Draw the rates of the calls by group.

    A rate of exactly 0 or 1 is the same in every draw of groups, which would make it look certain:
    there the recordings are drawn as `smoothed_rates` does.

    Parameters
    ----------
    scored : Scored
        (N,).
    groups : ndarray
        (N,): recordings with the same value are drawn together.
    """
    of, count = _number(groups)
    cells = _cells_by_group(scored, of, count).astype(np.float64)
    drawn = [cells @ weights for weights in _weights([np.arange(count)], BOOTSTRAP_SEED)]
    rates = _rates_of(Confusion(*np.concatenate(drawn, axis=1)))
    return _without_certainty(rates, Confusion(*cells.sum(axis=1).astype(int).tolist()))


def of_rates(rates: Rates, prevalence: float) -> dict[str, Floats]:
    """Figures that calls of these rates have at a prevalence, by their names in `Metrics`.

    Returns
    -------
    dict of ndarray
        ``mcc``, ``accuracy``, ``precision``, ``recall``, ``specificity``, ``f1``: float64 (D,),
        NaN where undefined.
    """
    stalled, flowing = prevalence, 1.0 - prevalence
    both = np.where(np.isnan(rates.recall) | np.isnan(rates.specificity), np.nan, 1.0)
    # Of a class that is not there nothing is called anything, whatever its rate (NaN).
    hits = stalled * rates.recall if stalled else np.zeros_like(rates.recall)
    kept = flowing * rates.specificity if flowing else np.zeros_like(rates.specificity)
    called = hits + flowing - kept
    return {
        # An MCC of 0 says that calls carry no information, not that a class is missing.
        "mcc": both * reweighted_mcc(*rates, prevalence),
        "accuracy": hits + kept,
        "precision": both * _divide(hits, called),
        "recall": rates.recall,
        "specificity": rates.specificity,
        "f1": both * _divide(2.0 * hits, called + stalled),
    }


def draw(scored: Scored, groups: NDArray[np.generic] | None = None) -> Drawn:
    """Bootstrap the figures of `scored`.

    Without groups the recordings of each class are drawn with replacement, as many as there are
    (more than `POISSON_FROM` by Poisson weights, which comes to the same); with groups, whole
    groups are. Equal labels and groups give equal draws, so that two models of the same recordings
    are compared by the difference of what `draw` gives for each.

    Parameters
    ----------
    scored : Scored
        (N,).
    groups : ndarray, optional
        (N,): recordings with the same value are drawn together.
    """
    if groups is None:
        of, count = np.arange(len(scored.labels)), len(scored.labels)
        strata = [np.flatnonzero(scored.labels), np.flatnonzero(~scored.labels)]
    else:
        of, count = _number(groups)
        strata = [np.arange(count)]
    codes, width = _codes(scored)
    counted = csr_array(
        (np.ones(len(of)), (codes + width * ~scored.labels, of)), shape=(2 * width, count)
    )
    summed = _sums_by_unit(scored, of, count)
    prevalence = float(scored.labels.mean())
    parts = [
        _figures_of_draws(counted @ weights, summed @ weights, prevalence)
        for weights in _weights(strata, BOOTSTRAP_SEED)
    ]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Drawn(
        prevalence=prevalence,
        rates=Rates(joined["recall"], joined["specificity"]),
        roc_auc=joined["roc_auc"],
        pr_auc=joined["pr_auc"],
        brier=joined["brier"],
        log_loss=joined["log_loss"],
        sensitivity_at={at: joined[sensitivity_name(at)] for at in SPECIFICITIES},
    )


def marginal_rates(drawn: Drawn, cells: Confusion, grouped: bool) -> Rates:
    """Rates for the intervals of one set of calls: never certain, see `smoothed_rates`.

    Parameters
    ----------
    drawn : Drawn
        From `draw`.
    cells : Confusion
        The counts of the sample.
    grouped : bool
        Whether groups were drawn.
    """
    return _without_certainty(drawn.rates, cells) if grouped else smoothed_rates(cells)


def mcc_curve(rates: Rates, measured: Metrics) -> Curve | None:
    """MCC re-weighted to every prevalence of `PREVALENCE_GRID`; None where a class is missing.

    Parameters
    ----------
    rates : Rates
        Draws that the band is made of.
    measured : Metrics
        What the curve is made of.
    """
    if measured.recall is None or measured.specificity is None:
        return None
    told = ~np.isnan(rates.recall + rates.specificity)
    draws = reweighted_mcc(
        rates.recall[told], rates.specificity[told], PREVALENCE_GRID[:, np.newaxis]
    )
    low, high = np.percentile(draws, INTERVAL, axis=1)
    middle = reweighted_mcc(measured.recall, measured.specificity, PREVALENCE_GRID)
    return Curve(PREVALENCE_GRID, middle, low, high)


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
        bounds = wilson(part, whole)
        assert bounds is not None
        low, high = RELIABILITY_EDGES[index : index + 2]
        bins.append(
            Bin(float(low), float(high), whole, part, sums[index] / whole, part / whole, bounds)
        )
    return tuple(bins)


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
    of, count = _number(groups)
    cells = np.concatenate([_cells_by_group(scored, of, count) for scored in (before, after)])
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
    """Write a share as a percentage of three digits: 30 %, 4.6 %, 0.329 %; 100 % is all."""
    text = f"{100.0 * share:.3g}"
    if text == "100" and share < 1.0:
        # 99.988 % of half a million leaves dozens: two digits of what is missing.
        text = f"{100.0 - float(f'{100.0 * (1.0 - share):.2g}'):.10g}"
    return f"{text} %"


def _refuse(what: str, values: Floats, wrong: Bools, expected: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        named = name_rows([f"row {row + 1} ({values[row]:g})" for row in rows])
        raise InputError(f"{what} not {expected}: {named}")


def _number(groups: NDArray[np.generic]) -> tuple[NDArray[np.int64], int]:
    """Count the groups, and give each recording the number of its own, from 0: (N,)."""
    names, of = np.unique(groups, return_inverse=True)
    return of, len(names)


def _cells_by_group(scored: Scored, of: NDArray[np.int64], count: int) -> Floats:
    """Count the cells of `Confusion` in each group: (4, count)."""
    return np.stack(
        [
            np.bincount(of, labels & calls, minlength=count)
            for labels, calls in (
                (scored.labels, scored.calls),
                (~scored.labels, scored.calls),
                (~scored.labels, ~scored.calls),
                (scored.labels, ~scored.calls),
            )
        ]
    )


def _sums_by_unit(scored: Scored, of: NDArray[np.int64], count: int) -> Floats:
    """Sum, in each unit, what means are made of: (6, count).

    Found stalls, kept flowing; squared error of stalled, of flowing; log-loss of either.
    """
    stalled, flowing = scored.labels, ~scored.labels
    squared = (scored.scores - stalled) ** 2
    # As scikit-learn keeps log-loss finite.
    tiny = np.finfo(np.float64).eps
    lost = -np.log(np.clip(np.where(stalled, scored.scores, 1.0 - scored.scores), tiny, 1.0 - tiny))
    return np.stack(
        [
            np.bincount(of, values * chosen, minlength=count)
            for values, chosen in (
                (scored.calls, stalled),
                (~scored.calls, flowing),
                (squared, stalled),
                (squared, flowing),
                (lost, stalled),
                (lost, flowing),
            )
        ]
    )


def _codes(scored: Scored) -> tuple[NDArray[np.int64], int]:
    """Reduce the scores to what the curves depend on: their order among the stalled ones.

    Returns
    -------
    codes : ndarray
        int64 (N,): 2 k + 1 at the k-th distinct score of a stalled recording, counted from 0, and
        2 k just below it.
    width : int
        How many codes there are.
    """
    cuts = np.unique(scored.scores[scored.labels])
    if len(cuts) > MOST_CUTS:
        cuts = cuts[np.linspace(0, len(cuts) - 1, MOST_CUTS).round().astype(int)]
    below = np.searchsorted(cuts, scored.scores, "left")
    return below + np.searchsorted(cuts, scored.scores, "right"), 2 * len(cuts) + 1


def _weights(strata: Sequence[NDArray[np.int64]], seed: int) -> Iterator[Floats]:
    """Yield how often each unit is drawn: (units, draws of the part), `BOOTSTRAP_DRAWS` in all."""
    rng = np.random.default_rng(seed)
    units = sum(len(stratum) for stratum in strata)
    most = max(1, HELD_WEIGHTS // units)
    for start in range(0, BOOTSTRAP_DRAWS, most):
        drawn = np.zeros((min(most, BOOTSTRAP_DRAWS - start), units))
        for row in drawn:
            for stratum in strata:
                row[stratum] = _draw_units(rng, len(stratum))
        yield np.ascontiguousarray(drawn.T)


def _draw_units(rng: np.random.Generator, count: int) -> NDArray[Any]:
    if count > POISSON_FROM:
        return POISSON_TABLE[rng.integers(0, 2**16, count, dtype=np.uint16)]
    return np.bincount(rng.integers(0, count, count), minlength=count) if count else np.zeros(0)


def _poisson_table() -> Floats:
    """Poisson(1) weights of equal chance, 2**16 of them."""
    weights = np.arange(12)
    chances = np.exp(-1.0) / np.cumprod(np.maximum(weights, 1))
    places = (np.arange(2**16) + 0.5) / 2**16
    return np.searchsorted(np.cumsum(chances), places).astype(np.float64)


POISSON_TABLE = _poisson_table()


def _figures_of_draws(counted: Floats, summed: Floats, prevalence: float) -> dict[str, Floats]:
    """Figures of each draw, from counts by code (2 codes, D) and sums (6, D)."""
    stalled, flowing = np.split(counted, 2)
    totals = stalled.sum(axis=0), flowing.sum(axis=0)
    stalled, flowing = (
        _divide(part, np.broadcast_to(total, part.shape))
        for part, total in zip((stalled, flowing), totals, strict=True)
    )
    # Called stalled with the threshold at each code.
    recall, alarms = (part[::-1].cumsum(axis=0)[::-1] for part in (stalled, flowing))
    called = prevalence * recall + (1.0 - prevalence) * alarms
    precision = np.divide(prevalence * recall, called, out=np.zeros_like(called), where=called > 0)
    both = np.where(np.minimum(*totals) > 0, 1.0, np.nan)
    found, kept, *losses = (_divide(part, totals[index % 2]) for index, part in enumerate(summed))
    return {
        "recall": found,
        "specificity": kept,
        "roc_auc": both * (stalled * (1.0 - alarms + flowing / 2.0)).sum(axis=0),
        "pr_auc": both * (stalled * precision).sum(axis=0),
        "brier": _mix(losses[0], losses[1], prevalence),
        "log_loss": _mix(losses[2], losses[3], prevalence),
        **{
            sensitivity_name(at): both
            * np.where(alarms <= 1.0 - at + 1e-9, recall, 0.0).max(axis=0)
            for at in SPECIFICITIES
        },
    }


def _mix(stalled: Floats, flowing: Floats, prevalence: float) -> Floats:
    """Join the means of both classes; one that is not in the sample does not count."""
    if prevalence in (0.0, 1.0):
        return stalled if prevalence else flowing
    return prevalence * stalled + (1.0 - prevalence) * flowing


def _rates_of(cells: Confusion) -> Rates:
    return Rates(
        _divide(cells.true_stalled, cells.stalled), _divide(cells.true_flowing, cells.flowing)
    )


def _without_certainty(rates: Rates, cells: Confusion) -> Rates:
    smoothed = smoothed_rates(cells)
    return Rates(
        smoothed.recall if cells.true_stalled in (0, cells.stalled) else rates.recall,
        smoothed.specificity if cells.true_flowing in (0, cells.flowing) else rates.specificity,
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _divide(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    undefined = np.full(part.shape, np.nan)
    return np.asarray(np.divide(part, whole, out=undefined, where=np.asarray(whole) > 0))


def _draw_rate(rng: np.random.Generator, right: int, count: int) -> Floats:
    if not count:
        return np.full(BOOTSTRAP_DRAWS, np.nan)
    smoothed = (right + 0.5) / (count + 1.0)
    return rng.binomial(count, smoothed, BOOTSTRAP_DRAWS) / count
