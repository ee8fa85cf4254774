"""The share of a run's calls that a reviewer overturns, from a random sample."""

import collections
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from stallscan.review.answers import Given
from stallscan.review.labels import VOTES
from stallscan.review.run import Item
from stallscan.scores.intervals import Share, wilson

# Planned for one wrong call in ten until the sample itself says that there are more.
PLANNED = 0.1
TRUSTED = 30  # checked calls from which the sample may say so


@dataclass(frozen=True)
class SampleCheck:
    """What the random sample says about the calls of a run.

    Attributes
    ----------
    calls : int
        Recordings of the run that are called flowing or stalled.
    checked : int
        How many of them are in the sample and answered with flowing or stalled.
    other : int
        Recordings of the sample without such a call or such an answer.
    needed : int
        How many must be checked for the wanted interval. Calls whose recordings were answered
        otherwise cannot be checked, and do not count as calls here.
    complete : tuple of str
        Which of `wrong`, `missed` and `alarms` rest on all calls that can be checked.
    wrong : Share or None
        Share of the checked calls that the reviewer overturned, 0..1; None if there are none.
    missed, alarms : Share or None
        The same among those called flowing, and among those called stalled.
    """

    calls: int
    checked: int
    other: int
    needed: int
    complete: tuple[str, ...]
    wrong: Share | None
    missed: Share | None
    alarms: Share | None

    @property
    def is_enough(self) -> bool:
        """Whether as many are checked as are needed."""
        return 0 < self.needed <= self.checked


def judge(
    order: Sequence[int], items: Sequence[Item], answers: Mapping[int, Given], within: float
) -> SampleCheck:
    """Compare a reviewer's answers with the calls, in the answered beginning of the random order.

    Answers beyond the first recording without one are left out: they were chosen by other orders.

    Parameters
    ----------
    order : sequence of int
        The random order of all items.
    items : sequence of Item
        All items.
    answers : mapping
        The reviewer's current answers by the number of the item.
    within : float
        Wanted half width of the interval of the share of wrong calls, 0..1.
    """
    calls = {n: items[n].call if items[n].call in VOTES else "" for n in order}
    called = collections.Counter(filter(None, calls.values()))
    wrong: dict[str, list[bool]] = {"flowing": [], "stalled": []}
    other = 0
    possible = called.copy()  # to check
    for number in order:
        given = answers.get(number)
        if given is None:
            break
        if calls[number] and given.answer in VOTES:
            wrong[calls[number]].append(given.answer != calls[number])
        else:
            other += 1
            possible[calls[number]] -= bool(calls[number])
    flowing, stalled = wrong["flowing"], wrong["stalled"]
    every, whole = flowing + stalled, possible["flowing"] + possible["stalled"]
    seen = sum(every) / len(every) if len(every) >= TRUSTED else 0.0
    shares = {
        "wrong": (every, whole),
        "missed": (flowing, possible["flowing"]),
        "alarms": (stalled, possible["stalled"]),
    }
    return SampleCheck(
        called.total(),
        len(every),
        other,
        sample_size(within, whole, max(seen, PLANNED)),
        tuple(name for name, (checked, all_) in shares.items() if len(checked) == all_),
        **{name: _share(*share) for name, share in shares.items()},
    )


def sample_size(within: float, population: int, share: float = PLANNED) -> int:
    """Return how many of a population to check for a 95 % interval at most so far from the share.

    Parameters
    ----------
    within : float
        Largest distance of a limit of the interval from the share.
    population : int
        From how many the sample is drawn.
    share : float
        The share that is expected, 0..1.
    """
    sizes = np.arange(1, population + 1)
    found = finite(share * sizes, sizes, population)
    far = np.maximum(found.high - found.value, found.value - found.low) > within
    return int(sizes[far][-1]) + 1 if far.any() else min(1, population)


def finite(part: ArrayLike, whole: ArrayLike, population: int) -> Share:
    """Compute a share with Wilson's interval for a sample drawn without putting back.

    The variance of such a sample is smaller by (N - n) / (N - 1); the interval is that of a larger
    sample with the same share. Of the whole population it has no width.
    """
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    # Not above 1e12, where the interval has no visible width.
    larger = np.minimum((population - 1) / np.maximum(population - whole, 1e-12), 1e12)
    larger = np.where(whole >= population, 1e12, np.maximum(larger, 1.0))
    return wilson(part * larger, whole * larger)


def _share(wrong: Sequence[bool], population: int) -> Share | None:
    if not wrong:
        return None
    return Share(*map(float, finite(sum(wrong), len(wrong), population)))
