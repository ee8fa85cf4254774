"""The answers of reviewers, in a SQLite file that several servers may write at once.

Every answer is a row that is never changed, so the history is complete: a correction is a later
answer, and an undo is a row that names the answer it takes back. An answer belongs to the file that
was answered: if another file has replaced it, the answer stays in the history and does not count.
"""

import functools
import logging
import sqlite3
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from stallscan.report.sources import read_stamps
from stallscan.review.answers_file import AnswersFile
from stallscan.runs import ANSWERS_NAME, PREDICTIONS_NAME
from stallscan.stamps import Stamp
from stallscan.words import counted, listed

log = logging.getLogger("stallscan")

Answer = Literal["stalled", "flowing", "unsure", "unscorable", "broken"]
ANSWERS: tuple[str, ...] = get_args(Answer)
LONGEST_NAME = 60  # characters of a reviewer's name
KEPT_NAMES = 10_000  # folded names in memory

_COLUMNS = (
    "id, filename, reviewer, coalesce(answer, 'undo'), given_at, seconds, is_check, "
    "bytes, mtime_ns, ctime_ns, sha256"
)
# An undo has the stamp of the answer that it takes back.
_WITH_STAMPS = "LEFT JOIN stamps ON answer_id = coalesce(takes_back, id)"


@dataclass(frozen=True)
class Given:
    """An answer as it was given.

    Attributes
    ----------
    id : int
        Its number; later answers have higher ones.
    filename, reviewer : str
        The recording, and who answered.
    answer : str
        One of `ANSWERS`.
    given_at : str
        UTC, ISO 8601.
    seconds : float or None
        How long the reviewer took; of a contact sheet, its time divided by its recordings.
    is_check : bool
        Whether the recording was mixed in for this reviewer because its label is known.
    stamp : Stamp or None
        Of the file that was answered; None if it is unknown, as in answers of earlier versions.
    """

    id: int
    filename: str
    reviewer: str
    answer: str
    given_at: str
    seconds: float | None = None
    is_check: bool = False
    stamp: Stamp | None = None


@dataclass(frozen=True)
class New:
    """An answer to record.

    Attributes
    ----------
    token : str
        Chosen by the client. The same token again changes nothing.
    filename, reviewer, answer
        As in `Given`.
    seconds : float or None
        As in `Given`.
    is_check : bool
        As in `Given`. A correction is recorded as what the corrected answer was.
    stamp : Stamp or None
        As in `Given`.
    """

    token: str
    filename: str
    reviewer: str
    answer: str
    seconds: float | None = None
    is_check: bool = False
    stamp: Stamp | None = None


