"""Measure predictions against labels: all figures with intervals.

`rows` says which recordings count. `evaluate` returns an `Evaluation`, including the results of
`breakdown`. `comparison` compares two of them, and `present` turns both into text and files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stallscan.calls.predictions import (
    PREDICTIONS,
    as_frame,
    check_predictions,
    is_held_out,
    is_simulated,
    made_by,
    of_simulated,
    read_chosen,
    read_run,
    refuse_other_tables,
    warn_if_unfinished,
    was_learned,
)
from stallscan.catalog import text
from stallscan.evaluation.breakdown import (
    Breakdown,
    Group,
    RecordingFacts,
    TextTable,
    break_down,
    find_groups,
)
from stallscan.evaluation.rows import LabelTable, Rows, check_rows, decided_of, find_labels, join
from stallscan.scores import bootstrap, metrics
from stallscan.scores.bootstrap import ClassRates, Curve, Drawn
from stallscan.scores.metrics import Interval, Metrics, Scored, SensitivityAt

# The figures of a set of calls, in the order in which they are shown.
FIGURES = (
    *("mcc", "recall", "specificity", "roc_auc"),
    *(metrics.sensitivity_name(at) for at in metrics.SPECIFICITIES),
    *("accuracy", "precision", "f1", "pr_auc", "brier", "log_loss"),
)


@dataclass(frozen=True)
class MccAt:
    """MCC re-weighted to a prevalence; None where a class is missing among the labels."""

    prevalence: float
    mcc: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes
    ----------
    predictions, labels : Path
        The two tables.
    about : tuple of Path
        Further tables that describe the recordings.
    table : DataFrame
        The predictions with their labels, from `join`, with more columns: chose (bool), whether a
        recording was used to choose the threshold; learned (bool), whether the bundle has learned
        from it; and, if groups are resampled, group (str).
    scored : Scored
        The evaluated recordings; the plots are drawn from them.
    metrics : Metrics
        Figures at the prevalence of the sample.
    mcc_interval : Interval or None
        95 % bootstrap interval of the MCC in `metrics`.
    mcc_at : tuple of MccAt
        MCC re-weighted to each of `metrics.PREVALENCES`.
    rows : Rows
        How many rows were evaluated, and which were left out.
    bundles : tuple of str
        The bundles that made the evaluated calls.
    sensitivity_at : tuple of SensitivityAt
        At each of `metrics.SPECIFICITIES`.
    intervals : dict
        95 % bootstrap interval of each of `FIGURES`; None where it is undefined.
    group : Group
        The unit that the bootstrap resamples.
    curve : Curve or None
        MCC against prevalence; None with one class.
    breakdowns : tuple of Breakdown
        One for each column.
    held_out : bool
        Whether the table was written by `train`, or decided from such a table: its recordings were
        used to choose the epoch and the threshold.
    drawn : Drawn
        The bootstrap draws of the figures, for paired comparisons.
    effective : tuple of float or None
        How many independent recordings the stalled and the flowing ones tell as much as, from
        `bootstrap.effective_counts`; None if single recordings are resampled.
    made_by : dict
        What makes calls of the scores, from `predictions.made_by`.
    simulated_training, simulated : bool
        Whether the model has learned from simulated recordings only, and whether the recordings
        are simulated, too, as far as known.
    """

    predictions: Path
    labels: Path
    about: tuple[Path, ...]
    table: pd.DataFrame
    scored: Scored
    metrics: Metrics
    mcc_interval: Interval | None
    mcc_at: tuple[MccAt, ...]
    rows: Rows
    bundles: tuple[str, ...]
    sensitivity_at: tuple[SensitivityAt, ...]
    intervals: dict[str, Interval | None]
    group: Group
    curve: Curve | None
    breakdowns: tuple[Breakdown, ...]
    held_out: bool
    drawn: Drawn
    effective: tuple[float, float] | None
    made_by: dict[str, Any]
    simulated_training: bool = False
    simulated: bool = False

    @property
    def evaluated(self) -> pd.DataFrame:
        """The evaluated rows of `table`, in the order of `scored`."""
        return decided_of(self.table)

    @property
    def values(self) -> dict[str, float | None]:
        """The value of each of `FIGURES`; None where it is undefined."""
        return _values(self.metrics, self.sensitivity_at)


