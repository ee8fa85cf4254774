"""The competition's tables, read, checked and written in their exact form (docs/facts.md 4).

Everything that is wrong in a table is named in one message, each row by its line in the file.
"""

import gzip
import logging
import re
import reprlib
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stallscan.catalog import names, text
from stallscan.catalog.text import Text, Wrong
from stallscan.errors import TableError
from stallscan.files import write_bytes
from stallscan.words import listed, suggest

if TYPE_CHECKING:
    import pandas as pd

TRAIN_COLUMNS = (
    "filename",
    "url",
    "project_id",
    "num_frames",
    "crowd_score",
    "tier1",
    "micro",
    "nano",
)
TEST_COLUMNS = ("filename", "url", "num_frames")
LABEL_COLUMNS = ("filename", "stalled")

LABELS = "a table of labels, with the columns filename and stalled"

log = logging.getLogger("stallscan")


def read_metadata(path: str | Path) -> "pd.DataFrame":
    """Read the competition's metadata, of the training or of the test set.

    The columns must be exactly `TRAIN_COLUMNS` or `TEST_COLUMNS`, in any order.

    Parameters
    ----------
    path : str or Path
        As `text.read` takes it.

    Returns
    -------
    DataFrame
        One row a recording, in the order of the file: filename, url and project_id (str),
        num_frames (int, at least 1), crowd_score (float, 0..1), tier1, micro and nano (bool).

    Raises
    ------
    TableError
        If the file cannot be read, a column is missing or unknown, or rows are wrong: each wrong
        row is named by its line in the file and its filename.
    """
    return _read(text.read(path), [TRAIN_COLUMNS, TEST_COLUMNS])


def read_labels(path: str | Path) -> "pd.DataFrame":
    """Read labels: the competition's table, its submission form, or a laboratory's own.

    A label is one of `STALLED` or `FLOWING`, in upper or lower case. A recording without a label
    (an empty cell) is left out, and a recording labelled twice alike counts once; both are logged.
    Columns other than filename and stalled are passed over, because laboratories keep notes there
    (and because the table written by `select.select_to_file` is a table of labels too).

    Parameters
    ----------
    path : str or Path
        As `text.read` takes it.

    Returns
    -------
    DataFrame
        One row a labelled recording, in the order of the file: filename (str), stalled (int, 0 or
        1).

    Raises
    ------
    TableError
        As `read_metadata`; also if no recording has a label.
    """
    return labels_of(text.read(path, LABELS)).reset_index(drop=True)


def read_form(path: str | Path) -> list[str]:
    """Read which recordings a submission form asks for, in its order, whatever it says of them.

    Raises
    ------
    TableError
        As `read_metadata`.
    """
    table = text.read(path, "a submission form, with the columns filename and stalled")
    _match_form(table, [LABEL_COLUMNS], extra_allowed=True)
    _refuse_without_rows(table)
    values, wrong = _convert(table, ["filename"])
    refuse_rows(table.path, table.wrong + wrong + _repeated(table))
    filenames: list[str] = values["filename"]
    return filenames


