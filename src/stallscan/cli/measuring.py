"""Commands that measure and report: evaluate, rate, report, methods."""

import logging
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stallscan.cli.terminal import (
    Out,
    With,
    command,
    predictions_in,
    print_line,
    read_answers,
    say_once,
    show,
    show_progress,
)

log = logging.getLogger("stallscan")


@command
@say_once()
def evaluate(
    predictions: Path,
    *,
    labels: Path | None = None,
    out: Out,
    about: list[Path] | None = None,
    group: str | None = None,
    by: list[str] | None = None,
    against: Path | None = None,
    partial: bool = False,
    all_: Annotated[bool, Parameter(name="--all")] = False,
) -> None:
    """Measure predictions against labels, and compare two models on the same recordings.

    Example: stallscan evaluate results --labels labels.csv -o results/measured

    Parameters
    ----------
    predictions
        predictions.csv; out_of_fold.csv or validation.csv of a training run; or the folder with one
        of them.
    labels
        Table with columns filename and stalled (0 or 1). Optional for tables of a training run.
    out
        Folder for metrics.json, evaluation.html and the plots.
    about
        Table with filename and more columns (train_metadata.csv, truth.csv) for --group and --by;
        may be given several times. Further columns of the labels can be used, too.
    group
        Column to resample by for the intervals, so that they account for recordings from the same
        mouse. By default mouse, animal, subject, project_id or project, whichever exists. Empty:
        resample single recordings.
    by
        Column to break the figures down by, or frames; may be given several times. By default
        project_id, project, kind, motion, difficulty and frames, as far as they exist.
    against
        Predictions of the old model for the same recordings, to compare the new ones with.
    partial
        Leave out recordings without a label. Otherwise they are an error.
    all_
        Print all figures and breakdowns, which metrics.json and evaluation.html have in any case.
    """
    from stallscan import runs
    from stallscan.calls.predictions import find_table
    from stallscan.evaluation import evaluate, present, rows
    from stallscan.evaluation.comparison import compare
    from stallscan.report import figures, style

    label_table = None if labels is None else rows.LabelTable.read(labels)

    def measure(path: Path, by: list[str] | None) -> evaluate.Evaluation:
        return evaluate.evaluate(
            find_table(path), label_table, about=about or (), group=group, by=by, partial=partial
        )

    evaluation = measure(predictions, by)
    comparison = compare(measure(against, []), evaluation) if against else None
    drawn = figures.evaluation_figures(evaluation.scored, evaluation.curve, evaluation.metrics)
    with runs.hold(out):
        present.write_metrics(evaluation, out, comparison)
        page = present.write_page(evaluation, figures.as_inline(drawn), out, comparison)
        style.save(drawn, out)
    print_line(present.headline(evaluation))
    if comparison:
        print_line(present.compared(comparison))
    show(*present.tables(evaluation, comparison, all_))
    for note in present.notes(evaluation, all_):
        print_line(note)
    print_line(f"metrics, plots and {page.name} -> {page.parent}")


