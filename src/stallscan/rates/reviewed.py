"""Sensitivity and specificity of calls after a review.

Whoever reviews calls removes wrong ones, so fewer wrong calls remain than the measured sensitivity
and specificity say. They cannot be applied to the unreviewed recordings alone: a review that takes
suspected stalls first leaves few false calls and all missed stalls, whatever the shares over all
recordings are. What holds for any order of review is the total: of all recordings, the expected
number of wrong calls of each kind, minus those that the review found, remains. It is at least 0 and
at most the number of unreviewed calls of that kind.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from stallscan.rates.correction import CallAccuracy
from stallscan.rates.mice import equal_size
from stallscan.scores.intervals import Share, exactly, jeffreys, subtract

# Rounds until the number of stalled recordings agrees with the wrong calls; chosen, it converges
# by a factor of 1 - sensitivity + false calls per flowing recording.
ROUNDS = 200
# An estimated number of recordings up to this is none.
NO_RECORDING = 1e-9


class Tally(NamedTuple):
    """Numbers of recordings after a review; numbers or arrays of one shape.

    Recordings that the review found unscorable are left out of all of them.
    """

    stalled: Any  # stalled after the review
    scored: Any  # stalled or flowing after the review
    called_stalled: Any  # of these, called stalled by the model
    called_flowing: Any  # of these, called flowing by the model
    unseen_stalled: Any  # called stalled and not reviewed
    unseen_flowing: Any  # called flowing and not reviewed
    false_stalled: Any  # called stalled, found to be flowing
    missed: Any  # called flowing, found to be stalled

    @property
    def reviewed(self) -> Any:
        """Scored recordings that are known from the review."""
        return self.scored - self.unseen_stalled - self.unseen_flowing


@dataclass(frozen=True)
class ReviewedAccuracy(CallAccuracy):
    """Accuracy of calls of which some were reviewed."""

    # Sensitivity, and share of flowing recordings called stalled, each with its interval.
    shares: tuple[Share, Share] = (exactly(1.0), exactly(0.0))

    @property
    def sensitivity_share(self) -> Share:
        """Sensitivity with its 95 % interval."""
        return self.shares[0]

    @property
    def false_stalled(self) -> Share:
        """Share of flowing recordings called stalled, with its 95 % interval."""
        return self.shares[1]


def tally(rows: pd.DataFrame) -> Tally:
    """Count rows of `corrections.apply`: columns call, called and answer."""
    stalled, flowing = rows["call"] == "stalled", rows["call"] == "flowing"
    scored = stalled | flowing
    was_stalled, was_flowing = rows["called"] == "stalled", rows["called"] == "flowing"
    unseen = scored & (rows["answer"] == "")
    numbers = (
        *(stalled, scored, scored & was_stalled, scored & was_flowing),
        *(unseen & stalled, unseen & flowing, was_stalled & flowing, was_flowing & stalled),
    )
    return Tally(*(int(number.sum()) for number in numbers))


def balance(tallies: Sequence[Tally]) -> Tally:
    """Add up the tallies of mice, each scaled to the same number of scored recordings.

    The rate of a group is a mean over mice with equal weights, so the wrong calls that remain in
    each mouse must have the same weights. Otherwise, a review of the mouse with the most recordings
    would stand for that of all. The common number is `mice.equal_size`, so counts keep their error.
    """
    scored = [np.asarray(counts.scored, np.float64) for counts in tallies]
    weight = equal_size(np.stack(scored, axis=-1))
    scaled = [
        [number * weight / total for number in counts]
        for counts, total in zip(tallies, scored, strict=True)
    ]
    return Tally(*(sum(numbers) for numbers in zip(*scaled, strict=True)))


def after(errors: CallAccuracy, counts: Tally) -> CallAccuracy:
    """Return the accuracy of the calls of a unit after its review; as before if none was."""
    if not counts.reviewed:
        return errors
    sensitivity, false = remaining(errors.sensitivity_share, errors.false_stalled, counts)
    shares = tuple(Share(*map(float, share)) for share in (sensitivity, false))
    return ReviewedAccuracy(
        shares[0].value,
        1.0 - shares[1].value,
        errors.stalled,
        errors.flowing,
        shares=(shares[0], shares[1]),
    )


def remaining(sensitivity: Share, false_stalled: Share, counts: Tally) -> tuple[Share, Share]:
    """Compute sensitivity and share of false calls after a review, with intervals.

    Parameters
    ----------
    sensitivity, false_stalled : Share
        Of the model's calls, as for `rogan_gladen.correct`; numbers or arrays.
    counts : Tally
        Numbers or arrays of the same shape.

    Returns
    -------
    sensitivity, false_stalled : Share
        Of the calls after the review. 1 and 0 without error if all calls were reviewed.
    """
    numbers = Tally(*(np.asarray(number, np.float64) for number in counts))
    missed_share = _flip(sensitivity)
    stalled = _settle(missed_share.value, false_stalled.value, numbers)
    called = numbers.called_stalled + numbers.called_flowing
    # Stalled and flowing recordings that the model left to a person.
    others = numbers.stalled - _known(numbers), numbers.scored - called
    missed = _rest(
        missed_share,
        stalled,
        stalled + others[0],
        numbers.missed,
        numbers.unseen_flowing,
        numbers.called_flowing,
    )
    flowing = called - stalled
    false = _rest(
        false_stalled,
        flowing,
        flowing + others[1] - others[0],
        numbers.false_stalled,
        numbers.unseen_stalled,
        numbers.called_stalled,
    )
    return _flip(missed), false


def surprises(errors: CallAccuracy, counts: Tally) -> Iterator[tuple[str, int, float]]:
    """Yield each kind of wrong calls of which the review found more than there should be.

    That is the kind in words, the number found, and the number expected among all calls.
    """
    numbers = Tally(*(np.asarray(number, np.float64) for number in counts))
    missed_share, false_share = _flip(errors.sensitivity_share), errors.false_stalled
    stalled = _settle(missed_share.value, false_share.value, numbers)
    flowing = numbers.called_stalled + numbers.called_flowing - stalled
    for kind, share, found, whole in (
        ("false stalls", false_share, counts.false_stalled, float(flowing)),
        ("missed stalls", missed_share, counts.missed, float(stalled)),
    ):
        if found and jeffreys(found, max(whole, found)).low > share.high:
            yield kind, int(found), share.value * whole


def _known(numbers: Tally) -> Any:
    """Count the stalled of the recordings that the model called, if no unseen call is wrong."""
    return numbers.called_stalled - numbers.false_stalled + numbers.missed


def _settle(missed_share: Any, false_share: Any, numbers: Tally) -> Any:
    """Estimate how many of the recordings that the model called are stalled."""
    called = numbers.called_stalled + numbers.called_flowing
    known = stalled = _known(numbers)
    for _ in range(ROUNDS):
        false = np.clip(
            false_share * (called - stalled) - numbers.false_stalled, 0.0, numbers.unseen_stalled
        )
        missed = np.clip(missed_share * stalled - numbers.missed, 0.0, numbers.unseen_flowing)
        stalled = np.clip(known - false + missed, 0.0, called)
    return stalled


def _rest(share: Share, called: Any, all_: Any, found: Any, unseen: Any, calls: Any) -> Share:
    """Return the share of wrong calls that remain, of all recordings of a kind.

    `share` is that of wrong calls before the review among the `called` ones; `found` were found,
    `unseen` of the `calls` of that kind are unreviewed.
    """
    whole = np.maximum(called, found)
    # A number found by chance has the error of a count, unless nothing was reviewed.
    counted = jeffreys(found, np.maximum(whole, 1.0))
    reviewed = calls - unseen
    most = reviewed / np.maximum(whole, 1.0)
    seen = reviewed > 0
    known = Share(
        found / np.maximum(whole, 1.0),
        np.where(seen, np.minimum(counted.low, most), 0.0),
        np.where(seen, np.minimum(counted.high, most), 0.0),
    )
    left = subtract(known, share)
    some = all_ > NO_RECORDING
    divisor = np.where(some, all_, 1.0)
    scale = np.where(some, whole / divisor, 1.0)
    most_left = np.minimum(np.where(some, unseen / divisor, unseen > 0), 1.0)
    return Share(*(np.clip(limit * scale, 0.0, most_left)[()] for limit in left))


def _flip(share: Share) -> Share:
    return Share(1.0 - share.value, 1.0 - share.high, 1.0 - share.low)
