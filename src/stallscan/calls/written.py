"""Read the tables of a run of predictions, exactly as `predict` writes them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from stallscan import documents, files
from stallscan.clips.traits import Traits
from stallscan.errors import InputError
from stallscan.runs import PREDICTION_COLUMNS, PREDICTIONS_NAME, SOURCES_NAME, TRAITS_NAME
from stallscan.stamps import Stamp

# The largest table that a run resumes: of several million recordings.
TABLE_BYTES = 2**30
TRAIT_COLUMNS = ("filename", *Traits._fields)
SOURCE_COLUMNS = ("filename", *Stamp._fields)
# In the order in which rows are added: every row of the last table has its traits and its stamp.
TABLES = {
    TRAITS_NAME: TRAIT_COLUMNS,
    SOURCES_NAME: SOURCE_COLUMNS,
    PREDICTIONS_NAME: PREDICTION_COLUMNS,
}


def read_table(path: Path, columns: Sequence[str]) -> list[list[str]] | None:
    """Read the complete rows of a table of a run; None if there is no table.

    An incomplete last row is left out.

    Raises
    ------
    InputError
        If the table cannot be read, or does not have the format that `predict` writes.
    """
    try:
        content = documents.read(path, TABLE_BYTES)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{path}: cannot be read ({reason}). Fix its permissions, or choose "
            "another folder with -o"
        ) from None
    if files.csv_line(columns).encode().startswith(content):
        return None
    # Cut before decoding: an incomplete line may end inside a character.
    whole = content[: content.rfind(b"\n") + 1]
    try:
        # Not split into lines first: a quoted name may contain a line break.
        lines = list(csv.reader(io.StringIO(whole.decode(), newline="")))
    except (ValueError, csv.Error):
        lines = []
    if not lines or lines[0] != list(columns):
        raise InputError(
            f"{path}: does not have the format that stallscan writes; another program may have "
            "saved it. Restore it, or choose another folder with -o"
        )
    rows = lines[1:]
    if rows and len(rows[-1]) < len(columns):
        rows.pop()
    for number, row in enumerate(rows, start=2):
        if len(row) != len(columns):
            raise InputError(
                f"{path}: row {number} ({row[0] if row else 'empty'}) has {len(row)} cells, "
                f"expected {len(columns)}. Restore or remove the row; a recording without a row is "
                "predicted again"
            )
    return rows


def read_stamps(out: Path) -> dict[str, Stamp]:
    """Read the stamp of each recording of a run, by its name; empty if they are not recorded.

    Raises
    ------
    InputError
        If the table cannot be read.
    """
    path = out / SOURCES_NAME
    try:
        return {
            name: Stamp(int(size), int(mtime_ns), int(ctime_ns), sha256)
            for name, size, mtime_ns, ctime_ns, sha256 in read_table(path, SOURCE_COLUMNS) or []
        }
    except ValueError:
        raise InputError(
            f"{path}: does not have the format that stallscan writes. Restore it, or choose "
            "another folder with -o"
        ) from None
