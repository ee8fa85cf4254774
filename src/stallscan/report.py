"""The report: one HTML file that stands by itself, to look at what was called and why.

It shows counts, the scores, the evaluation where labels are known, and a card per recording with
its looping clip. Nothing in it is loaded from elsewhere, so it can be mailed and archived.
"""

import base64
import datetime
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from pydantic import Field

from stallscan import __version__, evaluate, outline, plots, present, templates, video, workers
from stallscan.errors import InputError, NoOutlineError, RecordingError, SeveralOutlinesError
from stallscan.evaluate import Evaluation
from stallscan.files import make_folder, refuse_foreign, write_text
from stallscan.predictions import DECIDED, match, read_predictions, read_run
from stallscan.recording import Box, Frames, Recording
from stallscan.settings import Settings
from stallscan.video import Source

# A clip's longer side is scaled down to this; smaller ones are scaled up by the browser, because
# more pixels in the file would hold no more than is there.
CLIP_SIDE_PX = 320
# x264 at this rate keeps the dark cells apart at some 30 kB a clip.
CLIP_CRF = 28
CLIP_PRESET = "veryfast"
CLIP_KEYFRAME_INTERVAL = 60
# The longest recording of the competition (FACTS 4); longer ones are shown in every n-th frame.
CLIP_FRAMES = 434
# Several recordings are decoded side by side, so each may hold less than `video.read` allows one.
HOLD_BYTES = 192 * 2**20
MOST_THREADS = 4
POSTER_QUALITY = 70


class ReportSettings(Settings):
    """What a report shows.

    Attributes
    ----------
    max_cards : int
        At most this many recordings get a card.
    margin_px : int
        Pixels of the recording around the outline that a clip shows.
    """

    max_cards: int = Field(default=200, ge=0)
    margin_px: int = Field(default=20, ge=0)


class Written(NamedTuple):
    """What a report came to.

    Attributes
    ----------
    path : Path
        The HTML file.
    recordings, cards : int
        Rows of the table, and how many of them have a card.
    without_clip : int
        Cards whose recording could not be shown.
    """

    path: Path
    recordings: int
    cards: int
    without_clip: int


@dataclass(frozen=True)
class Clip:
    """What a card shows of its recording; `video` and `poster` are ``data:`` addresses."""

    video: str = ""
    poster: str = ""
    note: str = ""


@dataclass(frozen=True)
class Card:
    """One recording on the page; numbers are None where the table says nothing."""

    filename: str
    status: str
    call: str
    reason: str
    score: float | None
    threshold: float | None
    frames: int | None
    label: str
    wrong: str
    clip: Clip

    @property
    def distance(self) -> float | None:
        """How far the score is from the threshold."""
        if self.score is None or self.threshold is None:
            return None
        return abs(self.score - self.threshold)


