"""Predictions against labels: who is measured, who is left out and why, and the figures.

Recordings without a label, without a call or without a prediction are counted and listed, never
dropped in silence: a net that refuses the hard ones would otherwise look good.

The order of work: `evaluate` gives an `Evaluation` (with its breakdowns), `compare` two of them a
`Comparison`; `write` and `write_page` put them into files, `tables` and `notes` into words.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from stallscan import bootstrap, metrics
from stallscan.bootstrap import Curve, Rates
from stallscan.errors import InputError, TableError
from stallscan.files import make_folder, provenance, sha256, write_json, write_text
from stallscan.metrics import Interval, Metrics, Scored, SensitivityAt
from stallscan.predictions import (
    DECIDED,
    Left,
    check_predictions,
    is_held_out,
    match,
    read_chosen,
    read_text,
    refuse_twice,
)
from stallscan.tables import CHOSEN_NAME, MOUSE_COLUMNS, read_labels

INTERVAL_HEAD = "95 %"

# Columns that are broken down by if no other is named; `FRAMES` is binned.
FRAMES = "frames"
BY = ("project_id", "project", "kind", "motion", "difficulty", FRAMES)
# The quartiles of the real recordings (FACTS 4), and a bound for the long ones.
FRAME_BOUNDS = (49, 56, 66, 100)
# Chosen: a table of more lines is none to read.
MOST_PARTS = 40
NOT_SAID = "(not said)"

# What each figure is called, in the order they are shown in; {own} is the sample's prevalence.
WORDS = {
    "mcc": "MCC at {own} stalled",
    "recall": "recall (sensitivity)",
    "specificity": "specificity",
    "roc_auc": "ROC AUC",
    **{
        metrics.sensitivity_name(at): f"sensitivity at {metrics.percent(at)} specificity"
        for at in metrics.SPECIFICITIES
    },
    "accuracy": "accuracy at {own} stalled",
    "precision": "precision at {own} stalled",
    "f1": "F1 at {own} stalled",
    "pr_auc": "PR AUC at {own} stalled",
    "brier": "Brier score at {own} stalled",
    "log_loss": "log-loss at {own} stalled",
}
# Three digits would not tell a specificity of 99.95 % from a perfect one.
DIGITS = {"specificity": 4, "accuracy": 4, "brier": 4, "log_loss": 4}
LOWER_IS_BETTER = ("brier", "log_loss")
COMPARED = ("mcc", "recall", "specificity", "roc_auc", "pr_auc", "brier", "log_loss")

METRICS_NAME, PAGE_NAME = "metrics.json", "evaluation.html"


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
    chose : int
        Labelled predictions that are left out because they chose the threshold.
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
class Group:
    """What was drawn together for the intervals.

    Attributes
    ----------
    column : str
        The column that names it; empty: each recording by itself.
    count : int
        How many there are among the evaluated recordings.
    """

    column: str
    count: int

    @property
    def is_too_few(self) -> bool:
        """Whether intervals of so few are not to be trusted."""
        return bool(self.column) and self.count < bootstrap.FEWEST_GROUPS


@dataclass(frozen=True)
class Part:
    """The evaluated recordings that have one value in the column that is broken down by.

    Attributes
    ----------
    name : str
        The value.
    count, stalled : int
        Recordings, and how many are labelled stalled.
    recall, specificity, mcc : float or None
        None where a class is missing. MCC is re-weighted to the prevalence of all evaluated
        recordings: at their own ones the parts could not be compared.
    intervals : dict
        95 % interval of each of the three.
    by_group : bool
        Whether the intervals were drawn by group: only where the part has enough of them.
    """

    name: str
    count: int
    stalled: int
    recall: float | None
    specificity: float | None
    mcc: float | None
    intervals: dict[str, Interval | None]
    by_group: bool


@dataclass(frozen=True)
class Breakdown:
    """The parts that one column divides the evaluated recordings into."""

    column: str
    parts: tuple[Part, ...]


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
        95 % bootstrap interval of each figure in `WORDS`, None where it cannot be told.
    group : Group
        What the intervals were drawn by.
    curve : Curve or None
        MCC against prevalence; None with one class.
    breakdowns : tuple of Breakdown
        By each column that was asked for or found.
    held_out : bool
        Whether the table is one of `train`, whose recordings chose the epoch and the threshold.
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

    @property
    def evaluated(self) -> pd.DataFrame:
        """The rows of `table` that the figures are made of, in the order of `scored`."""
        return _decided(self.table)

    @property
    def values(self) -> dict[str, float | None]:
        """The figures by their names in `WORDS`."""
        return _values(self.metrics, self.sensitivity_at)

    def as_json(self) -> dict[str, Any]:
        """Give everything but the recordings themselves, in JSON's types."""
        return {
            "sources": {
                name: _source(path)
                for name, path in (("predictions", self.predictions), ("labels", self.labels))
            }
            | {"about": [_source(path) for path in self.about]},
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
            "sensitivity_at": [at._asdict() for at in self.sensitivity_at],
            "intervals_95": self.intervals,
            "drawn_by": {
                **asdict(self.group),
                "unit": self.group.column or "recording",
                "draws": bootstrap.BOOTSTRAP_DRAWS,
                "seed": bootstrap.BOOTSTRAP_SEED,
            },
            "mcc_by_prevalence": (
                {name: values.tolist() for name, values in self.curve._asdict().items()}
                if self.curve
                else None
            ),
            "reliability": [asdict(part) for part in metrics.reliability(self.scored)],
            "breakdowns": {
                breakdown.column: [asdict(part) for part in breakdown.parts]
                for breakdown in self.breakdowns
            },
            "notes": notes(self),
        }


