"""Read the header and rows of a text table, whichever program saved it.

Ambiguous content is refused, never guessed.
"""

import contextlib
import csv
import gzip
import io
import logging
import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from stallscan.catalog.headers import KEY, has_key, with_key
from stallscan.errors import TableError
from stallscan.recordings import kinds

SEPARATORS = ",;\t"
SAVE_AS = "Save the table as CSV in UTF-8 ('CSV UTF-8' in Excel)"

# First bytes of files that are not text.
_FORMATS = {
    b"PK\x03\x04": "a spreadsheet (xlsx, ods) or zip archive",
    b"\xd0\xcf\x11\xe0": "a spreadsheet (xls)",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"%PDF": "a PDF file",
}
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_UNMARKED = ("utf-16-le", "utf-16-be")
# A two-byte character in UTF-8. If a file that is not UTF-8 has one, it mixes two encodings.
_UTF8_PAIR = re.compile(rb"[\xc2-\xf4][\x80-\xbf]")
# A first line that tells Excel the separator.
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[,;\t ]*', re.IGNORECASE)
# Zero-width characters, often copied along with names from dialogs and web pages.
_INVISIBLE = "\u200b\u200e\u200f\u202a\u202c\u2060\ufeff"
# Letters that have the same code in Windows-1252, Latin-1 and Latin-9, and in no encoding of DOS
# and Mac where they are common.
_LATIN = re.compile("[\0-\x7f\xc0-\xff]*")
# Characters searched for the separator: longer than any header, much shorter than the text.
_HEAD = 65536
# The largest table read, uncompressed: predictions for the competition's 573,048 recordings have
# 100 MB and 5 million cells. Reading a table at both limits takes up to 4 GB of memory.
TABLE_BYTES, MOST_CELLS = 256 * 2**20, 30_000_000

# A number with a comma that can only be a decimal one: thousands have three digits after it, and
# do not start with 0.
_DECIMAL_COMMA = re.compile(r"[+-]?(0,[0-9]+|[0-9]+,([0-9]{1,2}|[0-9]{4,}))(e[+-]?[0-9]+)?", re.I)

log = logging.getLogger("stallscan")


class Wrong(NamedTuple):
    """One wrong cell or row, for a message."""

    line: int
    filename: str
    what: str

    def __str__(self) -> str:
        return f"line {self.line} ({self.filename or 'no filename'}): {self.what}"


@dataclass(frozen=True)
class Text:
    """The cells of a table."""

    path: Path
    separator: str
    header: tuple[str, ...]  # column names in lower case, without unnamed columns
    places: tuple[int, ...]  # index of each of these columns in a row
    lines: list[int]  # line of the file on which each row starts, counted from 1
    rows: list[tuple[str, ...]]  # unmodified cells, all rows equally long, without empty rows
    wrong: list[Wrong] = field(default_factory=list)  # rows of another length than the header
    is_torn: bool = False  # whether the last line lacks its line end
    key: str = KEY  # what the file calls the column with the recordings' names

    def column(self, name: str) -> list[str]:
        """Return the cells of a column without surrounding whitespace."""
        return stripped(map(itemgetter(self.places[self.header.index(name)]), self.rows))

    @cached_property
    def filenames(self) -> list[str]:
        """The column with the recordings' names; empty texts if the table lacks it."""
        return self.column(KEY) if KEY in self.header else [""] * len(self.rows)


def read(path: str | Path, expected: str = "a table in CSV") -> Text:
    """Read a table separated by commas, semicolons or tabs, gzipped or not.

    The encoding is UTF-8 or UTF-16, with or without a byte order mark. Any other encoding is read
    as Windows-1252 with a warning, unless the name of a recording has characters that make another
    encoding likely, which is an error. The column with the names may be called ``File``, ``Video
    name`` and the like, and becomes ``filename``. Columns without a name must be empty, except the
    first: pandas writes its index there.

    Parameters
    ----------
    path : str or Path
        The file.
    expected : str
        What the file should be, for messages.

    Raises
    ------
    TableError
        If the file cannot be opened or is not such a table.
    """
    path = Path(path)
    content = _read_bytes(path, expected)
    text, is_guessed = _decode(path, content)
    separator, skipped = _find_separator(text)
    lines, rows = _split(path, text, separator)
    if skipped:
        lines, rows = lines[1:], rows[1:]
    if not rows:
        raise TableError(f"{path}: the table is empty. Choose {expected}")
    names = [name.lower() for name in stripped(rows[0])]
    while not names[-1]:
        names.pop()
    called, names = names, with_key(path, names)
    places = tuple(place for place, name in enumerate(names) if name)
    header = tuple(names[place] for place in places)
    key = names.index(KEY) if KEY in names else None
    if key is not None and '"' in text:
        _refuse_swallowed(path, lines[1:], rows[1:], separator, key)
    lines, rows, wrong = _even(lines[1:], rows[1:], len(names), key, separator)
    for place in range(1, len(names)):
        if not names[place]:
            wrong += _beside(lines, rows, place, key)
    table = Text(
        path,
        separator,
        header,
        places,
        lines,
        rows,
        wrong,
        is_torn=not text.endswith(("\n", "\r")),
        key=KEY if key is None else called[key],
    )
    if is_guessed:
        _refuse_guessed_names(table)
    return table


