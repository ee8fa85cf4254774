"""What a reproduction has made: figures, calls, samples."""

import functools
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from stallscan import files
from stallscan.published.approaches import Approach, Part
from stallscan.scores import bootstrap, metrics
from stallscan.scores.intervals import wilson
from stallscan.scores.metrics import Interval, Metrics, Scored
from stallscan.words import percent

# A selection loses a recording or two that gave no clip, and is none the smaller for it.
WHOLE = 0.9
VOTE = (
    "The score of a vote says how far the last net that is needed is above its own threshold: it "
    "orders recordings, and is no probability.",
)
AT = {"half": "0.5", "published": "published", "chosen": "chosen here"}


class Change(NamedTuple):
    """A setting of the recipe that is not as published."""

    setting: str
    published: str
    here: str


@dataclass(frozen=True)
class Cut:
    """The thresholds of one net.

    Attributes
    ----------
    who : str
        The net.
    decides : bool
        Whether it takes part in the final call.
    published : float
        On the sigmoid of its logit.
    as_scores : dict
        Which of our scores is the like of it (``published``), and of 0.5 (``half``); and the
        threshold that the validation part chose (``chosen``).
    """

    who: str
    decides: bool
    published: float
    as_scores: dict[str, float]


@dataclass(frozen=True)
class Called:
    """The calls of one net, or of all that decide, on one part of the recordings.

    Attributes
    ----------
    who : str
        Whose calls.
    at : str
        At which threshold: a key of `AT`.
    part : str
        ``validation`` or ``test``.
    counts : dict
        Recordings by call.
    scored : Scored or None
        Those that have a label, as they are submitted: no call counts as flowing, no score as 0.
        None where there are no labels.
    """

    who: str
    at: str
    part: Part
    counts: dict[str, int]
    scored: Scored | None

    @functools.cached_property
    def metrics(self) -> Metrics | None:
        """The figures, where there are labels."""
        return None if self.scored is None else metrics.measure(self.scored)

    @functools.cached_property
    def intervals(self) -> dict[str, Interval | None]:
        """95 % of the MCC (by bootstrap) and of the shares (Wilson), recording by recording."""
        measured = self.metrics
        if measured is None:
            return {}
        cells = measured.confusion
        right = cells.true_stalled + cells.true_flowing
        return {
            "mcc": bootstrap.mcc_interval(cells, measured.prevalence),
            "accuracy": _wilson(right, measured.count),
            "precision": _wilson(cells.true_stalled, cells.true_stalled + cells.false_stalled),
            "recall": _wilson(cells.true_stalled, cells.stalled),
        }

    def as_json(self) -> dict[str, Any]:
        """Give all but the recordings, in JSON's types."""
        said: dict[str, Any] = {
            "who": self.who,
            "at": self.at,
            "part": self.part,
            "calls": self.counts,
        }
        if self.scored is not None and (measured := self.metrics) is not None:
            said |= {
                "thresholds": list(self.scored.thresholds),
                "metrics": measured.as_json(),
                "intervals_95": {
                    name: list(found) if found else None for name, found in self.intervals.items()
                },
            }
        return said


@dataclass(frozen=True)
class Sample:
    """How many recordings there are, how many have a label, and how many of these are stalled."""

    count: int
    labelled: int
    stalled: int

    @classmethod
    def of(cls, count: int, known: pd.DataFrame | None) -> "Sample":
        """Count the labels: a row each, 0 or 1 in the column stalled; None where there are none."""
        if known is None:
            return cls(count, 0, 0)
        return cls(count, len(known), int(known["stalled"].sum()))

    def __str__(self) -> str:
        if not self.labelled:
            return f"{self.count:,}, no labels"
        share = percent(self.stalled / self.labelled)
        if self.labelled < self.count:
            return f"{self.count:,}; {self.labelled:,} have a label, {share} of these are stalled"
        return f"{self.count:,}, {share} stalled"


