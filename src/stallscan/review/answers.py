"""The answers of reviewers, in a SQLite file that several servers may write at once.

Every answer is a row that is never changed, so the history is complete: a correction is a later
answer, and an undo is a row that names the answer it takes back.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from stallscan.errors import InputError
from stallscan.files import explain

Answer = Literal["stalled", "flowing", "unsure", "unscorable", "broken"]
ANSWERS: tuple[str, ...] = get_args(Answer)
NAME = "review.sqlite"
WAIT_S = 30.0  # for another process that writes
LONGEST_NAME = 60  # characters of a reviewer's name

_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY,
    token TEXT NOT NULL UNIQUE,
    filename TEXT NOT NULL,
    reviewer TEXT NOT NULL,
    answer TEXT,
    takes_back INTEGER UNIQUE REFERENCES answers (id),
    seconds REAL,
    given_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE TABLE IF NOT EXISTS sheets (
    answer INTEGER PRIMARY KEY REFERENCES answers (id),
    sheet TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_sheet ON sheets (sheet);
CREATE TABLE IF NOT EXISTS checks (
    filename TEXT NOT NULL,
    reviewer TEXT NOT NULL,
    PRIMARY KEY (filename, reviewer)
);
CREATE INDEX IF NOT EXISTS by_reviewer ON answers (reviewer, id);
CREATE VIEW IF NOT EXISTS standing AS
    SELECT * FROM answers AS each
    WHERE answer IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM answers AS undo WHERE undo.takes_back = each.id);
CREATE VIEW IF NOT EXISTS current AS
    SELECT * FROM standing WHERE id IN (
        SELECT max(id) FROM standing GROUP BY filename, reviewer
    );
"""
_IS_CHECK = """
    EXISTS (SELECT 1 FROM checks WHERE checks.filename = each.filename
            AND checks.reviewer = each.reviewer)
"""


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
    is_check : bool
        Whether the recording was mixed in for this reviewer because its label is known.
    """

    id: int
    filename: str
    reviewer: str
    answer: str
    given_at: str
    is_check: bool = False


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
        How long the reviewer took.
    is_check : bool
        As in `Given`.
    """

    token: str
    filename: str
    reviewer: str
    answer: str
    seconds: float | None = None
    is_check: bool = False


