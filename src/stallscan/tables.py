"""The competition's tables, read, checked and written in their exact form (FACTS 4).

Everything that is wrong in a table is named in one message, each row by its line in the file.
"""

import csv
import gzip
import io
import re
import reprlib
import zlib
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stallscan.errors import TableError
from stallscan.files import write_bytes
from stallscan.settings import suggest

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
# What predict writes a row of for each recording, and train for each epoch.
PREDICTION_COLUMNS = (
    "filename",
    "status",
    "reason",
    "frames",
    "frames_declared",
    "score",
    "call",
    "threshold",
    "bundle",
)
# The table itself, and what is noted beside it: of the run, and which recordings chose a threshold.
PREDICTIONS_NAME = "predictions.csv"
RUN_NAME = "run.json"
TRAITS_NAME = "traits.csv"
SOURCES_NAME = "sources.csv"
CHOSEN_NAME = "chosen_on.csv"
# What train leaves: the recordings held back, with their scores, of one training and of all folds.
HELD_OUT_NAME, OUT_OF_FOLD_NAME = "validation.csv", "out_of_fold.csv"
# What a column is called that says which mouse a recording is of, the best name first: recordings
# of one mouse are alike, and those of one project, too.
MOUSE_COLUMNS = ("mouse", "animal", "project_id", "project")
HISTORY_COLUMNS = (
    "epoch",
    "train_loss",
    "val_loss",
    "val_mcc",
    "val_accuracy",
    "val_roc_auc",
    "val_pr_auc",
    "lr",
)

# A message names this many wrong rows or recordings and counts the others.
MAX_NAMED = 10


