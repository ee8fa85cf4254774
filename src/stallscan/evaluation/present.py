"""Turn an evaluation into text and files: the terminal, ``metrics.json`` and a page of its own."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from stallscan import templates, words
from stallscan.calls.predictions import SIMULATED
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
from stallscan.runs import METRICS_NAME
from stallscan.scores import bootstrap, curves, metrics, resample
from stallscan.scores.metrics import Interval

PAGE_NAME = "evaluation.html"
INTERVAL_HEAD = "95 %"
# What is shown unless everything is asked for.
MAIN = ("recall", "specificity", "mcc", "roc_auc")

# The name of each figure; {own} is the prevalence of the sample.
WORDS = {
    "mcc": "MCC at {own} stalled",
    "recall": "recall (sensitivity)",
    "specificity": "specificity",
    "roc_auc": "ROC AUC",
    **{
        metrics.sensitivity_name(value): f"sensitivity at {words.percent(value)} specificity"
        for value in metrics.SPECIFICITIES
    },
    "accuracy": "accuracy at {own} stalled",
    "precision": "precision at {own} stalled",
    "f1": "F1 at {own} stalled",
    "pr_auc": "PR AUC at {own} stalled",
    "brier": "Brier score at {own} stalled",
    "log_loss": "log-loss at {own} stalled",
}
# With three digits, a specificity of 99.95 % would look perfect.
DIGITS = {"specificity": 4, "accuracy": 4, "brier": 4, "log_loss": 4}


class _Sheet(NamedTuple):
    """A table as text, for the terminal and for the page."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str


def write_metrics(
    evaluation: Evaluation, out: str | Path, comparison: ModelComparison | None = None
) -> Path:
    """Write ``metrics.json`` into the folder `out` and return its path.

    `evaluation` is that of the new model of a comparison.
    """
    path = make_folder(out) / METRICS_NAME
    refuse_foreign(path, ['{\n  "sources": {\n    "predictions": '], "of 'stallscan evaluate'")
    write_json(path, as_json(evaluation, comparison))
    return path


def write_page(
    evaluation: Evaluation,
    plots: Sequence[Markup],
    out: str | Path,
    comparison: ModelComparison | None = None,
) -> Path:
    """Write ``evaluation.html``, a page with all figures and plots, into the folder `out`.

    `plots` are SVG elements from `figures.as_inline`. Returns the path of the page.
    """
    sheets = [_breakdown_sheet(breakdown, evaluation) for breakdown in evaluation.breakdowns]
    page = templates.render(
        "evaluation.html.j2",
        title=str(_title(evaluation)),
        sources=_sources(evaluation),
        rows=evaluation.rows,
        figures=figures(evaluation),
        notes=notes(evaluation),
        headline=headline(evaluation),
        plots=plots,
        sheets=[_comparison_sheet(comparison), *sheets] if comparison else sheets,
        version=provenance()["stallscan"],
    )
    path = make_folder(out) / PAGE_NAME
    refuse_foreign(path, ["<title>stallscan evaluation: "], "of 'stallscan evaluate'")
    write_text(path, page)
    return path


def as_json(evaluation: Evaluation, comparison: ModelComparison | None = None) -> dict[str, Any]:
    """Return everything except the single recordings, in JSON's types."""
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
        "made_by": evaluation.made_by,
        "rows": asdict(evaluation.rows) | {"coverage": evaluation.rows.coverage},
        "metrics": evaluation.metrics.as_json() | {"mcc_interval_95": evaluation.mcc_interval},
        "mcc_at": [
            {"prevalence": point.prevalence, "mcc": point.mcc, "mcc_interval_95": point.interval}
            for point in evaluation.mcc_at
        ],
        "sensitivity_at": [point._asdict() for point in evaluation.sensitivity_at],
        "intervals_95": evaluation.intervals,
        "drawn_by": {
            **asdict(evaluation.group),
            "unit": evaluation.group.column or "recording",
            "effective": (
                dict(zip(("stalled", "flowing"), evaluation.effective, strict=True))
                if evaluation.effective
                else None
            ),
            "draws": resample.BOOTSTRAP_DRAWS,
            "seed": bootstrap.BOOTSTRAP_SEED,
        },
        "mcc_by_prevalence": (
            {name: values.tolist() for name, values in evaluation.curve._asdict().items()}
            if evaluation.curve
            else None
        ),
        "reliability": [asdict(score_bin) for score_bin in curves.reliability(evaluation.scored)],
        "breakdowns": {
            breakdown.column: [asdict(part) for part in breakdown.parts]
            for breakdown in evaluation.breakdowns
        },
        "held_out": evaluation.held_out,
        "simulated": {
            "training": evaluation.simulated_training,
            "recordings": evaluation.simulated,
        },
        "notes": notes(evaluation),
    } | compared