@dataclass(frozen=True)
class Reproduction:
    """What was done, and what came of it.

    Attributes
    ----------
    approach : Approach
        What was done again.
    data, out : Path
        The recordings, and the folder for all that was made.
    simulated : bool
        Whether the recordings are.
    machine : str
        What the run that finished ran on.
    group : str
        Column whose recordings were kept on one side of the split; empty: split by recording.
    trained_on : Sample
        With the validation part.
    test : Sample or None
        The test part, if there is one.
    changes : tuple of Change
        What is not as published.
    cuts : tuple of Cut
        Thresholds of each net.
    calls : tuple of Called
        On the test part and on the validation part.
    final : str
        Whose calls are the approach's own: at the published threshold they are the submission.
    seconds : float
        How long that run took. Stages that an earlier, stopped run had done are not in it.
    doubts : tuple of str
        What else is to be known of the test part.
    """

    approach: Approach
    data: Path
    out: Path
    simulated: bool
    machine: str
    group: str
    trained_on: Sample
    test: Sample | None
    changes: tuple[Change, ...]
    cuts: tuple[Cut, ...]
    calls: tuple[Called, ...]
    final: str
    seconds: float
    doubts: tuple[str, ...] = ()

    def find(self, who: str, at: str, part: Part) -> Called | None:
        """Give the calls of a net, or of `final`, if they were made."""
        return next(
            (one for one in self.calls if (one.who, one.at, one.part) == (who, at, part)), None
        )

    @property
    def final_calls(self) -> Called:
        """The approach's own calls: on the test part if there are labels, else on validation."""
        on_test = self.find(self.final, "published", "test")
        if on_test is not None and on_test.scored is not None:
            return on_test
        on_validation = self.find(self.final, "published", "validation")
        assert on_validation is not None  # every training has a validation part
        return on_validation

    @property
    def is_as_published(self) -> bool:
        """Whether all but the recordings themselves is, and they are as many."""
        return not self.changes and self.trained_on.count >= WHOLE * self.approach.count

    def as_json(self) -> dict[str, Any]:
        """Give all but the recordings, in JSON's types."""
        return {
            "approach": self.approach.name,
            "provenance": files.provenance(),
            "machine": self.machine,
            "data": str(self.data.resolve()),
            "simulated": self.simulated,
            "trained_on": asdict(self.trained_on),
            "test": asdict(self.test) if self.test else None,
            "not_as_published": [change._asdict() for change in self.changes],
            "published": [asdict(figure) for figure in self.approach.figures],
            "thresholds": [asdict(cut) for cut in self.cuts],
            "final": self.final,
            "calls": [one.as_json() for one in self.calls],
            "seconds": self.seconds,
            "notes": notes(self),
        }


def notes(made: Reproduction) -> list[str]:
    """Say in plain words how the figures are to be read, a sentence or two each."""
    chose = (
        "The validation part chose the epoch, the calibration and the threshold 'chosen here': "
        "its figures flatter."
    )
    if made.group:
        chose += f" None of its recordings shares its {made.group} with one that was trained on."
    else:
        chose += (
            " It is parted by recording, and recordings of one project are alike: that flatters, "
            "too."
        )
    return [*loud_notes(made), chose, *made.doubts]


def loud_notes(made: Reproduction) -> list[str]:
    """Return what must be read before any figure."""
    said = []
    if made.simulated:
        said.append(
            "Every recording here is simulated. No figure of ours says how good the approach is on "
            "real recordings."
        )
    if not made.is_as_published:
        said.append(
            "This run is not done as published: see 'What is not as published'. Do not "
            "compare its figures with the published ones: they show that every step was done, not "
            "how good the approach is."
        )
    return said


def as_scored(one: Called) -> Scored:
    """Return the scores of calls that have labels."""
    assert one.scored is not None
    return one.scored


def _wilson(part: int, whole: int) -> Interval | None:
    if not whole:
        return None
    share = wilson(part, whole)
    return Interval(float(share.low), float(share.high))
