"""A folder of fetched recordings, or only of their clips, in the competition's form.

The folder is what `train`, `reproduce` and `predict` take: tables with the selected rows
(docs/facts.md 4), and the recordings in ``train/`` or ``test/``, or their clips in ``store/``.
"""

import contextlib
import math
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stallscan import files, runs, workers
from stallscan.catalog import select, tables
from stallscan.clips import fill, prepare
from stallscan.clips.prepare import Prepared, Preprocessing
from stallscan.clips.store import MANIFEST_NAME, TRY_AGAIN, Store
from stallscan.errors import InputError, UnreadableError
from stallscan.recordings import fetch
from stallscan.recordings.bucket import SIMULATED_BUCKET, FetchSettings
from stallscan.recordings.fetch import Outcome, Survey, Wanted
from stallscan.recordings.find import Source
from stallscan.words import say_time

NOTE_NAME, FETCHED_NAME, FAILED_NAME = "fetch.json", "fetched.csv", "failed.csv"
STORE_NAME = "store"
KIND = "a fetch"
# If one of these exists without the note, the folder is not from a fetch.
OUTPUTS = ("train_metadata.csv", "train_labels.csv", "test_metadata.csv", "train", "test", "store")
COLUMNS = ("split", "filename", "status", "reason", "bytes", "checked")
# Recordings fetched together before their clips are cut: enough to make the start of the processes
# cheap. On disk are at most three batches, 2 GB.
BATCH = 256
BATCHES_ON_DISK = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Selected:
    """The recordings to fetch.

    Attributes
    ----------
    split : str
        ``train`` or ``test``.
    table : DataFrame
        Rows of the metadata, sorted by filename; with the column ``stalled`` if there are labels.
    rule, seed
        How they were selected.
    """

    split: str
    table: pd.DataFrame
    rule: str
    seed: int

    @classmethod
    def read(
        cls, metadata: Path, labels: Path | None = None, rule: str = "all", seed: int = 0
    ) -> "Selected":
        """Read the competition's tables, and select recordings by a rule, as `select.select`.

        Raises
        ------
        SettingsError, TableError, InputError
            As `select.select_to_file`. InputError also if the rule needs labels and there are
            none, the recordings are simulated, or a name or url cannot be fetched.
        """
        table = tables.read_metadata(metadata, needed=("url", "num_frames"))
        split = "train" if "project_id" in table else "test"
        if labels is not None:
            if split == "test":
                raise InputError(
                    f"{metadata}: these are the metadata of a test set, which has no labels. Leave "
                    "out --labels"
                )
            table = select.join_labels(table, tables.read_labels(labels))
        elif rule in select.RULES and "stalled" in select.RULES[rule].needs:
            raise InputError(
                f"rule {rule} selects by label. Add the labels: --labels train_labels.csv"
            )
        table = select.select(table, rule, seed)
        if table.empty:
            raise InputError(
                f"{metadata}: rule {rule} selects no recordings. Choose another --rule"
            )
        if table["url"].str.startswith(SIMULATED_BUCKET).all():
            raise InputError(
                f"{metadata}: this is the table of a simulated corpus, which is in no bucket. Use "
                f"its folder as it is: stallscan train RECIPE --data {metadata.parent} -o RUN"
            )
        selected = cls(split, table, rule, seed)
        fetch.check(selected.wanted)
        return selected

    def __str__(self) -> str:
        stalled = f", {self.table['stalled'].sum():,} stalled" if "stalled" in self.table else ""
        return f"{len(self.table):,} recordings selected{stalled} (rule {self.rule})"

    @property
    def wanted(self) -> list[Wanted]:
        """The recordings, with their urls."""
        pairs = zip(self.table["filename"], self.table["url"], strict=True)
        return [Wanted(filename, url) for filename, url in pairs]

    def write(self, out: Path) -> None:
        """Write the tables into a folder, in the competition's form."""
        metadata = self.table.drop(columns="stalled", errors="ignore")
        tables.write_table(metadata, out / f"{self.split}_metadata.csv")
        if "stalled" in self.table:
            labels = self.table[list(tables.LABEL_COLUMNS)]
            tables.write_table(labels, out / f"{self.split}_labels.csv")

    def clip_bytes(self, view: Preprocessing) -> float:
        """Return the size of the clips, from the numbers of frames in the metadata."""
        frames = view.clip.frames * len(self.table) or self.table["num_frames"].sum()
        return float(frames) * view.clip.size**2 * view.clip.channel_count