def labels_of(table: Text) -> "pd.DataFrame":
    """Take the labels from a table; results and errors as `read_labels`.

    For those who need its other columns, too: the index says which row of the table a label is of.
    """
    _match_form(table, [LABEL_COLUMNS], extra_allowed=True)
    _refuse_without_rows(table)
    filenames, labels = table.filenames, table.column("stalled")
    values, wrong = _convert(table, ["filename"])
    # A few texts are repeated, so parse each once.
    parsed = {label: _parse_label(label) for label in set(labels)}
    if None in parsed.values():
        wrong += [
            Wrong(line, name, _refusal("stalled", label))
            for line, name, label in zip(table.lines, filenames, labels, strict=True)
            if parsed[label] is None
        ]
    kept = range(len(labels))
    if "" in parsed:
        kept = [row for row in kept if labels[row]]  # type: ignore[assignment]
    repeated, again = _repeated_labels(table, labels, parsed, kept)
    refuse_rows(table.path, table.wrong + wrong + repeated)
    if not kept:
        raise TableError(
            f"{table.path}: no recording has a label; write 1 (stalled) or 0 (flowing) into the "
            "column stalled"
        )
    if "" in parsed:
        count = len(labels) - len(kept)
        log.warning(
            "%s: %s of %s recordings %s no label and %s left out",
            *(table.path, f"{count:,}", f"{len(labels):,}"),
            *(("has", "is") if count == 1 else ("have", "are")),
        )
    if again:
        log.warning(
            "%s: %s recordings stand here more than once, with the same label, and count once: %s",
            table.path,
            f"{len(again):,}",
            listed([filenames[row] for row in again]),
        )
        kept = [row for row in kept if row not in again]  # type: ignore[assignment]
    import pandas as pd  # here: prediction, which imports this module, does without

    stalled = np.array([parsed[labels[row]] for row in kept], dtype=np.int64)
    return pd.DataFrame(
        {"filename": values["filename"], "stalled": stalled}
        if len(kept) == len(labels)
        else {"filename": [filenames[row] for row in kept], "stalled": stalled},
        index=kept,
    )


