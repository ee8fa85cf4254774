"""Measure predictions against labels: which recordings count, and all figures with intervals.

Recordings without a label, a call or a prediction are counted and listed, never dropped silently.
Otherwise a model that makes no call on hard recordings would look good.

`evaluate` returns an `Evaluation`, including the results of `breakdown`. `comparison` compares two
of them, and `present` turns both into text and files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stallscan.calls.predictions import (
    DECIDED,
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
from stallscan.catalog import names, text
from stallscan.catalog.names import match
from stallscan.catalog.tables import LABELS, labels_of, say_understood
from stallscan.errors import InputError
from stallscan.evaluation.breakdown import (
    Breakdown,
    Group,
    RecordingFacts,
    TextTable,
    break_down,
    find_groups,
)
from stallscan.runs import CHOSEN_NAME
from stallscan.scores import bootstrap, metrics
from stallscan.scores.bootstrap import ClassRates, Curve, Drawn
from stallscan.scores.metrics import Interval, Metrics, Scored, SensitivityAt
from stallscan.words import Excluded

# The figures of a set of calls, in the order in which they are shown.
FIGURES = (
    *("mcc", "recall", "specificity", "roc_auc"),
    *(metrics.sensitivity_name(at) for at in metrics.SPECIFICITIES),
    *("accuracy", "precision", "f1", "pr_auc", "brier", "log_loss"),
)


@dataclass(frozen=True)
class LabelTable:
    """A table of labels, read once and used for any number of predictions.

    Attributes
    ----------
    text : TextTable
        All columns of the file.
    labels : DataFrame
        Columns filename and stalled (0 or 1), each filename once.
    """

    text: TextTable
    labels: pd.DataFrame

    @classmethod
    def read(cls, path: str | Path) -> "LabelTable":
        """Read a file; formats and errors as in `tables.read_labels`."""
        cells = text.read(path, LABELS)
        labels = labels_of(cells).reset_index(drop=True)
        say_understood(cells, labels)
        return cls(TextTable(cells.path, as_frame(cells)), labels)


@dataclass(frozen=True)
class Rows:
    """How many rows of the two tables were evaluated, and which were left out.

    Attributes
    ----------
    predictions, labels : int
        Rows of each table.
    labelled : int
        Predictions with a label, matched as in `names.pair`.
    joined_by_base_name : int
        How many of them were matched by file name alone, because one of the names has no folder.
    evaluated : int
        Labelled predictions called flowing or stalled. The metrics are computed from these.
    without_call : Excluded
        Labelled predictions called neither.
    without_call_by_status : dict
        Their number by status (``review`` for those left to a person).
    without_call_by_label : dict
        Their number among those labelled ``stalled`` and ``flowing``.
    without_label, without_prediction : Excluded
        Predictions without a label, and labels without a prediction.
    chose : int
        Labelled predictions left out because they were used to choose the threshold.
    learned : int
        Labelled predictions left out because the bundle has learned from them.
    """

    predictions: int
    labels: int
    labelled: int
    joined_by_base_name: int
    evaluated: int
    without_call: Excluded
    without_call_by_status: dict[str, int]
    without_call_by_label: dict[str, int]
    without_label: Excluded
    without_prediction: Excluded
    chose: int
    learned: int = 0

    @property
    def measurable(self) -> int:
        """Labelled predictions that were used neither to train nor to choose the threshold."""
        return self.labelled - self.chose - self.learned

    @property
    def coverage(self) -> float:
        """Share of the measurable predictions that were called flowing or stalled, 0 to 1."""
        return self.evaluated / self.measurable


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
        return _decided(self.table)

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
    label_table = _find_labels(labels, cells, own)
    run = read_run(predictions)
    refuse_other_tables(run, label_table.text.path, *about)
    table = join(check_predictions(*own), label_table.labels, label_table.text.path)
    warn_if_unfinished(predictions, run, len(own.cells))
    table["chose"] = table["filename"].isin(read_chosen(predictions)["filename"])
    table["learned"] = was_learned(table) & ~table["chose"]
    rows = _check_rows(table, label_table, predictions, partial)
    facts = RecordingFacts(table, own, label_table.text, [Path(path) for path in about])
    decided = _decided(table)
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


def _find_labels(
    labels: str | Path | LabelTable | None, cells: text.Text, own: TextTable
) -> LabelTable:
    """Return the table of labels: given, read, or the predictions' own column."""
    if isinstance(labels, LabelTable):
        return labels
    if labels is not None:
        return LabelTable.read(labels)
    if "stalled" not in own.cells:
        raise InputError(f"{own.path}: has no column stalled. Give a table of labels with --labels")
    return LabelTable(own, labels_of(cells).reset_index(drop=True))


