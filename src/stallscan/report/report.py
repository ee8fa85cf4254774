"""The report: one self-contained HTML page that shows the calls and the recordings behind them.

It shows counts, a histogram of the scores, an evaluation if there are labels, and a card with a
looping clip for each recording. It loads nothing from elsewhere, so it can be mailed and archived.
"""

import base64
import contextlib
import datetime
import functools
import math
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from pydantic import Field

from stallscan import __version__, files, templates
from stallscan.calls import corrections
from stallscan.calls.corrections import Corrected
from stallscan.calls.predictions import (
    DECIDED,
    SIMULATED,
    is_simulated,
    read_predictions,
    read_run,
)
from stallscan.errors import InputError
from stallscan.evaluation import present
from stallscan.evaluation.evaluate import Evaluation
from stallscan.report import cards, figures, methods
from stallscan.report.cards import Clip
from stallscan.report.sources import Found, find_sources
from stallscan.report.stored import Shown
from stallscan.settings import Settings
from stallscan.words import without_path


class ReportSettings(Settings):
    """Settings of a report."""

    max_cards: int = Field(default=200, ge=0)
    margin_px: int = Field(default=20, ge=0)  # pixels to show around the outline


class Written(NamedTuple):
    """Summary of a report."""

    path: Path
    recordings: int  # rows of the table
    cards: int
    without_clip: int  # cards without a clip, including `moved`
    moved: int  # cards without a clip because neither recording nor prepared clip was found
    review: str = ""  # what was answered in a review, in words

    def __str__(self) -> str:
        text = f"{self.cards:,} of {self.recordings:,} recordings have a card"
        if self.review:
            text = f"{self.review}; {text}"
        if not self.without_clip:
            return text
        reasons = []
        if self.moved:
            reasons.append(f"{self.moved:,} not found: give their folder with --recordings")
        if unreadable := self.without_clip - self.moved:
            reasons.append(f"{unreadable:,} cannot be shown: see their cards")
        return f"{text}, {self.without_clip:,} of them without a clip ({'; '.join(reasons)})"


@dataclass(frozen=True)
class Card:
    """One recording on the page. Numbers are None where the table has no value."""

    filename: str
    status: str
    call: str
    reason: str
    score: float | None
    threshold: float | None
    frames: int | None
    label: str
    outcome: str  # of the model's own call: wrong, right, or unlabelled (no label or call)
    wrong: str  # the kind of wrong call; empty if it is not wrong
    review: str  # what a review said of the call; empty if it was not answered
    has_clip: bool
    has_evidence: bool
    has_looked: bool
    note: str

    @property
    def distance(self) -> float | None:
        """Distance of the score from the threshold."""
        if self.score is None or self.threshold is None:
            return None
        return abs(self.score - self.threshold)


