"""The tables of a run of predictions: what an earlier run left that still holds, and adding rows.

Rows are told apart by the recording's name. While recordings are done again the tables lack their
rows, and have the new ones at the end; when all are done they are put in order. So a run that is
killed loses nothing that holds, and ends up with the tables of an undisturbed one.
"""

import collections
import contextlib
import csv
import io
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stallscan import files, runs
from stallscan.calls.inputs import Inputs
from stallscan.clips.traits import Traits
from stallscan.errors import InputError
from stallscan.recordings.find import Source
from stallscan.runs import PREDICTION_COLUMNS, PREDICTIONS_NAME, SOURCES_NAME, TRAITS_NAME
from stallscan.stamps import Stamp

log = logging.getLogger("stallscan")

# Rows reach the disk so many seconds after they are known at the latest: to write each by itself
# takes as long as to find its outline.
WRITE_S = 0.25
# What became of a recording that may be mended by copying the file again.
TRY_AGAIN = ("unreadable", "damaged")
TRAIT_COLUMNS = ("filename", *Traits._fields)
SOURCE_COLUMNS = ("filename", *Stamp._fields)
# In the order in which rows are added: a row that stands has its traits and its stamp.
TABLES = {
    TRAITS_NAME: TRAIT_COLUMNS,
    SOURCES_NAME: SOURCE_COLUMNS,
    PREDICTIONS_NAME: PREDICTION_COLUMNS,
}


