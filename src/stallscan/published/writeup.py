"""The write-up of a reproduction: what was done and what came of it, as a page, a file and a table.

A figure of ours is of other recordings than the published one beside it. So each has its sample and
its prevalence with it, and that a run is not as published is said before any figure.
"""

import base64
import functools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from rich.table import Table
from rich.text import Text

from stallscan import files
from stallscan.published.approaches import Approach, Part
from stallscan.published.clock import Stage
from stallscan.report import figures as plots
from stallscan.scores import bootstrap, metrics
from stallscan.scores.intervals import wilson
from stallscan.scores.metrics import Interval, Metrics, Scored
from stallscan.templates import render
from stallscan.words import percent

PAGE_NAME, METRICS_NAME = "reproduction.html", "metrics.json"
# A selection loses a recording or two that gave no clip, and is none the smaller for it.
WHOLE = 0.9
VOTE = (
    "The score of a vote says how far the last net that is needed is above its own threshold: it "
    "orders recordings, and is no probability.",
)
AT = {"half": "0.5", "published": "published", "chosen": "chosen here"}


class Change(NamedTuple):
    """A setting of the recipe that is not as published."""

    setting: str
    published: str
    here: str


@dataclass(frozen=True)
class Cut:
    """The thresholds of one net.

    Attributes
    ----------
    who : str
        The net.
    decides : bool
        Whether it takes part in the final call.
    published : float
        On the sigmoid of its logit.
    as_scores : dict
        Which of our scores is the like of it (``published``), and of 0.5 (``half``); and the
        threshold that the validation part chose (``chosen``).
    """

    who: str
    decides: bool
    published: float
    as_scores: dict[str, float]


@dataclass(frozen=True)
class Called:
    """The calls of one net, or of all that decide, on one part of the recordings.

    Attributes
    ----------
    who : str
        Whose calls.
    at : str
        At which threshold: a key of `AT`.
    part : str
        ``validation`` or ``test``.
    counts : dict
        Recordings by call.
    scored : Scored or None
        Those that have a label, as they are submitted: no call counts as flowing, no score as 0.
        None where there are no labels.
    """

    who: str
    at: str
    part: Part
    counts: dict[str, int]
    scored: Scored | None

    @functools.cached_property
    def metrics(self) -> Metrics | None:
        """The figures, where there are labels."""
        return None if self.scored is None else metrics.measure(self.scored)

    @functools.cached_property
    def intervals(self) -> dict[str, Interval | None]:
        """95 % of the MCC (by bootstrap) and of the shares (Wilson), recording by recording."""
        measured = self.metrics
        if measured is None:
            return {}
        cells = measured.confusion
        right = cells.true_stalled + cells.true_flowing
        return {
            "mcc": bootstrap.mcc_interval(cells, measured.prevalence),
            "accuracy": _wilson(right, measured.count),
            "precision": _wilson(cells.true_stalled, cells.true_stalled + cells.false_stalled),
            "recall": _wilson(cells.true_stalled, cells.stalled),
        }

    def as_json(self) -> dict[str, Any]:
        """Give all but the recordings, in JSON's types."""
        said: dict[str, Any] = {
            "who": self.who,
            "at": self.at,
            "part": self.part,
            "calls": self.counts,
        }
        if self.scored is not None and (measured := self.metrics) is not None:
            said |= {
                "thresholds": list(self.scored.thresholds),
                "metrics": measured.as_json(),
                "intervals_95": {
                    name: list(found) if found else None for name, found in self.intervals.items()
                },
            }
        return said


@dataclass(frozen=True)
class Sample:
    """How many recordings there are, how many have a label, and how many of these are stalled."""

    count: int
    labelled: int
    stalled: int

    @classmethod
    def of(cls, count: int, known: pd.DataFrame | None) -> "Sample":
        """Count the labels: a row each, 0 or 1 in the column stalled; None where there are none."""
        if known is None:
            return cls(count, 0, 0)
        return cls(count, len(known), int(known["stalled"].sum()))

    def __str__(self) -> str:
        if not self.labelled:
            return f"{self.count:,}, no labels"
        share = percent(self.stalled / self.labelled)
        if self.labelled < self.count:
            return f"{self.count:,}; {self.labelled:,} have a label, {share} of these are stalled"
        return f"{self.count:,}, {share} stalled"