def read_metadata(path: str | Path) -> "pd.DataFrame":
    """Read the competition's metadata, of the training or of the test set.

    The columns must be exactly `TRAIN_COLUMNS` or `TEST_COLUMNS`, in any order.

    Parameters
    ----------
    path : str or Path
        A CSV file in UTF-8, gzipped if its name ends in ``.gz``.

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
    return _read(Path(path), [TRAIN_COLUMNS, TEST_COLUMNS], extra_allowed=False)


def read_labels(path: str | Path) -> "pd.DataFrame":
    """Read labels: the competition's table, its submission form, or a laboratory's own.

    Columns other than filename and stalled are passed over, because laboratories keep notes there
    (and because the table written by `catalog.select_to_file` is a table of labels too).

    Parameters
    ----------
    path : str or Path
        A CSV file in UTF-8, gzipped if its name ends in ``.gz``.

    Returns
    -------
    DataFrame
        One row a recording, in the order of the file: filename (str), stalled (int, 0 or 1).

    Raises
    ------
    TableError
        As `read_metadata`.
    """
    return _read(Path(path), [LABEL_COLUMNS], extra_allowed=True)


def read_catalog(path: str | Path) -> "pd.DataFrame":
    """Read a catalog: metadata and labels in one table, as `catalog.select_to_file` writes it.

    Returns
    -------
    DataFrame
        As `read_metadata` gives it, and stalled (int, 0 or 1).

    Raises
    ------
    TableError
        As `read_metadata`.
    """
    forms = [(*TRAIN_COLUMNS, "stalled"), (*TEST_COLUMNS, "stalled")]
    return _read(Path(path), forms, extra_allowed=False)


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


def listed(items: Sequence[str], separator: str = ", ") -> str:
    """Join items for a message: the first `MAX_NAMED` of them, and a count of the others.

    Parameters
    ----------
    items : sequence of str
        What to name.
    separator : str
        What to put between.

    Returns
    -------
    str
        ``a, b, and 1,200 more``; empty if there are no items.
    """
    more = len(items) - MAX_NAMED
    return separator.join(items[:MAX_NAMED]) + (f"{separator}and {more:,} more" if more > 0 else "")


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
    "stalled": _Kind({"0": 0, "1": 1}.get, np.int64, "0 or 1"),
}
# The columns of text that must not be empty; a url may be.
_NAMES = {"filename": "the name of a recording", "project_id": "the name of a project"}


class _Wrong(NamedTuple):
    """One wrong cell or row, as a message names it."""

    line: int
    filename: str
    what: str

    def __str__(self) -> str:
        return f"line {self.line} ({self.filename or 'no filename'}): {self.what}"


def _read(path: Path, forms: Sequence[tuple[str, ...]], extra_allowed: bool) -> "pd.DataFrame":
    """Read a table that has one of the `forms`; name everything that is wrong in it."""
    lines, rows = _parse_csv(path, _read_text(path))
    if not rows:
        raise TableError(f"{path}: the table is empty")
    header = rows[0]
    form = _match_form(path, header, forms, extra_allowed)
    if len(rows) == 1:
        raise TableError(f"{path}: the table has a header but no rows")
    lines, rows, wrong = _part_ragged(lines[1:], rows[1:], header)
    places = {column: header.index(column) for column in form}
    texts = {column: [row[place] for row in rows] for column, place in places.items()}
    wrong += _repeated(texts["filename"], lines)
    values = {}
    for column in form:
        values[column], refused = _convert(column, texts[column])
        wrong += [
            _Wrong(lines[row], texts["filename"][row], _refusal(column, texts[column][row]))
            for row in refused
        ]
    if wrong:
        raise TableError(f"{path}: {listed([str(problem) for problem in sorted(wrong)], '; ')}")
    import pandas as pd  # here: prediction, which imports this module, does without

    return pd.DataFrame(values)


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if _is_gzip(path):
            content = gzip.decompress(content)
        # Spreadsheet programs put a byte order mark in front.
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        raise TableError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise TableError(
            f"{path}: byte {error.start} is not UTF-8; save the table as CSV in UTF-8"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TableError(
            f"{path}: not readable as gzip ({error}); copy or download it again"
        ) from None
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from None


def _parse_csv(path: Path, text: str) -> tuple[list[int], list[tuple[str, ...]]]:
    """Part the text into rows of cells, each with the line of the file that it begins on."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines, rows = [], []
    line = 1
    try:
        for cells in reader:
            if cells:  # an empty line is no row
                lines.append(line)
                # The garbage collector skips tuples of text; over lists it takes longer than all
                # else here.
                rows.append(tuple(cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise TableError(f"{path}: not readable as CSV from line {line} on ({error})") from None
    return lines, rows


def _part_ragged(
    lines: list[int], rows: list[tuple[str, ...]], header: tuple[str, ...]
) -> tuple[list[int], list[tuple[str, ...]], list[_Wrong]]:
    """Part off the rows that have not as many cells as the header."""
    width, place = len(header), header.index("filename")
    if set(map(len, rows)) == {width}:
        return lines, rows, []
    sound = [index for index, row in enumerate(rows) if len(row) == width]
    wrong = [
        _Wrong(line, "".join(row[place : place + 1]), f"has {len(row)} cells, expected {width}")
        for line, row in zip(lines, rows, strict=True)
        if len(row) != width
    ]
    return [lines[index] for index in sound], [rows[index] for index in sound], wrong


def _match_form(
    path: Path, header: tuple[str, ...], forms: Sequence[tuple[str, ...]], extra_allowed: bool
) -> tuple[str, ...]:
    """Return the form whose columns the header has; say what the nearest one would need."""
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
            f"{path}: {'; '.join(problems)}; expected columns parted by commas: {', '.join(form)}"
        )
    return form


def _convert(column: str, texts: list[str]) -> tuple[Sequence[Any] | NDArray[Any], list[int]]:
    """Turn a column's texts into values; give the rows that cannot be."""
    if column not in _KINDS:
        must = column in _NAMES
        return texts, [row for row, text in enumerate(texts) if must and not text]
    kind = _KINDS[column]
    # These columns repeat a few texts, so parse each text once.
    parsed = {text: kind.parse(text) for text in set(texts)}
    refused = {text for text, value in parsed.items() if value is None}
    if refused:
        return texts, [row for row, text in enumerate(texts) if text in refused]
    return np.array([parsed[text] for text in texts], dtype=kind.dtype), []


def _refusal(column: str, text: str) -> str:
    expected = _KINDS[column].expected if column in _KINDS else _NAMES[column]
    # A cell may hold anything: show only its beginning and end.
    return f"{column} is {reprlib.repr(text) if text else 'empty'}, expected {expected}"


def _repeated(filenames: Sequence[str], lines: list[int]) -> list[_Wrong]:
    if len(set(filenames)) == len(filenames):
        return []
    first: dict[str, int] = {}
    return [
        _Wrong(line, name, f"the same filename stands on line {first[name]} already")
        for name, line in zip(filenames, lines, strict=True)
        if name and first.setdefault(name, line) != line
    ]


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"