def read_table(path: Path, columns: Sequence[str]) -> list[list[str]] | None:
    """Read the rows of a table of a run, but a last one that was torn; None where none stands.

    Raises
    ------
    InputError
        If the table cannot be read, or is not as `predict` writes it.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}). Mend its permissions, or choose "
            "another folder with -o"
        ) from None
    if _line(columns).encode().startswith(content):
        return None
    # Cut before decoding: a torn line may end inside a character.
    whole = content[: content.rfind(b"\n") + 1]
    try:
        # Not split into lines: a name in quotes may hold what ends one.
        lines = list(csv.reader(io.StringIO(whole.decode(), newline="")))
    except (ValueError, csv.Error):
        lines = []
    if not lines or lines[0] != list(columns):
        raise InputError(
            f"{path}: is not as stallscan writes it; was it saved by another program? Restore it, "
            "or choose another folder with -o"
        )
    rows = lines[1:]
    if rows and len(rows[-1]) < len(columns):
        rows.pop()
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise InputError(
                f"{path}: row {number} ({row[0] if row else 'empty'}) has {len(row)} cells, "
                f"expected {len(columns)}. Restore it, or remove it: its recording is done again"
            )
    return rows


@dataclass(frozen=True)
class Standing:
    """What an earlier run left that still holds, and what is to be done.

    Attributes
    ----------
    rows, traits : dict
        Rows of the tables, by the recording's name, in the order of the recordings.
    stamps : dict
        What each recording was like: when its row was made, or else when it was found now.
    todo : list of Source
        Recordings without a row that holds.
    counts : Counter
        Recordings by `runs.Why`.
    removed : int
        Rows of recordings that are gone.
    is_prefix : bool
        Whether the rows are those of the first recordings.
    is_whole : bool
        Whether there is nothing to do, not even to a file.
    """

    rows: dict[str, list[str]]
    traits: dict[str, list[str]]
    stamps: dict[str, Stamp]
    todo: list[Source]
    counts: "collections.Counter[runs.Why]"
    removed: int
    is_prefix: bool
    is_whole: bool

    @classmethod
    def of(cls, out: Path, given: Inputs, table: Sequence[list[str]]) -> "Standing":
        """Look at the rows of a table, and at the recordings that they are of."""
        written = _by_name(table)
        # Two runs that wrote at once, which older versions let them do: either may be right.
        rows_of = collections.Counter(row[0] for row in table)
        twice = {name for name, count in rows_of.items() if count > 1}
        if twice:
            log.warning(
                "%s: %d recordings stand in it more than once, because two runs wrote into it at "
                "once; they are done again",
                out / PREDICTIONS_NAME,
                len(twice),
            )
        known = _read_stamps(out / SOURCES_NAME) if table else {}
        rows: dict[str, list[str]] = {}
        stamps: dict[str, Stamp] = {}
        todo: list[Source] = []
        counts: collections.Counter[runs.Why] = collections.Counter()
        for source, now in zip(given.sources, given.stamps, strict=True):
            name = source.filename
            row, before = written.get(name), known.get(name)
            why = _why(row if name not in twice else None, source, before, now, given.from_store)
            counts[why] += 1
            if row is None or why not in ("kept", "unknown"):
                todo.append(source)
                before = now
            else:
                rows[name] = row
            if before is not None:
                stamps[name] = before
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
        """Leave in the tables what holds."""
        # The rows first: a row that does not hold must not outlive what it can be told by.
        _write_table(out / PREDICTIONS_NAME, PREDICTION_COLUMNS, self.rows.values())
        _write_table(out / TRAITS_NAME, TRAIT_COLUMNS, self.traits.values())
        known = {name: self.stamps[name] for name in self.rows if name in self.stamps}
        _write_table(
            out / SOURCES_NAME, SOURCE_COLUMNS, ([name, *stamp] for name, stamp in known.items())
        )


def _why(
    row: list[str] | None,
    source: Source,
    before: Stamp | None,
    now: Stamp | None,
    from_store: bool,
) -> runs.Why:
    """Say whether a recording is done, and why."""
    if row is None:
        return "new"
    # What a store holds of a file is not read again.
    if row[1] == "failed" or (row[1] in TRY_AGAIN and not from_store):
        return "again"
    if before is None:
        return "unknown"
    if now is not None and not before.is_of(source.path, now):
        return "changed"
    return "kept"


def _read_stamps(path: Path) -> dict[str, Stamp]:
    try:
        return {
            name: Stamp(int(size), int(mtime_ns), int(ctime_ns), sha256)
            for name, size, mtime_ns, ctime_ns, sha256 in read_table(path, SOURCE_COLUMNS) or []
        }
    except ValueError:
        raise InputError(
            f"{path}: is not as stallscan writes it. Restore it, or choose another folder with -o"
        ) from None


def _by_name(table: Sequence[list[str]]) -> dict[str, list[str]]:
    return {row[0]: row for row in table}


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    files.write_text(path, "".join(map(_line, [columns, *rows])))


def sort(out: Path, sources: Sequence[Source]) -> None:
    """Bring the rows of all tables into the order of the recordings."""
    for name, columns in TABLES.items():
        rows = _by_name(read_table(out / name, columns) or [])
        ordered = (rows[source.filename] for source in sources if source.filename in rows)
        _write_table(out / name, columns, ordered)


class Appender:
    """Appends to the tables of a run, some rows at a time."""

    def __init__(self, out: Path) -> None:
        self._lines: dict[Path, list[str]] = {out / name: [] for name in TABLES}
        # Unbuffered: what a full disk does not take must not be tried again on closing.
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

    def append(self, row: dict[str, Any], traits: Traits | None, stamp: Stamp | None) -> None:
        """Add a recording's row, its traits if it has a clip, and its stamp if it is known."""
        name = row["filename"]
        of_traits, of_stamps, of_rows = self._lines.values()
        if traits is not None:
            of_traits.append(_line([name, *(f"{value:g}" for value in traits)]))
        if stamp is not None:
            of_stamps.append(_line([name, *stamp]))
        of_rows.append(_line([row[column] for column in PREDICTION_COLUMNS]))
        if time.monotonic() - self._written >= WRITE_S:
            self.flush()

    def flush(self) -> None:
        """Write all rows that were added; of one that the disk does not take nothing is left.

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


def _line(values: Sequence[Any]) -> str:
    """Write one row of CSV."""
    buffer = io.StringIO()
    cells = [str(value) for value in values]
    writer = csv.writer(buffer, lineterminator="\n")
    if any("\r" in cell for cell in cells):
        # A carriage return by itself ends a row, too, and is not quoted otherwise.
        writer = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(cells)
    return buffer.getvalue()
