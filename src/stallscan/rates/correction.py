"""Stall rates and differences between groups of mice, corrected for wrong calls.

The correction is that of Rogan & Gladen (1978). It includes the sampling errors of the calls, the
sensitivity and the specificity.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stallscan import documents
from stallscan.errors import InputError
from stallscan.rates import rogan_gladen
from stallscan.rates.mice import (
    corrected_difference_of_mice,
    corrected_mean_of_mice,
    difference_of_corrected_means,
    level,
    mean_of_mice,
    permutation_p,
    smallest_permutation_p,
)
from stallscan.runs import METRICS_NAME
from stallscan.scores import intervals
from stallscan.scores.intervals import Share
from stallscan.scores.metrics import Confusion, Interval
from stallscan.words import percent

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CallAccuracy:
    """Sensitivity and specificity of calls, and the number of recordings behind them."""

    # Shares of stalled recordings called stalled and of flowing ones called flowing: 0..1, with a
    # sum above 1.
    sensitivity: float
    specificity: float
    # Labelled recordings they were measured on. None for stated values, which are taken as exact.
    stalled: int | None = None
    flowing: int | None = None
    # The column by which these recordings are alike, such as the mouse, and how many independent
    # ones they tell as much as; empty and None if they are independent, None also if unknown.
    grouped_by: str = ""
    effective: tuple[float, float] | None = None
    # Bundles and thresholds of the measured calls; empty if unknown.
    bundles: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()
    # What else made the measured calls, from `predictions.made_by`; empty if unknown.
    made_by: dict[str, Any] = field(default_factory=dict)
    # Whether they were measured on simulated recordings.
    simulated: bool = False
    # Further recordings labelled stalled and flowing, without a call; None if unknown.
    left_out: tuple[int, int] | None = None

    @classmethod
    def counted(
        cls, true_stalled: int, stalled: int, true_flowing: int, flowing: int
    ) -> "CallAccuracy":
        """Compute the rates from counts: correct calls and all recordings of each label.

        Raises
        ------
        InputError
            If a class is missing, a count is impossible, or the calls are no better than chance.
        """
        for label, correct, count in (
            ("stalled", true_stalled, stalled),
            ("flowing", true_flowing, flowing),
        ):
            if count < 1:
                raise InputError(
                    f"no recording labelled {label} was evaluated, so the accuracy of the calls is "
                    "unknown. Evaluate on recordings of both classes"
                )
            if not 0 <= correct <= count:
                raise InputError(
                    f"{correct} correct calls of {count} recordings labelled {label} are impossible"
                )
        return cls(true_stalled / stalled, true_flowing / flowing, stalled, flowing)._check()

    @classmethod
    def stated(cls, sensitivity: float, specificity: float) -> "CallAccuracy":
        """Return published or assumed values, which are taken as exact.

        Raises
        ------
        InputError
            If a value is outside 0..1, or the two are no better than chance.
        """
        for name, value in (("sensitivity", sensitivity), ("specificity", specificity)):
            # Negated, so that NaN is refused, too.
            if not 0 <= value <= 1:
                raise InputError(
                    f"{name} is {value:g}. Give a share from 0 to 1 (0.993 for 99.3 %)"
                )
        return cls(sensitivity, specificity)._check()

    @classmethod
    def read(cls, path: str | Path) -> "CallAccuracy":
        """Read the ``metrics.json`` of `stallscan evaluate`, given as a file or as its folder.

        Raises
        ------
        InputError
            If the file cannot be read or has other contents, or was measured on recordings that
            the training used, and as in `counted`.
        """
        path = Path(path)
        path = path / METRICS_NAME if path.is_dir() else path
        try:
            content = documents.read_json(path)
            cells = Confusion(
                **{name: int(count) for name, count in content["metrics"]["confusion"].items()}
            )
            bundles = tuple(str(name) for name in content["bundles"])
            thresholds = tuple(float(threshold) for threshold in content["thresholds"])
            # Older versions did not record the following.
            made_by = dict(content.get("made_by", {}))
            drawn = content.get("drawn_by", {})
            grouped_by, effective = str(drawn.get("column", "")), drawn.get("effective")
            if effective is not None:
                effective = (float(effective["stalled"]), float(effective["flowing"]))
            simulated = content.get("simulated", {}).get("recordings") is True
            counts = content.get("rows", {}).get("without_call_by_label")
            left_out = None if counts is None else (int(counts["stalled"]), int(counts["flowing"]))
        except OSError as error:
            raise InputError(
                f"{path}: cannot be opened ({error.strerror}). Give the metrics.json of "
                "'stallscan evaluate'"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
            raise InputError(
                f"{path}: has no confusion matrix, bundles and thresholds. Give the metrics.json "
                "of 'stallscan evaluate'"
            ) from None
        try:
            accuracy = cls.counted(
                cells.true_stalled, cells.stalled, cells.true_flowing, cells.flowing
            )
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if content.get("held_out") is True:
            raise InputError(
                f"{path}: was measured on the recordings that chose the epoch and the threshold of "
                "the training, so it is too good. Evaluate predictions of other recordings"
            )
        return replace(
            accuracy,
            bundles=bundles,
            thresholds=thresholds,
            grouped_by=grouped_by,
            effective=effective,
            made_by=made_by,
            simulated=simulated,
            left_out=left_out,
        )

    @property
    def sensitivity_share(self) -> Share:
        """Sensitivity with its 95 % interval."""
        if self.stalled is None:
            return intervals.exactly(self.sensitivity)
        weight = self.effective[0] / self.stalled if self.effective else 1.0
        right = round(self.sensitivity * self.stalled)
        return intervals.jeffreys(right * weight, self.stalled * weight)

    @property
    def false_stalled(self) -> Share:
        """Share of flowing recordings called stalled, with its 95 % interval."""
        if self.flowing is None:
            return intervals.exactly(1.0 - self.specificity)
        weight = self.effective[1] / self.flowing if self.effective else 1.0
        false = round((1.0 - self.specificity) * self.flowing)
        return intervals.jeffreys(false * weight, self.flowing * weight)

    def __str__(self) -> str:
        return (
            f"sensitivity {percent(self.sensitivity)} ({origin(self.stalled, 'stalled')}), "
            f"specificity {percent(self.specificity)} ({origin(self.flowing, 'flowing')})"
        )

    def _check(self) -> "CallAccuracy":
        if self.sensitivity + self.specificity <= 1:
            remedy = (
                "Call with another threshold (stallscan decide), or train the model on your labels "
                "(stallscan fine-tune)"
                if self.stalled
                else "Check both values"
            )
            raise InputError(
                f"a sensitivity of {percent(self.sensitivity)} and a specificity of "
                f"{percent(self.specificity)} are no better than chance, so rates cannot be "
                f"corrected. {remedy}"
            )
        return self


PERFECT = CallAccuracy.stated(1.0, 1.0)
# The published calls (docs/facts.md 6).
PUBLISHED = CallAccuracy.stated(0.85, 0.993)


@dataclass(frozen=True)
class Rate:
    """A stall rate before and after correction; shares are 0 to 1."""

    # Recordings called stalled, and recordings called stalled or flowing.
    stalled: int
    scored: int
    # Share called stalled; for a group the mean over its mice.
    naive: float
    # 95 % interval of `naive` (Wilson). For a group from `mice.mean_of_mice`, widened to contain
    # the interval of the pooled recordings; None with a single mouse.
    naive_interval: Interval | None
    # Corrected share, clipped to 0..1, and before clipping, so that means over it are unbiased.
    estimate: float
    unclipped: float
    # 95 % interval of `estimate` from `rogan_gladen.correct`, with the sampling errors of
    # sensitivity and specificity. For a group from `mice.corrected_mean_of_mice`.
    interval: Interval | None
    # Whether the interval excludes 0.
    resolvable: bool
    # Whether sensitivity and specificity rule out this number of stalled calls, so that `interval`
    # is all at 0 or all at 1.
    impossible: bool

    @property
    def stated_interval(self) -> Interval | None:
        """The interval to show: none if it would make an impossible rate look certain."""
        return None if self.impossible else self.interval


@dataclass(frozen=True)
class GroupDifference:
    """Comparison of two groups of mice."""

    first: str
    second: str
    # Number of mice in each group.
    mice: tuple[int, int]
    # Corrected rate of the second group minus that of the first, -1 to 1.
    difference: float
    # 95 % interval from `mice.corrected_difference_of_mice`. It excludes 0 exactly if `welch_p` is
    # below 0.05.
    interval: Interval | None = None
    # Two-sided p with one value per mouse. Sensitivity and specificity are the same for all mice
    # and cancel. `welch_p` is from Welch's test, or from independent recordings if that is larger.
    welch_p: float | None = None
    permutation_p: float | None = None
    # Limitations of the test, in sentences; often empty.
    note: str = ""


def corrected(stalled: int, scored: int, errors: CallAccuracy) -> Rate:
    """Correct the rate of one field or one mouse; `scored` counts calls of stalled or flowing.

    Raises
    ------
    InputError
        If no recording was scored, or more are stalled than scored.
    """
    if scored < 1 or not 0 <= stalled <= scored:
        raise InputError(f"no rate for {stalled} of {scored} scored recordings called stalled")
    called = intervals.jeffreys(stalled, scored)
    result = rogan_gladen.correct(called, errors.sensitivity_share, errors.false_stalled)
    rate = _rate(called, result, stalled, scored)
    return replace(rate, naive_interval=_interval(intervals.wilson(stalled, scored)))


def corrected_mean(
    stalled: Sequence[int],
    scored: Sequence[int],
    errors: CallAccuracy,
    each: Sequence[CallAccuracy] = (),
) -> Rate:
    """Correct the rate of a group: the unweighted mean over its mice.

    `stalled` and `scored` are (M,): recordings of each mouse called stalled, and called stalled or
    flowing. A single mouse has no intervals, because it does not show how much mice differ.
    If the accuracy differs between mice after a review, give that of `each` mouse, and as `errors`
    that of `reviewed.balance`.
    """
    called = np.asarray(stalled, np.float64) / np.asarray(scored, np.float64)  # (M,)
    all_stalled, all_scored = int(np.sum(stalled)), int(np.sum(scored))
    pooled = corrected(all_stalled, all_scored, errors)
    if len(called) == 1:
        return replace(pooled, naive_interval=None, interval=None)
    naive = mean_of_mice(called, scored, errors.false_stalled.value)
    naive = intervals.around(naive, intervals.wilson(all_stalled, all_scored))
    result = corrected_mean_of_mice(
        _shares(stalled, scored, errors, each),
        scored,
        errors.sensitivity_share,
        errors.false_stalled,
        differs=bool(each),
    )
    return _rate(naive, result, all_stalled, all_scored)


def resolves_from(scored: int, errors: CallAccuracy) -> float | None:
    """Return the lowest rate whose interval excludes 0 with this many scored recordings.

    None if no rate does.
    """
    sensitivity, false = errors.sensitivity_share, errors.false_stalled

    def is_resolved(stalled: int) -> bool:
        called = intervals.jeffreys(stalled, scored)
        return bool(rogan_gladen.correct(called, sensitivity, false).low > 0)

    if not is_resolved(scored):
        return None
    # Bisect the smallest number of stalled calls that is resolved.
    low, high = 0, scored
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_resolved(middle) else (middle, high)
    return float((high / scored - false.value) / (sensitivity.value - false.value))


def compare(
    names: tuple[str, str],
    stalled: tuple[Sequence[int], Sequence[int]],
    scored: tuple[Sequence[int], Sequence[int]],
    errors: CallAccuracy | tuple[CallAccuracy, CallAccuracy],
    each: tuple[Sequence[CallAccuracy], Sequence[CallAccuracy]] = ((), ()),
) -> GroupDifference:
    """Compare two groups with one value per mouse.

    `stalled` and `scored` are (M,) for each group, and `each` is as in `corrected_mean`.
    Sensitivity and specificity are taken to be the same in both groups unless both are given.
    """
    accuracies = errors if isinstance(errors, tuple) else (errors, errors)
    # (M,) each, share of each mouse called stalled.
    shares = [_shares(*of) for of in zip(stalled, scored, accuracies, each, strict=True)]
    mice = (len(shares[0]), len(shares[1]))
    # Corrected rate of each mouse, (M,) each.
    first, second = (
        (share - (1.0 - accuracy.specificity)) / (accuracy.sensitivity + accuracy.specificity - 1.0)
        for share, accuracy in zip(shares, accuracies, strict=True)
    )
    difference = float(np.clip(second.mean() - first.mean(), -1.0, 1.0))
    comparison = GroupDifference(*names, mice, difference)
    single = [name for name, count in zip(names, mice, strict=True) if count < 2]
    if single:
        who = "Group {} has" if len(single) == 1 else "Groups {} and {} each have"
        note = (
            f"{names[1]} is not tested against {names[0]}. {who.format(*single)} one mouse, which "
            "does not show how much mice differ."
        )
        return replace(comparison, note=note)
    pairs = [(accuracy.sensitivity_share, accuracy.false_stalled) for accuracy in accuracies]
    if accuracies[0] == accuracies[1] and not any(each):
        # The same wrong calls cancel in the test, which is then that of the calls as made.
        first, second = shares
        effect, p = corrected_difference_of_mice((first, second), scored, *pairs[0])
    else:
        effect, p = difference_of_corrected_means(
            (shares[0], shares[1]), scored, (pairs[0], pairs[1])
        )
    notes = []
    if not (np.ptp(first) or np.ptp(second)):
        notes.append(
            f"The mice within {names[0]} and within {names[1]} do not differ at all, so the "
            "interval and p are those of independent vessels."
        )
    smallest = smallest_permutation_p(*mice)
    if smallest > 0.05:
        notes.append(
            f"With {mice[0]} and {mice[1]} mice, the permutation test cannot give less than "
            f"p = {smallest:.2g}."
        )
    return replace(
        comparison,
        interval=_interval(effect, lowest=-1.0),
        welch_p=float(p),
        permutation_p=permutation_p(first, second),
        note=" ".join(notes),
    )


def _shares(
    stalled: Sequence[int],
    scored: Sequence[int],
    errors: CallAccuracy,
    each: Sequence[CallAccuracy],
) -> Floats:
    """Return the share of each mouse called stalled, (M,), levelled if the accuracies differ."""
    shares = np.asarray(stalled, np.float64) / np.asarray(scored, np.float64)
    if not each:
        return shares
    own = (
        [accuracy.sensitivity_share.value for accuracy in each],
        [accuracy.false_stalled.value for accuracy in each],
    )
    return np.asarray(level(shares, errors.sensitivity_share, errors.false_stalled, own))


def origin(count: int | None, label: str) -> str:
    """Return where a sensitivity or specificity comes from: labelled recordings, or stated."""
    return "stated" if count is None else f"measured on {count:,} {label} recordings"


def _rate(called: Share, result: Share, stalled: int, scored: int) -> Rate:
    interval = _interval(result)
    return Rate(
        stalled=stalled,
        scored=scored,
        naive=float(called.value),
        naive_interval=_interval(called),
        estimate=float(np.clip(result.value, 0.0, 1.0)),
        unclipped=float(result.value),
        interval=interval,
        resolvable=bool(result.low > 0),
        impossible=interval.high <= 0 or interval.low >= 1,
    )


def _interval(share: Share, lowest: float = 0.0) -> Interval:
    return Interval(*(float(np.clip(end, lowest, 1.0)) for end in (share.low, share.high)))