def stripped(cells: Iterable[str]) -> list[str]:
    """Return cells without surrounding whitespace and zero-width characters."""
    bare = list(map(str.strip, cells))
    if "".join(bare).isascii():
        return bare
    return [cell.strip(_INVISIBLE).strip() for cell in bare]


def with_point(cell: str) -> str:
    """Return a number with a decimal point instead of a comma, as spreadsheets in German write it.

    Other texts are returned unchanged, also ``1,234``, which may be 1.234 or 1234.
    """
    return cell.replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell


def _read_bytes(path: Path, expected: str) -> bytes:
    try:
        # Not by its size, which a pipe does not have: bash passes <(command) as one.
        with path.open("rb") as file:
            content = file.read(TABLE_BYTES + 1)
    except FileNotFoundError:
        raise TableError(f"{path}: no such file. Choose {expected}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        what = "is a folder" if path.is_dir() else f"cannot be opened ({reason})"
        raise TableError(f"{path}: {what}. Choose {expected}") from None
    _check_size(path, content)
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(TABLE_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise TableError(
            f"{path}: cannot be read as gzip ({error}). Copy or download it again"
        ) from None
    _check_size(path, content)
    return content


def _check_size(path: Path, content: bytes) -> None:
    if len(content) > TABLE_BYTES:
        raise TableError(
            f"{path}: has more than {TABLE_BYTES / 2**20:.0f} MiB. Check that it is a table, and "
            "split it"
        )


def _decode(path: Path, content: bytes) -> tuple[str, bool]:
    """Return the text and whether its encoding is a guess."""
    if b"\0" in content and kinds.kind_of(path) in ("image", "video"):
        raise TableError(kinds.refusal(path, "a table in CSV"))
    for beginning, what in _FORMATS.items():
        if content.startswith(beginning):
            raise TableError(f"{path}: is {what}, not a table in CSV. {SAVE_AS}")
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            with contextlib.suppress(UnicodeDecodeError):
                text = content.decode(encoding)
                if "\0" not in text:
                    return text, False
            raise TableError(f"{path}: is not text, or is damaged. {SAVE_AS}")
    if b"\0" in content:
        for encoding in _UNMARKED:
            with contextlib.suppress(UnicodeDecodeError):
                text = content.decode(encoding)
                if "\0" not in text and _has_key(text):
                    return text, False
        raise TableError(f"{path}: contains zero bytes, so it is not text, or damaged. {SAVE_AS}")
    try:
        return content.decode("utf-8"), False
    except UnicodeDecodeError as error:
        before = content[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        line = before.count(b"\n") + 1
    where = f"{path}: line {line} is not UTF-8"
    if _UTF8_PAIR.search(content):
        raise TableError(f"{where}, but other lines are. {SAVE_AS}")
    try:
        return content.decode("cp1252"), True
    except UnicodeDecodeError:
        raise TableError(f"{where}. {SAVE_AS}") from None


def _find_separator(text: str) -> tuple[str, bool]:
    """Return the separator, and whether the first line only declares it and is not a row."""
    head = text[:_HEAD]
    first = head.lstrip().splitlines()[:1]
    declared = _SEPARATOR_LINE.fullmatch(first[0]) if first else None
    if declared and declared[1] in SEPARATORS:
        return declared[1], True
    cells = {separator: _header(head, separator) for separator in SEPARATORS}
    # It is certain if only one separator yields the column that every table has.
    fit = [separator for separator in SEPARATORS if has_key(cells[separator])]
    several = [separator for separator in SEPARATORS if len(cells[separator]) > 1]
    if len(fit) != 1:
        fit = [separator for separator in fit if separator in several] or several
    return (fit[0] if len(fit) == 1 else SEPARATORS[0]), False


def _has_key(text: str) -> bool:
    return any(has_key(_header(text[:_HEAD], separator)) for separator in SEPARATORS)


def _header(head: str, separator: str) -> list[str]:
    """Return the cells of the first line that is not empty, in lower case."""
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
    with contextlib.suppress(csv.Error):
        for row in reader:
            if "".join(row).strip(f"{SEPARATORS} "):
                return [name.lower() for name in stripped(row)]
    return []


def _split(path: Path, text: str, separator: str) -> tuple[list[int], list[tuple[str, ...]]]:
    """Split the text into rows; return the line of the file on which each starts, and its cells."""
    if sum(map(text.count, (separator, "\n", "\r"))) > MOST_CELLS:
        raise TableError(
            f"{path}: has more than {MOST_CELLS:,} cells. Check that it is a table, and split it"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines: list[int] = []
    rows: list[tuple[str, ...]] = []
    line = 1
    try:
        for cells in reader:
            # Skip rows of empty cells, which spreadsheets write where something was deleted.
            first = cells[0] if cells else ""
            if (first.isascii() and first.strip()) or any(stripped(cells)):
                lines.append(line)
                # Tuples of text, because the garbage collector skips them. With lists it would take
                # longer than everything else here.
                rows.append(tuple(cells))
            line = reader.line_num + 1
    except csv.Error as error:
        raise TableError(
            f"{path}: cannot be read as CSV from line {line} on ({error}). Correct this line"
        ) from None
    return lines, rows


def _even(
    lines: list[int], rows: list[tuple[str, ...]], width: int, key: int | None, separator: str
) -> tuple[list[int], list[tuple[str, ...]], list[Wrong]]:
    """Cut off empty cells beyond the header; return longer and shorter rows separately."""
    if set(map(len, rows)) <= {width}:
        return lines, rows, []
    even, wrong = [], []
    for line, row in zip(lines, rows, strict=True):
        if len(row) > width and not "".join(row[width:]).strip():
            row = row[:width]
        if len(row) == width:
            even.append((line, row))
            continue
        what = f"has {len(row)} cells, expected {width}"
        whole = separator.join(row)
        other = [mark for mark in SEPARATORS if whole.count(mark) == width - 1 > 0]
        if other and other != [separator]:
            what += (
                f" (separated by {shown_separator(other[0])}, the first line by "
                f"{shown_separator(separator)}; use one separator in all lines)"
            )
        elif len(row) > width:
            beyond = next(cell for cell in reversed(row) if cell.strip())
            what += (
                f" ({_shown(beyond)} is beyond the last column; a column of notes needs a name in "
                "the first line)"
            )
        wrong.append(Wrong(line, _name(row, key), what))
    return [line for line, _ in even], [row for _, row in even], wrong


def _refuse_swallowed(
    path: Path, lines: list[int], rows: list[tuple[str, ...]], separator: str, key: int
) -> None:
    """Raise TableError if a cell of several lines seems to contain further rows.

    A quote opened in one row and closed in a later one merges everything in between into one cell.
    """
    for line, row in zip(lines, rows, strict=True):
        for cell in row:
            if "\n" not in cell and "\r" not in cell:
                continue
            ending = Path(_name(row, key)).suffix.lower()
            inside = [line_text.split(separator) for line_text in cell.splitlines()[1:]]
            names = [_name(tuple(cells), key) for cells in inside if len(cells) > 1]
            if ending and any(name.lower().endswith(ending) for name in names):
                raise TableError(
                    f"{path}: the row on line {line} has an unclosed quote that swallows the rows "
                    "below it. Remove the quote"
                )


def _beside(
    lines: list[int], rows: list[tuple[str, ...]], place: int, key: int | None
) -> list[Wrong]:
    """Return the cells that are not empty in a column without a name."""
    return [
        Wrong(
            line,
            _name(row, key),
            f"{_shown(row[place])} is in a column without a name (name the column in the first "
            "line, or empty the cell)",
        )
        for line, row in zip(lines, rows, strict=True)
        if row[place] and row[place].strip()
    ]


def _refuse_guessed_names(text: Text) -> None:
    """Raise TableError if the guessed encoding is unlikely for the name of a recording.

    A name that is decoded wrongly all the same matches no recording, so it is not lost silently.
    """
    for line, name in zip(text.lines, text.filenames, strict=True):
        if not _LATIN.fullmatch(name):
            raise TableError(
                f"{text.path}: line {line} is not UTF-8, and its filename has non-ASCII letters. "
                f"{SAVE_AS}"
            )
    log.warning(
        "%s: not UTF-8, so letters such as umlauts are read as Windows-1252. %s if they look wrong",
        text.path,
        SAVE_AS,
    )


def shown_separator(separator: str) -> str:
    """Return a separator as messages show it."""
    return "tab" if separator == "\t" else separator


def _name(row: tuple[str, ...], key: int | None) -> str:
    return row[key].strip() if key is not None and key < len(row) else ""


def _shown(cell: str) -> str:
    cell = " ".join(cell.split())
    return repr(cell if len(cell) <= 30 else f"{cell[:27]}...")
