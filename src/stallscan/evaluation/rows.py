"""Which recordings count in an evaluation: tables of labels, and how they join predictions.

Recordings without a label, a call or a prediction are counted and listed, never dropped silently.
Otherwise a model that makes no call on hard recordings would look good.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stallscan.calls.predictions import DECIDED, as_frame
from stallscan.catalog import names, text
from stallscan.catalog.names import match
from stallscan.catalog.tables import LABELS, labels_of, say_understood
from stallscan.errors import InputError
from stallscan.evaluation.breakdown import TextTable
from stallscan.runs import CHOSEN_NAME
from stallscan.words import Excluded


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


def find_labels(
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


def check_rows(
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


def decided_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that count: with a label and a call, and not used to train or choose."""
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