class Answers:
    """The answers in one folder.

    Every method opens the file anew, so that threads and processes share nothing.

    Raises
    ------
    InputError
        From every method, if the file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._refuse_other()
        with self._open() as database:
            database.executescript(_SCHEMA)

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
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            for new in answers:
                inserted = database.execute(
                    "INSERT INTO answers (token, filename, reviewer, answer, seconds) "
                    "VALUES (?, ?, ?, ?, ?) ON CONFLICT (token) DO NOTHING",
                    (new.token, new.filename, new.reviewer, new.answer, new.seconds),
                )
                if not inserted.rowcount:
                    continue
                if sheet is not None:
                    database.execute(
                        "INSERT INTO sheets VALUES (?, ?)", (inserted.lastrowid, sheet)
                    )
                if new.is_check:
                    database.execute(
                        "INSERT OR IGNORE INTO checks VALUES (?, ?)", (new.filename, new.reviewer)
                    )

    def undo(self, token: str, reviewer: str) -> list[Given]:
        """Take back the last standing answer of a reviewer, with the others of its contact sheet.

        Returns
        -------
        list of Given
            What was taken back, oldest first; empty if there was nothing.
        """
        with self._open() as database:
            # Locked before reading, so that two clients do not take back the same answer.
            database.execute("BEGIN IMMEDIATE")
            first = database.execute(
                "SELECT takes_back FROM answers WHERE token = ?", (token,)
            ).fetchone()
            if first is not None:  # posted again
                return self._read(
                    database,
                    "answers",
                    "WHERE id IN (SELECT takes_back FROM answers WHERE token = :token "
                    "OR substr(token, 1, length(:token) + 1) = :token || '/') ORDER BY id",
                    {"token": token},
                )
            last = self._read(
                database, "standing", "WHERE reviewer = ? ORDER BY id DESC LIMIT 1", (reviewer,)
            )
            taken = last and self._read(
                database,
                "standing",
                "WHERE id = :last OR id IN (SELECT answer FROM sheets WHERE sheet = "
                "(SELECT sheet FROM sheets WHERE answer = :last)) AND reviewer = :reviewer "
                "ORDER BY id",
                {"last": last[0].id, "reviewer": reviewer},
            )
            for number, given in enumerate(taken):
                name = f"{token}/{number}" if number else token
                database.execute(
                    "INSERT INTO answers (token, filename, reviewer, takes_back) "
                    "VALUES (?, ?, ?, ?)",
                    (name, given.filename, reviewer, given.id),
                )
            return taken

    def current(self) -> list[Given]:
        """Return the current answer of each reviewer to each recording, oldest first."""
        with self._open() as database:
            return self._read(database, "current", "ORDER BY id", ())

    def history(self) -> list[tuple[str, str, str, str]]:
        """Return what was ever given or taken back: when, who, recording, answer or ``undo``."""
        with self._open() as database:
            return database.execute(
                "SELECT given_at, reviewer, filename, coalesce(answer, 'undo') FROM answers "
                "ORDER BY id"
            ).fetchall()

    def since(self, number: int) -> list[tuple[Given, int | None]]:
        """Return the later rows: an answer and None, or ``undo`` and the row it takes back."""
        with self._open() as database:
            rows = database.execute(
                f"SELECT takes_back, id, filename, reviewer, coalesce(answer, 'undo'), given_at, "
                f"{_IS_CHECK} FROM answers AS each WHERE id > ? ORDER BY id",
                (number,),
            )
            return [(_as_given(row), takes_back) for takes_back, *row in rows]

    @staticmethod
    def _read(
        database: sqlite3.Connection,
        table: str,
        where: str,
        values: tuple[object, ...] | dict[str, object],
    ) -> list[Given]:
        columns = f"id, filename, reviewer, answer, given_at, {_IS_CHECK}"
        rows = database.execute(f"SELECT {columns} FROM {table} AS each {where}", values)
        return [_as_given(row) for row in rows]

    def _refuse_other(self) -> None:
        """Raise InputError if the file is a link, or the database of another program."""
        if self.path.is_symlink():
            raise InputError(f"{self.path}: is a link. Put the file itself there, or remove it")
        if not self.path.is_file():
            return
        with self._open(change=False) as database:
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if names and not {"answers", "standing", "current"} <= names:
            raise InputError(
                f"{self.path}: is the database of another program. Move it away, and start the "
                "review again"
            )

    @contextlib.contextmanager
    def kept_open(self) -> Iterator[None]:
        """Keep the file open, idle: the last to close it has to move all that is new within it."""
        database = sqlite3.connect(self.path, timeout=WAIT_S)
        try:
            database.execute("SELECT count(*) FROM sheets").fetchone()
            yield
        finally:
            database.close()

    @contextlib.contextmanager
    def _open(self, change: bool = True) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, which is committed unless there is an error."""
        try:
            database = sqlite3.connect(self.path, timeout=WAIT_S)
            try:
                # Readers and a writer do not wait for each other, and a commit is on the disk.
                if change:
                    database.execute("PRAGMA journal_mode = WAL")
                    database.execute("PRAGMA synchronous = FULL")
                with database:
                    yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise InputError(
                f"{self.path}: cannot be read or written as answers ({error}). Check the disk and "
                "the permissions, or move the file away"
            ) from None
        except OSError as error:
            raise InputError(f"{self.path}: {explain(error)}") from None


def _as_given(row: Sequence[Any]) -> Given:
    number, filename, reviewer, answer, given_at, is_check = row
    return Given(number, filename, reviewer, answer, given_at, bool(is_check))