def headline(evaluation: Evaluation) -> str:
    """Say in one sentence how many calls are right."""
    cells, rows = evaluation.metrics.confusion, evaluation.rows
    said = []
    if cells.stalled:
        said.append(f"{cells.true_stalled:,} of {cells.stalled:,} stalled found")
    if cells.flowing:
        said.append(f"{cells.false_stalled:,} of {cells.flowing:,} flowing called stalled")
    if left := rows.measurable - rows.evaluated:
        said.append(f"{left:,} of {rows.measurable:,} labelled without a call")
    return f"{'; '.join(said)}."


def compared(comparison: ModelComparison) -> str:
    """Say in one sentence whether the new model is better than the old one."""
    mcc = comparison.differences[0]
    difference, interval = _format(mcc.name, mcc.difference, mcc.interval, sign="+")
    within = f" ({interval})" if interval else ""
    said = f"New minus old on {comparison.count:,} recordings: MCC {difference}{within}"
    if mcc.verdict in ("better", "worse"):
        return f"{said}; new is {mcc.verdict}."
    return f"{said}; {mcc.verdict}."


def as_table(evaluation: Evaluation, names: Sequence[str] = FIGURES) -> Table:
    """Return the figures called `names` as a table for the terminal."""
    rows, measured = evaluation.rows, evaluation.metrics
    table = Table("", "", "95 % interval", title=_title(evaluation), title_justify="left")
    cells = measured.confusion
    for name, value in (
        ("evaluated", f"{rows.evaluated:,} recordings, {cells.stalled:,} of them stalled"),
        ("coverage", f"{words.percent(rows.coverage)} of {rows.measurable:,} labelled recordings"),
        ("labelled stalled", _outcome(cells.true_stalled, cells.missed_stalled)),
        ("labelled flowing", _outcome(cells.false_stalled, cells.true_flowing)),
    ):
        table.add_row(name, value)
    table.add_section()
    for name, value, interval in figures(evaluation, names):
        table.add_row(name, value, interval)
    table.add_section()
    for name, left in (
        ("without a call", rows.without_call),
        ("without a label", rows.without_label),
        ("without a prediction", rows.without_prediction),
    ):
        if left.count:
            # Text instead of markup, because a filename may contain brackets.
            table.add_row(name, Text(f"{left.count:,}: {left}"))
    return table


def tables(
    evaluation: Evaluation, comparison: ModelComparison | None = None, every: bool = True
) -> list[Table]:
    """Return the figures, the breakdowns and the comparison as tables for the terminal.

    Without `every`, leave out the breakdowns and all figures but `MAIN`.
    """
    broken_down = evaluation.breakdowns if every else ()
    sheets = [_breakdown_sheet(breakdown, evaluation) for breakdown in broken_down]
    if comparison:
        sheets.append(_comparison_sheet(comparison))
    laid = [as_table(evaluation, FIGURES if every else MAIN)]
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


def figures(evaluation: Evaluation, names: Sequence[str] = FIGURES) -> list[tuple[str, str, str]]:
    """Return the name, the value and the 95 % interval of each figure in `names` as text.

    The name includes the prevalence if the figure depends on it. A missing interval is an empty
    text.
    """
    own = words.percent(evaluation.metrics.prevalence)
    lines = [
        (
            WORDS[name].format(own=own),
            *_format(name, evaluation.values[name], evaluation.intervals[name]),
        )
        for name in names
    ]
    if names != FIGURES:
        return lines
    lines[1:1] = [
        (
            f"MCC re-weighted to {words.percent(point.prevalence)}",
            *_format("mcc", point.mcc, point.interval),
        )
        for point in evaluation.mcc_at
    ]
    return lines


def notes(evaluation: Evaluation, every: bool = True) -> list[str]:
    """Return notes on how to read the figures, one or two sentences each.

    Without `every`, leave out those on figures that are not in `MAIN`.
    """
    group, measured = evaluation.group, evaluation.metrics
    sentences = [_describe_intervals(group)]
    cells = measured.confusion
    if not cells.stalled or not cells.flowing:
        only = "flowing" if cells.flowing else "stalled"
        sentences.append(
            f"All {measured.count:,} labels are {only}, so figures that need both classes are not "
            "defined."
        )
    elif every:
        sentences.append(
            "The sensitivity at a given specificity uses the threshold that has this specificity "
            "on these recordings. On other recordings, the same threshold has another specificity."
        )
    indistinct = [
        words.percent(point.specificity)
        for point in evaluation.sensitivity_at
        if not point.false_alarms and point.sensitivity is not None
    ]
    if every and indistinct:
        sentences.append(
            f"{cells.flowing:,} flowing recordings are too few to distinguish a specificity of "
            f"{words.enumerated(indistinct, 'or')} from 100 %: it allows no false alarm."
        )
    if evaluation.rows.chose:
        sentences.append(
            f"{evaluation.rows.chose:,} recordings are left out because they were used to choose "
            "the threshold."
        )
    if evaluation.rows.learned:
        sentences.append(
            f"{evaluation.rows.learned:,} recordings are left out because the model has learned "
            "from them."
        )
    if evaluation.simulated:
        sentences.append(
            "These recordings are simulated, so the figures do not predict those on real ones."
        )
    elif evaluation.simulated_training:
        sentences.append(
            f"{SIMULATED}, so the figures hold for recordings like these, and for no others."
        )
    if evaluation.held_out:
        sentences.append(
            "These recordings were held out of training but used to choose the epoch, the "
            "calibration and the threshold, so the figures are optimistic."
        )
    return sentences


