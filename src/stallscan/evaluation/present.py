"""An evaluation in words: for the terminal, for ``metrics.json`` and for a page by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from stallscan import templates, words
from stallscan.evaluation.breakdown import Breakdown, Group
from stallscan.evaluation.comparison import ModelComparison
from stallscan.evaluation.evaluate import FIGURES, Evaluation
from stallscan.files import (
    make_folder,
    provenance,
    refuse_foreign,
    sha256,
    write_json,
    write_text,
)
from stallscan.scores import bootstrap, curves, metrics, resample
from stallscan.scores.metrics import Interval

METRICS_NAME, PAGE_NAME = "metrics.json", "evaluation.html"
INTERVAL_HEAD = "95 %"

# What each figure is called; {own} is the sample's prevalence.
WORDS = {
    "mcc": "MCC at {own} stalled",
    "recall": "recall (sensitivity)",
    "specificity": "specificity",
    "roc_auc": "ROC AUC",
    **{
        metrics.sensitivity_name(at): f"sensitivity at {words.percent(at)} specificity"
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


class _Sheet(NamedTuple):
    """A table in words, for the terminal and for the page."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str


def write_metrics(
    evaluation: Evaluation, out: str | Path, comparison: ModelComparison | None = None
) -> Path:
    """Write ``metrics.json`` into the folder `out` and return its path.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    path = make_folder(out) / METRICS_NAME
    refuse_foreign(path, ['{\n  "sources": {\n    "predictions": '], "of 'stallscan evaluate'")
    write_json(path, as_json(evaluation, comparison))
    return path


def write_page(
    evaluation: Evaluation,
    plots: Mapping[str, str],
    out: str | Path,
    comparison: ModelComparison | None = None,
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
    comparison : ModelComparison, optional
        Shown, too.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    sheets = [_breakdown_sheet(one, evaluation) for one in evaluation.breakdowns]
    page = templates.render(
        "evaluation.html.j2",
        title=str(_title(evaluation)),
        sources=_sources(evaluation),
        rows=evaluation.rows,
        figures=figures(evaluation),
        notes=notes(evaluation),
        plots=plots,
        sheets=[_comparison_sheet(comparison), *sheets] if comparison else sheets,
        version=provenance()["stallscan"],
    )
    path = make_folder(out) / PAGE_NAME
    refuse_foreign(path, ["<title>stallscan evaluation: "], "of 'stallscan evaluate'")
    write_text(path, page)
    return path


def as_json(evaluation: Evaluation, comparison: ModelComparison | None = None) -> dict[str, Any]:
    """Give everything but the recordings themselves, in JSON's types."""
    compared = {"comparison": _comparison_json(comparison)} if comparison else {}
    return {
        "sources": {
            "predictions": _source(evaluation.predictions),
            "labels": _source(evaluation.labels),
            "about": [_source(path) for path in evaluation.about],
        },
        "provenance": provenance(),
        "bundles": list(evaluation.bundles),
        "thresholds": list(evaluation.scored.thresholds),
        "rows": asdict(evaluation.rows) | {"coverage": evaluation.rows.coverage},
        "metrics": evaluation.metrics.as_json() | {"mcc_interval_95": evaluation.mcc_interval},
        "mcc_at": [
            {"prevalence": at.prevalence, "mcc": at.mcc, "mcc_interval_95": at.interval}
            for at in evaluation.mcc_at
        ],
        "sensitivity_at": [at._asdict() for at in evaluation.sensitivity_at],
        "intervals_95": evaluation.intervals,
        "drawn_by": {
            **asdict(evaluation.group),
            "unit": evaluation.group.column or "recording",
            "draws": resample.BOOTSTRAP_DRAWS,
            "seed": bootstrap.BOOTSTRAP_SEED,
        },
        "mcc_by_prevalence": (
            {name: values.tolist() for name, values in evaluation.curve._asdict().items()}
            if evaluation.curve
            else None
        ),
        "reliability": [asdict(part) for part in curves.reliability(evaluation.scored)],
        "breakdowns": {
            breakdown.column: [asdict(part) for part in breakdown.parts]
            for breakdown in evaluation.breakdowns
        },
        "notes": notes(evaluation),
    } | compared