def write(
    predictions: str | Path,
    out: str | Path,
    *,
    labels: str | Path | None = None,
    recordings: Sequence[str | Path] | None = None,
    settings: ReportSettings | None = None,
    note: str | None = None,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Written:
    """Write the report of a run of predictions.

    Parameters
    ----------
    predictions : str or Path
        ``predictions.csv``; ``run.json`` beside it says where the recordings are.
    out : str or Path
        The HTML file to write, in one atomic step.
    labels : str or Path, optional
        Table with filename and stalled; adds the evaluation, and the label to each card.
    recordings : sequence of str or Path, optional
        Files and folders with the recordings, where they have moved since the run.
    settings : ReportSettings, optional
        What is shown.
    note : str, optional
        A sentence shown at the top of the page.
    progress : callable
        Called with how many cards are done, of how many.

    Raises
    ------
    InputError
        If a table is missing or has no rows, ``run.json`` is broken, the labels fit no prediction,
        `recordings` do not exist, or `out` cannot be written.
    TableError
        If a table lacks a column or has wrong rows.
    """
    predictions, settings = Path(predictions), settings or ReportSettings()
    make_folder(Path(out).parent)
    refuse_foreign(out, ["<title>stallscan report: "], "a report of stallscan")
    evaluation = None
    if labels is not None:
        # What has no label yet is shown, too: it is the one to look at.
        evaluation = evaluate.evaluate(predictions, labels, partial=True)
    table = evaluation.table if evaluation else read_predictions(predictions)
    run = read_run(predictions)
    chosen = choose(table, settings.max_cards)
    found = _find_recordings(table["filename"], run, recordings)
    paths = [found.get(filename) for filename in chosen["filename"]]
    clips = _make_clips(paths, settings, progress)
    cards = [_card(row, clip) for row, clip in zip(chosen.to_dict("records"), clips, strict=True)]
    page = templates.render(
        "report.html.j2",
        note=note,
        head=_head(predictions, table, run),
        counts=_counts(table),
        plots=_plots(table, evaluation),
        evaluation=evaluation,
        figures=present.figures(evaluation) if evaluation else [],
        cards=cards,
        recordings=len(table),
        moved=sum(path is None for path in paths),
        version=__version__,
    )
    write_text(out, page)
    return Written(Path(out), len(table), len(cards), sum(not card.clip.video for card in cards))


def choose(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """Take the rows most worth looking at, in that order.

    First wrong calls (where labels are known) from the farthest off, then those called stalled
    from the highest score, then those without a call, then those nearest the threshold.

    Parameters
    ----------
    table : DataFrame
        As `predictions.read_predictions` or `evaluate.join` give it.
    most : int
        How many rows to take at most.
    """
    distance = (table["score"] - table["threshold"]).abs()
    groups = (
        (_wrong(table), -distance),
        (table["call"] == "stalled", -table["score"]),
        (~table["call"].isin(DECIDED), pd.Series(0.0, table.index)),
        (pd.Series(True, table.index), distance),
    )
    conditions = [np.asarray(condition, dtype=bool) for condition, _ in groups]
    rank = np.argmax(conditions, axis=0)
    within = np.select(conditions, [np.asarray(key, dtype=float) for _, key in groups])
    return table.iloc[np.lexsort((within, rank))[:most]]


def make_clip(path: Path, margin_px: int) -> Clip:
    """Encode what a card shows: the outlined region, or the whole field without one outline.

    Parameters
    ----------
    path : Path
        The recording.
    margin_px : int
        Pixels to show around the outline.

    Returns
    -------
    Clip
        Without a video, but with the reason, if the recording cannot be read.
    """
    try:
        recording = video.read(path, hold_bytes=HOLD_BYTES)
        box, note = _region(recording, margin_px)
        step = math.ceil(len(recording) / CLIP_FRAMES)
        frames = list(_crop(recording, box, step))
    except RecordingError as error:
        return Clip(note=_without_path(str(error), path.name))
    if step > 1:
        note = f"{note} One frame in {step} is shown.".strip()
    return Clip(_as_video(frames), _as_poster(frames[len(frames) // 2]), note)


def _region(recording: Recording, margin_px: int) -> tuple[Box, str]:
    height, width = recording.shape[1:3]
    try:
        box = outline.find(recording).box
    except (NoOutlineError, SeveralOutlinesError):
        return Box(0, height, 0, width), "The whole field is shown."
    return box.grown(margin_px, (height, width)), ""


def _crop(recording: Recording, box: Box, step: int) -> Iterator[Frames]:
    """Yield every `step`-th frame, cropped, at most `CLIP_SIDE_PX` long, with even sides."""
    height, width = box.row1 - box.row0, box.col1 - box.col0
    scale = min(1.0, CLIP_SIDE_PX / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    position = 0
    for chunk in recording.chunks(box):
        for frame in chunk[-position % step :: step]:
            small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame
            odd = [(0, side % 2) for side in small.shape[:2]] + [(0, 0)] * (small.ndim - 2)
            yield np.asarray(np.pad(small, odd, mode="edge"), dtype=np.uint8)
        position += len(chunk)


def _as_video(frames: list[Frames]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        video.write(
            path,
            frames,
            crf=CLIP_CRF,
            keyframe_interval=CLIP_KEYFRAME_INTERVAL,
            preset=CLIP_PRESET,
        )
        return _data_uri("video/mp4", path.read_bytes())


def _as_poster(frame: Frames) -> str:
    bgr = frame[..., ::-1] if frame.ndim == 3 else frame
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, POSTER_QUALITY])
    return _data_uri("image/jpeg", encoded.tobytes())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(content).decode("ascii")


def _make_clips(
    paths: Sequence[Path | None],
    settings: ReportSettings,
    progress: Callable[[int, int], None],
) -> list[Clip]:
    """Make the clips in the order of `paths`; an unknown path gives an empty one."""
    clips = [Clip(note="The recording was not found.")] * len(paths)
    known = [index for index, path in enumerate(paths) if path is not None]
    progress(0, len(known))
    # Threads suffice: decoding and encoding leave the interpreter free.
    with ThreadPoolExecutor(min(workers.cores(), MOST_THREADS)) as pool:
        jobs: dict[Future[Clip], int] = {
            pool.submit(make_clip, path, settings.margin_px): index
            for index in known
            if (path := paths[index]) is not None
        }
        for done, job in enumerate(as_completed(jobs), start=1):
            clips[jobs[job]] = job.result()
            progress(done, len(known))
    return clips


def _find_recordings(
    filenames: "pd.Series[str]", run: dict[str, Any], recordings: Sequence[str | Path] | None
) -> dict[str, Path]:
    """Find where the recordings are now, by their filename in the table."""
    sources = _list_of_run(run) if recordings is None else video.list_recordings(recordings)
    if not sources:
        return {}
    paths = {source.filename: source.path for source in sources}
    partners = match(filenames, pd.Series(list(paths), dtype=filenames.dtype))
    pairs = zip(filenames, partners, strict=True)
    return {filename: paths[partner] for filename, partner in pairs if partner in paths}


def _list_of_run(run: dict[str, Any]) -> list[Source]:
    """List what is still where it was scored; that all of it has moved is no error."""
    given = run.get("paths")
    paths = [path for path in given if isinstance(path, str)] if isinstance(given, list) else []
    try:
        return video.list_recordings([path for path in paths if Path(path).exists()])
    except InputError:
        return []


def _wrong(table: pd.DataFrame) -> "pd.Series[bool]":
    if "stalled" not in table:
        return pd.Series(False, table.index)
    called = table["call"].map({"flowing": 0.0, "stalled": 1.0})
    return called.notna() & table["stalled"].notna() & (called != table["stalled"])


def _card(row: dict[Any, Any], clip: Clip) -> Card:
    label = {0.0: "flowing", 1.0: "stalled"}.get(row.get("stalled", math.nan), "")
    is_wrong = label != "" and row["call"] in DECIDED and row["call"] != label
    words = {"stalled": "missed stall", "flowing": "false alarm"}
    frames = _known(row["frames"])
    return Card(
        filename=row["filename"],
        status=row["status"],
        call=row["call"],
        reason=_without_path(row["reason"], row["filename"]),
        score=_known(row["score"]),
        threshold=_known(row["threshold"]),
        frames=None if frames is None else int(frames),
        label=label,
        wrong=words[label] if is_wrong else "",
        clip=clip,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _without_path(reason: str, filename: str) -> str:
    """Drop the path a sentence begins with: the card says already whose it is."""
    path, colon, rest = reason.partition(": ")
    name = filename.rsplit("/", maxsplit=1)[-1]
    return rest[:1].upper() + rest[1:] if colon and path.endswith(name) else reason


def _head(predictions: Path, table: pd.DataFrame, run: dict[str, Any]) -> dict[str, str]:
    """Collect what the page says about the run, by name."""
    thresholds = sorted(set(table["threshold"].dropna()))
    head = {
        "Table": predictions.name,
        "Bundle": ", ".join(sorted(set(table["bundle"]) - {""})) or "not said",
        "Threshold": ", ".join(f"{value:.3g}" for value in thresholds) or "not said",
    }
    if run.get("simulated_training"):
        head["Trained on"] = "simulated recordings only"
    for name, key in (("Started", "started"), ("Finished", "finished")):
        if isinstance(run.get(key), str):
            head[name] = _moment(run[key])
    expected = run.get("recordings")
    if isinstance(expected, int) and expected > len(table):
        head["Not finished"] = f"{len(table):,} of {expected:,} recordings have been scored so far"
    head["Report written"] = _moment(datetime.datetime.now(datetime.UTC).isoformat())
    return head


def _moment(text: str) -> str:
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


def _plots(table: pd.DataFrame, evaluation: Evaluation | None) -> dict[str, str]:
    """Words and ``data:`` address of each plot."""
    if evaluation:
        return plots.as_images(plots.evaluation_figures(evaluation.scored, evaluation.curve))
    scores = table["score"].dropna().to_numpy(float)
    if not scores.size:
        return {}
    thresholds = sorted(set(table["threshold"].dropna()))
    return plots.as_images({"scores": plots.score_histogram(scores, thresholds)})
