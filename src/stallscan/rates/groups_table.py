"""Read the groups table: the field, mouse and group of each recording."""

import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from stallscan.calls.predictions import as_frame
from stallscan.catalog import text
from stallscan.catalog.groups import MOUSE_COLUMNS, check_cells, find_column
from stallscan.errors import InputError, TableError
from stallscan.words import listed

# The columns of the groups table, with all names that they may have.
COLUMNS = {
    "field": ("field", "fov"),
    "mouse": MOUSE_COLUMNS,
    "group": ("group", "genotype", "gruppe", "genotyp"),
}
GROUPS = "a CSV table with filename and any of field, mouse and group"

log = logging.getLogger("stallscan")


def read_groups(path: str | Path) -> pd.DataFrame:
    """Read the table of the field, mouse and group of each recording.

    Parameters
    ----------
    path : str or Path
        A table with filename and at least one of `COLUMNS`. Other columns are ignored.

    Returns
    -------
    DataFrame
        filename and those of field, mouse and group that exist (str, never empty).

    Raises
    ------
    InputError
        If the file has no rows.
    TableError
        If the file is missing or not a table; if a column is missing, a filename occurs twice, or a
        cell is empty; if a mouse or group is spelt in two ways; or if a field belongs to two mice
        or a mouse to two groups. The message names the rows.
    """
    path = Path(path)
    cells = text.read(path, GROUPS)
    raw = as_frame(cells)
    column_of = {
        level: next((name for name in names if name in raw), None)
        for level, names in COLUMNS.items()
    }
    # Skip a column of mice that is completely empty if another one is filled in.
    column_of["mouse"] = (
        find_column(lambda name: raw[name].tolist() if name in raw else None, fewest=1)
        or column_of["mouse"]
    )
    names = {name: level for level, name in column_of.items() if name}
    if "filename" not in raw or not names:
        missing = "column filename" if "filename" not in raw else "column field, mouse or group"
        raise TableError(
            f"{path}: {missing} is missing. Give a table with filename and any of field, mouse (or "
            "animal, subject, project_id, project) and group (or genotype)"
        )
    if raw.empty:
        raise InputError(f"{path}: has no rows. Add one row for each recording")
    table = raw[["filename", *names]].rename(columns=names)
    unnamed = table["filename"] == ""
    if unnamed.any():
        raise TableError(
            f"{path}: filename is empty in {listed(_rows(table[unnamed]))}. Fill it in"
        )
    repeated = table["filename"].duplicated(keep=False)
    if repeated.any():
        raise TableError(
            f"{path}: filename is repeated in {listed(_rows(table[repeated]))}. Give each "
            "recording one row"
        )
    rows = _rows(table)
    for name, level in names.items():
        table[level] = check_cells(path, name, table[level].tolist(), rows)
    for part, whole in (("field", "mouse"), ("mouse", "group"), ("field", "group")):
        _refuse_shared(path, table, part, whole)
    log.info("%s: %s", path, _understood(cells, table, names))
    return table.reset_index(drop=True)


def _understood(cells: text.Text, table: pd.DataFrame, names: Mapping[str, str]) -> str:
    """Say what `read_groups` read, in one line."""
    plural = {"field": "fields", "mouse": "mice", "group": "groups"}
    said = [f"{len(table):,} recordings"]
    said += [
        f"{table[level].nunique():,} {plural[level]} (column {name!r})"
        for name, level in names.items()
    ]
    return "; ".join([*said, f"separator {text.shown_separator(cells.separator)}"])


def _refuse_shared(path: Path, table: pd.DataFrame, part: str, whole: str) -> None:
    """Refuse a table in which a part belongs to two wholes, such as a field to two mice."""
    if part not in table or whole not in table:
        return
    wholes = table.groupby(part, sort=False)[whole].unique()
    shared = wholes[wholes.map(len) > 1]
    if not shared.empty:
        named = [f"{name} in {', '.join(names)}" for name, names in shared.items()]
        raise TableError(
            f"{path}: the same {part} is in more than one {whole}: "
            f"{listed(named, separator='; ')}. Give every {part} a unique name"
        )


def _rows(table: pd.DataFrame) -> list[str]:
    """Describe rows by their line in the file, which is the index, and by their filename."""
    return [f"line {line} ({name or 'no filename'})" for line, name in table["filename"].items()]
