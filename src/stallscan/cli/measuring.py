"""Commands that measure and show: evaluate, rate, report."""

from pathlib import Path

from stallscan.cli.terminal import (
    Out,
    command,
    predictions_in,
    print_line,
    show,
    show_progress,
)


@command
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
) -> None:
    """Measure predictions against labels, and compare two models on the same recordings.

    Example: stallscan evaluate results --labels labels.csv -o results/measured

    Parameters
    ----------
    predictions
        predictions.csv, or out_of_fold.csv or validation.csv of a training run; or the folder that
        holds it.
    labels
        Table with filename and stalled (0 or 1); may be left out for tables of a training run.
    out
        Folder for metrics.json, evaluation.html and the plots.
    about
        A table with filename and more columns (train_metadata.csv, truth.csv) to group and break
        down by; may be given several times. Columns beside the labels count, too.
    group
        The column whose recordings are drawn together for the intervals; if not given mouse,
        animal, project_id or project. Empty: each recording by itself.
    by
        A column to break the figures down by, or frames; may be given several times. If not given
        project_id, project, kind, motion, difficulty and frames, where there are such.
    against
        Predictions of another model for the same recordings: says what it does better.
    partial
        Leave recordings without a label out of the figures; else they are an error.
    """
    from stallscan import runs
    from stallscan.calls.predictions import find_table
    from stallscan.evaluation import evaluate, present
    from stallscan.evaluation.comparison import compare
    from stallscan.report import figures, style

    label_table = None if labels is None else evaluate.LabelTable.read(labels)

    def measure(path: Path, by: list[str] | None) -> evaluate.Evaluation:
        return evaluate.evaluate(
            find_table(path), label_table, about=about or (), group=group, by=by, partial=partial
        )

    evaluation = measure(predictions, by)
    comparison = compare(evaluation, measure(against, [])) if against else None
    drawn = figures.evaluation_figures(evaluation.scored, evaluation.curve, evaluation.metrics)
    with runs.hold(out):
        present.write_metrics(evaluation, out, comparison)
        page = present.write_page(evaluation, figures.as_images(drawn), out, comparison)
        style.save(drawn, out)
    show(*present.tables(evaluation, comparison))
    for note in present.notes(evaluation):
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
    spread: float = 0.5,
) -> None:
    """Estimate stall rates of fields, mice and groups, corrected for wrong calls; compare groups.

    Example: stallscan rate results --groups mice.csv --accuracy measured/metrics.json -o rates

    Parameters
    ----------
    calls
        predictions.csv, or the folder that holds it.
    groups
        Table with filename and any of field, mouse, group.
    out
        Folder for the tables.
    accuracy
        metrics.json that 'stallscan evaluate' wrote for calls of the same bundle and threshold.
    sensitivity
        Instead of it: share of stalled ones called so, taken to be exact.
    specificity
        Instead of it: share of flowing ones called so, taken to be exact.
    reference
        The group that others are compared with; the first if not given.
    vessels
        For the mice that a next study needs: recordings a mouse; as many as here if not given.
    spread
        For the same: standard deviation of the mice's true rates over their mean.
    """
    import statistics

    from stallscan.errors import InputError
    from stallscan.rates import power, rates, tables
    from stallscan.rates.correction import CallAccuracy

    if accuracy is not None and (sensitivity is not None or specificity is not None):
        raise InputError(
            "--accuracy brings sensitivity and specificity with it; leave out --sensitivity and "
            "--specificity, or --accuracy"
        )
    if accuracy is not None:
        made_of = CallAccuracy.read(accuracy)
    elif sensitivity is not None and specificity is not None:
        made_of = CallAccuracy.stated(sensitivity, specificity)
    else:
        raise InputError(
            "how often the calls are wrong is not known; give --accuracy metrics.json, which "
            "'stallscan evaluate' writes, or --sensitivity and --specificity"
        )
    result = rates.rate(predictions_in(calls), groups, made_of, reference=reference)
    tables.write_rates(result, out)
    if vessels is None:
        scored = [mouse.rate.scored for mouse in result.mice if mouse.rate is not None]
        vessels = int(statistics.median(scored)) if scored else power.VESSELS
    needed = power.compare_scorings(made_of, vessels=vessels, spread=spread)
    show(*tables.as_tables(result), power.as_table(needed))
    for sentence in result.sentences():
        print_line(sentence)
    print_line(f"tables -> {out}")


@command
def report(
    predictions: Path,
    *,
    out: Out,
    labels: Path | None = None,
    recordings: list[Path] | None = None,
    max_cards: int = 200,
) -> None:
    """Write a report: one HTML file with counts, plots and a card per recording.

    Example: stallscan report results -o results/report.html

    Parameters
    ----------
    predictions
        predictions.csv, or the folder that holds it.
    out
        The HTML file.
    labels
        Table with filename and stalled (0 or 1), where known.
    recordings
        Where the recordings are now, if they were moved since.
    max_cards
        Cards shown at most; the page says which were chosen.
    """
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
            settings=settings,
            progress=progress,
        )
    print_line(f"{written} -> {out}")