@dataclass(frozen=True)
class Difference:
    """One figure of two sets of calls on the same recordings.

    Attributes
    ----------
    name : str
        Of the figure, as in `WORDS`.
    first, second : float or None
        What each has; None where it cannot be told.
    interval : Interval or None
        95 % of the second less the first, drawn in pairs.
    by_few : bool
        Whether it was drawn by fewer groups than can be trusted.
    """

    name: str
    first: float | None
    second: float | None
    interval: Interval | None
    by_few: bool

    @property
    def difference(self) -> float | None:
        """The second less the first."""
        if self.first is None or self.second is None:
            return None
        return self.second - self.first

    @property
    def verdict(self) -> str:
        """Say in plain words what the interval allows to say about the second."""
        if self.interval is None:
            return "not defined"
        if self.by_few:
            return "too few groups to tell"
        low, high = self.interval
        if low <= 0.0 <= high:
            return "no difference can be told"
        return "better" if (low > 0.0) != (self.name in LOWER_IS_BETTER) else "worse"


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`.

    Attributes
    ----------
    first, second : Evaluation
        Each on all its own recordings.
    count, stalled : int
        Recordings that both called, and how many of them are labelled stalled.
    group : Group
        What the intervals were drawn by.
    differences : tuple of Difference
        On those recordings, each of `COMPARED`.
    """

    first: Evaluation
    second: Evaluation
    count: int
    stalled: int
    group: Group
    differences: tuple[Difference, ...]

    @property
    def is_on_all(self) -> bool:
        """Whether both called the same recordings."""
        return self.count == self.first.rows.evaluated == self.second.rows.evaluated

    def as_json(self) -> dict[str, Any]:
        """Give the differences, and the second evaluation, in JSON's types."""
        return {
            "count": self.count,
            "stalled": self.stalled,
            "only_first": self.first.rows.evaluated - self.count,
            "only_second": self.second.rows.evaluated - self.count,
            "drawn_by": asdict(self.group),
            "differences": [
                asdict(one) | {"difference": one.difference, "verdict": one.verdict}
                for one in self.differences
            ],
            "second": self.second.as_json(),
        }


def evaluate(
    predictions: str | Path,
    labels: str | Path | None = None,
    *,
    about: Sequence[str | Path] = (),
    group: str | None = None,
    by: Sequence[str] | None = None,
    partial: bool = True,
) -> Evaluation:
    """Measure predictions against labels.

    Parameters
    ----------
    predictions : str or Path
        ``predictions.csv`` as `stallscan predict` writes it, or a table of held-out recordings as
        `stallscan train` does.
    labels : str or Path, optional
        A table with columns filename and stalled (0 or 1), gzipped or not. May be left out where
        the predictions have a column stalled.
    about : sequence of str or Path
        Tables with a column filename and others to group or break down by; so may be the labels
        and the predictions. What stands in a later table goes before what stands in an earlier.
    group : str, optional
        The column whose recordings are drawn together for the intervals. If not given, the first
        of `MOUSE_COLUMNS` that there is; empty: each recording by itself.
    by : sequence of str, optional
        Columns to break down by. If not given, those of `BY` that there are.
    partial : bool
        Whether predictions without a label are left out of the figures; if not, they are an error.

    Raises
    ------
    InputError
        If a file is missing, no prediction has a label, not all have one and `partial` is False,
        none is called flowing or stalled, or a column to group or break down by is missing, is
        empty somewhere (the group), or has more than `MOST_PARTS` values.
    TableError
        If a column is missing, a filename stands there twice, or a value is wrong; rows are
        named.
    """
    predictions, raw = Path(predictions), read_text(Path(predictions))
    if labels is None and "stalled" not in raw:
        raise InputError(
            f"{predictions}: has no labels of its own (no column stalled); give them with --labels"
        )
    labels = predictions if labels is None else Path(labels)
    label_table = read_labels(labels)
    table = join(check_predictions(predictions, raw), label_table)
    table["chose"] = table["filename"].isin(read_chosen(predictions)["filename"])
    labelled = table[table["stalled"].notna()]
    if labelled.empty:
        raise InputError(
            f"{predictions} and {labels} have no filename in common (the first are "
            f"{table['filename'].iloc[0]} and {_first(label_table)}); "
            "give the labels of these recordings"
        )
    rows = _count_rows(table, label_table)
    if rows.without_label.count and not partial:
        raise InputError(
            f"{labels}: {rows.without_label.count:,} of {rows.predictions:,} recordings in "
            f"{predictions} have no label here: {rows.without_label}; add their labels, "
            "or measure the others only, with --partial"
        )
    decided = _decided(table)
    if rows.chose == len(labelled):
        raise InputError(
            f"{predictions}: all of its labelled recordings chose the threshold "
            f"({CHOSEN_NAME} beside it), so there is none to measure it on; label more of them"
        )
    if decided.empty:
        raise InputError(
            f"{predictions}: none of the {len(labelled):,} labelled recordings is called flowing "
            "or stalled, so there is nothing to measure; see the column reason"
        )
    scored = _scored(decided)
    known = _Known(table, raw, labels, [Path(path) for path in about])
    groups = _find_groups(known, decided, group)
    column = str(groups.name) if groups is not None else ""
    if groups is not None:
        table["group"] = known.column(column)
    names = None if groups is None else groups.to_numpy(str)
    measured = metrics.measure(scored)
    drawn = bootstrap.draw(scored, names)
    rates = bootstrap.marginal_rates(drawn, measured.confusion, names is not None)
    intervals = {name: bootstrap.interval(values) for name, values in drawn.figures(rates).items()}
    return Evaluation(
        predictions=predictions,
        labels=labels,
        about=tuple(known.about),
        table=table,
        scored=scored,
        metrics=measured,
        mcc_interval=intervals["mcc"],
        mcc_at=tuple(_mcc_at(measured, rates, prevalence) for prevalence in metrics.PREVALENCES),
        rows=rows,
        bundles=tuple(sorted(set(decided["bundle"]))),
        sensitivity_at=tuple(metrics.sensitivity_at(scored, at) for at in metrics.SPECIFICITIES),
        intervals={name: intervals[name] for name in WORDS},
        group=Group(column, len(decided) if names is None else len(set(names))),
        curve=bootstrap.mcc_curve(rates, measured),
        breakdowns=_break_down(known, decided, scored, names, by),
        held_out=is_held_out(raw),
    )


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Compare two evaluations on the recordings that both called flowing or stalled.

    The same draws of recordings (or groups, where both evaluations have them by the same column)
    are measured with both, so what makes a draw easy for both falls out of the difference.

    Raises
    ------
    InputError
        If there is no such recording, or the labels of one differ.
    """
    old, new = first.evaluated, second.evaluated
    partner = match(new["filename"], old["filename"]).dropna()
    if partner.empty:
        raise InputError(
            f"{first.predictions} and {second.predictions} have no recording in common that both "
            "call flowing or stalled; compare predictions of the same recordings"
        )
    new = new.loc[partner.index]
    old = old.set_index("filename", drop=False).loc[partner.tolist()]
    differ = old["stalled"].to_numpy() != new["stalled"].to_numpy()
    if differ.any():
        named = metrics.name_rows(old["filename"][differ].tolist())
        raise InputError(
            f"{first.labels} and {second.labels} label {int(differ.sum()):,} recordings "
            f"differently: {named}; compare with the same labels"
        )
    column = first.group.column if first.group.column == second.group.column else ""
    groups = old["group"].to_numpy(str) if column else None
    sides = [_scored(rows) for rows in (old, new)]
    values = [_values_of(scored) for scored in sides]
    draws = [bootstrap.draw(scored, groups).figures() for scored in sides]
    group = Group(column, len(old) if groups is None else len(set(groups)))
    return Comparison(
        first=first,
        second=second,
        count=len(old),
        stalled=int(sides[0].labels.sum()),
        group=group,
        differences=tuple(
            Difference(
                name,
                values[0][name],
                values[1][name],
                bootstrap.interval(draws[1][name] - draws[0][name]),
                group.is_too_few,
            )
            for name in COMPARED
        ),
    )


def write(evaluation: Evaluation, out: str | Path, comparison: Comparison | None = None) -> Path:
    """Write ``metrics.json`` into the folder `out` and return its path.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    path = make_folder(out) / METRICS_NAME
    compared = {"comparison": comparison.as_json()} if comparison else {}
    write_json(path, evaluation.as_json() | compared)
    return path


def write_page(
    evaluation: Evaluation,
    plots: Mapping[str, str],
    out: str | Path,
    comparison: Comparison | None = None,
) -> Path:
    """Write ``evaluation.html`` into the folder `out`: the figures and plots on one page.

    Parameters
    ----------
    evaluation : Evaluation
        What it shows.
    plots : mapping of str
        What each plot shows, in words, and the plot as a ``data:`` address.
    out : str or Path
        The folder; made if need be.
    comparison : Comparison, optional
        Shown, too.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stallscan", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sheets = [_breakdown_sheet(one, evaluation) for one in evaluation.breakdowns]
    page = environment.get_template("evaluation.html.j2").render(
        title=str(_title(evaluation)),
        sources=_sources(evaluation),
        rows=evaluation.rows,
        coverage=metrics.percent(evaluation.rows.coverage),
        figures=figures(evaluation),
        notes=notes(evaluation),
        plots=plots,
        sheets=[_comparison_sheet(comparison), *sheets] if comparison else sheets,
        version=provenance()["stallscan"],
    )
    path = make_folder(out) / PAGE_NAME
    write_text(path, page)
    return path


def join(predictions: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Put each recording's label beside its prediction, as `predictions.match` pairs them.

    Parameters
    ----------
    predictions : DataFrame
        As `predictions.read_predictions` gives it.
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
        ("coverage", f"{metrics.percent(rows.coverage)} of {rows.measurable:,} with a label"),
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
            table.add_row(name, Text(f"{left.count:,}: {left}"))
    return table


def tables(evaluation: Evaluation, comparison: Comparison | None = None) -> list[Table]:
    """Lay everything out for the terminal: the figures, the breakdowns, the comparison."""
    sheets = [_breakdown_sheet(one, evaluation) for one in evaluation.breakdowns]
    if comparison:
        sheets.append(_comparison_sheet(comparison))
    laid = [as_table(evaluation)]
    for sheet in sheets:
        caption = Text(sheet.note) if sheet.note else None
        table = Table(title=Text(sheet.title), title_justify="left", caption=caption)
        table.caption_justify = "left"
        for index, name in enumerate(_stacked(sheet.head, sheet.head)):
            table.add_column(Text(name), justify="right" if index else "left")
        for row in sheet.rows:
            table.add_row(*map(Text, _stacked(row, sheet.head)))
        laid.append(table)
    return laid


def _stacked(row: Sequence[str], head: Sequence[str]) -> list[str]:
    """Put each interval below its value: side by side they are too wide for a terminal."""
    cells: list[str] = []
    for cell, name in zip(row, head, strict=True):
        if name == INTERVAL_HEAD and cells:
            cells[-1] += f"\n{cell}" if cell else ""
        else:
            cells.append(cell)
    return cells


def figures(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, value and 95 % interval of each figure as people read them.

    The name says the prevalence where the figure depends on it; the interval is empty where there
    is none.
    """
    own = metrics.percent(evaluation.metrics.prevalence)
    lines = [
        (words.format(own=own), *_say(name, evaluation.values[name], evaluation.intervals[name]))
        for name, words in WORDS.items()
    ]
    lines[1:1] = [
        (f"MCC re-weighted to {metrics.percent(at.prevalence)}", *_say("mcc", at.mcc, at.interval))
        for at in evaluation.mcc_at
    ]
    return lines


def notes(evaluation: Evaluation) -> list[str]:
    """Say in plain words how the figures are to be read, one sentence or two each."""
    group, measured = evaluation.group, evaluation.metrics
    said = [_say_unit(group)]
    cells = measured.confusion
    if not cells.stalled or not cells.flowing:
        only = "flowing" if cells.flowing else "stalled"
        said.append(
            f"All {measured.count:,} labels are {only}: what needs both classes is not defined."
        )
    else:
        said.append(
            "Sensitivity at a specificity is read at the threshold that gives that specificity on "
            "these very recordings; on others the same threshold gives another."
        )
    said += [
        f"With {cells.flowing:,} flowing recordings {metrics.percent(at.specificity)} specificity "
        "allows no false alarm and cannot be told from 100 %."
        for at in evaluation.sensitivity_at
        if not at.false_alarms and at.sensitivity is not None
    ]
    if evaluation.rows.chose:
        said.append(
            f"{evaluation.rows.chose:,} recordings are left out, because they chose the threshold."
        )
    if evaluation.held_out:
        said.append(
            "These recordings were held out of training, but chose the epoch, the calibration and "
            "the threshold: the figures flatter."
        )
    return said


def _decided(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["stalled"].notna() & table["call"].isin(DECIDED) & ~table["chose"]]


def _scored(rows: pd.DataFrame) -> Scored:
    return Scored.check(
        rows["stalled"],
        rows["score"],
        rows["call"] == "stalled",
        rows["threshold"].dropna().tolist(),
    )


def _values_of(scored: Scored) -> dict[str, float | None]:
    return _values(
        metrics.measure(scored),
        [metrics.sensitivity_at(scored, at) for at in metrics.SPECIFICITIES],
    )


def _values(measured: Metrics, found: Sequence[SensitivityAt]) -> dict[str, float | None]:
    """Name the figures as in `WORDS`."""
    values: dict[str, float | None] = {
        metrics.sensitivity_name(at.specificity): at.sensitivity for at in found
    }
    return {name: values[name] if name in values else getattr(measured, name) for name in WORDS}


def _source(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": sha256(path)}


class _Known:
    """What the tables say about the recordings besides calls and labels, looked up by column."""

    def __init__(
        self, table: pd.DataFrame, raw: pd.DataFrame, labels: Path, about: Sequence[Path]
    ) -> None:
        self.table, self.about = table, about
        # Each with the name that every recording has in it.
        self._sources = [(raw, table["filename"])]
        self._sources.append((read_text(labels), table["label_filename"]))
        for path in about:
            more = read_text(path, "a table about the recordings")
            if "filename" not in more:
                raise TableError(
                    f"{path}: column filename is missing; it must name the recordings that the "
                    "other columns are about"
                )
            refuse_twice(path, more)
            partner = match(table["filename"], more["filename"])
            if partner.isna().all():
                raise InputError(
                    f"{path}: has no filename in common with the predictions (the first are "
                    f"{_first(more)} and {_first(table)}); give a table of these recordings"
                )
            self._sources.append((more, partner))

    @property
    def columns(self) -> list[str]:
        """Names of all columns there are."""
        named = [str(column) for source, _ in self._sources for column in source]
        return sorted({FRAMES, *named} - {"filename", "stalled"})

    def column(self, name: str) -> "pd.Series[str] | None":
        """Look a column up: a text for each row of the table, empty where nothing is said."""
        for source, names in reversed(self._sources):
            if name in source:
                values = pd.Series(source[name].to_numpy(), index=source["filename"])
                found: pd.Series[str] = names.map(values).fillna("").rename(name)
                return found
        return None

    def frames(self) -> "pd.Series[str] | None":
        """Bin the frames that decoded, or else those that a table of recordings says."""
        frames: pd.Series[float] = self.table["frames"]
        for name in ("num_frames", FRAMES):
            column = self.column(name)
            if frames.isna().all() and column is not None:
                frames = pd.to_numeric(column, errors="coerce")
        if frames.isna().all():
            return None
        bounds = FRAME_BOUNDS
        words = [
            f"up to {bounds[0]}",
            *(f"{low + 1} to {high}" for low, high in itertools.pairwise(bounds)),
            f"over {bounds[-1]}",
        ]
        binned = np.array([*words, ""])[
            np.where(frames.isna(), len(words), np.searchsorted(bounds, frames, "left"))
        ]
        return pd.Series(binned, frames.index, name=FRAMES)


def _find_groups(
    known: _Known, decided: pd.DataFrame, wanted: str | None
) -> "pd.Series[str] | None":
    """Find what the evaluated recordings are drawn by; None: each by itself."""
    if wanted == "":
        return None
    for name in MOUSE_COLUMNS if wanted is None else (wanted,):
        column = known.column(name)
        if column is None:
            continue
        column = column.loc[decided.index]
        unsaid = decided["filename"][column == ""]
        if wanted is None and (len(unsaid) or column.nunique() < 2):
            continue
        if len(unsaid):
            raise InputError(
                f"column {name} is empty for {len(unsaid):,} evaluated recordings: "
                f"{Left.of(unsaid)}; fill it in, or give another with --group"
            )
        return column
    if wanted is None:
        return None
    raise InputError(_no_column(known, wanted, "--group"))


def _break_down(
    known: _Known,
    decided: pd.DataFrame,
    scored: Scored,
    groups: "NDArray[np.str_] | None",
    wanted: Sequence[str] | None,
) -> tuple[Breakdown, ...]:
    made = []
    for name in BY if wanted is None else dict.fromkeys(wanted):
        column = known.frames() if name == FRAMES else known.column(name)
        if column is None:
            if wanted is None:
                continue
            raise InputError(_no_column(known, name, "--by"))
        values = column.loc[decided.index].replace("", NOT_SAID)
        count = values.nunique()
        if wanted is None and not 1 < count <= MOST_PARTS:
            continue
        if count > MOST_PARTS:
            raise InputError(
                f"column {name} has {count:,} different values; a breakdown has at most "
                f"{MOST_PARTS}, name another column with --by"
            )
        made.append(Breakdown(name, _parts(values, scored, groups)))
    return tuple(made)


def _parts(
    values: "pd.Series[str]", scored: Scored, groups: "NDArray[np.str_] | None"
) -> tuple[Part, ...]:
    prevalence = float(scored.labels.mean())
    names = values.to_numpy(str)
    return tuple(
        _part(
            str(name),
            Scored(scored.labels[rows], scored.scores[rows], scored.calls[rows]),
            None if groups is None else groups[rows],
            prevalence,
        )
        for name in sorted(set(names), key=_reading_order)
        for rows in [names == name]
    )


def _part(name: str, scored: Scored, groups: "NDArray[np.str_] | None", prevalence: float) -> Part:
    cells = metrics.count(scored)
    by_group = groups is not None and len(set(groups)) >= bootstrap.FEWEST_GROUPS
    rates = (
        bootstrap.group_rates(scored, groups)
        if groups is not None and by_group
        else bootstrap.smoothed_rates(cells)
    )
    recall = cells.true_stalled / cells.stalled if cells.stalled else None
    specificity = cells.true_flowing / cells.flowing if cells.flowing else None
    mcc = (
        None
        if recall is None or specificity is None
        else float(metrics.reweighted_mcc(recall, specificity, prevalence))
    )
    draws = bootstrap.of_rates(rates, prevalence)
    return Part(
        name=name,
        count=len(scored.labels),
        stalled=cells.stalled,
        recall=recall,
        specificity=specificity,
        mcc=mcc,
        intervals={
            "recall": bootstrap.interval(draws["recall"]),
            "specificity": bootstrap.interval(draws["specificity"]),
            "mcc": None if mcc is None else bootstrap.interval(draws["mcc"]),
        },
        by_group=by_group,
    )


def _reading_order(name: str) -> tuple[int, float, str]:
    """Sort numbers by size and bins of frames by their bounds, both before other words."""
    first = name.removeprefix("up to ").removeprefix("over ").partition(" ")[0]
    try:
        return 0, float(first) + (0.5 if name.startswith("over ") else 0.0), name
    except ValueError:
        return 1 + (name == NOT_SAID), 0.0, name


def _no_column(known: _Known, name: str, option: str) -> str:
    return (
        f"there is no column {name} in the predictions, the labels or what was given with --about; "
        f"the columns are {', '.join(known.columns)}: name one of them with {option}"
    )


class _Sheet(NamedTuple):
    """A table in words, for the terminal and for the page."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str


def _breakdown_sheet(breakdown: Breakdown, evaluation: Evaluation) -> _Sheet:
    head = (
        *(breakdown.column, "recordings", "stalled"),
        *("sensitivity", INTERVAL_HEAD, "specificity", INTERVAL_HEAD),
        *(f"MCC at {metrics.percent(evaluation.metrics.prevalence)}", INTERVAL_HEAD),
    )
    rows = []
    for part in breakdown.parts:
        cells: list[str] = []
        for name in ("recall", "specificity", "mcc"):
            value, interval = _say(name, getattr(part, name), part.intervals[name])
            cells += (value if interval else "-", interval)
        rows.append((part.name, f"{part.count:,}", f"{part.stalled:,}", *cells))
    alone = [part.name for part in breakdown.parts if not part.by_group]
    note = ""
    if evaluation.group.column and alone:
        note = (
            f"Intervals by recording, so too narrow, where there are fewer than "
            f"{bootstrap.FEWEST_GROUPS} groups ({evaluation.group.column}): {', '.join(alone)}."
        )
    return _Sheet(f"By {breakdown.column}", head, rows, note)


def _comparison_sheet(comparison: Comparison) -> _Sheet:
    first, second = comparison.first, comparison.second
    head = ["", "A", "B", "B less A", INTERVAL_HEAD, "B is"]
    own = ["A, all its own", "B, all its own"] if not comparison.is_on_all else []
    prevalence = metrics.percent(comparison.stalled / comparison.count)
    rows = []
    for one in comparison.differences:
        difference, interval = _say(one.name, one.difference, one.interval, sign="+")
        values = [_say(one.name, value, None)[0] for value in (one.first, one.second)]
        alone = [_say(one.name, side.values[one.name], None)[0] for side in (first, second)]
        name = WORDS[one.name].format(own=prevalence)
        rows.append((name, *values, difference, interval, one.verdict, *(alone if own else [])))
    note = _say_unit(comparison.group)
    if own:
        shares = [metrics.percent(side.metrics.prevalence) for side in (first, second)]
        note += (
            f" On all its own recordings: A {first.rows.evaluated:,} ({shares[0]} stalled), "
            f"B {second.rows.evaluated:,} ({shares[1]})."
        )
    title = (
        f"Paired comparison on {comparison.count:,} recordings that both called, "
        f"{comparison.stalled:,} of them stalled\n"
        f"A: {_name(first)}\nB: {_name(second)}"
    )
    return _Sheet(title, (*head, *own), rows, note)


def _name(evaluation: Evaluation) -> str:
    bundles = ", ".join(evaluation.bundles) or "an unnamed bundle"
    return f"{bundles} ({evaluation.predictions})"


def _say_unit(group: Group) -> str:
    draws = f"{bootstrap.BOOTSTRAP_DRAWS:,} draws"
    if not group.column:
        return (
            f"Intervals hold the middle 95 % of {draws} of single recordings. Recordings of one "
            "mouse are alike, which makes them too narrow: name the column of the mouse with "
            "--group."
        )
    said = (
        f"Intervals hold the middle 95 % of {draws} of whole groups ({group.count:,} by "
        f"{group.column})."
    )
    if group.is_too_few:
        said += (
            f" Fewer than {bootstrap.FEWEST_GROUPS} are too few: these intervals are not to be "
            "trusted."
        )
    return said


def _say(
    name: str, value: float | None, interval: Interval | None, sign: str = ""
) -> tuple[str, str]:
    form = f"{sign}.{DIGITS.get(name, 3)}f"
    return (
        "not defined" if value is None else f"{value:{form}}",
        f"{interval.low:{form}} to {interval.high:{form}}" if interval else "",
    )


def _sources(evaluation: Evaluation) -> dict[str, str]:
    return {
        "Predictions": str(evaluation.predictions),
        "Labels": str(evaluation.labels),
        **({"About": ", ".join(map(str, evaluation.about))} if evaluation.about else {}),
    }


def _mcc_at(measured: Metrics, rates: Rates, prevalence: float) -> MccAt:
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
    why = open_["status"].where(open_["call"] != "review", "review")
    return Rows(
        predictions=len(table),
        labels=len(labels),
        labelled=len(labelled),
        joined_by_base_name=int((labelled["filename"] != labelled["label_filename"]).sum()),
        evaluated=len(labelled) - chose - len(open_),
        without_call=Left.of(open_["filename"]),
        without_call_by_status={str(name): int(n) for name, n in why.value_counts().items()},
        without_label=Left.of(table.loc[table["stalled"].isna(), "filename"]),
        without_prediction=Left.of(
            labels.loc[~labels["filename"].isin(table["label_filename"]), "filename"]
        ),
        chose=chose,
    )


def _first(labels: pd.DataFrame) -> str:
    return str(labels["filename"].iloc[0]) if len(labels) else "none"


def _title(evaluation: Evaluation) -> Text:
    bundles = ", ".join(evaluation.bundles) or "an unnamed bundle"
    thresholds = ", ".join(f"{threshold:g}" for threshold in evaluation.scored.thresholds)
    at = f" at threshold {thresholds}" if thresholds else ""
    return Text(f"Calls of {bundles}{at}, against {evaluation.labels.name}")


def _outcome(stalled: int, flowing: int) -> str:
    return f"{stalled:,} called stalled, {flowing:,} called flowing"
