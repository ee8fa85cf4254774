"""One rate, or two groups of mice compared, corrected for the errors of the calls.

The correction is that of Rogan & Gladen (1978), with the sampling error of all that was measured:
the calls, the sensitivity and the specificity.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stallscan.errors import InputError
from stallscan.rates import rogan_gladen
from stallscan.rates.mice import (
    corrected_difference_of_mice,
    corrected_mean_of_mice,
    mean_of_mice,
    permutation_p,
    smallest_permutation_p,
)
from stallscan.scores import intervals
from stallscan.scores.intervals import Share
from stallscan.scores.metrics import Confusion, Interval
from stallscan.words import percent


@dataclass(frozen=True)
class CallAccuracy:
    """How often calls are right, and on how many recordings that was measured.

    Attributes
    ----------
    sensitivity, specificity : float
        Share of stalled called stalled, and of flowing called flowing, 0 to 1; their sum above 1.
    stalled, flowing : int or None
        How many recordings of known label they were measured on; None where they are merely
        stated, and taken to be exact.
    bundles : tuple of str
        The bundles whose calls were measured; empty: not known.
    thresholds : tuple of float
        The thresholds of those calls; empty: not known.
    """

    sensitivity: float
    specificity: float
    stalled: int | None = None
    flowing: int | None = None
    bundles: tuple[str, ...] = ()
    thresholds: tuple[float, ...] = ()

    @classmethod
    def counted(
        cls, true_stalled: int, stalled: int, true_flowing: int, flowing: int
    ) -> "CallAccuracy":
        """Take the counts of an evaluation.

        Parameters
        ----------
        true_stalled, stalled : int
            Recordings labelled stalled that are called so, and all that are labelled so.
        true_flowing, flowing : int
            The same for flowing.

        Raises
        ------
        InputError
            If a class is missing, a count is impossible, or the calls are no better than chance.
        """
        for what, right, count in (
            ("stalled", true_stalled, stalled),
            ("flowing", true_flowing, flowing),
        ):
            if count < 1:
                raise InputError(
                    f"no recording labelled {what} was evaluated, so how often such a one is "
                    "called right is unknown; evaluate on recordings of both kinds"
                )
            if not 0 <= right <= count:
                raise InputError(f"{right} of {count} recordings labelled {what} cannot be right")
        return cls(true_stalled / stalled, true_flowing / flowing, stalled, flowing)._check()

    @classmethod
    def stated(cls, sensitivity: float, specificity: float) -> "CallAccuracy":
        """Take rates as exact, without sampling error: what is published, or supposed.

        Raises
        ------
        InputError
            If a rate is outside 0..1, or the two are no better than chance.
        """
        for what, value in (("sensitivity", sensitivity), ("specificity", specificity)):
            # NaN fails every comparison, so it must be this way round.
            if not 0 <= value <= 1:
                raise InputError(
                    f"{what} is {value:g}, expected a share from 0 to 1 (0.993 for 99.3 %)"
                )
        return cls(sensitivity, specificity)._check()

    @classmethod
    def of(cls, cells: Confusion) -> "CallAccuracy":
        """Take the confusion matrix of an evaluation; errors as `counted`."""
        return cls.counted(
            int(cells.true_stalled), int(cells.stalled), int(cells.true_flowing), int(cells.flowing)
        )

    @classmethod
    def read(cls, path: str | Path) -> "CallAccuracy":
        """Take the ``metrics.json`` that `stallscan evaluate` wrote.

        Raises
        ------
        InputError
            If the file is missing or something else, or as `counted`.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            cells = Confusion(**{n: int(c) for n, c in content["metrics"]["confusion"].items()})
            bundles = tuple(str(name) for name in content["bundles"])
            thresholds = tuple(float(threshold) for threshold in content["thresholds"])
        except OSError as error:
            raise InputError(
                f"{path}: cannot be opened ({error.strerror}); give the metrics.json that "
                "stallscan evaluate writes"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError(
                f"{path}: no confusion matrix, bundles and thresholds in it; expected the "
                "metrics.json that stallscan evaluate writes"
            ) from None
        try:
            return replace(cls.of(cells), bundles=bundles, thresholds=thresholds)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @property
    def found(self) -> Share:
        """Sensitivity with its 95 % interval."""
        if self.stalled is None:
            return intervals.exactly(self.sensitivity)
        return intervals.jeffreys(round(self.sensitivity * self.stalled), self.stalled)

    @property
    def false_stalled(self) -> Share:
        """Share of flowing recordings called stalled, with its 95 % interval."""
        if self.flowing is None:
            return intervals.exactly(1.0 - self.specificity)
        return intervals.jeffreys(round((1.0 - self.specificity) * self.flowing), self.flowing)

    def __str__(self) -> str:
        return (
            f"sensitivity {percent(self.sensitivity)} ({say_measured(self.stalled, 'stalled')}), "
            f"specificity {percent(self.specificity)} ({say_measured(self.flowing, 'flowing')})"
        )

    def _check(self) -> "CallAccuracy":
        if self.sensitivity + self.specificity <= 1:
            raise InputError(
                f"a sensitivity of {percent(self.sensitivity)} and a specificity of "
                f"{percent(self.specificity)} are no better than chance, so nothing can be "
                "corrected with them"
            )
        return self


PERFECT = CallAccuracy.stated(1.0, 1.0)
# docs/facts.md 6: of the calls that are published.
PUBLISHED = CallAccuracy.stated(0.85, 0.993)


@dataclass(frozen=True)
class Rate:
    """A stall rate as it is called and as it is corrected; shares, 0 to 1.

    Attributes
    ----------
    stalled, scored : int
        Recordings called stalled, and all that are called stalled or flowing.
    naive : float
        Share called stalled; for a group the mean over its mice.
    naive_interval : Interval or None
        95 %, of Wilson; for a group as `mice.mean_of_mice`, None with a single mouse. That of
        a group contains that of all its recordings at once, here and in `interval`.
    estimate : float
        Share truly stalled, clipped to 0..1.
    unclipped : float
        The same before it was clipped; of these, means are unbiased.
    interval : Interval or None
        95 %, with the sampling error of sensitivity and specificity, as `rogan_gladen.correct`;
        for a group as `mice.corrected_mean_of_mice`.
    resolvable : bool
        Whether the interval leaves 0 out.
    """

    stalled: int
    scored: int
    naive: float
    naive_interval: Interval | None
    estimate: float
    unclipped: float
    interval: Interval | None
    resolvable: bool


@dataclass(frozen=True)
class GroupDifference:
    """Two groups of mice compared.

    Attributes
    ----------
    first, second : str
        The groups.
    mice : tuple of int
        Mice of each.
    difference : float
        Corrected rate of the second less that of the first, -1 to 1.
    interval : Interval or None
        95 %, as `mice.corrected_difference_of_mice`. It leaves 0 out exactly where `welch_p`
        is below 0.05.
    welch_p, permutation_p : float or None
        Two-sided, one value a mouse. Sensitivity and specificity, shared by all mice, fall out.
        The first is that of Welch's test, or of independent recordings where that is larger.
    note : str
        A sentence on what cannot be told; often empty.
    """

    first: str
    second: str
    mice: tuple[int, int]
    difference: float
    interval: Interval | None = None
    welch_p: float | None = None
    permutation_p: float | None = None
    note: str = ""


def corrected(stalled: int, scored: int, errors: CallAccuracy) -> Rate:
    """Correct the rate of recordings that are alike: of one field, or one mouse.

    Parameters
    ----------
    stalled, scored : int
        Recordings called stalled, and all that are called stalled or flowing.
    errors : CallAccuracy
        Of the calls.

    Raises
    ------
    InputError
        If nothing was scored, or more is stalled than scored.
    """
    if scored < 1 or not 0 <= stalled <= scored:
        raise InputError(f"{stalled} of {scored} scored recordings called stalled gives no rate")
    naive = intervals.wilson(stalled, scored)
    called = intervals.jeffreys(stalled, scored)
    result = rogan_gladen.correct(called, errors.found, errors.false_stalled)
    made = _rate(called, result, stalled, scored)
    return replace(made, naive_interval=_interval(naive))


def corrected_mean(stalled: Sequence[int], scored: Sequence[int], errors: CallAccuracy) -> Rate:
    """Correct the rate of a group: the mean over its mice, each counting the same.

    Parameters
    ----------
    stalled, scored : sequence of int
        (M,): recordings of each mouse called stalled, and all that are called stalled or flowing.
    errors : CallAccuracy
        Of the calls.

    Returns
    -------
    Rate
        Without intervals where there is one mouse: how mice differ cannot be told from it.
    """
    called = np.asarray(stalled, np.float64) / np.asarray(scored, np.float64)
    total, all_ = int(np.sum(stalled)), int(np.sum(scored))
    pooled = corrected(total, all_, errors)
    if len(called) == 1:
        return replace(pooled, naive_interval=None, interval=None)
    naive = mean_of_mice(called, scored, errors.false_stalled.value)
    made = corrected_mean_of_mice(called, scored, errors.found, errors.false_stalled)
    return _rate(intervals.around(naive, intervals.wilson(total, all_)), made, total, all_)


def resolves_from(scored: int, errors: CallAccuracy) -> float | None:
    """Give the lowest rate that so many recordings tell from 0; None where not even 1 is.

    Parameters
    ----------
    scored : int
        Recordings called stalled or flowing.
    errors : CallAccuracy
        Of the calls.
    """
    false = errors.false_stalled

    def is_told(stalled: int) -> bool:
        return bool(
            rogan_gladen.correct(intervals.jeffreys(stalled, scored), errors.found, false).low > 0
        )

    if not is_told(scored):
        return None
    low, high = 0, scored
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_told(middle) else (middle, high)
    return float((high / scored - false.value) / (errors.found.value - false.value))


def compare(
    names: tuple[str, str],
    stalled: tuple[Sequence[int], Sequence[int]],
    scored: tuple[Sequence[int], Sequence[int]],
    errors: CallAccuracy,
) -> GroupDifference:
    """Compare two groups, one value a mouse.

    Parameters
    ----------
    names : tuple of str
        The groups.
    stalled, scored : tuple of sequence of int
        For each group, the recordings of its mice called stalled, and all called stalled or
        flowing.
    errors : CallAccuracy
        Of the calls; the same for both groups.
    """
    first, second = (
        np.asarray(part, np.float64) / np.asarray(whole, np.float64)
        for part, whole in zip(stalled, scored, strict=True)
    )
    mice = (len(first), len(second))
    gain = errors.sensitivity + errors.specificity - 1.0
    difference = float(np.clip((second.mean() - first.mean()) / gain, -1.0, 1.0))
    made = GroupDifference(*names, mice, difference)
    few = [name for name, count in zip(names, mice, strict=True) if count < 2]
    if few:
        who = f"group {few[0]} has" if len(few) == 1 else f"groups {few[0]} and {few[1]} have"
        return replace(
            made,
            note=f"{names[1]} against {names[0]} is not tested: {who} one mouse, which cannot say "
            "how mice differ",
        )
    effect, p = corrected_difference_of_mice(
        (first, second), scored, errors.found, errors.false_stalled
    )
    notes = []
    if not (np.ptp(first) or np.ptp(second)):
        notes.append(
            f"the mice within {names[0]} and within {names[1]} do not differ at all, so interval "
            "and p are those of independent vessels"
        )
    smallest = smallest_permutation_p(*mice)
    if smallest > 0.05:
        notes.append(
            f"with {mice[0]} and {mice[1]} mice the permutation test cannot give less than "
            f"p = {smallest:.2g}"
        )
    return replace(
        made,
        interval=_interval(effect, lowest=-1.0),
        welch_p=float(p),
        permutation_p=permutation_p(first, second),
        note="; ".join(notes),
    )


def say_measured(count: int | None, what: str) -> str:
    """Say on how many recordings a rate was measured, or that it is stated."""
    return "stated" if count is None else f"measured on {count:,} {what} recordings"


def _rate(called: Share, result: Share, stalled: int, scored: int) -> Rate:
    return Rate(
        stalled=stalled,
        scored=scored,
        naive=float(called.value),
        naive_interval=_interval(called),
        estimate=float(np.clip(result.value, 0.0, 1.0)),
        unclipped=float(result.value),
        interval=_interval(result),
        resolvable=bool(result.low > 0),
    )


def _interval(share: Share, lowest: float = 0.0) -> Interval:
    return Interval(*(float(np.clip(end, lowest, 1.0)) for end in (share.low, share.high)))