def write_table(table: "pd.DataFrame", path: str | Path) -> None:
    """Write metadata, labels or a catalog in the competition's form, in one atomic step.

    Booleans become ``True`` and ``False``, numbers keep every digit, lines end in a line feed;
    the same table gives the same bytes, gzipped or not.

    Parameters
    ----------
    table : DataFrame
        Its columns are written in their order, its index is not.
    path : str or Path
        The CSV file, gzipped if its name ends in ``.gz``.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    content = table.to_csv(index=False, lineterminator="\n").encode()
    # The time of writing and the file's name stay out, so that equal tables are equal files.
    write_bytes(path, gzip.compress(content, mtime=0) if _is_gzip(Path(path)) else content)


class _Kind(NamedTuple):
    """How the texts of one column become values; `parse` gives None for what it refuses."""

    parse: Callable[[str], object]
    dtype: type
    expected: str


def _parse_score(text: str) -> float | None:
    try:
        score = float(text)
    except ValueError:
        return None
    return score if 0 <= score <= 1 else None


# What people and programs write for a label.
STALLED = frozenset({"1", "1.0", "true", "yes", "stalled"})
FLOWING = frozenset({"0", "0.0", "false", "no", "flowing"})

_FLAG = _Kind({"True": True, "False": False}.get, bool, "True or False")
_KINDS = {
    "num_frames": _Kind(
        # Nine digits at most, so that nothing overflows later.
        lambda text: int(text) if re.fullmatch("[1-9][0-9]{0,8}", text) else None,
        np.int64,
        "a whole number of at least 1",
    ),
    "crowd_score": _Kind(_parse_score, np.float64, "a number from 0 to 1"),
    "tier1": _FLAG,
    "micro": _FLAG,
    "nano": _FLAG,
    "stalled": _Kind(
        {"0": 0, "1": 1}.get, np.int64, "0 or 1 (or flowing or stalled; empty without a label)"
    ),
}
# The columns of text that must not be empty; a url may be.
_NAMES = {"filename": "the name of a recording", "project_id": "the name of a project"}


def refuse_rows(path: Path, wrong: Sequence[Wrong]) -> None:
    """Raise TableError if any row is wrong; the first are named in the order of the file."""
    if wrong:
        raise TableError(
            f"{path}: {listed([str(problem) for problem in sorted(wrong)], separator='; ')}"
        )


def _read(table: Text, forms: Sequence[tuple[str, ...]]) -> "pd.DataFrame":
    """Convert a table that has one of the `forms`; name everything that is wrong in it."""
    form = _match_form(table, forms, extra_allowed=False)
    _refuse_without_rows(table)
    values, wrong = _convert(table, form)
    wrong += _repeated(table)
    refuse_rows(table.path, table.wrong + wrong)
    import pandas as pd  # here: prediction, which imports this module, does without

    return pd.DataFrame(values)


def _refuse_without_rows(table: Text) -> None:
    if not table.rows and not table.wrong:
        raise TableError(f"{table.path}: the table has a header but no rows")


def _match_form(
    table: Text, forms: Sequence[tuple[str, ...]], extra_allowed: bool
) -> tuple[str, ...]:
    """Return the form whose columns the header has; say what the nearest one would need."""
    header = table.header
    form = min(forms, key=lambda form: len(set(form) ^ set(header)))
    unknown = [column for column in header if column not in form]
    problems = [f"column {column} stands twice" for column in form if header.count(column) > 1]
    for column in form:
        if column not in header:
            near = get_close_matches(column, unknown, n=1)
            hint = f" (is it the one called {near[0]!r}?)" if near else ""
            problems.append(f"column {column} is missing{hint}")
    if not extra_allowed:
        problems += [f"column {column!r} is unknown{suggest(column, form)}" for column in unknown]
    if problems:
        raise TableError(
            f"{table.path}: {'; '.join(problems)}; expected columns separated by commas: "
            f"{', '.join(form)}"
        )
    return form


def _convert(table: Text, form: Sequence[str]) -> tuple[dict[str, Any], list[Wrong]]:
    """Turn the texts of columns into values; find the rows that cannot be."""
    values: dict[str, Any] = {}
    wrong: list[Wrong] = []
    for column in form:
        texts = table.filenames if column == "filename" else table.column(column)
        refused: set[str] = {""} if column in _NAMES else set()
        values[column] = texts
        if column in _KINDS:
            kind = _KINDS[column]
            # These columns repeat a few texts, so parse each text once.
            parsed = {cell: kind.parse(cell) for cell in set(texts)}
            refused = {cell for cell, value in parsed.items() if value is None}
            if not refused:
                values[column] = np.array([parsed[cell] for cell in texts], dtype=kind.dtype)
        if refused:
            wrong += [
                Wrong(line, name, _refusal(column, cell))
                for line, name, cell in zip(table.lines, table.filenames, texts, strict=True)
                if cell in refused
            ]
    return values, wrong


def _refusal(column: str, cell: str) -> str:
    expected = _KINDS[column].expected if column in _KINDS else _NAMES[column]
    # A cell may hold anything: show only its beginning and end.
    return f"{column} is {reprlib.repr(cell) if cell else 'empty'}, expected {expected}"


def _parse_label(cell: str) -> int | None:
    """Return 1, 0, or None; -1 where there is no label."""
    cell = cell.lower()
    return 1 if cell in STALLED else 0 if cell in FLOWING else None if cell else -1


def _repeated(table: Text) -> list[Wrong]:
    """Find rows of a recording that has one already."""
    if len(set(table.filenames)) == len(table.filenames):
        return []
    first: dict[str, int] = {}
    return [
        Wrong(line, name, f"the same filename stands on line {first[name]} already")
        for name, line in zip(table.filenames, table.lines, strict=True)
        if name and first.setdefault(name, line) != line
    ]


def _repeated_labels(
    table: Text, labels: Sequence[str], parsed: dict[str, int | None], kept: Sequence[int]
) -> tuple[list[Wrong], set[int]]:
    """Find the rows that label a recording differently than another row, and alike."""
    keys = names.forms(table.filenames)
    if len(set(keys)) == len(keys):
        return [], set()
    first: dict[str, int] = {}
    wrong, again = [], set()
    for row in kept:
        before = first.setdefault(keys[row], row)
        if before == row or not keys[row]:
            continue
        if parsed[labels[before]] == parsed[labels[row]]:
            again.add(row)
        else:
            what = f"the same filename stands on line {table.lines[before]} already"
            wrong.append(
                Wrong(table.lines[row], table.filenames[row], f"{what}, with another label")
            )
    return wrong, again


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"
