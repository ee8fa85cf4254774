"""The answers of reviewers, in a SQLite file that several servers may write at once.

Every answer is a row that is never changed, so the history is complete: a correction is a later
answer, and an undo is a row that names the answer it takes back.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

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
    """

    id: int
    filename: str
    reviewer: str
    answer: str
    given_at: str


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
        with self._open() as database:
            database.executescript(_SCHEMA)

    def give(
        self, token: str, filename: str, reviewer: str, answer: str, seconds: float | None = None
    ) -> int:
        """Record an answer and return its number; it is on disk when this returns.

        The same token again, from a client that did not hear of the first time, changes nothing.
        """
        return self._insert(
            "INSERT OR IGNORE INTO answers (token, filename, reviewer, answer, seconds) "
            "VALUES (?, ?, ?, ?, ?)",
            (token, filename, reviewer, answer, seconds),
        )

    def undo(self, token: str, reviewer: str) -> Given | None:
        """Take back the last standing answer of a reviewer and return it; None if there is none."""
        with self._open() as database:
            # Locked before reading, so that two clients do not take back the same answer.
            database.execute("BEGIN IMMEDIATE")
            repeated = database.execute(
                "SELECT takes_back FROM answers WHERE token = ?", (token,)
            ).fetchone()
            if repeated is not None:
                return self._read(database, "answers", "WHERE id = ?", (repeated[0],))[0]
            last = self._read(
                database, "standing", "WHERE reviewer = ? ORDER BY id DESC LIMIT 1", (reviewer,)
            )
            if not last:
                return None
            database.execute(
                "INSERT INTO answers (token, filename, reviewer, takes_back) VALUES (?, ?, ?, ?)",
                (token, last[0].filename, reviewer, last[0].id),
            )
            return last[0]

    def recent(self, reviewer: str, count: int) -> list[Given]:
        """Return the last standing answers of a reviewer, newest first."""
        with self._open() as database:
            where = "WHERE reviewer = ? ORDER BY id DESC LIMIT ?"
            return self._read(database, "standing", where, (reviewer, count))

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

    def _insert(self, statement: str, values: tuple[object, ...]) -> int:
        with self._open() as database:
            database.execute(statement, values)
            (number,) = database.execute(
                "SELECT id FROM answers WHERE token = ?", values[:1]
            ).fetchone()
            return int(number)

    @staticmethod
    def _read(
        database: sqlite3.Connection, table: str, where: str, values: tuple[object, ...]
    ) -> list[Given]:
        columns = "id, filename, reviewer, answer, given_at"
        rows = database.execute(f"SELECT {columns} FROM {table} {where}", values)
        return [Given(*row) for row in rows]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, which is committed unless there is an error."""
        try:
            database = sqlite3.connect(self.path, timeout=WAIT_S)
            try:
                # Readers and a writer do not wait for each other, and a commit is on the disk.
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