def evaluate(
    predictions: str | Path,
    labels: str | Path | LabelTable | None = None,
    *,
    about: Sequence[str | Path] = (),
    group: str | None = None,
    by: Sequence[str] | None = None,
    partial: bool = False,
) -> Evaluation:
    """Measure predictions against labels.

    Parameters
    ----------
    predictions : str or Path
        ``predictions.csv`` of `stallscan predict`, or a table of held-out recordings of
        `stallscan train`.
    labels : str, Path or LabelTable, optional
        A file in a format of `tables.read_labels`, or a table that has been read. Optional if the
        predictions have a column stalled.
    about : sequence of str or Path
        Further tables with a column filename and columns to group or break down by. Columns of the
        labels and the predictions can be used, too. If several tables have a column, the last one
        in the order predictions, labels, `about` counts.
    group : str, optional
        The column that groups recordings, such as the mouse: the intervals resample whole groups.
        By default the first of `groups.MOUSE_COLUMNS` that exists. Empty to resample single
        recordings.
    by : sequence of str, optional
        Columns to break the figures down by. By default those of `breakdown.BY` that exist.
    partial : bool
        Leave out predictions without a label. By default they are an error.

    Raises
    ------
    InputError
        If a file is missing; if no prediction has a label, or some have none and `partial` is
        False; if none is called flowing or stalled; if a table lies in another simulated corpus
        than the recordings; if a column to group or break down by is missing, has empty cells
        (`group`) or more than `breakdown.MOST_PARTS` values (`by`).
    TableError
        If a column is missing, a filename occurs twice, or a value is wrong. The message names the
        rows.
    """
    predictions = Path(predictions)
    cells = text.read(predictions, PREDICTIONS)
    own = TextTable(predictions, as_frame(cells))
    label_table = find_labels(labels, cells, own)
    run = read_run(predictions)
    refuse_other_tables(run, label_table.text.path, *about)
    table = join(check_predictions(*own), label_table.labels, label_table.text.path)
    warn_if_unfinished(predictions, run, len(own.cells))
    table["chose"] = table["filename"].isin(read_chosen(predictions)["filename"])
    table["learned"] = was_learned(table) & ~table["chose"]
    rows = check_rows(table, label_table, predictions, partial)
    facts = RecordingFacts(table, own, label_table.text, [Path(path) for path in about])
    decided = decided_of(table)
    groups = find_groups(facts, decided, group)
    if groups is not None:
        table["group"] = facts.column(str(groups.name))
        table.loc[groups.index, "group"] = groups
    units = None if groups is None else groups.to_numpy(str)  # (N,)
    scored = scored_of(decided)
    measured = metrics.measure(scored)
    drawn = bootstrap.draw(scored, units)
    # Recall and specificity in each draw, (D,) each.
    rates = bootstrap.marginal_rates(drawn, measured.confusion, units is not None)
    intervals = {name: bootstrap.interval(values) for name, values in drawn.figures(rates).items()}
    return Evaluation(
        predictions=predictions,
        labels=label_table.text.path,
        about=tuple(facts.about),
        table=table,
        scored=scored,
        metrics=measured,
        mcc_interval=intervals["mcc"],
        mcc_at=tuple(_mcc_at(measured, rates, prevalence) for prevalence in metrics.PREVALENCES),
        rows=rows,
        bundles=tuple(sorted(set(decided["bundle"]))),
        sensitivity_at=tuple(metrics.sensitivity_at(scored, at) for at in metrics.SPECIFICITIES),
        intervals={name: intervals[name] for name in FIGURES},
        group=Group("", len(decided)) if groups is None else Group.of(groups),
        curve=bootstrap.mcc_curve(rates, measured),
        breakdowns=break_down(facts, decided, scored, units, by),
        held_out=is_held_out(own.cells, run),
        drawn=drawn,
        effective=None if units is None else bootstrap.effective_counts(scored, units),
        made_by=made_by(run),
        simulated_training=is_simulated(run),
        simulated=of_simulated(run),
    )


def scored_of(rows: pd.DataFrame) -> Scored:
    """Return labels, scores and calls of rows of `Evaluation.evaluated`."""
    return Scored.check(
        rows["stalled"],
        rows["score"],
        rows["call"] == "stalled",
        rows["threshold"].dropna().tolist(),
    )


def values_of(scored: Scored) -> dict[str, float | None]:
    """Compute each of `FIGURES`; None where it is undefined."""
    sensitivities = [metrics.sensitivity_at(scored, at) for at in metrics.SPECIFICITIES]
    return _values(metrics.measure(scored), sensitivities)


def _values(measured: Metrics, sensitivities: Sequence[SensitivityAt]) -> dict[str, float | None]:
    """Return the figures under their names in `FIGURES`."""
    values: dict[str, float | None] = {
        metrics.sensitivity_name(at.specificity): at.sensitivity for at in sensitivities
    }
    return {name: values[name] if name in values else getattr(measured, name) for name in FIGURES}


def _mcc_at(measured: Metrics, rates: ClassRates, prevalence: float) -> MccAt:
    if measured.recall is None or measured.specificity is None:
        return MccAt(prevalence, None, None)
    value = metrics.reweighted_mcc(measured.recall, measured.specificity, prevalence)
    return MccAt(
        prevalence, float(value), bootstrap.interval(metrics.reweighted_mcc(*rates, prevalence))
    )
