"""The write-up of a reproduction: what was done and what came of it, as a page, a file and a table.

A figure of ours is of other recordings than the published one beside it. So each has its sample and
its prevalence with it, and that a run is not as published is said before any figure.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from stallscan import files
from stallscan.published.approaches import Part
from stallscan.published.made import AT, VOTE, Called, Reproduction, as_scored, loud_notes
from stallscan.report import figures as plots
from stallscan.report import style
from stallscan.scores.metrics import Scored
from stallscan.templates import render
from stallscan.words import percent

PAGE_NAME, METRICS_NAME = "reproduction.html", "metrics.json"


class _Sheet(NamedTuple):
    """A table of the page; with `numbers` all but its first two columns are such."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    numbers: bool = False


class _Plot(NamedTuple):
    """A picture: what it shows, its ``data:`` address, and what stands above it."""

    words: str
    address: str
    caption: str = ""


class _Section(NamedTuple):
    """A part of the page; its pictures are ``small``, ``middle`` or ``wide``."""

    title: str
    words: Sequence[str] = ()
    sheets: Sequence[_Sheet] = ()
    plots: Sequence[_Plot] = ()
    size: str = "middle"


def write_writeup(made: Reproduction) -> Path:
    """Write ``metrics.json``, the plots and ``reproduction.html`` and return the page's path.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    files.write_json(made.out / METRICS_NAME, made.as_json())
    final = made.final_calls
    figures = plots.evaluation_figures(as_scored(final))
    if made.approach.combine == "vote":
        del figures["reliability"]  # the score of a vote is no probability
    folder = made.out / "plots"
    style.save(figures, folder)
    matrices = {f"confusion-{one.who}-{one.at}": one for one in _compared(made)}
    style.save({name: plots.confusion(as_scored(one)) for name, one in matrices.items()}, folder)
    del figures["confusion"]  # it stands among those of all nets
    sections = [
        _published(made),
        _Section("What is not as published", sheets=[_changes(made)]),
        _Section("Thresholds", sheets=[_thresholds(made)]),
        *(_calls(made, part) for part in ("test", "validation")),
        _Section(
            "Confusion matrices",
            [f"On the {final.part} part, at the published threshold and at the one chosen here."],
            plots=[
                _Plot(
                    f"{plots.WORDS['confusion']}, {one.who}, threshold {AT[one.at]}",
                    _address(folder / f"{name}.svg"),
                    f"{one.who}, {AT[one.at]}",
                )
                for name, one in matrices.items()
            ],
            size="small",
        ),
        _Section(
            f"The final calls ({made.final}) on the {final.part} part",
            VOTE if made.approach.combine == "vote" else (),
            plots=[_Plot(plots.WORDS[name], _address(folder / f"{name}.svg")) for name in figures],
        ),
        _Section("Training", plots=_curves(made), size="wide"),
        _times(made),
        _Section("Files", sheets=[_files(made)]),
    ]
    page = render(
        "reproduction.html.j2",
        title=made.approach.title,
        facts=_facts(made),
        loud=loud_notes(made),
        sections=sections,
        version=files.provenance()["stallscan"],
    )
    path = made.out / PAGE_NAME
    files.write_text(path, page)
    return path


def as_table(made: Reproduction) -> Table:
    """Lay the MCC of the calls on one part out for the terminal."""
    part = made.final_calls.part
    calls = [one for one in made.calls if one.part == part]
    sample = _say_sample(made, part, as_scored(made.final_calls))
    table = Table(title=Text(f"{made.approach.title}\nMCC on {sample}"), title_justify="left")
    table.add_column("calls of")
    for name in AT.values():
        table.add_column(f"threshold {name}", justify="right")
    for who in dict.fromkeys(one.who for one in calls):
        found = [made.find(who, at, part) for at in AT]
        table.add_row(who, *("" if one is None else "\n".join(_mcc(one)) for one in found))
    return table


def _facts(made: Reproduction) -> dict[str, str]:
    kind = "simulated recordings" if made.simulated else "recordings"
    facts = {
        "Approach": made.approach.name,
        "Call": made.approach.decision,
        "Data": str(made.data),
        f"Trained and validated on ({kind})": str(made.trained_on),
        f"Test part ({kind})": str(made.test) if made.test else "there is none",
    }
    return facts


def _published(made: Reproduction) -> _Section:
    rows = []
    for figure in made.approach.figures:
        ours = made.find(figure.model or made.final, "published", figure.part)
        if figure.model:
            # Single nets were called at 0.5, which is the published threshold of some.
            ours = made.find(figure.model, "half", figure.part) or ours
        here, on = ("not known", ""), f"there is no {figure.part} part"
        if ours is None and made.test is not None:
            on = f"nothing could be called on the {figure.part} part"
        if ours is not None and ours.scored is None:
            on = f"the {figure.part} part has no labels"
        elif ours is not None:
            here, on = _mcc(ours), _say_sample(made, figure.part, as_scored(ours))
        rows.append((figure.what, f"{figure.mcc:.3f}", figure.on, *here, on))
    note = (
        "MCC depends on how rare stalls are: compare figures at one prevalence only. 95 %: drawn "
        "recording by recording. Public and private part are of one test set; which recordings "
        "are in which, and how many of them, was not published."
    )
    head = ("MCC", "published", "on", "here", "95 %", "on")
    return _Section("Published and here", sheets=[_Sheet(head, rows, note)])


def _changes(made: Reproduction) -> _Sheet:
    kind = "simulated" if made.simulated else "as given"
    test = str(made.test) if made.test else "none"
    rows = [
        ("recordings", "real", kind),
        ("trained and validated on", made.approach.trained_on, str(made.trained_on)),
        ("test part", "14,160, 4.6 % stalled", test),
        *made.changes,
    ]
    note = f"Was not published, and is chosen: {made.approach.unsaid}."
    if not made.changes:
        note = "All settings are those of the recipe. " + note
    return _Sheet(("", "published", "here"), [tuple(row) for row in rows], note)


def _thresholds(made: Reproduction) -> _Sheet:
    rows = [
        (
            cut.who,
            "decides" if cut.decides else "to compare",
            f"{cut.published:.2f}",
            *(_say_cut(cut.as_scores[name]) for name in ("published", "half", "chosen")),
        )
        for cut in made.cuts
    ]
    note = (
        "A published threshold is for the sigmoid of a net's logit. Scores here are calibrated on "
        "the validation part, so the same cut lies elsewhere: a recording is above the one exactly "
        "if it is above the other, up to the sixth digit of a score."
    )
    head = ("net", "", "published", "the same on our scores", "0.5 on our scores", "chosen here")
    return _Sheet(head, rows, note, numbers=True)


def _calls(made: Reproduction, part: Part) -> _Section:
    title = f"Single and final calls, {part} part"
    rows = [_figures(one) for one in made.calls if one.part == part]
    words = made.doubts if part == "test" else ()  # there are none of the other
    if made.test is None and part == "test":
        words = (
            f"{made.data} has no test part (test_metadata.csv and test/): nothing was scored.",
        )
    if not rows:
        return _Section(title, words)
    note = (
        "Recordings that no net was trained on, and that chose nothing. Measured is what is "
        "submitted: no call counts as flowing, no score as 0."
    )
    if part == "validation":
        note = (
            "This part chose the epoch, the calibration and the threshold 'chosen here': these "
            "figures flatter."
        )
    if part == "validation" and made.approach.parts == "folds":
        note += (
            " Each recording is called by the one fold that was not trained on it, so the mean of "
            "all folds is not to be had here."
        )
    note += f" 95 %: of the MCC, drawn recording by recording; of the others see {METRICS_NAME}."
    head = (
        *("calls of", "threshold", "recordings", "called stalled", "no call"),
        *("accuracy", "precision", "recall", "F1", "MCC", "95 %"),
    )
    return _Section(title, words, [_Sheet(head, rows, note, numbers=True)])


def _figures(one: Called) -> tuple[str, ...]:
    measured = one.metrics
    counts = (
        f"{sum(one.counts.values()):,}",
        f"{one.counts.get('stalled', 0):,}",
        f"{one.counts.get('unscorable', 0):,}",
    )
    if measured is None:
        return (one.who, AT[one.at], *counts, *["no labels"] * 5, "")
    values = (measured.accuracy, measured.precision, measured.recall, measured.f1)
    said = ["not defined" if value is None else f"{value:.3f}" for value in values]
    return (one.who, AT[one.at], *counts, *said, *_mcc(one))


def _times(made: Reproduction) -> _Section:
    here = (
        f"This run took {say_time(made.seconds)} on {made.machine}. What an earlier, stopped run "
        "had done is not counted."
    )
    rows = [
        (model.name, model.training or "not said", model.scoring or "not said")
        for model in made.approach.models
    ]
    note = "" if made.approach.parts == "whole" else f"All {made.approach.parts} together."
    return _Section("Time", [here], [_Sheet(("net", "training, published", "scoring"), rows, note)])


def _files(made: Reproduction) -> _Sheet:
    rows = [
        ("models/NAME/", "training of each net: recipe, history, plots, bundle, validation.csv"),
        ("store/", "clips, the same for all nets"),
        (METRICS_NAME, "every figure of this page"),
        ("plots/", "the plots, as PNG and SVG"),
        ("reproduction.json", "settings of this run"),
    ]
    of_test = []
    if made.test:
        of_test.append(("test/NAME/predictions.csv", "scores of the test part"))
    if any(one.part == "test" for one in made.calls):
        of_test.append(("calls/NAME/THRESHOLD/predictions.csv", "calls of the test part"))
    if made.find(made.final, "published", "test"):
        of_test.append(
            ("submission.csv", "the final calls at the published threshold, as the form asks")
        )
    rows[2:2] = of_test
    return _Sheet(("file", "holds"), rows)


def _curves(made: Reproduction) -> list[_Plot]:
    found = []
    for model in made.approach.models:
        folder = made.out / "models" / model.name
        for path in sorted(folder.glob("**/plots/history.svg")):
            name = path.parent.parent.relative_to(folder.parent).as_posix()
            words = f"Loss, validation metrics and learning rate by epoch, {name}"
            found.append(_Plot(words, _address(path), name))
    return found


def _address(svg: Path) -> str:
    """Give a plot that was written as a ``data:`` address."""
    content = base64.b64encode(svg.read_bytes()).decode("ascii")
    return f"data:image/svg+xml;base64,{content}"


def _compared(made: Reproduction) -> list[Called]:
    """Give the calls that have a confusion matrix, those at published thresholds first."""
    part = made.final_calls.part
    return [
        one
        for at in ("published", "chosen")
        for one in made.calls
        if (one.at, one.part) == (at, part) and one.scored is not None
    ]


def _mcc(one: Called) -> tuple[str, str]:
    """Say the MCC of calls, and its interval."""
    measured = one.metrics
    if measured is None:
        return ("no labels", "")
    found = one.intervals["mcc"]
    interval = f"{found.low:.3f} to {found.high:.3f}" if found else ""
    return (f"{measured.mcc:.3f}", interval)


def _say_sample(made: Reproduction, part: Part, scored: Scored) -> str:
    kind = "simulated recordings" if made.simulated else "recordings"
    share = percent(float(scored.labels.mean()))
    return f"the {part} part, {len(scored.labels):,} {kind}, {share} stalled"


def _say_cut(cut: float) -> str:
    """Say a threshold; four digits would make 1 of one that some scores reach."""
    return f"{cut:.4f}" if cut < 0.99995 else "above 0.9999"


def say_time(seconds: float) -> str:
    """Say a time as people do: 12 s, 3 min 20 s, 5 h 7 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
