"""The SQLite file of a review's answers: its formats, and safe reading and writing of it.

Reading changes nothing, and is possible without the right to write. Anything but our tables and
views is refused.
"""

import contextlib
import functools
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from stallscan.errors import InputError
from stallscan.files import explain

WAIT_S = 30.0  # for another process that writes
LONGEST_CELL = 10**6  # bytes; longer ones are not ours

FORMAT = 2  # the user_version of the schema
_FORMAT_1 = """
CREATE TABLE IF NOT EXISTS answers (
    id INTEGER PRIMARY KEY,
    token TEXT NOT NULL UNIQUE,
    filename TEXT NOT NULL,
    reviewer TEXT NOT NULL,
    answer TEXT,
    takes_back INTEGER UNIQUE REFERENCES answers (id),
    seconds REAL,
    is_check INTEGER NOT NULL DEFAULT 0,
    given_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
);
CREATE TABLE IF NOT EXISTS sheets (
    answer INTEGER PRIMARY KEY REFERENCES answers (id),
    sheet TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_sheet ON sheets (sheet);
CREATE INDEX IF NOT EXISTS by_reviewer ON answers (reviewer, id);
CREATE INDEX IF NOT EXISTS by_recording ON answers (filename, reviewer, id);
CREATE VIEW IF NOT EXISTS standing AS
    SELECT * FROM answers AS each
    WHERE answer IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM answers AS undo WHERE undo.takes_back = each.id);
CREATE VIEW IF NOT EXISTS current AS
    SELECT * FROM standing WHERE id IN (
        SELECT max(id) FROM standing GROUP BY filename, reviewer
    );
"""
_STAMPS = """stamps (
    answer_id INTEGER PRIMARY KEY REFERENCES answers (id),
    bytes INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    sha256 TEXT NOT NULL
);
"""
# The view `current` did not know which answers count.
_FORMAT_2 = f"{_FORMAT_1} CREATE TABLE IF NOT EXISTS {_STAMPS} DROP VIEW IF EXISTS current;"
SCHEMAS = {1: _FORMAT_1, FORMAT: _FORMAT_2}
# Of a new file, and of one of an earlier format.
_CREATE = f"BEGIN IMMEDIATE; {SCHEMAS[FORMAT]} PRAGMA user_version = {FORMAT}; COMMIT;"


class AnswersFile:
    """The file; every call opens it anew, so that threads and processes share nothing.

    Raises
    ------
    InputError
        From every method, if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Return whether there is a file; raise InputError if it is not one of ours."""
        if self._path.is_symlink():
            raise InputError(f"{self._path}: is a link. Put the file itself there, or remove it")
        if not self._path.is_file():
            return False
        with self.open() as database:
            database.execute("BEGIN")  # another process may bring the file to our format meanwhile
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
            (number,) = database.execute("PRAGMA user_version").fetchone()
            schema = _schema_of(database)
            # A damaged index makes answers disappear, without an error of SQLite.
            (damage,) = database.execute("PRAGMA integrity_check(1)").fetchone()
        if not names:
            return False
        if not {"answers", "standing"} <= names:
            raise InputError(
                f"{self._path}: is the database of another program. Move it away, and start the "
                "review again"
            )
        if number not in SCHEMAS:
            raise InputError(
                f"{self._path}: has format {number} of the answers, and this version of stallscan "
                f"reads formats up to {FORMAT}. Use the version that wrote it, or move it away"
            )
        if damage != "ok":
            raise InputError(
                f"{self._path}: is damaged ({damage}). Restore it from a backup, or move it away"
            )
        # A view or trigger of another's could do anything with the answers, and take forever.
        if schema != _our_schema(number):
            raise InputError(
                f"{self._path}: has other tables and views than stallscan makes. Move it away, and "
                "start the review again"
            )
        return True

    @contextlib.contextmanager
    def open(self, change: bool = False) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, which is committed unless there is an error.

        To be changed, it is brought to our format; to be read, it is left as it is.
        """
        try:
            database = self._connect("rwc") if change else self._connect_reader()
            try:
                # Not WAL: it keeps new answers in a second file, so a copy of this one would lack
                # them, and it breaks on network drives. A commit is on the disk.
                if change:
                    database.execute("PRAGMA journal_mode = DELETE")
                    database.execute("PRAGMA synchronous = EXTRA")
                (number,) = database.execute("PRAGMA user_version").fetchone()
                if change and number != FORMAT:
                    database.executescript(_CREATE)
                elif number == 1:
                    database.execute(f"CREATE TEMP TABLE {_STAMPS}")
                with database:
                    yield database
            finally:
                database.close()
        # UnicodeError: sqlite3 cannot decode the message about a damaged schema.
        except (sqlite3.Error, UnicodeError) as error:
            raise InputError(
                f"{self._path}: cannot be read or written as answers ({error}). Check the disk and "
                "the permissions, or move the file away"
            ) from None
        except OSError as error:
            raise InputError(f"{self._path}: {explain(error)}") from None

    def _connect_reader(self) -> sqlite3.Connection:
        try:
            database = self._connect("rw")
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            # Earlier versions wrote in WAL mode. SQLite needs its two other files even to read, and
            # cannot make them where nothing can be written, unless nothing is waiting in them.
            beside = [Path(f"{self._path}{kind}") for kind in ("-wal", "-journal")]
            is_waiting = any(path.is_file() and path.stat().st_size for path in beside)
            if is_waiting or "locked" in str(error):
                raise
            database = self._connect("ro&immutable=1")
        return database

    def _connect(self, mode: str) -> sqlite3.Connection:
        address = f"{self._path.absolute().as_uri()}?mode={mode}"
        database = sqlite3.connect(address, timeout=WAIT_S, uri=True)
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_CELL)
        return database


def _schema_of(database: sqlite3.Connection) -> set[tuple[str, ...]]:
    return set(database.execute("SELECT type, name, tbl_name, sql FROM sqlite_master"))


@functools.cache
def _our_schema(number: int) -> set[tuple[str, ...]]:
    """Return the schema of a format."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript(SCHEMAS[number])
        return _schema_of(database)
