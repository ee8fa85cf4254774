"""Read, check and write the competition's tables in their exact form (docs/facts.md 4).

One message lists everything that is wrong in a table, each row by its line in the file.
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

from stallscan.catalog import headers, label_words, names, text
from stallscan.catalog.text import Text, Wrong
from stallscan.errors import TableError
from stallscan.files import write_bytes
from stallscan.words import counted, listed, suggest

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
# A table of metadata may lack these: only downloads need them.
OPTIONAL_COLUMNS = frozenset({"url", "num_frames"})
LABEL_COLUMNS = ("filename", "stalled")

LABELS = "a table of labels, with the columns filename and stalled"

log = logging.getLogger("stallscan")


def read_metadata(path: str | Path, needed: Sequence[str] = ()) -> "pd.DataFrame":
    """Read the metadata of the competition's training or test set.

    The columns must be exactly `TRAIN_COLUMNS` or `TEST_COLUMNS`, in any order; those of
    `OPTIONAL_COLUMNS` may be missing unless they are `needed`.

    Returns
    -------
    DataFrame
        One row per recording, in the order of the file: filename, url and project_id (str),
        num_frames (int, at least 1), crowd_score (float, 0..1), tier1, micro and nano (bool).

    Raises
    ------
    TableError
        If the file cannot be read, a column is missing or unknown, or rows are wrong. The message
        names each wrong row by its line in the file and its filename.
    """
    return _read(text.read(path), [TRAIN_COLUMNS, TEST_COLUMNS], OPTIONAL_COLUMNS - set(needed))


def read_labels(path: str | Path) -> "pd.DataFrame":
    """Read labels: the competition's table, its submission form, or a laboratory's own table.

    A label is one of `label_words.STALLED` or `FLOWING`, in upper or lower case; which column it is
    in, `label_words.find` decides. Recordings without a label (an empty cell) are left out, and
    those labelled twice with the same label count once; both are logged, and so is what was
    understood. Other columns are ignored, because laboratories keep notes there (and because
    `select.select_to_file` writes a table of labels too), unless they contradict the label.

    Returns
    -------
    DataFrame
        One row per labelled recording, in the order of the file: filename (str), stalled (int, 0
        or 1).

    Raises
    ------
    TableError
        As `read_metadata`; also if no recording has a label.
    """
    table = text.read(path, LABELS)
    labels = labels_of(table).reset_index(drop=True)
    say_understood(table, labels)
    return labels


def say_understood(table: Text, labels: "pd.DataFrame") -> None:
    """Log what `labels_of` read from a table, in one line."""
    column, _ = label_words.find(table)
    said = [f"{counted(len(labels), 'label')}: {int(labels['stalled'].sum()):,} stalled"]
    if table.key != headers.KEY:
        said.append(f"names in column {table.key!r}")
    if column != label_words.COLUMN:
        said.append(f"labels in column {column!r}")
    said.append(f"separator {text.shown_separator(table.separator)}")
    log.info("%s: %s", table.path, "; ".join(said))


def read_form(path: str | Path) -> list[str]:
    """Read the filenames of a submission form, in its order; the labels in it are ignored.

    Raises `TableError` as `read_metadata`.
    """
    table = text.read(path, "a submission form, with the columns filename and stalled")
    _match_form(table, [LABEL_COLUMNS], extra_allowed=True)
    _refuse_without_rows(table)
    values, wrong = _convert(table, ["filename"])
    refuse_rows(table.path, table.wrong + wrong + _repeated(table))
    filenames: list[str] = values["filename"]
    return filenames


def labels_of(table: Text) -> "pd.DataFrame":
    """Return the labels in a table; results and errors as in `read_labels`.

    The index holds the row of the table, for callers that need its other columns too.
    """
    column, parse = label_words.find(table)
    _match_form(table, [(headers.KEY, column)], extra_allowed=True)
    _refuse_without_rows(table)
    filenames, labels = table.filenames, table.column(column)
    values, wrong = _convert(table, ["filename"])
    # Labels are few different texts, so each is parsed once.
    parsed = {label: parse(label) for label in set(labels)}
    if None in parsed.values():
        is_vague = parse is label_words.parse_state
        wrong += [
            Wrong(line, name, _refusal(column, label, label_words.expected(label, is_vague)))
            for line, name, label in zip(table.lines, filenames, labels, strict=True)
            if parsed[label] is None
        ]
    wrong += label_words.contradictions(table, column, [parsed[label] for label in labels])
    kept = range(len(labels))
    is_partial = label_words.UNLABELLED in parsed.values()
    if is_partial:
        kept = [  # type: ignore[assignment]
            row for row in kept if parsed[labels[row]] != label_words.UNLABELLED
        ]
    repeated, duplicates = _repeated_labels(table, labels, parsed, kept)
    refuse_rows(table.path, table.wrong + wrong + repeated)
    if not kept:
        raise TableError(
            f"{table.path}: no recording has a label. Write 1 (stalled) or 0 (flowing) into the "
            f"column {column}"
        )
    if is_partial:
        count = len(labels) - len(kept)
        log.warning(
            "%s: %s of %s recordings %s no label and %s left out",
            table.path,
            f"{count:,}",
            f"{len(labels):,}",
            *(("has", "is") if count == 1 else ("have", "are")),
        )
    if duplicates:
        log.warning(
            "%s: %s rows repeat a recording with the same label and are ignored: %s",
            table.path,
            f"{len(duplicates):,}",
            listed([filenames[row] for row in duplicates]),
        )
        kept = [row for row in kept if row not in duplicates]  # type: ignore[assignment]
    import pandas as pd  # here, because prediction imports this module but does not need pandas

    stalled = np.array([parsed[labels[row]] for row in kept], dtype=np.int64)
    return pd.DataFrame(
        {"filename": values["filename"], "stalled": stalled}
        if len(kept) == len(labels)
        else {"filename": [filenames[row] for row in kept], "stalled": stalled},
        index=kept,
    )


def write_table(table: "pd.DataFrame", path: str | Path) -> None:
    """Write metadata, labels or a catalog as CSV, atomically; gzipped if the name ends in ``.gz``.

    Booleans become ``True`` and ``False``, numbers keep every digit, lines end in a line feed, and
    the index is left out. Equal tables give equal files. Raises `InputError` if the file cannot be
    written.
    """
    content = table.to_csv(index=False, lineterminator="\n").encode()
    # mtime=0: gzip would store the time of writing, and equal tables would give different files.
    write_bytes(path, gzip.compress(content, mtime=0) if _is_gzip(Path(path)) else content)


class _Kind(NamedTuple):
    """How to convert the texts of one column; `parse` returns None for an invalid text."""

    parse: Callable[[str], object]
    dtype: type
    expected: str


def _parse_score(cell: str) -> float | None:
    try:
        score = float(text.with_point(cell))
    except ValueError:
        return None
    return score if 0 <= score <= 1 else None


_FLAG = _Kind(lambda text: {"true": True, "false": False}.get(text.lower()), bool, "True or False")
_KINDS = {
    "num_frames": _Kind(
        # At most nine digits, so nothing overflows later.
        lambda text: (
            int(text.partition(".")[0]) if re.fullmatch(r"[1-9][0-9]{0,8}(\.0+)?", text) else None
        ),
        np.int64,
        "a whole number of at least 1",
    ),
    "crowd_score": _Kind(_parse_score, np.float64, "a number from 0 to 1"),
    "tier1": _FLAG,
    "micro": _FLAG,
    "nano": _FLAG,
}
# Text columns that must not be empty (a url may be).
_NAMES = {"filename": "the name of a recording", "project_id": "the name of a project"}


def refuse_rows(path: Path, wrong: Sequence[Wrong]) -> None:
    """Raise TableError if any row is wrong, naming the first few in the order of the file."""
    if wrong:
        raise TableError(
            f"{path}: {listed([str(problem) for problem in sorted(wrong)], separator='; ')}"
        )


def _read(
    table: Text, forms: Sequence[tuple[str, ...]], optional: frozenset[str]
) -> "pd.DataFrame":
    """Convert a table that has the columns of one of `forms`, or raise TableError."""
    form = _match_form(table, forms, extra_allowed=False, optional=optional)
    _refuse_without_rows(table)
    values, wrong = _convert(table, form)
    wrong += _repeated(table)
    refuse_rows(table.path, table.wrong + wrong)
    import pandas as pd  # see labels_of

    return pd.DataFrame(values)


def _refuse_without_rows(table: Text) -> None:
    if not table.rows and not table.wrong:
        raise TableError(f"{table.path}: the table has a header but no rows. Add the recordings")


def _match_form(
    table: Text,
    forms: Sequence[tuple[str, ...]],
    extra_allowed: bool,
    optional: frozenset[str] = frozenset(),
) -> tuple[str, ...]:
    """Return the form that the header has; otherwise raise TableError about the nearest one.

    Optional columns that the header lacks are left out of the form.
    """
    header = table.header
    lacking = optional - set(header)
    every = (tuple(column for column in form if column not in lacking) for form in forms)
    form = min(every, key=lambda form: len(set(form) ^ set(header)))
    unknown = [column for column in header if column not in form]
    problems = [f"column {column} occurs twice" for column in form if header.count(column) > 1]
    if mixed := [name for name in unknown if any(mark in name for mark in text.SEPARATORS)]:
        problems.append(f"the first line has other separators, too (in {mixed[0]!r})")
    for column in form:
        if column not in header:
            near = get_close_matches(column, unknown, n=1)
            hint = f" (is it the one called {near[0]!r}?)" if near else ""
            problems.append(f"column {column} is missing{hint}")
    if not extra_allowed:
        known = (*form, *sorted(lacking))
        problems += [f"column {column!r} is unknown{suggest(column, known)}" for column in unknown]
    if problems:
        raise TableError(
            f"{table.path}: {'; '.join(problems)}. The table needs these columns, separated by "
            f"commas or semicolons: {', '.join(form)}"
        )
    return form


def _convert(table: Text, form: Sequence[str]) -> tuple[dict[str, Any], list[Wrong]]:
    """Convert the texts of columns to values; return them and the rows with invalid cells."""
    values: dict[str, Any] = {}
    wrong: list[Wrong] = []
    for column in form:
        texts = table.filenames if column == "filename" else table.column(column)
        refused: set[str] = {""} if column in _NAMES else set()
        values[column] = texts
        if column in _KINDS:
            kind = _KINDS[column]
            # These columns have few different texts, so each is parsed once.
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


def _refusal(column: str, cell: str, expected: str = "") -> str:
    if not expected:
        expected = _KINDS[column].expected if column in _KINDS else _NAMES[column]
    # A cell may be long, so only its beginning and end are shown.
    return f"{column} is {reprlib.repr(cell) if cell else 'empty'}, expected {expected}"


def _repeated(table: Text) -> list[Wrong]:
    """Return the rows that repeat the filename of an earlier row."""
    if len(set(table.filenames)) == len(table.filenames):
        return []
    first: dict[str, int] = {}
    return [
        Wrong(line, name, f"repeats the filename of line {first[name]}")
        for name, line in zip(table.filenames, table.lines, strict=True)
        if name and first.setdefault(name, line) != line
    ]


def _repeated_labels(
    table: Text, labels: Sequence[str], parsed: dict[str, int | None], kept: Sequence[int]
) -> tuple[list[Wrong], set[int]]:
    """Return the rows that repeat a recording: those with another label, those with the same."""
    keys = names.forms(table.filenames)
    if len(set(keys)) == len(keys):
        return [], set()
    first: dict[str, int] = {}
    wrong, duplicates = [], set()
    for row in kept:
        before = first.setdefault(keys[row], row)
        if before == row or not keys[row]:
            continue
        if parsed[labels[before]] == parsed[labels[row]]:
            duplicates.add(row)
        else:
            what = f"repeats the filename of line {table.lines[before]} with another label"
            wrong.append(Wrong(table.lines[row], table.filenames[row], what))
    return wrong, duplicates


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"
