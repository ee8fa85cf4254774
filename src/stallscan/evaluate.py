"""Predictions against labels: who is measured, who is left out and why, and the figures.

Recordings without a label, without a call or without a prediction are counted and listed, never
dropped in silence: a net that refuses the hard ones would otherwise look good.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from stallscan import metrics
from stallscan.errors import InputError, TableError
from stallscan.files import make_folder, provenance, sha256, write_json
from stallscan.metrics import Interval, Metrics, Scored
from stallscan.tables import PREDICTION_COLUMNS, read_labels

NUMBERS = ("frames", "frames_declared", "score", "threshold")
# The calls that can be right or wrong, and those that leave it open.
DECIDED = ("flowing", "stalled")
OPEN = ("review", "unscorable")

# How many of the recordings that were left out are listed by name.
LISTED = 5


@dataclass(frozen=True)
class Left:
    """Recordings that could not be measured: how many, and the first few filenames."""

    count: int
    first: tuple[str, ...]

    @classmethod
    def of(cls, filenames: "pd.Series[str]") -> "Left":
        """Count and list `filenames`."""
        return cls(len(filenames), tuple(filenames.head(LISTED)))


@dataclass(frozen=True)
class Rows:
    """What became of every row of the two tables.

    Attributes
    ----------
    predictions, labels : int
        Rows of each table.
    labelled : int
        Predictions with a label: joined by filename, or else by unique base name of the path.
    joined_by_base_name : int
        How many of those were joined by base name.
    evaluated : int
        Labelled predictions called flowing or stalled: those that the metrics are made of.
    without_call : Left
        Labelled predictions called neither.
    without_call_by_status : dict
        The same, counted by status (``review`` for those left to a person).
    without_label, without_prediction : Left
        Predictions and labels that found no partner.
    """

    predictions: int
    labels: int
    labelled: int
    joined_by_base_name: int
    evaluated: int
    without_call: Left
    without_call_by_status: dict[str, int]
    without_label: Left
    without_prediction: Left

    @property
    def coverage(self) -> float:
        """Share of the labelled predictions that were called flowing or stalled, 0 to 1."""
        return self.evaluated / self.labelled


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
    table : DataFrame
        The predictions with their labels, as `join` gives them.
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
    """

    predictions: Path
    labels: Path
    table: pd.DataFrame
    scored: Scored
    metrics: Metrics
    mcc_interval: Interval | None
    mcc_at: tuple[MccAt, ...]
    rows: Rows
    bundles: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Give everything but the recordings themselves, in JSON's types."""
        return {
            "sources": {
                name: {"path": str(path), "sha256": sha256(path)}
                for name, path in (("predictions", self.predictions), ("labels", self.labels))
            },
            "provenance": provenance(),
            "bundles": list(self.bundles),
            "thresholds": list(self.scored.thresholds),
            "rows": asdict(self.rows) | {"coverage": self.rows.coverage},
            "metrics": asdict(self.metrics)
            | {
                "confusion": self.metrics.confusion._asdict(),
                "mcc_interval_95": self.mcc_interval,
            },
            "mcc_at": [
                {"prevalence": at.prevalence, "mcc": at.mcc, "mcc_interval_95": at.interval}
                for at in self.mcc_at
            ],
        }


def evaluate(predictions: str | Path, labels: str | Path) -> Evaluation:
    """Measure predictions against labels.

    Parameters
    ----------
    predictions : str or Path
        ``predictions.csv`` as `stallscan predict` writes it.
    labels : str or Path
        A table with columns filename and stalled (0 or 1), gzipped or not.

    Raises
    ------
    InputError
        If a file is missing, no prediction has a label, or none of those is called flowing or
        stalled.
    TableError
        If a column is missing, a filename stands there twice, or a value is wrong; rows are
        named.
    """
    predictions, labels = Path(predictions), Path(labels)
    label_table = read_labels(labels)
    table = join(read_predictions(predictions), label_table)
    labelled = table[table["stalled"].notna()]
    if labelled.empty:
        raise InputError(
            f"{predictions} and {labels} have no filename in common (the first are "
            f"{table['filename'].iloc[0]} and {_first(label_table)}); "
            "give the labels of these recordings"
        )
    decided = labelled[labelled["call"].isin(DECIDED)]
    if decided.empty:
        raise InputError(
            f"{predictions}: none of the {len(labelled):,} labelled recordings is called flowing "
            "or stalled, so there is nothing to measure; see the column reason"
        )
    scored = Scored.check(
        decided["stalled"],
        decided["score"],
        decided["call"] == "stalled",
        decided["threshold"].dropna().tolist(),
    )
    measured = metrics.measure(scored)
    return Evaluation(
        predictions=predictions,
        labels=labels,
        table=table,
        scored=scored,
        metrics=measured,
        mcc_interval=metrics.mcc_interval(measured.confusion, measured.prevalence),
        mcc_at=tuple(_mcc_at(measured, prevalence) for prevalence in metrics.PREVALENCES),
        rows=_count_rows(table, label_table),
        bundles=tuple(sorted(set(decided["bundle"]))),
    )