@dataclass(frozen=True)
class Preview:
    """What a fetch will do."""

    survey: Survey
    needed_bytes: float  # free disk that it takes; NaN if unknown
    free_bytes: int

    def __str__(self) -> str:
        survey = self.survey
        is_sample = survey.measured < survey.recordings
        sizes = f"from the mean of {survey.measured}" if is_sample else "the sum of all sizes"
        lines = [
            f"{survey.recordings:,} recordings to fetch",
            f"bytes: {_say_bytes(survey.bytes)} ({sizes})",
            f"disk: {self._space()}",
        ]
        if not math.isnan(survey.bytes_s):
            time_s = survey.bytes / survey.bytes_s
            rate = f"{survey.bytes_s / 1e6:.3g} MB/s"
            lines.append(f"time: {say_time(time_s)} to download, at {rate} (measured or limited)")
        return "\n".join(lines)

    def _space(self) -> str:
        return f"{_say_bytes(self.needed_bytes)} needed, {_say_bytes(self.free_bytes)} free"

    def check(self, out: Path) -> None:
        """Raise InputError if the disk has too little space."""
        if self.needed_bytes > self.free_bytes:
            raise InputError(
                f"{out}: the disk has too little space ({self._space()}). Free some, choose "
                "another folder with -o, or fewer recordings with --rule"
            )


@dataclass(frozen=True)
class Summary:
    """The result of `fetch_videos` or `fetch_clips`."""

    out: Path
    selected: int
    outcomes: tuple[Outcome, ...]  # of this run
    seconds: float

    @property
    def failed(self) -> int:
        """Number of recordings that could not be had."""
        return sum(outcome.status == "failed" for outcome in self.outcomes)

    @property
    def main_reason(self) -> str:
        """The most common reason of failures; empty if there are none."""
        reasons = [outcome.reason for outcome in self.outcomes if outcome.status == "failed"]
        return statistics.mode(reasons) if reasons else ""

    def __str__(self) -> str:
        new = [outcome for outcome in self.outcomes if outcome.status == "fetched"]
        md5 = sum(outcome.checked == "md5" for outcome in new)
        size = sum(outcome.bytes for outcome in new)
        kept = self.selected - len(self.outcomes)
        return (
            f"{self.selected:,} recordings: {len(new):,} fetched, {kept:,} kept, {self.failed:,} "
            f"failed; {_say_bytes(size)} in {say_time(self.seconds)}; checked by MD5: {md5:,}, by "
            f"size: {len(new) - md5:,} -> {self.out}"
        )


def preview(
    selected: Selected,
    out: Path,
    settings: FetchSettings,
    view: Preprocessing | None = None,
) -> Preview:
    """Count what is missing, ask for sizes, and measure the rate. Nothing is written.

    Raises
    ------
    InputError
        If the server cannot be reached.
    """
    if view is None:
        todo = _missing_videos(selected, out)
    else:
        stored = _stored(out)
        todo = [item for item in selected.wanted if item.filename not in stored]
    return _preview(selected, todo, out, settings, view, measure_rate=True)


def _preview(
    selected: Selected,
    todo: Sequence[Wanted],
    out: Path,
    settings: FetchSettings,
    view: Preprocessing | None,
    measure_rate: bool = False,
) -> Preview:
    survey = fetch.survey(todo, settings, measure_rate)
    needed = survey.bytes
    if view is not None and todo:
        clips = selected.clip_bytes(view) * len(todo) / len(selected.table)
        needed = clips + needed * min(1, BATCHES_ON_DISK * BATCH / len(todo))
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    return Preview(survey, needed, shutil.disk_usage(existing).free)