class Answers:
    """The answers in one folder; opening them logs which of them no longer count.

    Several threads may use it. Spellings of a name that differ only in case or space are one
    reviewer, who has the first of them in all that is read and written.

    Parameters
    ----------
    folder : Path
        The folder that was reviewed.
    stamps : mapping, optional
        The stamps of the files whose answers count, by filename. By default those that were
        predicted in the folder. Answers to files without one are compared with the file in the
        folder, if there is one.

    Raises
    ------
    InputError
        From every method, if the file cannot be read or written.
    """

    def __init__(self, folder: Path, stamps: Mapping[str, Stamp] | None = None) -> None:
        self.path = folder / ANSWERS_NAME
        self._stamps = read_stamps(folder / PREDICTIONS_NAME) if stamps is None else stamps
        self._same: set[tuple[str, Stamp, Stamp]] = set()  # files, as they were and are
        self._file = AnswersFile(self.path)
        if self._file.exists():
            self._say_replaced()
        else:
            with self._file.open(change=True):
                pass  # which makes the file

    def give(
        self, token: str, filename: str, reviewer: str, answer: str, seconds: float | None = None
    ) -> None:
        """Record an answer; it is on disk when this returns.

        The same token again, from a client that did not hear of the first time, changes nothing.
        """
        self.give_all([New(token, filename, reviewer, answer, seconds)])

    def give_all(self, answers: Sequence[New], sheet: str | None = None) -> None:
        """Record all answers or none, in one transaction.

        Parameters
        ----------
        answers : sequence of New
            What to record. Answers whose token is already there change nothing.
        sheet : str, optional
            Name of a contact sheet, unique; `undo` takes its answers back together.
        """
        with self._file.open(change=True) as database:
            database.execute("BEGIN IMMEDIATE")
            names = _read_names(database)  # once: it takes longer the more answers there are
            for new in answers:
                new = replace(new, reviewer=names.setdefault(_fold(new.reviewer), new.reviewer))
                inserted = database.execute(
                    "INSERT INTO answers (token, filename, reviewer, answer, seconds, is_check) "
                    "VALUES (:token, :filename, :reviewer, :answer, :seconds, :is_check) "
                    "ON CONFLICT (token) DO NOTHING",
                    asdict(new) | {"is_check": self._is_check(database, names, new)},
                )
                if not inserted.rowcount:
                    continue
                if new.stamp is not None:
                    database.execute(
                        "INSERT INTO stamps VALUES (?, ?, ?, ?, ?)",
                        (inserted.lastrowid, *new.stamp),
                    )
                if sheet is not None:
                    database.execute(
                        "INSERT INTO sheets VALUES (?, ?)", (inserted.lastrowid, sheet)
                    )

    def undo(self, token: str, reviewer: str) -> list[Given]:
        """Take back the last answer of a reviewer that counts, and the others of its contact sheet.

        Returns
        -------
        list of Given
            What was taken back, oldest first; empty if there was nothing.
        """
        with self._file.open(change=True) as database:
            # Locked before reading, so that two clients do not take back the same answer.
            database.execute("BEGIN IMMEDIATE")
            names = _read_names(database)
            reviewer = _spell(reviewer, names)
            first = database.execute(
                "SELECT takes_back FROM answers WHERE token = ?", (token,)
            ).fetchone()
            if first is not None:  # posted again
                again = self._read(
                    database,
                    names,
                    "answers",
                    "WHERE id IN (SELECT takes_back FROM answers WHERE token = :token "
                    "OR substr(token, 1, length(:token) + 1) = :token || '/') ORDER BY id",
                    {"token": token},
                )
                return list(again)
            last = self._last(database, names, reviewer)
            if last is None:
                return []
            sheet = self._read(
                database,
                names,
                "standing",
                "WHERE id = :last OR id IN (SELECT answer FROM sheets WHERE sheet = "
                "(SELECT sheet FROM sheets WHERE answer = :last)) ORDER BY id",
                {"last": last.id},
            )
            taken = [given for given in sheet if given.reviewer == reviewer]
            for number, given in enumerate(taken):
                name = f"{token}/{number}" if number else token
                database.execute(
                    "INSERT INTO answers (token, filename, reviewer, takes_back) "
                    "VALUES (?, ?, ?, ?)",
                    (name, given.filename, reviewer, given.id),
                )
            return taken

    def current(self) -> list[Given]:
        """Return the current answer of each reviewer to each recording, oldest first.

        Answers to files that were replaced since are left out.
        """
        with self._file.open() as database:
            names = _read_names(database)
            standing = list(self._read(database, names, "standing", "ORDER BY id"))
        last = {(each.filename, each.reviewer): each for each in filter(self._counts, standing)}
        return sorted(last.values(), key=lambda given: given.id)

    def since(self, number: int) -> list[tuple[Given, int | None]]:
        """Return the later rows: an answer and None, or ``undo`` and the row it takes back.

        Answers to files that were replaced since are left out, and so are their undos.
        """
        with self._file.open() as database:
            rows = database.execute(
                f"SELECT takes_back, {_COLUMNS} FROM answers {_WITH_STAMPS} WHERE id > ? "
                "ORDER BY id",
                (number,),
            )
            names = _read_names(database)
            added = [(_as_given(row, names), takes_back) for takes_back, *row in rows]
            for given, takes_back in added:
                if (given.answer == "undo") != (takes_back is not None):
                    raise sqlite3.DatabaseError(f"row {given.id} is malformed")
        return [(given, takes_back) for given, takes_back in added if self._counts(given)]

    def spelled(self, name: str) -> str:
        """Return a name as its reviewer's answers are saved, or as it is if there are none."""
        with self._file.open() as database:
            return _spell(name, _read_names(database))

    def _counts(self, given: Given) -> bool:
        """Return whether the file that was answered is still that of the recording."""
        if given.stamp is None:
            return True
        path = self.path.parent / given.filename
        now = self._stamps.get(given.filename) or Stamp.of(path)
        if now is None:
            return True
        each = given.filename, given.stamp, now
        # If the times differ, the whole file is read: once is enough.
        if each not in self._same and given.stamp.is_of(path, now):
            self._same.add(each)
        return each in self._same

    def _say_replaced(self) -> None:
        """Log the recordings whose answers do not count, until whoever answered does so again."""
        with self._file.open() as database:
            standing = list(self._read(database, _read_names(database), "standing"))
        every, counting = (
            {(given.filename, given.reviewer) for given in answers}
            for answers in (standing, filter(self._counts, standing))
        )
        replaced = every - counting
        if replaced:
            log.warning(
                "%s: %s not used, because the recording is now another file than the one that was "
                "answered: %s. Answer again with 'stallscan review %s'",
                self.path,
                counted(len(replaced), "answer"),
                listed(sorted({filename for filename, _ in replaced})),
                self.path.parent,
            )

    def _is_check(self, database: sqlite3.Connection, names: Mapping[str, str], new: New) -> bool:
        """Return whether a new answer is a check; a correction is what the corrected answer was."""
        corrected = self._last(database, names, new.reviewer, "WHERE filename = ?", (new.filename,))
        return new.is_check if corrected is None else corrected.is_check

    def _last(
        self,
        database: sqlite3.Connection,
        names: Mapping[str, str],
        reviewer: str,
        where: str = "",
        values: tuple[object, ...] = (),
    ) -> Given | None:
        """Return the last standing answer of a reviewer that counts."""
        standing = self._read(database, names, "standing", f"{where} ORDER BY id DESC", values)
        ours = (given for given in standing if given.reviewer == reviewer)
        return next(filter(self._counts, ours), None)

    @staticmethod
    def _read(
        database: sqlite3.Connection,
        names: Mapping[str, str],
        table: str,
        where: str = "",
        values: tuple[object, ...] | dict[str, object] = (),
    ) -> Iterator[Given]:
        """Yield rows as they are read: of the last answer, the others are not."""
        rows = database.execute(f"SELECT {_COLUMNS} FROM {table} {_WITH_STAMPS} {where}", values)
        return (_as_given(row, names) for row in rows)


