"""Predictions against labels: who is measured, who is left out and why, and the figures.

Recordings without a label, without a call or without a prediction are counted and listed, never
dropped in silence: a net that refuses the hard ones would otherwise look good.

The order of work: `evaluate` gives an `Evaluation`, with what `breakdown` finds; `comparison` sets
one against another; `present` puts both into words and files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stallscan.calls.predictions import (
    DECIDED,
    PREDICTIONS,
    as_frame,
    check_predictions,
    is_held_out,
    read_chosen,
)
from stallscan.catalog import names, text
from stallscan.catalog.names import match
from stallscan.catalog.tables import LABELS, labels_of
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

# What is stated of a set of calls, in the order it is shown in.
FIGURES = (
    *("mcc", "recall", "specificity", "roc_auc"),
    *(metrics.sensitivity_name(at) for at in metrics.SPECIFICITIES),
    *("accuracy", "precision", "f1", "pr_auc", "brier", "log_loss"),
)


@dataclass(frozen=True)
class LabelTable:
    """A table of labels, read once for all predictions that are measured against it.

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
        """Read the file at `path`; formats and errors as `tables.read_labels`."""
        cells = text.read(path, LABELS)
        labels = labels_of(cells).reset_index(drop=True)
        return cls(TextTable(cells.path, as_frame(cells)), labels)


@dataclass(frozen=True)
class Rows:
    """What became of every row of the two tables.

    Attributes
    ----------
    predictions, labels : int
        Rows of each table.
    labelled : int
        Predictions with a label, joined as `names.pair` does.
    joined_by_base_name : int
        How many of those were joined by file name alone, because one of the names has no folder.
    evaluated : int
        Labelled predictions called flowing or stalled: those that the metrics are made of.
    without_call : Excluded
        Labelled predictions called neither.
    without_call_by_status : dict
        The same, counted by status (``review`` for those left to a person).
    without_label, without_prediction : Excluded
        Predictions and labels that found no partner.
    chose : int
        Labelled predictions that are left out because they chose the threshold.
    """

    predictions: int
    labels: int
    labelled: int
    joined_by_base_name: int
    evaluated: int
    without_call: Excluded
    without_call_by_status: dict[str, int]
    without_label: Excluded
    without_prediction: Excluded
    chose: int

    @property
    def measurable(self) -> int:
        """How many labelled predictions there are to measure on."""
        return self.labelled - self.chose

    @property
    def coverage(self) -> float:
        """Share of the measurable ones that were called flowing or stalled, 0 to 1."""
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
        The tables that say more about the recordings.
    table : DataFrame
        The predictions with their labels, as `join` gives them; chose (bool), whether a recording
        chose the threshold; and group (str), where recordings are drawn by group.
    scored : Scored
        The evaluated recordings; what the plots are drawn from.
    metrics : Metrics
        Figures at the data's own prevalence.
    mcc_interval : Interval or None
        95 % bootstrap interval of that MCC.
    mcc_at : tuple of MccAt
        MCC where stalls are rarer, at each of `metrics.PREVALENCES`.
    rows : Rows
        Who was measured and who was left out.
    bundles : tuple of str
        The bundles that the evaluated calls come from.
    sensitivity_at : tuple of SensitivityAt
        At each of `metrics.SPECIFICITIES`.
    intervals : dict
        95 % bootstrap interval of each of `FIGURES`, None where it cannot be told.
    group : Group
        What the intervals were drawn by.
    curve : Curve or None
        MCC against prevalence; None with one class.
    breakdowns : tuple of Breakdown
        By each column that was asked for or found.
    held_out : bool
        Whether the table is one of `train`, whose recordings chose the epoch and the threshold.
    drawn : Drawn
        The bootstrap draws of the figures, for comparisons in pairs.
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

    @property
    def evaluated(self) -> pd.DataFrame:
        """The rows of `table` that the figures are made of, in the order of `scored`."""
        return _decided(self.table)

    @property
    def values(self) -> dict[str, float | None]:
        """Each of `FIGURES`; None where it cannot be told."""
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
        ``predictions.csv`` as `stallscan predict` writes it, or a table of held-out recordings as
        `stallscan train` does.
    labels : str, Path or LabelTable, optional
        The labels: a file as `tables.read_labels` takes it, or a table that is already read.
        Optional where the predictions have a column stalled.
    about : sequence of str or Path
        Tables with a column filename and others to group or break down by; so may be the labels
        and the predictions. What stands in a later table goes before what stands in an earlier.
    group : str, optional
        The column whose recordings are drawn together for the intervals. If not given, the first
        of `groups.MOUSE_COLUMNS` that there is; empty: each recording by itself.
    by : sequence of str, optional
        Columns to break down by. If not given, those of `breakdown.BY` that there are.
    partial : bool
        Whether predictions without a label are left out of the figures; if not, they are an error.

    Raises
    ------
    InputError
        If a file is missing, no prediction has a label, not all have one and `partial` is False,
        none is called flowing or stalled, or a column to group or break down by is missing, is
        empty somewhere (the group), or has more than `breakdown.MOST_PARTS` values.
    TableError
        If a column is missing, a filename stands there twice, or a value is wrong; rows are
        named.
    """
    predictions = Path(predictions)
    cells = text.read(predictions, PREDICTIONS)
    own = TextTable(predictions, as_frame(cells))
    label_table = _find_labels(labels, cells, own)
    table = join(check_predictions(*own), label_table.labels, label_table.text.path)
    table["chose"] = table["filename"].isin(read_chosen(predictions)["filename"])
    rows = _check_rows(table, label_table, predictions, partial)
    facts = RecordingFacts(table, own, label_table.text, [Path(path) for path in about])
    decided = _decided(table)
    groups = find_groups(facts, decided, group)
    if groups is not None:
        table["group"] = facts.column(str(groups.name))
        table.loc[groups.index, "group"] = groups
    units = None if groups is None else groups.to_numpy(str)
    scored = scored_of(decided)
    measured = metrics.measure(scored)
    drawn = bootstrap.draw(scored, units)
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
        held_out=is_held_out(own.cells),
        drawn=drawn,
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
        raise InputError(
            f"{own.path}: has no labels of its own (no column stalled); give them with --labels"
        )
    return LabelTable(own, labels_of(cells).reset_index(drop=True))


def _check_rows(
    table: pd.DataFrame, label_table: LabelTable, predictions: Path, partial: bool
) -> Rows:
    """Count the rows; raise InputError if none can be measured, or not all and not `partial`."""
    labels, path = label_table.labels, label_table.text.path
    if table["stalled"].isna().all():
        raise InputError(
            f"{predictions} and {path} have no filename in common "
            f"({names.contrast(table['filename'].tolist(), labels['filename'].tolist())}); "
            "give the labels of these recordings"
        )
    rows = _count_rows(table, labels)
    if not rows.evaluated:
        raise InputError(_nothing_left(predictions, rows))
    if rows.without_label.count and not partial:
        raise InputError(
            f"{path}: {rows.without_label.count:,} of {rows.predictions:,} recordings in "
            f"{predictions} have no label here: {rows.without_label}; add their labels, "
            "or measure the others only, with --partial"
        )
    return rows


def join(predictions: pd.DataFrame, labels: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Put each recording's label beside its prediction, as `names.match` pairs them.

    Parameters
    ----------
    predictions : DataFrame
        As `predictions.read_predictions` gives it.
    labels : DataFrame
        Columns filename and stalled (0 or 1), each filename once.
    path : str or Path
        The table of labels, for the log.

    Returns
    -------
    DataFrame
        The predictions and stalled (float: 0, 1, or NaN without a label), label_filename (str, as
        it stands among the labels, empty without one).
    """
    partner = match(predictions["filename"], labels["filename"], path)
    stalled = partner.map(pd.Series(labels["stalled"].to_numpy(float), index=labels["filename"]))
    return predictions.assign(stalled=stalled.astype(float), label_filename=partner.fillna(""))