def fetch_videos(
    selected: Selected,
    out: Path,
    settings: FetchSettings,
    progress: Progress = lambda _done, _of: None,
) -> Summary:
    """Fetch recordings into ``train/`` or ``test/`` of a folder; tables are written at the end.

    Existing recordings are kept. ``fetched.csv`` has a row with the status of each recording, and
    ``failed.csv``, if there are any, those that could not be had.

    Raises
    ------
    InputError
        If the folder is not from a fetch, cannot be written, has too little space, or another
        process writes into it; or if the server cannot be reached.
    """
    with runs.hold(out):
        _claim(selected, out, None)
        todo = _missing_videos(selected, out)
        _preview(selected, todo, out, settings, None).check(out)
        started = time.monotonic()
        outcomes = fetch.fetch(todo, out / selected.split, settings, progress)
        summary = Summary(out, len(selected.table), tuple(outcomes), time.monotonic() - started)
        _write_outcomes(selected, out, outcomes)
        selected.write(out)
        return summary


def fetch_clips(
    selected: Selected,
    out: Path,
    settings: FetchSettings,
    view: Preprocessing,
    processes: int | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Summary:
    """Fetch recordings in batches, and keep only their clips, in ``store/`` of a folder.

    The next batch is fetched while the clips of one are cut. Clips in the store are kept.

    Parameters
    ----------
    view : Preprocessing
        The settings of the clips.
    processes : int, optional
        Number of decoding processes; one per core by default.

    Raises
    ------
    InputError, StoreError
        As `fetch_videos` and `fill.fill`.
    """
    workers.count(processes)
    with runs.hold(out):
        _claim(selected, out, view)
        folder = out / selected.split
        outcomes: list[Outcome] = []

        def make(todo: Sequence[Source]) -> Iterator[Prepared]:
            names = {source.filename for source in todo}
            wanted = [item for item in selected.wanted if item.filename in names]
            _preview(selected, wanted, out, settings, view).check(out)
            yield from _cut(wanted, folder, settings, view, processes, outcomes)

        started = time.monotonic()
        sources = [Source(item.filename, folder / item.filename) for item in selected.wanted]
        fill.fill(out / STORE_NAME, sources, make, *view, progress)
        _remove_videos(selected.wanted, folder)
        _write_failures(out, _as_table(selected.split, outcomes))
        selected.write(out)
        seconds = time.monotonic() - started
        return Summary(out, len(selected.table), tuple(outcomes), seconds)


def _cut(
    wanted: Sequence[Wanted],
    folder: Path,
    settings: FetchSettings,
    view: Preprocessing,
    processes: int | None,
    outcomes: list[Outcome],
) -> Iterator[Prepared]:
    """Yield the clips of recordings, in order; add to `outcomes` what was fetched."""
    batches = [wanted[start : start + BATCH] for start in range(0, len(wanted), BATCH)]
    stop = threading.Event()

    def get(batch: Sequence[Wanted]) -> list[Outcome]:
        return fetch.fetch(fetch.pending(batch, folder), folder, settings, stop=stop)

    with ThreadPoolExecutor(1) as thread:
        try:
            coming = [thread.submit(get, batch) for batch in batches[:1]]
            for number, batch in enumerate(batches):
                fetched = coming.pop().result()
                coming += [thread.submit(get, later) for later in batches[number + 1 : number + 2]]
                outcomes += fetched
                yield from _cut_batch(batch, folder, fetched, view, processes)
                # The clips of the batch before are in the store by now: a shard has fewer
                # recordings than a batch.
                for item in batches[number - 1] if number else ():
                    (folder / item.filename).unlink(missing_ok=True)
        finally:
            stop.set()


def _cut_batch(
    batch: Sequence[Wanted],
    folder: Path,
    fetched: Sequence[Outcome],
    view: Preprocessing,
    processes: int | None,
) -> Iterator[Prepared]:
    failed = {outcome.filename: outcome for outcome in fetched if outcome.status == "failed"}
    sources = [Source(item.filename, folder / item.filename) for item in batch]
    cut = prepare.many([each for each in sources if each.filename not in failed], [view], processes)
    for item, source in zip(batch, sources, strict=True):
        if item.filename in failed:
            reason = f"{item.url}: could not be fetched: {failed[item.filename].reason}"
            yield Prepared(source, UnreadableError.status, f"{reason}. Fetch it again")
        else:
            yield next(cut)


def _claim(selected: Selected, out: Path, view: Preprocessing | None) -> None:
    """Record in the folder what is fetched; refuse a folder with something else."""
    clips = view and {
        "split": selected.split,
        "outline": view.outline.model_dump(mode="json"),
        "clip": view.clip.model_dump(mode="json"),
    }
    note = out / NOTE_NAME
    before = runs.read_note(note, KIND) or {}
    now = {"format": 1, "clips": clips, "splits": before.get("splits", {})}
    runs.claim(note, now, KIND, OUTPUTS)
    # A folder may get the other split, too, and more recordings by another rule.
    made_by = {"rule": selected.rule, "seed": selected.seed, **files.provenance()}
    now["splits"] = {**now["splits"], selected.split: made_by}
    files.write_json(note, now)


def _remove_videos(wanted: Sequence[Wanted], folder: Path) -> None:
    """Remove what is left of the last batches, also of a run that was killed."""
    if folder.is_dir():
        for item in wanted:
            (folder / item.filename).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it has files of others
            folder.rmdir()


def _missing_videos(selected: Selected, out: Path) -> list[Wanted]:
    before = _read_outcomes(out)
    before = before[(before["split"] == selected.split) & (before["status"] == "fetched")]
    sizes = dict(zip(before["filename"], before["bytes"].astype(int), strict=True))
    return fetch.pending(selected.wanted, out / selected.split, sizes)


def _stored(out: Path) -> set[str]:
    """Return the recordings in the store of a folder that need not be fetched again."""
    if not (out / STORE_NAME / MANIFEST_NAME).is_file():
        return set()
    rows = Store(out / STORE_NAME).rows()
    return {row.filename for row in rows if row.status != TRY_AGAIN}


def _read_outcomes(out: Path) -> pd.DataFrame:
    path = out / FETCHED_NAME
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS))
    try:
        return pd.read_csv(path, dtype={"filename": str}, keep_default_na=False)[list(COLUMNS)]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Remove it") from None


