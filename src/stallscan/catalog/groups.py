"""Groups of recordings, usually mice: the column that names them, and its values."""

import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from stallscan.errors import TableError
from stallscan.words import listed

# Names of columns that say which mouse a recording is from, the best first. Recordings of one mouse
# resemble each other, and so do those of one project.
_ENDINGS = ("", "_id", " id", "-id", "id", "_no", " no", "_nr", " nr", "_number", " number")
MOUSE_COLUMNS = (
    *(animal + end for animal in ("mouse", "animal", "maus", "subject") for end in _ENDINGS),
    *("project_id", "project"),
)

# What programs write into empty cells; never a name.
_NOTHING = re.compile(r"nan|<na>|nat|#.*[!?]|#n/a", re.IGNORECASE)
# May be a name or mean that there is none.
_DOUBTFUL = re.compile(r"na|n/a|none|null|unknown|[-?.]+", re.IGNORECASE)
# Hyphens and underscores between a letter and a letter or digit. Between digits they tell 1-11 from
# 11-1.
_JOINT = re.compile(r"(?<=[^\W_])[_-]+(?=[^\W\d_])|(?<=[^\W\d_])[_-]+(?=[^\W_])")

log = logging.getLogger("stallscan")


def find_column(column: Callable[[str], Sequence[str] | None], fewest: int) -> str:
    """Return the first of `MOUSE_COLUMNS` with at least `fewest` different values, or "".

    `column` returns the cells of a column, or None if the table lacks it. Empty cells do not count.
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
    """Return the names of mice or groups in a column, normalised (Unicode NFC, single spaces).

    Parameters
    ----------
    path : str or Path
        The table, for messages.
    column : str
        Name of the column, for messages.
    cells : sequence of str
        Cells without surrounding whitespace.
    rows : sequence of str
        How messages refer to the row of each cell.
    remedy : str
        What to do about an empty cell, for messages.

    Raises
    ------
    TableError
        If a cell is empty or holds a placeholder such as "nan", or if two names differ only in
        case, spaces, hyphens, underscores or leading zeros, so they may or may not mean the same
        mouse.
    """
    names = [" ".join(unicodedata.normalize("NFC", cell).split()) for cell in cells]
    distinct: dict[str, str] = {}
    for name, row in zip(names, rows, strict=True):
        distinct.setdefault(name, row)
    remedy = remedy[:1].upper() + remedy[1:]
    if "" in distinct:
        empty = [row for name, row in zip(names, rows, strict=True) if not name]
        raise TableError(
            f"{path}: {column} is empty in {listed(empty)}. {remedy} (spreadsheets save the "
            "value of merged cells only once)"
        )
    alike: dict[str, str] = {}
    for name, row in distinct.items():
        if _NOTHING.fullmatch(name):
            raise TableError(
                f"{path}: {column} is {name!r} in {row}, which programs write for an empty cell. "
                f"{remedy}"
            )
        other = alike.setdefault(_key(name), name)
        if other != name:
            raise TableError(
                f"{path}: {column} is {other!r} in {distinct[other]} and {name!r} in {row}. Spell "
                "the same name the same way, or make different names more different"
            )
    if doubtful := sorted(filter(_DOUBTFUL.fullmatch, distinct)):
        log.warning(
            "%s: %s %s is treated as a name like any other",
            path,
            column,
            " and ".join(map(repr, doubtful)),
        )
    return names


def _key(name: str) -> str:
    """Return a key that is equal for names that may mean the same."""
    if re.fullmatch(r"[0-9]+(\.0+)?", name):
        return str(int(name.partition(".")[0]))
    key = unicodedata.normalize("NFKC", name).casefold().replace(" ", "")
    key = _JOINT.sub("", key)
    return re.sub(r"(?<![0-9.,])0+(?=[0-9])", "", key)  # not in 1.05