def _comparison_json(comparison: ModelComparison) -> dict[str, Any]:
    return {
        "count": comparison.count,
        "stalled": comparison.stalled,
        "only_old": comparison.first.rows.evaluated - comparison.count,
        "only_new": comparison.second.rows.evaluated - comparison.count,
        "drawn_by": asdict(comparison.group),
        "differences": [
            asdict(figure) | {"difference": figure.difference, "verdict": figure.verdict}
            for figure in comparison.differences
        ],
        "old": as_json(comparison.first),
    }


def _source(path: Path) -> dict[str, str]:
    return {"path": str(path), "sha256": sha256(path)}


def _stacked(row: Sequence[str], head: Sequence[str]) -> list[str]:
    """Put each interval below its value, because side by side is too wide for a terminal."""
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
            value, interval = _format(name, getattr(part, name), part.intervals[name])
            cells += (value if interval else "-", interval)
        rows.append((part.name, f"{part.count:,}", f"{part.stalled:,}", *cells))
    alone = [part.name for part in breakdown.parts if not part.by_group]
    note = ""
    if evaluation.group.column and alone:
        note = (
            f"Too few groups ({evaluation.group.column}; at least {bootstrap.FEWEST_GROUPS} are "
            f"needed): {', '.join(alone)}. The intervals of these rows resample single recordings "
            "and are too narrow."
        )
    return _Sheet(f"By {breakdown.column}", head, rows, note)


def _comparison_sheet(comparison: ModelComparison) -> _Sheet:
    first, second = comparison.first, comparison.second
    head = ["", "old", "new", "new minus old", INTERVAL_HEAD, "new is"]
    own = ["old, all its calls", "new, all its calls"] if not comparison.is_on_all else []
    prevalence = words.percent(comparison.stalled / comparison.count)
    rows = []
    for figure in comparison.differences:
        name = figure.name
        difference, interval = _format(name, figure.difference, figure.interval, sign="+")
        values = [_format(name, value, None)[0] for value in (figure.first, figure.second)]
        alone = (
            [_format(name, side.values[name], None)[0] for side in (first, second)] if own else []
        )
        title = WORDS[name].format(own=prevalence)
        rows.append((title, *values, difference, interval, figure.verdict, *alone))
    # The notes on the evaluation of the new model describe its intervals.
    note = _describe_intervals(comparison.group)
    if note == _describe_intervals(second.group):
        note = ""
    if own:
        shares = [words.percent(side.metrics.prevalence) for side in (first, second)]
        note = (
            f"{note} All calls: old {first.rows.evaluated:,} recordings ({shares[0]} stalled), "
            f"new {second.rows.evaluated:,} ({shares[1]} stalled)."
        ).strip()
    title = (
        f"Paired comparison on {comparison.count:,} recordings that both models called, "
        f"{comparison.stalled:,} of them stalled\n"
        f"Old: {_name(first)}\nNew: {_name(second)}"
    )
    return _Sheet(title, (*head, *own), rows, note)


def _name(evaluation: Evaluation) -> str:
    bundles = ", ".join(evaluation.bundles) or "an unknown bundle"
    return f"{bundles} ({evaluation.predictions})"


def _describe_intervals(group: Group) -> str:
    start = f"Intervals: central 95 % of {resample.BOOTSTRAP_DRAWS:,} bootstrap samples of"
    if not group.column:
        return (
            f"{start} single recordings; too narrow if several are from one mouse (--group names "
            "its column)."
        )
    text = f"{start} whole groups ({group.count:,} by {group.column})."
    if group.is_too_few:
        text += (
            f" They are unreliable because there are fewer than {bootstrap.FEWEST_GROUPS} groups."
        )
    return text


def _format(
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
    bundles = ", ".join(evaluation.bundles) or "an unknown bundle"
    thresholds = ", ".join(f"{threshold:g}" for threshold in evaluation.scored.thresholds)
    suffix = f" at threshold {thresholds}" if thresholds else ""
    return Text(f"Calls of {bundles}{suffix} against {evaluation.labels.name}")


def _outcome(stalled: int, flowing: int) -> str:
    return f"{stalled:,} called stalled, {flowing:,} called flowing"
