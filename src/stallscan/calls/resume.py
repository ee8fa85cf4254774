"""Resume a run of predictions: find the rows of an earlier run that are still valid, and add rows.

Rows are identified by the name of the recording. When recordings are predicted again, their old
rows are removed, the new rows are appended, and the finished tables are sorted. So a killed run
loses no valid row, and its tables end up the same as those of an uninterrupted run.
"""

import collections
import contextlib
import io
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stallscan import files, runs
from stallscan.calls.inputs import Inputs
from stallscan.calls.rows import Answer
from stallscan.calls.written import SOURCE_COLUMNS, TABLES, TRAIT_COLUMNS, read_stamps, read_table
from stallscan.recordings.find import Source
from stallscan.runs import (
    ANSWERS_NAME,
    PREDICTION_COLUMNS,
    PREDICTIONS_NAME,
    SOURCES_NAME,
    TRAITS_NAME,
)
from stallscan.stamps import Stamp
from stallscan.words import counted, listed

log = logging.getLogger("stallscan")

# Flush rows at most this many seconds after they are computed. Writing each row by itself takes as
# long as finding its outline.
WRITE_S = 0.25
# Statuses that copying the file again may fix.
TRY_AGAIN = ("unreadable", "damaged")


@dataclass(frozen=True)
class Standing:
    """The valid rows of an earlier run, and the pending recordings."""

    # rows, traits: rows of the tables by the name of the recording, in the order of the recordings.
    rows: dict[str, list[str]]
    traits: dict[str, list[str]]
    # Stamp of each recording: from when its row was made, or else its present one.
    stamps: dict[str, Stamp]
    todo: list[Source]  # recordings without a valid row
    counts: "collections.Counter[runs.Why]"  # recordings by `runs.Why`
    removed: int  # rows of recordings that no longer exist
    is_prefix: bool  # whether the rows are those of the first recordings
    is_whole: bool  # whether nothing is pending and no file needs to change

    @classmethod
    def of(cls, out: Path, given: Inputs, table: Sequence[list[str]]) -> "Standing":
        """Check each row of a table against its recording."""
        written = _by_name(table)
        # Older versions let two runs write at once; which of their rows is right is unknown.
        rows_of = collections.Counter(row[0] for row in table)
        twice = {name for name, count in rows_of.items() if count > 1}
        if twice:
            log.warning(
                "%s: %d recordings occur more than once, because two runs wrote into it at once. "
                "They are predicted again",
                out / PREDICTIONS_NAME,
                len(twice),
            )
        old_stamps = read_stamps(out) if table else {}
        rows: dict[str, list[str]] = {}
        stamps: dict[str, Stamp] = {}
        todo: list[Source] = []
        counts: collections.Counter[runs.Why] = collections.Counter()
        changed: list[str] = []
        for source, now in zip(given.sources, given.stamps, strict=True):
            name = source.filename
            row, before = written.get(name), old_stamps.get(name)
            why = _why(row if name not in twice else None, source, before, now, given.from_store)
            counts[why] += 1
            if why == "changed":
                changed.append(name)
            if row is None or why not in ("kept", "unknown"):
                todo.append(source)
                before = now
            else:
                rows[name] = row
            if before is not None:
                stamps[name] = before
        if changed and (out / ANSWERS_NAME).is_file():
            log.warning(
                "%s: %s changed. Answers to what was there before are not used, unless an earlier "
                "version of stallscan saved them: %s. Review them again",
                out / ANSWERS_NAME,
                counted(len(changed), "recording"),
                listed(changed),
            )
        traits = _by_name((read_table(out / TRAITS_NAME, TRAIT_COLUMNS) or []) if table else [])
        removed = len(written.keys() - {source.filename for source in given.sources})
        order = [source.filename for source in given.sources[: len(rows)]]
        is_prefix = order == list(rows)
        is_whole = [row[0] for row in table] == order and not todo
        is_whole = is_whole and (out / TRAITS_NAME).is_file()
        return cls(
            rows,
            {name: traits[name] for name in rows if name in traits},
            stamps,
            todo,
            counts,
            removed,
            is_prefix,
            is_whole,
        )

    def write(self, out: Path) -> None:
        """Write the tables with their valid rows only."""
        # Predictions first: if killed in between, no invalid row is left without its old stamp.
        files.write_rows(out / PREDICTIONS_NAME, PREDICTION_COLUMNS, self.rows.values())
        files.write_rows(out / TRAITS_NAME, TRAIT_COLUMNS, self.traits.values())
        stamps = {name: self.stamps[name] for name in self.rows if name in self.stamps}
        files.write_rows(
            out / SOURCES_NAME, SOURCE_COLUMNS, ([name, *stamp] for name, stamp in stamps.items())
        )


def _why(
    row: list[str] | None,
    source: Source,
    before: Stamp | None,
    now: Stamp | None,
    from_store: bool,
) -> runs.Why:
    """Return why a recording is or is not predicted again."""
    if row is None:
        return "new"
    # A store already recorded that it could not read the file; only the store can retry it.
    if row[1] == "failed" or (row[1] in TRY_AGAIN and not from_store):
        return "again"
    if before is None:
        return "unknown"
    if now is not None and not before.is_of(source.path, now):
        return "changed"
    return "kept"


def _by_name(table: Sequence[list[str]]) -> dict[str, list[str]]:
    return {row[0]: row for row in table}


def sort(out: Path, sources: Sequence[Source]) -> None:
    """Sort the rows of all tables into the order of the recordings."""
    for name, columns in TABLES.items():
        rows = _by_name(read_table(out / name, columns) or [])
        ordered = (rows[source.filename] for source in sources if source.filename in rows)
        files.write_rows(out / name, columns, ordered)


class Appender:
    """Appends rows to the tables of a run, several at a time."""

    def __init__(self, out: Path) -> None:
        self._lines: dict[Path, list[str]] = {out / name: [] for name in TABLES}
        # Unbuffered: otherwise closing the file would retry what a full disk refused.
        self._files = [path.open("ab", buffering=0) for path in self._lines]
        self._written = time.monotonic()

    def __enter__(self) -> "Appender":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.flush()
        finally:
            for file in self._files:
                file.close()

    def append(self, answer: Answer) -> None:
        """Add a row, with its traits if it has a clip, and its stamp if it is known."""
        for lines, added in zip(self._lines.values(), as_lines(answer).values(), strict=True):
            lines.append(added)
        if time.monotonic() - self._written >= WRITE_S:
            self.flush()

    def flush(self) -> None:
        """Write all added rows. If a write fails, remove what was written of it.

        Raises
        ------
        InputError
            If the disk is full or fails.
        """
        for (path, lines), file in zip(self._lines.items(), self._files, strict=True):
            content = "".join(lines).encode(errors="backslashreplace")
            end = file.seek(0, io.SEEK_END)
            with files.writing(path):
                try:
                    while content:
                        content = content[file.write(content) :]
                except OSError:
                    with contextlib.suppress(OSError):
                        file.truncate(end)
                    raise
            lines.clear()
        self._written = time.monotonic()


def as_lines(answer: Answer) -> dict[str, str]:
    """Return the line of an answer in each of `TABLES`; empty where it has none."""
    row, traits, stamp = answer
    name = row["filename"]
    return {
        TRAITS_NAME: files.csv_line([name, *(f"{value:g}" for value in traits)]) if traits else "",
        SOURCES_NAME: files.csv_line([name, *stamp]) if stamp else "",
        PREDICTIONS_NAME: files.csv_line([row[column] for column in PREDICTION_COLUMNS]),
    }