def as_table(evaluation: Evaluation) -> Table:
    """Lay the figures out for the terminal."""
    rows, measured = evaluation.rows, evaluation.metrics
    table = Table("", "", "95 % interval", title=_title(evaluation), title_justify="left")
    cells = measured.confusion
    for name, value in (
        ("evaluated", f"{rows.evaluated:,} recordings, {cells.stalled:,} of them stalled"),
        ("coverage", f"{words.percent(rows.coverage)} of {rows.measurable:,} with a label"),
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


def tables(evaluation: Evaluation, comparison: ModelComparison | None = None) -> list[Table]:
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


def figures(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Name, value and 95 % interval of each figure as people read them.

    The name says the prevalence where the figure depends on it; the interval is empty where there
    is none.
    """
    own = words.percent(evaluation.metrics.prevalence)
    lines = [
        (
            WORDS[name].format(own=own),
            *_say(name, evaluation.values[name], evaluation.intervals[name]),
        )
        for name in FIGURES
    ]
    lines[1:1] = [
        (f"MCC re-weighted to {words.percent(at.prevalence)}", *_say("mcc", at.mcc, at.interval))
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
        f"With {cells.flowing:,} flowing recordings {words.percent(at.specificity)} specificity "
        "allows no false alarm and cannot be told from 100 %."
        for at in evaluation.sensitivity_at
        if not at.false_alarms and at.sensitivity is not None
    ]
    if by_name := evaluation.rows.joined_by_base_name:
        said.append(f"{by_name:,} labels were matched by file name alone, whatever the folder.")
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


def _comparison_json(comparison: ModelComparison) -> dict[str, Any]:
    return {
        "count": comparison.count,
        "stalled": comparison.stalled,
        "only_first": comparison.first.rows.evaluated - comparison.count,
        "only_second": comparison.second.rows.evaluated - comparison.count,
        "drawn_by": asdict(comparison.group),
        "differences": [
            asdict(one) | {"difference": one.difference, "verdict": one.verdict}
            for one in comparison.differences
        ],
        "second": as_json(comparison.second),
    }


def _source(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": sha256(path)}


def _stacked(row: Sequence[str], head: Sequence[str]) -> list[str]:
    """Put each interval below its value: side by side they are too wide for a terminal."""
    cells: list[str] = []
    for cell, name in zip(row, head, strict=True):
        if name == INTERVAL_HEAD and cells:
            cells[-1] += f"\n{cell}" if cell else ""
        else:
            cells.append(cell)
    return cells


def _breakdown_sheet(breakdown: Breakdown, evaluation: Evaluation) -> _Sheet:
    head = (
        *(breakdown.column, "recordings", "stalled"),
        *("sensitivity", INTERVAL_HEAD, "specificity", INTERVAL_HEAD),
        *(f"MCC at {words.percent(evaluation.metrics.prevalence)}", INTERVAL_HEAD),
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


def _comparison_sheet(comparison: ModelComparison) -> _Sheet:
    first, second = comparison.first, comparison.second
    head = ["", "A", "B", "B less A", INTERVAL_HEAD, "B is"]
    own = ["A, all its own", "B, all its own"] if not comparison.is_on_all else []
    prevalence = words.percent(comparison.stalled / comparison.count)
    rows = []
    for one in comparison.differences:
        difference, interval = _say(one.name, one.difference, one.interval, sign="+")
        values = [_say(one.name, value, None)[0] for value in (one.first, one.second)]
        alone = [_say(one.name, side.values[one.name], None)[0] for side in (first, second)]
        name = WORDS[one.name].format(own=prevalence)
        rows.append((name, *values, difference, interval, one.verdict, *(alone if own else [])))
    note = _say_unit(comparison.group)
    if own:
        shares = [words.percent(side.metrics.prevalence) for side in (first, second)]
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
    draws = f"{resample.BOOTSTRAP_DRAWS:,} draws"
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


def _title(evaluation: Evaluation) -> Text:
    bundles = ", ".join(evaluation.bundles) or "an unnamed bundle"
    thresholds = ", ".join(f"{threshold:g}" for threshold in evaluation.scored.thresholds)
    at = f" at threshold {thresholds}" if thresholds else ""
    return Text(f"Calls of {bundles}{at}, against {evaluation.labels.name}")


def _outcome(stalled: int, flowing: int) -> str:
    return f"{stalled:,} called stalled, {flowing:,} called flowing"
