"""The results of a reproduction: figures, calls and samples."""

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

# Chosen: a selection may lose this share of its recordings, those without a clip, and still count
# as complete.
WHOLE = 0.9
VOTE = (
    "The score of a vote is the distance of the deciding net from its own threshold. It ranks "
    "recordings, but is not a probability.",
)
AT = {"half": "0.5", "published": "published", "chosen": "chosen here"}


class Change(NamedTuple):
    """A setting of the recipe that differs from the published one."""

    setting: str
    published: str
    here: str


@dataclass(frozen=True)
class Cut:
    """The thresholds of one net."""

    who: str
    decides: bool  # whether it contributes to the final call
    published: float  # the published threshold, on the sigmoid of its logit
    # The calibrated scores that correspond to it (``published``) and to a sigmoid of 0.5
    # (``half``), and the threshold chosen on the validation split (``chosen``).
    as_scores: dict[str, float]


@dataclass(frozen=True)
class Called:
    """The calls of one net, or of all together, on one split of the recordings."""

    who: str  # the net, or ``vote`` or ``mean``
    at: str  # the threshold: a key of `AT`
    part: Part  # ``validation`` or ``test``
    counts: dict[str, int]  # recordings by call
    # Recordings with a label, as submitted: no call counts as flowing, no score as 0. None without
    # labels.
    scored: Scored | None

    @functools.cached_property
    def metrics(self) -> Metrics | None:
        """The figures, if there are labels."""
        return None if self.scored is None else metrics.measure(self.scored)

    @functools.cached_property
    def intervals(self) -> dict[str, Interval | None]:
        """95 % intervals of the MCC (bootstrap) and of the shares (Wilson), by recording."""
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
        """Return everything but the recordings, as JSON types."""
        content: dict[str, Any] = {
            "who": self.who,
            "at": self.at,
            "part": self.part,
            "calls": self.counts,
        }
        if self.scored is not None and (measured := self.metrics) is not None:
            content |= {
                "thresholds": list(self.scored.thresholds),
                "metrics": measured.as_json(),
                "intervals_95": {
                    name: list(bounds) if bounds else None
                    for name, bounds in self.intervals.items()
                },
            }
        return content


@dataclass(frozen=True)
class Sample:
    """Numbers of recordings, of those with a label, and of those labelled stalled."""

    count: int
    labelled: int
    stalled: int

    @classmethod
    def of(cls, count: int, known: pd.DataFrame | None) -> "Sample":
        """Count the labels in the column stalled, 0 or 1; `known` is None without labels."""
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
    """The settings and results of a reproduction."""

    approach: Approach
    # The data folder and the output folder.
    data: Path
    out: Path
    simulated: bool
    machine: str  # the hardware of the run that finished
    # Column whose groups were kept on one side of the split; empty if split by recording.
    group: str
    trained_on: Sample  # recordings for training and validation
    test: Sample | None  # the test split, if there is one
    changes: tuple[Change, ...]  # differences from the published settings
    cuts: tuple[Cut, ...]
    calls: tuple[Called, ...]  # on the test split and on the validation split
    # Who makes the approach's final calls; at the published threshold they are the submission.
    final: str
    # Duration of the run that finished, without stages that an interrupted run had completed.
    seconds: float
    doubts: tuple[str, ...] = ()  # sentences on the test split

    def find(self, who: str, at: str, part: Part) -> Called | None:
        """Return these calls, or None if they were not made."""
        wanted = (who, at, part)
        return next((each for each in self.calls if (each.who, each.at, each.part) == wanted), None)

    @property
    def final_calls(self) -> Called:
        """The approach's final calls: on the test split if it has labels, else on validation."""
        on_test = self.find(self.final, "published", "test")
        if on_test is not None and on_test.scored is not None:
            return on_test
        on_validation = self.find(self.final, "published", "validation")
        assert on_validation is not None  # every training has a validation split
        return on_validation

    @property
    def is_as_published(self) -> bool:
        """Whether all settings are as published, with as many recordings."""
        return not self.changes and self.trained_on.count >= WHOLE * self.approach.count

    def as_json(self) -> dict[str, Any]:
        """Return everything but the recordings, as JSON types."""
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
            "calls": [each.as_json() for each in self.calls],
            "seconds": self.seconds,
            "notes": notes(self),
        }


def notes(made: Reproduction) -> list[str]:
    """Return notes on how to read the figures, a sentence or two each."""
    chose = (
        "The epoch, the calibration and the threshold 'chosen here' were chosen on the validation "
        "split, so its figures are optimistic."
    )
    if made.group:
        chose += f" None of its recordings shares its {made.group} with a training recording."
    else:
        chose += (
            " It was split by recording, and recordings of one project are similar, which also "
            "makes its figures optimistic."
        )
    return [*loud_notes(made), chose, *made.doubts]


def loud_notes(made: Reproduction) -> list[str]:
    """Return the notes to read before any figure."""
    warnings = []
    if made.simulated:
        warnings.append(
            "Every recording here is simulated, so these figures do not show how good the approach "
            "is on real recordings."
        )
    if not made.is_as_published:
        warnings.append(
            "This run differs from the published approach, see 'Differences from the published "
            "approach'. Do not compare its figures with the published ones: they show that every "
            "step ran, not how good the approach is."
        )
    return warnings


def as_scored(called: Called) -> Scored:
    """Return the scores of calls that have labels."""
    assert called.scored is not None
    return called.scored


def _wilson(part: int, whole: int) -> Interval | None:
    if not whole:
        return None
    share = wilson(part, whole)
    return Interval(float(share.low), float(share.high))
