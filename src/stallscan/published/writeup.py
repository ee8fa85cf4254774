"""Write up a reproduction: settings and results, as a page, a file and a table.

Our figures are measured on other recordings than the published ones beside them. So each comes with
its sample and prevalence, and a run that differs from the published approach says so before any
figure.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from stallscan import files
from stallscan.published.approaches import Part
from stallscan.published.results import AT, VOTE, Called, Reproduction, as_scored, loud_notes
from stallscan.report import figures, style, svg
from stallscan.scores.metrics import Scored
from stallscan.templates import render
from stallscan.words import percent, say_time

PAGE_NAME, METRICS_NAME = "reproduction.html", "metrics.json"


class _Sheet(NamedTuple):
    """A table of the page; with `numbers` all but the first two columns are numeric."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    numbers: bool = False


class _Plot(NamedTuple):
    """A picture and its caption."""

    svg: Markup
    caption: str = ""


class _Section(NamedTuple):
    """A section of the page; its confusions are ``small``, ``middle`` or ``wide``."""

    title: str
    words: Sequence[str] = ()
    sheets: Sequence[_Sheet] = ()
    plots: Sequence[_Plot] = ()
    size: str = "middle"


def write_writeup(result: Reproduction) -> Path:
    """Write ``metrics.json``, the plots and ``reproduction.html`` and return the page's path.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    files.write_json(result.out / METRICS_NAME, result.as_json())
    final = result.final_calls
    drawn = figures.evaluation_figures(as_scored(final))
    if result.approach.combine == "vote":
        del drawn["reliability"]  # the score of a vote is not a probability
    folder = result.out / "plots"
    style.save(drawn, folder)
    compared = {f"confusion-{called.who}-{called.at}": called for called in _compared(result)}
    matrices = {name: figures.confusion(as_scored(called)) for name, called in compared.items()}
    style.save(matrices, folder)
    del drawn["confusion"]  # shown with those of all nets
    sections = [
        _published(result),
        _Section("Differences from the published approach", sheets=[_changes(result)]),
        _Section("Thresholds", sheets=[_thresholds(result)]),
        *(_calls(result, part) for part in ("test", "validation")),
        _Section(
            "Confusion matrices",
            [f"On the {final.part} split, at the published threshold and at the one chosen here."],
            plots=[
                _Plot(
                    svg.inline(
                        style.as_svg(matrix),
                        f"{figures.WORDS['confusion']}, {called.who}, threshold {AT[called.at]}",
                        name,
                    ),
                    f"{called.who}, {AT[called.at]}",
                )
                for name, matrix in matrices.items()
                for called in [compared[name]]
            ],
            size="small",
        ),
        _Section(
            f"The final calls ({result.final}) on the {final.part} split",
            VOTE if result.approach.combine == "vote" else (),
            plots=[_Plot(plot) for plot in figures.as_inline(drawn)],
        ),
        _Section("Training", plots=_curves(result), size="wide"),
        _times(result),
        _Section("Files", sheets=[_files(result)]),
    ]
    page = render(
        "reproduction.html.j2",
        title=result.approach.title,
        facts=_facts(result),
        loud=loud_notes(result),
        sections=sections,
        version=files.provenance()["stallscan"],
    )
    path = result.out / PAGE_NAME
    files.write_text(path, page)
    return path


def as_table(result: Reproduction) -> Table:
    """Return a table of the MCC of all calls on one split, for the terminal."""
    part = result.final_calls.part
    calls = [called for called in result.calls if called.part == part]
    sample = _say_sample(result, part, as_scored(result.final_calls))
    table = Table(title=Text(f"{result.approach.title}\nMCC on {sample}"), title_justify="left")
    table.add_column("calls of")
    for name in AT.values():
        table.add_column(f"threshold {name}", justify="right")
    for who in dict.fromkeys(called.who for called in calls):
        cells = [result.find(who, at, part) for at in AT]
        table.add_row(who, *("" if called is None else "\n".join(_mcc(called)) for called in cells))
    return table


def _facts(result: Reproduction) -> dict[str, str]:
    kind = "simulated recordings" if result.simulated else "recordings"
    facts = {
        "Approach": result.approach.name,
        "Call": result.approach.decision,
        "Data": str(result.data),
        f"Trained and validated on ({kind})": str(result.trained_on),
        f"Test split ({kind})": str(result.test) if result.test else "none",
    }
    return facts


def _published(result: Reproduction) -> _Section:
    rows = []
    for figure in result.approach.figures:
        ours = result.find(figure.model or result.final, "published", figure.part)
        if figure.model:
            # Single nets were called at 0.5; for some that is the published threshold.
            ours = result.find(figure.model, "half", figure.part) or ours
        here, on = ("unknown", ""), f"no {figure.part} split"
        if ours is None and result.test is not None:
            on = f"no calls on the {figure.part} split"
        if ours is not None and ours.scored is None:
            on = f"the {figure.part} split has no labels"
        elif ours is not None:
            here, on = _mcc(ours), _say_sample(result, figure.part, as_scored(ours))
        rows.append((figure.what, f"{figure.mcc:.3f}", figure.on, *here, on))
    note = (
        "MCC depends on the prevalence: compare only figures at the same prevalence. The 95 % "
        "intervals are bootstrapped by recording. The public and the private leaderboard used "
        "parts of one test set; which recordings belong to which part was not published."
    )
    head = ("MCC", "published", "on", "here", "95 %", "on")
    return _Section("Published and here", sheets=[_Sheet(head, rows, note)])


def _changes(result: Reproduction) -> _Sheet:
    kind = "simulated" if result.simulated else "as given"
    test = str(result.test) if result.test else "none"
    rows = [
        ("recordings", "real", kind),
        ("trained and validated on", result.approach.trained_on, str(result.trained_on)),
        ("test split", "14,160, 4.6 % stalled", test),
        *result.changes,
    ]
    note = f"Not published, so chosen here: {result.approach.unsaid}."
    if not result.changes:
        note = "All settings are those of the recipe. " + note
    return _Sheet(("", "published", "here"), [tuple(row) for row in rows], note)


def _thresholds(result: Reproduction) -> _Sheet:
    rows = [
        (
            cut.who,
            "decides" if cut.decides else "for comparison",
            f"{cut.published:.2f}",
            *(_say_cut(cut.as_scores[name]) for name in ("published", "half", "chosen")),
        )
        for cut in result.cuts
    ]
    note = (
        "A published threshold applies to the sigmoid of a net's logit. Scores here are calibrated "
        "on the validation split, so the equivalent threshold has another value: a recording is "
        "above one exactly if it is above the other, up to the sixth digit of a score."
    )
    head = ("net", "", "published", "the same on our scores", "0.5 on our scores", "chosen here")
    return _Sheet(head, rows, note, numbers=True)


def _calls(result: Reproduction, part: Part) -> _Section:
    title = f"Single and final calls, {part} split"
    rows = [_figures(called) for called in result.calls if called.part == part]
    words = result.doubts if part == "test" else ()  # all doubts are on the test split
    if result.test is None and part == "test":
        words = (
            f"{result.data} has no test split (test_metadata.csv and test/), so nothing was "
            "scored.",
        )
    if not rows:
        return _Section(title, words)
    note = (
        "These recordings were used neither for training nor to choose anything. The figures are "
        "those of the submission: no call counts as flowing, no score as 0."
    )
    if part == "validation":
        note = (
            "The epoch, the calibration and the threshold 'chosen here' were chosen on this split, "
            "so these figures are optimistic."
        )
    if part == "validation" and result.approach.parts == "folds":
        note += (
            " Each recording is called by the one fold that was not trained on it, so there is no "
            "mean of all folds here."
        )
    note += (
        " The 95 % interval is that of the MCC, bootstrapped by recording. The other intervals are "
        f"in {METRICS_NAME}."
    )
    head = (
        *("calls of", "threshold", "recordings", "called stalled", "no call"),
        *("accuracy", "precision", "recall", "F1", "MCC", "95 %"),
    )
    return _Section(title, words, [_Sheet(head, rows, note, numbers=True)])


def _figures(called: Called) -> tuple[str, ...]:
    measured = called.metrics
    counts = (
        f"{sum(called.counts.values()):,}",
        f"{called.counts.get('stalled', 0):,}",
        f"{called.counts.get('unscorable', 0):,}",
    )
    if measured is None:
        return (called.who, AT[called.at], *counts, *["no labels"] * 5, "")
    values = (measured.accuracy, measured.precision, measured.recall, measured.f1)
    cells = ["undefined" if value is None else f"{value:.3f}" for value in values]
    return (called.who, AT[called.at], *counts, *cells, *_mcc(called))


def _times(result: Reproduction) -> _Section:
    here = (
        f"This run took {say_time(result.seconds)} on {result.machine}, without the stages that an "
        "earlier, interrupted run had completed."
    )
    rows = [
        (model.name, model.training or "not published", model.scoring or "not published")
        for model in result.approach.models
    ]
    note = "" if result.approach.parts == "whole" else f"All {result.approach.parts} together."
    return _Section("Time", [here], [_Sheet(("net", "training, published", "scoring"), rows, note)])


def _files(result: Reproduction) -> _Sheet:
    rows = [
        ("models/NAME/", "training of each net: recipe, history, plots, bundle, validation.csv"),
        ("store/", "clips, the same for all nets"),
        (METRICS_NAME, "every figure of this page"),
        ("plots/", "the plots, as PNG and SVG"),
        ("reproduction.json", "settings of this run"),
    ]
    of_test = []
    if result.test:
        of_test.append(("test/NAME/predictions.csv", "scores of the test split"))
    if any(called.part == "test" for called in result.calls):
        of_test.append(("calls/NAME/THRESHOLD/predictions.csv", "calls of the test split"))
    if result.find(result.final, "published", "test"):
        of_test.append(
            ("submission.csv", "the final calls at the published threshold, in the form's order")
        )
    rows[2:2] = of_test
    return _Sheet(("file", "contents"), rows)


def _curves(result: Reproduction) -> list[_Plot]:
    curves = []
    for model in result.approach.models:
        folder = result.out / "models" / model.name
        for path in sorted(folder.glob("**/plots/history.svg")):
            name = path.parent.parent.relative_to(folder.parent).as_posix()
            words = f"Loss, validation metrics and learning rate by epoch, {name}"
            curves.append(_Plot(svg.inline_file(path, words, f"history-{name}"), name))
    return curves


def _compared(result: Reproduction) -> list[Called]:
    """Return the calls to show a confusion matrix of, those at published thresholds first."""
    part = result.final_calls.part
    return [
        called
        for at in ("published", "chosen")
        for called in result.calls
        if (called.at, called.part) == (at, part) and called.scored is not None
    ]


def _mcc(called: Called) -> tuple[str, str]:
    """Format the MCC of calls, and its interval."""
    measured = called.metrics
    if measured is None:
        return ("no labels", "")
    bounds = called.intervals["mcc"]
    interval = f"{bounds.low:.3f} to {bounds.high:.3f}" if bounds else ""
    return (f"{measured.mcc:.3f}", interval)


def _say_sample(result: Reproduction, part: Part, scored: Scored) -> str:
    kind = "simulated recordings" if result.simulated else "recordings"
    share = percent(float(scored.labels.mean()))
    return f"the {part} split, {len(scored.labels):,} {kind}, {share} stalled"


def _say_cut(cut: float) -> str:
    """Format a threshold; with four digits, one just below 1 would read as 1."""
    return f"{cut:.4f}" if cut < 0.99995 else "above 0.9999"