@command
def rate(
    calls: Path,
    *,
    groups: Path,
    out: Out,
    accuracy: Path | None = None,
    sensitivity: float | None = None,
    specificity: float | None = None,
    reference: str | None = None,
    vessels: int | None = None,
    spread: Annotated[float, With("--vessels", "--all")] = 0.5,
    no_corrections: bool = False,
    all_: Annotated[bool, Parameter(name="--all")] = False,
) -> None:
    """Estimate stall rates of fields, mice and groups, corrected for wrong calls; compare groups.

    Example: stallscan rate results --groups mice.csv --accuracy measured/metrics.json -o rates

    Parameters
    ----------
    calls
        predictions.csv, or its folder.
    groups
        Table with column filename and any of field, mouse, group.
    out
        Folder for the tables, the plot and rates.html.
    accuracy
        metrics.json from 'stallscan evaluate', for calls of the same bundle and threshold.
    sensitivity
        Instead of --accuracy: share of stalled recordings called stalled, assumed to be exact.
    specificity
        Instead of --accuracy: share of flowing recordings called flowing, assumed to be exact.
    reference
        Group to compare the others with. By default, the first one.
    vessels
        For planning the next study: recordings per mouse. By default, the median of this study.
    spread
        For planning the next study: standard deviation of the true rates of mice, relative to
        their mean.
    no_corrections
        Ignore the answers of a review. By default, they replace calls, and the correction is for
        the wrong calls that are expected to remain. The most votes decide; answers that check a
        reviewer do not count, and the rules of 'stallscan labels' (--rule) do not apply.
    all_
        Also print the rates of mice and fields, which rates.html has in any case, and how many
        mice the next study needs.
    """
    import statistics

    from stallscan.errors import InputError
    from stallscan.rates import power, rates, tables
    from stallscan.rates.correction import CallAccuracy
    from stallscan.report import rate_page

    if accuracy is not None and (sensitivity is not None or specificity is not None):
        raise InputError(
            "--accuracy includes sensitivity and specificity. Leave out either --accuracy, or "
            "--sensitivity and --specificity"
        )
    if accuracy is not None:
        call_accuracy = CallAccuracy.read(accuracy)
    elif sensitivity is not None and specificity is not None:
        call_accuracy = CallAccuracy.stated(sensitivity, specificity)
    else:
        raise InputError(
            "the accuracy of the calls is unknown. Give --accuracy metrics.json, which 'stallscan "
            "evaluate' writes, or --sensitivity and --specificity"
        )
    table = predictions_in(calls)
    answers = {} if no_corrections else read_answers(table)
    result = rates.rate(table, groups, call_accuracy, reference=reference, answers=answers)
    planned = None
    if all_ or vessels is not None:
        if vessels is None:
            scored = [mouse.rate.scored for mouse in result.mice if mouse.rate is not None]
            vessels = int(statistics.median(scored)) if scored else power.VESSELS
        # Before anything is written, because it refuses impossible options.
        planned = power.compare_scorings(call_accuracy, vessels=vessels, spread=spread)
    tables.write_rates(result, out)
    page = rate_page.write_page(result, out, {"Calls": str(table), "Groups": str(groups)})
    for sentence in tables.headlines(result):
        print_line(sentence)
    show(*tables.as_tables(result, all_))
    if planned is not None:
        show(power.as_table(planned))
    for sentence in result.sentences():
        print_line(sentence)
    print_line(f"tables, plot and {page.name} -> {out}")


@command
def report(
    predictions: Path,
    *,
    out: Out,
    labels: Path | None = None,
    recordings: list[Path] | None = None,
    max_cards: int = 200,
    no_corrections: bool = False,
    occlusion: bool = False,
) -> None:
    """Write a report: one HTML file with counts, plots and a card per recording.

    Example: stallscan report results -o results/report.html

    Parameters
    ----------
    predictions
        predictions.csv, or its folder.
    out
        The HTML file.
    labels
        Table with columns filename and stalled (0 or 1), if available.
    recordings
        Where the recordings are now, if they have moved since the prediction.
    max_cards
        Maximum number of cards. The page says which recordings were chosen.
    no_corrections
        Ignore the answers of a review. By default, they replace calls. The most votes decide;
        answers that check a reviewer do not count, and the rules of 'stallscan labels' (--rule) do
        not apply. Figures that compare calls with labels are those of the model's own calls in any
        case.
    occlusion
        Show on each card what the net looked at. That takes about a second per card.
    """
    from stallscan.cli.looking import looker
    from stallscan.evaluation.evaluate import evaluate
    from stallscan.report import report

    settings = report.ReportSettings.parse({"max_cards": max_cards}, "report")
    table = predictions_in(predictions)
    with show_progress("writing the report") as progress:
        # Recordings without a label are shown, too: they are the ones to look at.
        evaluation = None if labels is None else evaluate(table, labels, partial=True)
        written = report.write_report(
            table,
            out,
            evaluation=evaluation,
            recordings=recordings,
            answers={} if no_corrections else read_answers(table),
            look=looker(table.parent) if occlusion else None,
            settings=settings,
            progress=progress,
        )
    print_line(f"{written} -> {out}")
    log.info("open it in a browser, and check its calls: stallscan review %s", table.parent)


@command
def methods(
    predictions: Path,
    *,
    labels: Path | None = None,
    no_corrections: bool = False,
) -> None:
    """Print a paragraph for the methods section of a paper: how the calls were made.

    Example: stallscan methods results --labels labels.csv

    Parameters
    ----------
    predictions
        predictions.csv, or its folder.
    labels
        Table with columns filename and stalled (0 or 1), to say how good the calls are.
    no_corrections
        Ignore the answers of a review, as in 'stallscan report'.
    """
    from stallscan.calls import corrections
    from stallscan.calls.predictions import read_predictions, read_run
    from stallscan.evaluation.evaluate import evaluate
    from stallscan.report import methods

    table = predictions_in(predictions)
    evaluation = None if labels is None else evaluate(table, labels, partial=True)
    answers = {} if no_corrections else read_answers(table)
    rows = evaluation.table if evaluation else read_predictions(table)
    corrected = corrections.apply(rows, answers)
    print_line("\n\n".join(methods.describe(corrected, read_run(table), evaluation)))
