"""What recordings are kept together by: the column that names the mouse, and its values."""

import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from stallscan.errors import TableError
from stallscan.words import listed

# What a column is called that says which mouse a recording is of, the best name first: recordings
# of one mouse are alike, and those of one project, too.
MOUSE_COLUMNS = ("mouse", "animal", "project_id", "project")

# What programs write for nothing: never a name.
_NOTHING = re.compile(r"nan|<na>|nat|#.*[!?]|#n/a", re.IGNORECASE)
# What may be a name, and may mean that there is none.
_DOUBTFUL = re.compile(r"na|n/a|none|null|unknown|[-?.]+", re.IGNORECASE)

log = logging.getLogger("stallscan")


def find_column(column: Callable[[str], Sequence[str] | None], fewest: int) -> str:
    """Return the first of `groups.MOUSE_COLUMNS` with enough different values.

    Parameters
    ----------
    column : callable
        Returns the cells of a column, None where there is no such column.
    fewest : int
        So many different values, empty cells not counted, are enough.

    Returns
    -------
    str
        Empty if there is none.
    """
    for name in MOUSE_COLUMNS:
        cells = column(name)
        if cells is not None and len(set(cells) - {""}) >= fewest:
            return name
    return ""


def check_cells(
    path: str | Path,
    column: str,
    cells: Sequence[str],
    rows: Sequence[str],
    remedy: str = "fill it in",
) -> list[str]:
    """Return the names that a column gives to mice or groups, in one form.

    Parameters
    ----------
    path : str or Path
        The table, for messages.
    column : str
        What it is called.
    cells : sequence of str
        Its cells, without blanks around them.
    rows : sequence of str
        What a message calls the row of each.
    remedy : str
        What to do where a cell is empty.

    Raises
    ------
    TableError
        If a cell is empty or holds what programs write for nothing, or if two names differ only in
        case, blanks or leading zeros, so that nobody knows whether they are two.
    """
    names = [" ".join(unicodedata.normalize("NFC", cell).split()) for cell in cells]
    distinct: dict[str, str] = {}
    for name, row in zip(names, rows, strict=True):
        distinct.setdefault(name, row)
    if "" in distinct:
        empty = [row for name, row in zip(names, rows, strict=True) if not name]
        raise TableError(
            f"{path}: {column} is empty in {listed(empty)}; {remedy} (of merged cells a "
            "spreadsheet keeps the first only)"
        )
    alike: dict[str, str] = {}
    for name, row in distinct.items():
        if _NOTHING.fullmatch(name):
            raise TableError(
                f"{path}: {column} is {name!r} in {row}, which programs write for an empty cell; "
                f"{remedy}"
            )
        other = alike.setdefault(_key(name), name)
        if other != name:
            raise TableError(
                f"{path}: {column} is {other!r} in {distinct[other]} and {name!r} in {row}; write "
                "one name in one way, or give two names that differ in more"
            )
    if doubtful := sorted(filter(_DOUBTFUL.fullmatch, distinct)):
        log.warning(
            "%s: %s %s is taken for a name like any other",
            *(path, column, " and ".join(map(repr, doubtful))),
        )
    return names


def _key(name: str) -> str:
    """Return what names that may be meant to be one have in common."""
    if re.fullmatch(r"[0-9]+(\.0+)?", name):
        return str(int(name.partition(".")[0]))
    return unicodedata.normalize("NFKC", name).casefold().replace(" ", "")