def write_report(
    predictions: str | Path,
    out: str | Path,
    *,
    evaluation: Evaluation | None = None,
    recordings: Sequence[str | Path] | None = None,
    answers: Mapping[str, str] | None = None,
    settings: ReportSettings | None = None,
    note: str | None = None,
    look: Callable[[Path], bytes] | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Written:
    """Write the report of a prediction run.

    Parameters
    ----------
    predictions : str or Path
        ``predictions.csv``. ``run.json`` in the same folder lists the paths of the recordings.
    out : str or Path
        The HTML file to write.
    evaluation : Evaluation, optional
        An evaluation of these predictions. The page then shows its metrics and the labels.
    recordings : sequence of str or Path, optional
        Files and folders with the recordings, or a store of their clips, if they have moved since
        the run. Filenames in the table are only looked up among these and never opened directly.
        For recordings that are not found, the clip of the store is shown.
    answers : mapping, optional
        What people answered, as in `corrections.apply`. The page shows the corrected calls, except
        in comparisons with labels.
    note : str, optional
        A sentence shown at the top of the page.
    look : callable, optional
        Returns the WebP file of where the net looked in a recording, empty where that is unknown.
    processes : int, optional
        As in `cards.make_clips`.
    progress : callable
        Called with the number of finished cards and the total.

    Raises
    ------
    InputError
        If the table is missing or has no rows, ``run.json`` is broken, `recordings` do not exist,
        or `out` cannot be written.
    TableError
        If the table lacks a column or has wrong rows.
    """
    out, settings = Path(out), settings or ReportSettings()
    # Check the output first, because making the clips may take minutes.
    _check_output(out)
    content = _Content.read(Path(predictions), evaluation, answers or {}, note)
    make = functools.partial(_make_clips, settings=settings, processes=processes, progress=progress)
    chosen = choose(content.table, settings.max_cards)
    return _write(out, content, chosen, content.find(recordings), make, look)


@dataclass(frozen=True)
class _Content:
    """What a report is made from, besides the recordings."""

    predictions: Path
    corrected: Corrected
    run: dict[str, Any]
    evaluation: Evaluation | None
    note: str | None

    @classmethod
    def read(
        cls,
        predictions: Path,
        evaluation: Evaluation | None,
        answers: Mapping[str, str],
        note: str | None,
    ) -> "_Content":
        table = evaluation.table if evaluation else read_predictions(predictions)
        corrected = corrections.apply(table, answers)
        return cls(predictions, corrected, read_run(predictions), evaluation, note)

    @property
    def table(self) -> pd.DataFrame:
        return self.corrected.table

    @property
    def review(self) -> str:
        return str(self.corrected) if self.corrected.answered else ""

    def find(self, recordings: Sequence[str | Path] | None) -> Found:
        return find_sources(self.table["filename"], self.run, recordings, self.predictions)

    def render(self, shown: Sequence[Card], media: Iterable[str], moved: int) -> Iterator[str]:
        head = _head(self.predictions, self.table, self.run)
        return templates.stream(
            "report.html.j2",
            note=self.note or _warning(self.run),
            head=head | ({"Review": self.review} if self.review else {}),
            counts=_counts(self.table),
            plots=_plots(self.table, self.evaluation),
            evaluation=self.evaluation,
            figures=present.figures(self.evaluation) if self.evaluation else [],
            methods=methods.describe(self.corrected, self.run, self.evaluation),
            cards=shown,
            media=map(Markup, media),
            recordings=len(self.table),
            moved=moved,
            version=__version__,
        )


def _check_output(out: Path) -> None:
    if out.is_dir():
        raise InputError(f"{out}: is a folder. Name the HTML file in it: -o {out / 'report.html'}")
    files.make_folder(out.parent)
    files.refuse_foreign(out, ["<title>stallscan report: "], "a stallscan report")


def _write(
    out: Path,
    content: _Content,
    chosen: pd.DataFrame,
    found: Found,
    make: Callable[[Sequence[Shown | None], str], Generator[Clip, None, None]],
    look: Callable[[Path], bytes] | None,
) -> Written:
    items = [found.shown(name) for name in chosen["filename"]]
    shown: list[Card] = []
    # The clips wait on disk, because the page begins with what is known when all have been made.
    # Writing them fails again when the file is closed on a full disk, hence the outer context.
    with (
        files.writing(out),
        tempfile.TemporaryFile("w+", dir=out.parent, encoding="ascii") as media,
        contextlib.closing(make(items, found.absent)) as clips,
    ):
        for row, clip in zip(chosen.to_dict("records"), clips, strict=True):
            # Only what was decoded before: this runs in our own process.
            if look is not None and clip.video and (path := found.paths.get(row["filename"])):
                clip = replace(clip, looked=look(path))
            media.write(_as_line(clip, len(shown)))
            shown.append(_card(row, clip))
        media.seek(0)
        moved = 0 if found.is_stack else items.count(None)
        files.write_text(out, content.render(shown, media, moved))
    without_clip = sum(not card.has_clip for card in shown)
    return Written(out, len(content.table), len(shown), without_clip, moved, content.review)


def _as_line(clip: Clip, number: int) -> str:
    """Return the element that holds the files of a clip, as the page's script reads them."""
    parts = (clip.poster, clip.evidence, clip.looked, clip.video)
    words = (base64.b64encode(part).decode() for part in parts)
    return f'<script type="text/plain" id="m{number}">{" ".join(words)}</script>\n'


def choose(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the rows most worth checking, at most `most`, in the order of the cards.

    1. wrong calls (if there are labels), farthest from the threshold first;
    2. recordings called stalled, highest score first;
    3. recordings without a call;
    4. all others, closest to the threshold first.

    `table` comes from `corrections.apply`, with labels also from `rows.join`.
    """
    distance = (table["score"] - table["threshold"]).abs()
    # Each group of rows with its sort key, smallest first.
    groups = (
        (_is_wrong(table), -distance),
        (table["call"] == "stalled", -table["score"]),
        (~table["call"].isin(DECIDED), pd.Series(0.0, table.index)),
        (pd.Series(True, table.index), distance),
    )
    conditions = [np.asarray(condition, dtype=bool) for condition, _ in groups]  # 4 x (N,)
    group = np.argmax(conditions, axis=0)  # (N,), 0 to 3: the first group that a row belongs to
    key = np.select(conditions, [np.asarray(key, dtype=float) for _, key in groups])  # (N,)
    return table.iloc[np.lexsort((key, group))[:most]]  # the last key is the primary one


def _make_clips(
    items: Sequence[Shown | None],
    absent: str,
    settings: ReportSettings,
    processes: int | None,
    progress: Callable[[int, int], None],
) -> Generator[Clip, None, None]:
    """Yield a clip for each item; None gives an empty one with the note `absent`."""
    existing = [item for item in items if item is not None]
    missing = Clip(note=absent)
    made = cards.make_clips(existing, settings.margin_px, processes, progress)
    with contextlib.closing(made) as clips:
        for item in items:
            yield missing if item is None else next(clips)
        # The generator reports the progress of its last clip after it.
        next(clips, None)


def _is_wrong(table: pd.DataFrame) -> "pd.Series[bool]":
    """Return for each row whether its call contradicts its label."""
    if "stalled" not in table:
        return pd.Series(False, table.index)
    # The model's own calls, as in the evaluation.
    called = table["called"].map({"flowing": 0.0, "stalled": 1.0})
    return called.notna() & table["stalled"].notna() & (called != table["stalled"])


def _card(row: dict[Any, Any], clip: Clip) -> Card:
    label = {0.0: "flowing", 1.0: "stalled"}.get(row.get("stalled", math.nan), "")
    called = row["called"]
    # As the evaluation, the outcome is that of the model's own call.
    outcome = "unlabelled"
    if label and called in DECIDED:
        outcome = "right" if called == label else "wrong"
    mistakes = {"stalled": "missed stall", "flowing": "false alarm"}
    frames = _none_if_nan(row["frames"])
    return Card(
        filename=row["filename"],
        status=row["status"],
        call=row["call"],
        reason=without_path(row["reason"], row["filename"]),
        score=_none_if_nan(row["score"]),
        threshold=_none_if_nan(row["threshold"]),
        frames=None if frames is None else int(frames),
        label=label,
        outcome=outcome,
        wrong=mistakes[label] if outcome == "wrong" else "",
        review=corrections.verdict(called, row["answer"]),
        has_clip=bool(clip.video),
        has_evidence=bool(clip.evidence),
        has_looked=bool(clip.looked),
        note=clip.note,
    )


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value


def _head(predictions: Path, table: pd.DataFrame, run: dict[str, Any]) -> dict[str, str]:
    """Return the facts about the run, by name, for the header of the page."""
    thresholds = sorted(set(table["threshold"].dropna()))
    head = {
        "Table": predictions.name,
        "Bundle": ", ".join(sorted(set(table["bundle"]) - {""})) or "unknown",
        "Threshold": ", ".join(f"{value:.3g}" for value in thresholds) or "unknown",
    }
    if (low := run.get("decision", {}).get("low")) is not None:
        head["Threshold"] += f", flowing below {low:.3g}"
    if regions := methods.name_regions(run):
        head["Stack"] = regions
    if is_simulated(run):
        head["Trained on"] = "simulated recordings only"
    for name, key in (("Started", "started"), ("Finished", "finished")):
        if isinstance(run.get(key), str):
            head[name] = _format_time(run[key])
    expected = run.get("recordings")
    if isinstance(expected, int) and expected > len(table):
        head["Not finished"] = f"{len(table):,} of {expected:,} recordings scored so far"
    head["Report written"] = _format_time(datetime.datetime.now(datetime.UTC).isoformat())
    return head


def _warning(run: dict[str, Any]) -> str | None:
    """Return the sentence at the top of the page if the calls are of unknown worth."""
    if not is_simulated(run):
        return None
    return (
        f"{SIMULATED}. How many of these calls are right is unknown unless labels on this page say "
        "so: check some of them yourself."
    )


def _format_time(text: str) -> str:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return text
    return moment.strftime("%Y-%m-%d %H:%M") + (" UTC" if not moment.utcoffset() else " %z")


def _counts(table: pd.DataFrame) -> dict[str, dict[str, int]]:
    calls = table["call"].value_counts()
    expected = ("stalled", "flowing", "unscorable")
    others = [call for call in calls.index if call not in expected]
    return {
        "call": {call: int(calls.get(call, 0)) for call in (*expected, *others)},
        "status": {str(name): int(n) for name, n in table["status"].value_counts().items()},
    }


def _plots(table: pd.DataFrame, evaluation: Evaluation | None) -> list[Markup]:
    if evaluation:
        drawn = figures.evaluation_figures(evaluation.scored, evaluation.curve, evaluation.metrics)
        return figures.as_inline(drawn)
    # As in the counts, a recording that got no call has no score to rely on.
    scores = table["score"][table["called"] != "unscorable"].dropna().to_numpy(float)
    if not scores.size:
        return []
    thresholds = sorted(set(table["threshold"].dropna()))
    return figures.as_inline({"scores": figures.score_histogram(scores, thresholds)})
