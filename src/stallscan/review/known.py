"""Recordings with known labels, mixed in among the others to check the reviewers themselves.

Which ones, and when, follows from the reviewer's name, so two servers of one folder agree.
"""

import collections
import hashlib
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from stallscan.catalog import names, tables
from stallscan.errors import InputError
from stallscan.recordings import find
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
        Whether a recording is stalled, by its filename in the run.
    share : float
        How much of what a reviewer sees is mixed in, 0..`MOST`.
    """

    labels: Mapping[str, bool]
    share: float = SHARE

    def for_reviewer(self, reviewer: str, numbers: Mapping[str, int]) -> Checks:
        """Choose what is mixed in for a reviewer: half of it stalled, as far as there are.

        Otherwise the sensitivity would rest on a handful of stalls. When the run grows, more is
        mixed in, and what was chosen before stays.

        Parameters
        ----------
        reviewer : str
            Whose checks they are.
        numbers : mapping
            The number of each item of the run by its filename.
        """
        if not self.labels:
            return Checks()
        ranked = sorted(self.labels, key=lambda name: _digest(reviewer, "chosen", name))
        stalls = [name for name in ranked if self.labels[name]]
        flows = [name for name in ranked if not self.labels[name]]
        count = min(round(portion(self.share, len(numbers))) or 1, len(ranked))
        stalled = min(len(stalls), max(count // 2, count - len(flows)))
        chosen = stalls[:stalled] + flows[: count - stalled]
        # By another digest: of the more frequent kind, those with the lowest were chosen.
        chosen.sort(key=lambda name: _digest(reviewer, "order", name))
        # Before each of the others, so that the mix cannot be told from a regular distance.
        slots = np.random.default_rng([SEED, *reviewer.encode()]).random(len(numbers)) < self.share
        return Checks(tuple(numbers[name] for name in chosen), tuple(slots.tolist()))


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).digest()


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
    folders = dict.fromkeys(item.path.parent for item in run.items if item.path is not None)
    find.refuse_other_simulation(path, list(folders))
    labels = tables.read_labels(path)
    # What cannot be shown cannot be mixed in.
    ours = pd.Series([item.filename for item in run.items if item.shown is not None], dtype=str)
    partners = names.match(ours, labels["filename"], path)
    stalled = dict(zip(labels["filename"], labels["stalled"], strict=True))
    known = {
        name: bool(stalled[partner])
        for name, partner in zip(ours, partners, strict=True)
        if partner in stalled
    }
    if not known:
        raise InputError(
            f"{path}: has no label for a recording in {run.folder}. "
            f"{names.contrast(ours.tolist(), labels['filename'].tolist())}"
        )
    return Known(known, share)


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