def write(evaluation: Evaluation, out: str | Path) -> Path:
    """Write ``metrics.json`` into the folder `out` and return its path.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    path = make_folder(out) / "metrics.json"
    write_json(path, evaluation.as_json())
    return path


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read and check ``predictions.csv``.

    Returns
    -------
    DataFrame
        One row a recording, `PREDICTION_COLUMNS` in the order of the file: filename, status,
        reason, call and bundle (str, empty where the file says nothing), frames, frames_declared,
        score and threshold (float, NaN where it says nothing). Score and threshold are within 0..1.

    Raises
    ------
    InputError
        If the file is missing or has no rows.
    TableError
        If a column is missing, a filename stands there twice, a value is wrong, or a recording
        is called flowing or stalled without a score; rows are named.
    """
    path = Path(path)
    table = _read_text(path)
    missing = [column for column in PREDICTION_COLUMNS if column not in table]
    if missing:
        raise TableError(
            f"{path}: column {', '.join(missing)} is missing; expected the predictions.csv that "
            f"stallscan predict writes, with columns {', '.join(PREDICTION_COLUMNS)}"
        )
    if table.empty:
        raise InputError(f"{path}: holds no predictions")
    twice = table["filename"].duplicated(keep=False)
    _refuse(path, table, twice, "filename", "to stand in one row only")
    _refuse(path, table, ~table["call"].isin(DECIDED + OPEN), "call", f"{_either(DECIDED + OPEN)}")
    return _with_numbers(path, table[list(PREDICTION_COLUMNS)])


def match(filenames: "pd.Series[str]", known: "pd.Series[str]") -> "pd.Series[str]":
    """Find for each filename its partner among `known` (no name twice in either).

    Partners are equal; or else they have the same base name of the path, which no other filename
    on either side has.

    Returns
    -------
    Series
        str with the index of `filenames`: the partner's name, NaN where there is none.
    """
    exact = filenames.where(filenames.isin(known))
    if exact.notna().all():
        return exact
    base, known_base = _base_names(filenames), _base_names(known)
    single = ~known_base.duplicated(keep=False)
    partner = pd.Series(known[single].to_numpy(), index=known_base[single])
    near = base.where(~base.duplicated(keep=False)).map(partner)
    return exact.fillna(near)


def join(predictions: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Put each recording's label beside its prediction, as `match` pairs them.

    Parameters
    ----------
    predictions : DataFrame
        As `read_predictions` gives it.
    labels : DataFrame
        Columns filename and stalled (0 or 1), each filename once.

    Returns
    -------
    DataFrame
        The predictions and stalled (float: 0, 1, or NaN without a label), label_filename (str, as
        it stands among the labels, empty without one).
    """
    partner = match(predictions["filename"], labels["filename"])
    stalled = partner.map(pd.Series(labels["stalled"].to_numpy(float), index=labels["filename"]))
    return predictions.assign(stalled=stalled.astype(float), label_filename=partner.fillna(""))


def as_table(evaluation: Evaluation) -> Table:
    """Lay the figures out for the terminal."""
    rows, measured = evaluation.rows, evaluation.metrics
    table = Table("", "", "95 % interval", title=_title(evaluation), title_justify="left")
    cells = measured.confusion
    for name, value in (
        ("evaluated", f"{rows.evaluated:,} recordings, {cells.stalled:,} of them stalled"),
        ("coverage", f"{metrics.percent(rows.coverage)} of {rows.labelled:,} with a label"),
        ("labelled stalled", _outcome(cells.true_stalled, cells.missed_stalled)),
        ("labelled flowing", _outcome(cells.false_stalled, cells.true_flowing)),
    ):
        table.add_row(name, value)
    table.add_section()
    for name, value, interval in figures(evaluation):
        table.add_row(name, value, interval)
    table.add_section()
    for name, left in (
        ("without a call", rows.without_call),
        ("without a label", rows.without_label),
        ("without a prediction", rows.without_prediction),
    ):
        if left.count:
            # Text, not markup: a filename may hold brackets.
            table.add_row(name, Text(f"{left.count:,}: {_listed(left)}"))
    return table


def figures(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, value and 95 % interval of each figure as people read them.

    The name says the prevalence where the figure depends on it; the interval is empty where there
    is none.
    """
    measured = evaluation.metrics
    own = metrics.percent(measured.prevalence)
    lines: list[tuple[str, float | None, Interval | None]]
    lines = [(f"MCC at {own} stalled", measured.mcc, evaluation.mcc_interval)]
    lines += [
        (f"MCC re-weighted to {metrics.percent(at.prevalence)}", at.mcc, at.interval)
        for at in evaluation.mcc_at
    ]
    lines += [
        (name, value, None)
        for name, value in (
            ("recall (sensitivity)", measured.recall),
            ("specificity", measured.specificity),
            ("ROC AUC", measured.roc_auc),
            (f"accuracy at {own} stalled", measured.accuracy),
            (f"precision at {own} stalled", measured.precision),
            (f"F1 at {own} stalled", measured.f1),
            (f"PR AUC at {own} stalled", measured.pr_auc),
        )
    ]
    return [
        (
            name,
            "not defined" if value is None else f"{value:.3f}",
            f"{interval.low:.3f} to {interval.high:.3f}" if interval else "",
        )
        for name, value, interval in lines
    ]


def _mcc_at(measured: Metrics, prevalence: float) -> MccAt:
    if measured.recall is None or measured.specificity is None:
        return MccAt(prevalence, None, None)
    value = metrics.reweighted_mcc(measured.recall, measured.specificity, prevalence)
    return MccAt(prevalence, float(value), metrics.mcc_interval(measured.confusion, prevalence))


def _count_rows(table: pd.DataFrame, labels: pd.DataFrame) -> Rows:
    labelled = table[table["stalled"].notna()]
    open_ = labelled[~labelled["call"].isin(DECIDED)]
    why = open_["status"].where(open_["call"] != "review", "review")
    return Rows(
        predictions=len(table),
        labels=len(labels),
        labelled=len(labelled),
        joined_by_base_name=int((labelled["filename"] != labelled["label_filename"]).sum()),
        evaluated=len(labelled) - len(open_),
        without_call=Left.of(open_["filename"]),
        without_call_by_status={str(name): int(n) for name, n in why.value_counts().items()},
        without_label=Left.of(table.loc[table["stalled"].isna(), "filename"]),
        without_prediction=Left.of(
            labels.loc[~labels["filename"].isin(table["label_filename"]), "filename"]
        ),
    )


def _read_text(path: Path) -> pd.DataFrame:
    try:
        # Everything as text first, so that 007.mp4 stays itself and a wrong value can be quoted.
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; stallscan predict writes the predictions.csv expected here"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be opened ({error.strerror}); give the file predictions.csv"
        ) from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise TableError(f"{path}: not readable as a CSV table in UTF-8 ({reason})") from None
    # Short rows, such as the last one of a copy that was cut off, come out as missing.
    return table.fillna("")


