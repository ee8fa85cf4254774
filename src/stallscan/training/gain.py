"""The gain by fine-tuning: the old bundle and the new one on recordings that neither has seen."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stallscan import words
from stallscan.bundle.bundle import Bundle
from stallscan.scores import bootstrap, metrics
from stallscan.scores.metrics import Interval, Metrics, Scored

# With fewer mice than this, a gain cannot be told from chance: the nominal false-positive rate of
# the interval's lower end is 2.5 %, and with five mice it is 3 % already.
FEWEST_HELD_OUT = 6


@dataclass(frozen=True)
class Side:
    """The performance of one bundle on the held-out recordings.

    Attributes
    ----------
    bundle : str
        Name and start of the hash of the bundle.
    measured : Metrics
        Metrics at the bundle's own threshold.
    mcc_interval : Interval or None
        95 % interval of the MCC, resampled by group if there is one; None if too many draws lack
        a class or only one group is held out.
    """

    bundle: str
    measured: Metrics
    mcc_interval: Interval | None


@dataclass(frozen=True)
class Gain:
    """The original and the fine-tuned bundle on held-out recordings that neither has seen.

    Attributes
    ----------
    folder : Path
        The run folder.
    before, after : Side
        The original bundle and the fine-tuned one.
    gain : Interval or None
        95 % interval of the change of MCC, resampled by group; None if it is undefined.
    group : str
        The column that names the groups; empty if there is none.
    groups : int
        Number of groups held out, or of recordings if there is no column.
    held_out : tuple of str
        The recordings held out.
    final : Path or None
        The bundle that was trained once more, from all labels.
    """

    folder: Path
    before: Side
    after: Side
    gain: Interval | None
    group: str
    groups: int
    held_out: tuple[str, ...] = ()
    final: Path | None = None

    def as_rows(self) -> list[tuple[str, str, str]]:
        """Return the name of each figure with its values before and after."""
        before, after = self.before.measured, self.after.measured
        share = words.percent(before.prevalence)
        figures = [
            (f"MCC at {share} stalled", before.mcc, after.mcc),
            ("sensitivity", before.recall, after.recall),
            ("specificity", before.specificity, after.specificity),
            ("ROC AUC", before.roc_auc, after.roc_auc),
            (f"PR AUC at {share} stalled", before.pr_auc, after.pr_auc),
        ]
        rows = [(name, _format(old), _format(new)) for name, old, new in figures]
        old, new = (_format_interval(side.mcc_interval) for side in (self.before, self.after))
        return [rows[0], ("   95 % interval", old, new), *rows[1:]]

    def __str__(self) -> str:
        head = ("", f"old: {self.before.bundle}", f"new: {self.after.bundle}", "new minus old")
        values = zip(self.as_rows(), self._differences(), strict=True)
        rows = [head, *((*row, difference) for row, difference in values)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        end = [f"bundle -> {self.folder / 'bundle'}"]
        if self.final:
            end.append(
                f"bundle that has learned from the compared recordings, too -> {self.final}. It is "
                "not compared with the old one: no recording is left for that"
            )
        return "\n".join([self.headline(), self._verdict(), *lines, *end])

    def headline(self) -> str:
        """Say in one sentence how many calls are right, new and old."""
        old, new = self.before.measured.confusion, self.after.measured.confusion
        by = f"by {self.group}" if self.group else "by recording, which is optimistic"
        return (
            f"{new.true_stalled:,} of {new.stalled:,} stalled found (old: {old.true_stalled:,}); "
            f"{new.false_stalled:,} of {new.flowing:,} flowing called stalled (old: "
            f"{old.false_stalled:,}). These {self.before.measured.count:,} recordings were held "
            f"out, split {by}."
        )

    def _differences(self) -> list[str]:
        """Return new minus old of each of `as_rows`; empty for an interval."""
        names = ("mcc", "", "recall", "specificity", "roc_auc", "pr_auc")
        sides = (self.before.measured, self.after.measured)
        pairs = [[getattr(side, name, None) for side in sides] for name in names]
        return ["" if old is None or new is None else f"{new - old:+.3f}" for old, new in pairs]

    def _verdict(self) -> str:
        """Return the gain in MCC, and whether it is significant."""
        verdict = f"New minus old: MCC {self.after.measured.mcc - self.before.measured.mcc:+.3f}"
        if self.groups < FEWEST_HELD_OUT:
            what = f"groups by {self.group}" if self.group else "recordings"
            return f"{verdict} (no interval: only {self.groups} {what} held out)"
        if self.gain is None:
            return f"{verdict} (no interval: too few recordings of one class held out)"
        sign = "better" if self.gain.low > 0 else "worse" if self.gain.high < 0 else "within noise"
        return f"{verdict} ({self.gain.low:+.3f} to {self.gain.high:+.3f}): {sign}"


def measure(model: Bundle, scored: Scored, groups: NDArray[np.generic] | None = None) -> Side:
    """Measure one bundle on the held-out recordings.

    Parameters
    ----------
    model : Bundle
        The bundle that made the calls.
    scored : Scored
        (N,), the held-out recordings.
    groups : ndarray, optional
        (N,). The bootstrap resamples recordings with the same value together.
    """
    measured = metrics.measure(scored)
    rates = (
        bootstrap.smoothed_rates(measured.confusion)
        if groups is None
        else bootstrap.group_rates(scored, groups)
    )
    draws = bootstrap.of_rates(rates, measured.prevalence)["mcc"]
    return Side(model.label, measured, bootstrap.interval(draws))


def _format(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _format_interval(interval: Interval | None) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}" if interval else "not defined"