def scored_of(rows: pd.DataFrame) -> Scored:
    """Take what is measured from rows of `Evaluation.evaluated`."""
    return Scored.check(
        rows["stalled"],
        rows["score"],
        rows["call"] == "stalled",
        rows["threshold"].dropna().tolist(),
    )


def values_of(scored: Scored) -> dict[str, float | None]:
    """Measure each of `FIGURES`; None where it cannot be told."""
    found = [metrics.sensitivity_at(scored, at) for at in metrics.SPECIFICITIES]
    return _values(metrics.measure(scored), found)


def _decided(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["stalled"].notna() & table["call"].isin(DECIDED) & ~table["chose"]]


def _nothing_left(predictions: Path, rows: Rows) -> str:
    """Say why none of the labelled recordings can be measured on, with the count of each reason."""
    reasons = [f"{rows.chose:,} chose the threshold ({CHOSEN_NAME})"] if rows.chose else []
    reasons += [
        f"{count:,} without a call ({status})"
        for status, count in rows.without_call_by_status.items()
    ]
    advice = (
        "label recordings that did not choose the threshold"
        if rows.chose
        else "see the column reason"
    )
    return (
        f"{predictions}: of its {rows.labelled:,} labelled recordings none is left to measure on: "
        f"{', '.join(reasons)}; {advice}"
    )


def _values(measured: Metrics, found: Sequence[SensitivityAt]) -> dict[str, float | None]:
    """Name the figures as in `FIGURES`."""
    values: dict[str, float | None] = {
        metrics.sensitivity_name(at.specificity): at.sensitivity for at in found
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
    open_ = labelled[~labelled["call"].isin(DECIDED) & ~labelled["chose"]]
    chose = int(labelled["chose"].sum())
    unequal = labelled[labelled["filename"] != labelled["label_filename"]]
    why = open_["status"].where(open_["call"] != "review", "review")
    return Rows(
        predictions=len(table),
        labels=len(labels),
        labelled=len(labelled),
        joined_by_base_name=sum(
            names.is_bare(name) != names.is_bare(label)
            for name, label in zip(unequal["filename"], unequal["label_filename"], strict=True)
        ),
        evaluated=len(labelled) - chose - len(open_),
        without_call=Excluded.of(open_["filename"].tolist()),
        without_call_by_status={str(name): int(n) for name, n in why.value_counts().items()},
        without_label=Excluded.of(table.loc[table["stalled"].isna(), "filename"].tolist()),
        without_prediction=Excluded.of(
            labels.loc[~labels["filename"].isin(table["label_filename"]), "filename"].tolist()
        ),
        chose=chose,
    )