def _as_table(split: str, outcomes: Sequence[Outcome]) -> pd.DataFrame:
    rows = [(split, *outcome[: len(COLUMNS) - 1]) for outcome in outcomes]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _write_outcomes(selected: Selected, out: Path, outcomes: Sequence[Outcome]) -> None:
    """Write a row for each selected recording, and keep those of the other split."""
    before = _read_outcomes(out)
    others = before[before["split"] != selected.split]
    known = before[before["split"] == selected.split].set_index("filename").to_dict("index")
    new = {outcome.filename: outcome for outcome in outcomes}
    rows = []
    for name in selected.table["filename"]:
        if name in new:
            rows.append(new[name])
        elif name in known and known[name]["status"] == "fetched":
            rows.append(Outcome(name, "fetched", "", known[name]["bytes"], known[name]["checked"]))
        else:  # by a run that was killed; it checked the file before it renamed it
            size = (out / selected.split / name).stat().st_size
            rows.append(Outcome(name, "fetched", "", size, "earlier"))
    table = pd.concat([others, _as_table(selected.split, rows)])
    tables.write_table(table, out / FETCHED_NAME)
    _write_failures(out, table)


def _write_failures(out: Path, table: pd.DataFrame) -> None:
    failed = table.loc[table["status"] == "failed", ["split", "filename", "reason"]]
    if failed.empty:
        (out / FAILED_NAME).unlink(missing_ok=True)
    else:
        tables.write_table(failed, out / FAILED_NAME)


def _say_bytes(size: float) -> str:
    """Format a size: 12.3 kB, 3.8 GB, 1.4 TB."""
    if math.isnan(size):
        return "unknown"
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