def clean_name(name: str) -> str:
    """Return a reviewer's name as it is saved: short, on one line, no formula for a spreadsheet.

    Its letters are composed (Unicode NFC), so that one name typed on two computers is one.
    """
    shown = "".join(filter(str.isprintable, unicodedata.normalize("NFC", name)))
    return " ".join(shown.split()).lstrip("=+-@ ")[:LONGEST_NAME].rstrip()


@functools.lru_cache(KEPT_NAMES)
def _fold(name: str) -> str:
    """Return what all spellings of a reviewer's name have in common."""
    return clean_name(name).casefold()


def _spell(name: str, names: Mapping[str, str]) -> str:
    """Return a name as it was first saved; `names` is from `_read_names`."""
    return names.get(_fold(name), name)


def _read_names(database: sqlite3.Connection) -> dict[str, str]:
    """Return the first spelling of each reviewer's name, by the folded name."""
    rows = database.execute(
        "SELECT reviewer FROM answers WHERE typeof(reviewer) = 'text' GROUP BY reviewer "
        "ORDER BY min(id)"
    )
    names: dict[str, str] = {}
    for (name,) in rows:
        names.setdefault(_fold(name), name)
    return names


def _as_given(row: Sequence[Any], names: Mapping[str, str]) -> Given:
    """Return an answer of a reviewer with one of the `names` of `_read_names`.

    Raises
    ------
    DatabaseError
        For values that only another program can have put.
    """
    number, filename, reviewer, answer, given_at, seconds, is_check, *stamp = row
    are_texts = all(isinstance(each, str) for each in (filename, reviewer, given_at))
    if not are_texts or answer not in (*ANSWERS, "undo") or isinstance(seconds, bytes | str):
        raise sqlite3.DatabaseError(f"row {number} is malformed")
    return Given(
        number,
        filename,
        _spell(reviewer, names),
        answer,
        given_at,
        seconds,
        bool(is_check),
        _as_stamp(stamp),
    )


def _as_stamp(cells: Sequence[Any]) -> Stamp | None:
    """Return the stamp in a row, if there is one; errors as from `_as_given`."""
    if all(cell is None for cell in cells):
        return None
    if [type(cell) for cell in cells] != [int, int, int, str]:
        raise sqlite3.DatabaseError("a stamp is malformed")
    return Stamp(*cells)