def _check_rows(
    table: pd.DataFrame, label_table: LabelTable, predictions: Path, partial: bool
) -> Rows:
    """Count the rows, and raise InputError if none can be evaluated or labels are missing."""
    labels, path = label_table.labels, label_table.text.path
    if table["stalled"].isna().all():
        raise InputError(
            f"{predictions} and {path} have no filename in common "
            f"({names.contrast(table['filename'].tolist(), labels['filename'].tolist())}). "
            "Give the labels of these recordings"
        )
    rows = _count_rows(table, labels)
    if not rows.evaluated:
        raise InputError(_nothing_left(predictions, rows))
    if rows.without_label.count and not partial:
        raise InputError(
            f"{path}: no label for {rows.without_label.count:,} of {rows.predictions:,} recordings "
            f"in {predictions}: {rows.without_label}. Add their labels, or leave them out with "
            "--partial"
        )
    return rows


def join(predictions: pd.DataFrame, labels: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Add each recording's label to its prediction; filenames are paired by `names.match`.

    Parameters
    ----------
    predictions : DataFrame
        From `predictions.read_predictions`.
    labels : DataFrame
        Columns filename and stalled (0 or 1), each filename once.
    path : str or Path
        The table of labels, for the log.

    Returns
    -------
    DataFrame
        The predictions with two more columns: stalled (float: 0, 1, or NaN without a label) and
        label_filename (str, the filename in the table of labels, empty without a label).
    """
    partner = match(predictions["filename"], labels["filename"], path)
    stalled = partner.map(pd.Series(labels["stalled"].to_numpy(float), index=labels["filename"]))
    return predictions.assign(stalled=stalled.astype(float), label_filename=partner.fillna(""))


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


def _decided(table: pd.DataFrame) -> pd.DataFrame:
    is_fair = ~table["chose"] & ~table["learned"]
    return table[table["stalled"].notna() & table["call"].isin(DECIDED) & is_fair]


def _nothing_left(predictions: Path, rows: Rows) -> str:
    """Return the message for labelled recordings of which none counts, with all reasons."""
    reasons = []
    if rows.chose:
        reasons.append(f"{rows.chose:,} were used to choose the threshold ({CHOSEN_NAME})")
    if rows.learned:
        reasons.append(f"the bundle has learned from {rows.learned:,}")
    reasons += [
        f"{count:,} without a call ({status})"
        for status, count in rows.without_call_by_status.items()
    ]
    advice = (
        "Label recordings that were used neither to train nor to choose the threshold"
        if rows.chose or rows.learned
        else "See the column reason"
    )
    return (
        f"{predictions}: none of its {rows.labelled:,} labelled recordings can be evaluated: "
        f"{', '.join(reasons)}. {advice}"
    )


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


def _count_rows(table: pd.DataFrame, labels: pd.DataFrame) -> Rows:
    labelled = table[table["stalled"].notna()]
    fair = labelled[~labelled["chose"] & ~labelled["learned"]]
    undecided = fair[~fair["call"].isin(DECIDED)]
    unequal = labelled[labelled["filename"] != labelled["label_filename"]]
    status = undecided["status"].where(undecided["call"] != "review", "review")
    return Rows(
        predictions=len(table),
        labels=len(labels),
        labelled=len(labelled),
        joined_by_base_name=sum(
            names.is_bare(name) != names.is_bare(label)
            for name, label in zip(unequal["filename"], unequal["label_filename"], strict=True)
        ),
        evaluated=len(fair) - len(undecided),
        without_call=Excluded.of(undecided["filename"].tolist()),
        without_call_by_status={
            str(name): int(count) for name, count in status.value_counts().items()
        },
        without_call_by_label={
            label: int((undecided["stalled"] == value).sum())
            for label, value in (("stalled", 1), ("flowing", 0))
        },
        without_label=Excluded.of(table.loc[table["stalled"].isna(), "filename"].tolist()),
        without_prediction=Excluded.of(
            labels.loc[~labels["filename"].isin(table["label_filename"]), "filename"].tolist()
        ),
        chose=int(labelled["chose"].sum()),
        learned=int(labelled["learned"].sum()),
    )