@dataclass(frozen=True)
class Reproduction:
    """What was done, and what came of it.

    Attributes
    ----------
    approach : Approach
        What was done again.
    data, out : Path
        The recordings, and the folder for all that was made.
    simulated : bool
        Whether the recordings are.
    machine : str
        What the last sitting ran on.
    group : str
        Column whose recordings were kept on one side of the split; empty: split by recording.
    trained_on : Sample
        With the validation part.
    test : Sample or None
        The test part, if there is one.
    changes : tuple of Change
        What is not as published.
    cuts : tuple of Cut
        Thresholds of each net.
    calls : tuple of Called
        On the test part and on the validation part.
    final : str
        Whose calls are the approach's own: at the published threshold they are the submission.
    costs : tuple
        Of each stage its name, what it took here, and what it took those who published it.
    doubts : tuple of str
        What else is to be known of the test part.
    """

    approach: Approach
    data: Path
    out: Path
    simulated: bool
    machine: str
    group: str
    trained_on: Sample
    test: Sample | None
    changes: tuple[Change, ...]
    cuts: tuple[Cut, ...]
    calls: tuple[Called, ...]
    final: str
    costs: tuple[tuple[str, Stage, str], ...]
    doubts: tuple[str, ...] = ()

    def find(self, who: str, at: str, part: Part) -> Called | None:
        """Give the calls of a net, or of `final`, if they were made."""
        return next(
            (one for one in self.calls if (one.who, one.at, one.part) == (who, at, part)), None
        )

    @property
    def final_calls(self) -> Called:
        """The approach's own calls: on the test part if there are labels, else on validation."""
        on_test = self.find(self.final, "published", "test")
        if on_test is not None and on_test.scored is not None:
            return on_test
        on_validation = self.find(self.final, "published", "validation")
        assert on_validation is not None  # every training has a validation part
        return on_validation

    @property
    def is_as_published(self) -> bool:
        """Whether all but the recordings themselves is, and they are as many."""
        return not self.changes and self.trained_on.count >= WHOLE * self.approach.count

    def as_json(self) -> dict[str, Any]:
        """Give all but the recordings, in JSON's types."""
        return {
            "approach": self.approach.name,
            "provenance": files.provenance(),
            "machine": self.machine,
            "data": str(self.data.resolve()),
            "simulated": self.simulated,
            "trained_on": asdict(self.trained_on),
            "test": asdict(self.test) if self.test else None,
            "not_as_published": [change._asdict() for change in self.changes],
            "published": [asdict(figure) for figure in self.approach.figures],
            "thresholds": [asdict(cut) for cut in self.cuts],
            "final": self.final,
            "calls": [one.as_json() for one in self.calls],
            "times": {
                name: {"seconds": stage.seconds, "sittings": stage.sittings, "published": said}
                for name, stage, said in self.costs
            },
            "notes": notes(self),
        }


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


def write(made: Reproduction) -> Path:
    """Write ``metrics.json``, the plots and ``reproduction.html`` and return the page's path.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    files.write_json(made.out / METRICS_NAME, made.as_json())
    final = made.final_calls
    figures = plots.evaluation_figures(_scored(final))
    if made.approach.combine == "vote":
        del figures["reliability"]  # the score of a vote is no probability
    folder = made.out / "plots"
    plots.save(figures, folder)
    matrices = {f"confusion-{one.who}-{one.at}": one for one in _compared(made)}
    plots.save({name: plots.confusion(_scored(one)) for name, one in matrices.items()}, folder)
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
        _Section("Time", [f"The last sitting ran on {made.machine}."], [_times(made)]),
        _Section("Files", sheets=[_files(made)]),
    ]
    page = render(
        "reproduction.html.j2",
        title=made.approach.title,
        facts=_facts(made),
        loud=_loud(made),
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
    sample = _say_sample(made, part, _scored(made.final_calls))
    table = Table(title=Text(f"{made.approach.title}\nMCC on {sample}"), title_justify="left")
    table.add_column("calls of")
    for name in AT.values():
        table.add_column(f"threshold {name}", justify="right")
    for who in dict.fromkeys(one.who for one in calls):
        found = [made.find(who, at, part) for at in AT]
        table.add_row(who, *("" if one is None else "\n".join(_mcc(one)) for one in found))
    return table


def notes(made: Reproduction) -> list[str]:
    """Say in plain words how the figures are to be read, a sentence or two each."""
    chose = (
        "The validation part chose the epoch, the calibration and the threshold 'chosen here': "
        "its figures flatter."
    )
    if made.group:
        chose += f" None of its recordings shares its {made.group} with one that was trained on."
    else:
        chose += (
            " It is parted by recording, and recordings of one project are alike: that flatters, "
            "too."
        )
    return [*_loud(made), chose, *made.doubts]


def _loud(made: Reproduction) -> list[str]:
    said = []
    if made.simulated:
        said.append(
            "Every recording here is simulated. No figure of ours says how good the approach is on "
            "real recordings."
        )
    if not made.is_as_published:
        said.append(
            "This run is not done as published: see 'What is not as published'. Do not "
            "compare its figures with the published ones: they show that every step was done, not "
            "how good the approach is."
        )
    return said


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
            here, on = _mcc(ours), _say_sample(made, figure.part, _scored(ours))
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


def _times(made: Reproduction) -> _Sheet:
    rows = [
        (name, say_time(stage.seconds), f"{stage.sittings:,}", published or "not said")
        for name, stage, published in made.costs
    ]
    note = (
        "All sittings of a stage are summed; one that was killed counts until it last wrote a file."
    )
    return _Sheet(("stage", "here", "sittings", "published"), rows, note)


def _files(made: Reproduction) -> _Sheet:
    rows = [
        ("models/NAME/", "training of each net: recipe, history, plots, bundle, validation.csv"),
        ("store/", "clips, the same for all nets"),
        (METRICS_NAME, "every figure of this page"),
        ("plots/", "the plots, as PNG and SVG"),
        ("reproduction.json, times.json", "settings of this run, and how long each stage took"),
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


def _scored(one: Called) -> Scored:
    assert one.scored is not None
    return one.scored


def _wilson(part: int, whole: int) -> Interval | None:
    if not whole:
        return None
    share = wilson(part, whole)
    return Interval(float(share.low), float(share.high))


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
