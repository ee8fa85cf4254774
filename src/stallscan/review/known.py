"""Recordings with known labels, mixed in among the others to check the reviewers themselves.

Which ones, and when, follows from the reviewer's name, so two servers of one folder agree.
"""

import collections
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from stallscan.catalog import names, tables
from stallscan.errors import InputError
from stallscan.review.run import Run
from stallscan.scores.intervals import portion

SHARE = 0.1
MOST = 0.5
SEED = 0
ENOUGH = 5  # answered recordings of a kind, before a share of them is shown


@dataclass(frozen=True)
class Checks:
    """What is mixed in for one reviewer.

    Attributes
    ----------
    items : tuple of int
        Numbers of the items, in the order in which they are mixed in.
    slots : tuple of bool
        For the first, second, ... recording that the reviewer answers: whether it is one of them.
    """

    items: tuple[int, ...] = ()
    slots: tuple[bool, ...] = ()
    chosen: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "chosen", frozenset(self.items))


@dataclass(frozen=True)
class Known:
    """Known labels of recordings of a run.

    Attributes
    ----------
    labels : mapping
        Whether a recording is stalled, by the number of its item.
    total : int
        Items of the run.
    share : float
        How much of what a reviewer sees is mixed in, 0..`MOST`.
    """

    labels: Mapping[int, bool]
    total: int
    share: float = SHARE

    def for_reviewer(self, reviewer: str) -> Checks:
        """Choose what is mixed in for a reviewer: half of it stalled, as far as there are.

        Otherwise the sensitivity would rest on a handful of stalls.
        """
        if not self.labels:
            return Checks()
        random = np.random.default_rng([SEED, *reviewer.encode()])
        kinds = [
            random.permutation([n for n, stalled in self.labels.items() if stalled == kind])
            for kind in (True, False)
        ]
        count = min(round(portion(self.share, self.total)) or 1, len(self.labels))
        stalled = min(len(kinds[0]), max(count // 2, count - len(kinds[1])))
        chosen = np.concatenate([kinds[0][:stalled], kinds[1][: count - stalled]]).astype(int)
        # Before each of the others, so that the mix cannot be told from a regular distance.
        slots = random.random(self.total) < self.share
        return Checks(tuple(random.permutation(chosen).tolist()), tuple(slots.tolist()))


def read_known(path: Path, run: Run, share: float = SHARE) -> Known:
    """Read the known labels of recordings of a run.

    Parameters
    ----------
    path : Path
        A table of labels, as `tables.read_labels` takes it.
    run : Run
        What is reviewed.
    share : float
        How much of what a reviewer sees is mixed in.

    Raises
    ------
    InputError
        If the share is outside 0..`MOST`, or no recording of the run has a label.
    TableError
        If the table is invalid.
    """
    if not 0 < share <= MOST:
        raise InputError(f"--known-share {share:g}: must be more than 0 and at most {MOST:g}")
    labels = tables.read_labels(path)
    ours = pd.Series([item.filename for item in run.items], dtype=str)
    partners = names.match(ours, labels["filename"], path)
    stalled = dict(zip(labels["filename"], labels["stalled"], strict=True))
    known = {
        number: bool(stalled[partner])
        for number, partner in enumerate(partners)
        if partner in stalled
    }
    if not known:
        raise InputError(
            f"{path}: has no label for a recording in {run.folder}. "
            f"{names.contrast(ours.tolist(), labels['filename'].tolist())}"
        )
    return Known(known, len(ours), share)


def mix(queue: Sequence[int], checks: Checks, answered: Collection[int]) -> Iterator[int]:
    """Yield a queue with known recordings mixed in, none of them twice.

    It ends with the queue: known recordings that are not in it are shown among others only.

    Parameters
    ----------
    queue : sequence of int
        Numbers of items that the reviewer has still to see.
    checks : Checks
        What is mixed in for the reviewer.
    answered : collection of int
        Items that the reviewer has answered. Their number says which slot is next.
    """
    waiting = collections.deque(n for n in checks.items if n not in answered)
    rest = collections.deque(queue)
    given: set[int] = set()
    for is_check in itertools.chain(checks.slots[len(answered) :], itertools.repeat(False)):
        for numbers in (waiting, rest):
            while numbers and numbers[0] in given:
                numbers.popleft()
        if not rest:
            return
        number = (waiting if is_check and waiting else rest).popleft()
        given.add(number)
        yield number