def _with_numbers(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    numbers = {column: pd.to_numeric(table[column], errors="coerce") for column in NUMBERS}
    for column in NUMBERS:
        garbled = numbers[column].isna() & (table[column] != "")
        _refuse(path, table, garbled, column, "a number or nothing")
    for column in ("score", "threshold"):
        given = numbers[column].notna().to_numpy()
        wrong = given & metrics.bad_scores(numbers[column].to_numpy(float))
        _refuse(path, table, pd.Series(wrong, table.index), column, "0 to 1")
    unfounded = table["call"].isin(DECIDED) & numbers["score"].isna()
    _refuse(path, table, unfounded, "score", "a number where the call is flowing or stalled")
    return table.assign(**{name: values.astype(float) for name, values in numbers.items()})


def _refuse(
    path: Path, table: pd.DataFrame, wrong: "pd.Series[bool]", column: str, expected: str
) -> None:
    """Raise, naming rows by their line in the file (the header is line 1), if any is wrong."""
    if not wrong.any():
        return
    rows = table.loc[wrong, ["filename", column]].itertuples(name=None)
    named = [
        f"line {index + 2} ({filename}: {value!r})"
        if column != "filename"
        else f"line {index + 2} ({filename})"
        for index, filename, value in rows
    ]
    raise TableError(f"{path}: {column}: expected {expected}, but see {metrics.name_rows(named)}")


def _either(words: tuple[str, ...]) -> str:
    return ", ".join(words[:-1]) + f" or {words[-1]}"


def _first(labels: pd.DataFrame) -> str:
    return str(labels["filename"].iloc[0]) if len(labels) else "none"


def _base_names(filenames: "pd.Series[str]") -> "pd.Series[str]":
    # Ten times as fast as pandas' own splitting.
    names = [name.rpartition("/")[2] for name in filenames]
    return pd.Series(names, filenames.index, dtype=filenames.dtype)


def _title(evaluation: Evaluation) -> Text:
    bundles = ", ".join(evaluation.bundles) or "an unnamed bundle"
    thresholds = ", ".join(f"{threshold:g}" for threshold in evaluation.scored.thresholds)
    at = f" at threshold {thresholds}" if thresholds else ""
    return Text(f"Calls of {bundles}{at}, against {evaluation.labels.name}")


def _outcome(stalled: int, flowing: int) -> str:
    return f"{stalled:,} called stalled, {flowing:,} called flowing"


def _listed(left: Left) -> str:
    more = left.count - len(left.first)
    return ", ".join(left.first) + (f" and {more:,} more" if more else "")
