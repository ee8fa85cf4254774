"""The column of labels and the words in it: only what surely means stalled or flowing is read."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from stallscan.catalog.headers import plain
from stallscan.catalog.text import Text, Wrong, with_point
from stallscan.errors import TableError

COLUMN = "stalled"
# Names of columns that say whether a vessel is stalled, as `headers.plain` writes them, and of
# columns that say something about it: there, 1 and yes may mean either.
_SURE = frozenset(
    {"stalled", "stall", "isstalled", "isstall", "stallpresent", "hasstall", "gestoppt"}
)
_VAGUE = frozenset({"label", "labels", "class", "state", "annotation"})
# Names of columns that say the reverse.
_REVERSED = frozenset(
    {"flowing", "isflowing", "notstalled", "unstalled", "fliessend", "nichtgestoppt"}
)

# How people and programs write labels. Excel writes TRUE and FALSE in its own language: German,
# French, Spanish, Italian, Portuguese and Dutch are read.
_STATES = {
    **dict.fromkeys(("stalled", "stall", "gestoppt"), 1),
    **dict.fromkeys(("flowing", "not stalled", "non-stalled", "no stall"), 0),
    **dict.fromkeys(("fliessend", "nicht gestoppt"), 0),
}
STALLED = frozenset(
    (
        *("1", "true", "yes", "y", "wahr", "ja", "vrai", "oui"),
        *("verdadero", "sí", "vero", "sì", "verdadeiro", "sim", "waar"),
        *(word for word, state in _STATES.items() if state == 1),
    )
)
FLOWING = frozenset(
    (
        *("0", "false", "no", "n", "falsch", "nein", "faux", "non"),
        *("falso", "não", "onwaar", "nee"),
        *(word for word, state in _STATES.items() if state == 0),
    )
)
# What programs write into empty cells.
_EMPTY = frozenset({"", "nan", "na", "n/a", "<na>", "#n/a"})
UNLABELLED = -1


def parse(cell: str) -> int | None:
    """Return 1 for stalled, 0 for flowing, `UNLABELLED` without a label, None for other words."""
    cell = _bare(cell)
    if cell in _EMPTY:
        return UNLABELLED
    cell = re.sub(r"(?<=^[01])\.0+$", "", with_point(cell))
    return 1 if cell in STALLED else 0 if cell in FLOWING else None


def parse_state(cell: str) -> int | None:
    """Return what `parse` does, but None for words that do not name a state, such as 1 and yes."""
    parsed = parse(cell)
    return parsed if parsed in (None, UNLABELLED) else _STATES.get(_bare(cell))


def _bare(cell: str) -> str:
    """Return the words of a cell in one spelling: lower case, composed accents, ss for ß."""
    return " ".join(unicodedata.normalize("NFC", cell.casefold()).split())


def find(table: Text) -> tuple[str, Callable[[str], int | None]]:
    """Return the column of the labels, and how to read its cells.

    Raises
    ------
    TableError
        If there is none, if several may be meant, or if two contradict each other.
    """
    names = {name: plain(name) for name in table.header}
    column = COLUMN
    if COLUMN not in names:
        meant = [name for name in names if names[name] in _SURE | _VAGUE]
        if len(meant) > 1:
            raise TableError(
                f"{table.path}: columns {' and '.join(map(repr, meant))} may both hold the "
                f"labels. Name the right one {COLUMN}"
            )
        reverse = [name for name in names if names[name] in _REVERSED]
        if reverse and not meant:
            raise TableError(
                f"{table.path}: column {reverse[0]!r} says the reverse of a label. Add a column "
                f"{COLUMN}, with 1 for stalled and 0 for flowing"
            )
        column = meant[0] if meant else COLUMN
    return column, parse_state if names.get(column) in _VAGUE else parse


def contradictions(table: Text, column: str, labels: Sequence[int | None]) -> Iterator[Wrong]:
    """Yield the rows in which another column says the opposite of the label.

    Parameters
    ----------
    table : Text
        The table.
    column : str
        The column of the labels.
    labels : sequence of int or None
        (rows,): what `parse` made of it.
    """
    for name in dict.fromkeys(table.header):
        kind = plain(name)
        if name == column or kind not in _SURE | _VAGUE | _REVERSED:
            continue
        opposite = {1: 1, 0: 0} if kind in _REVERSED else {1: 0, 0: 1}
        read = parse_state if kind in _VAGUE else parse
        cells = table.column(name)
        if any(read(cell) is None for cell in set(cells)):
            continue  # it holds something else
        if kind in _REVERSED and any(parse_state(cell) in (0, 1) for cell in set(cells)):
            continue  # 'stalled' in a column of this name can be read two ways
        for line, filename, cell, label in zip(
            table.lines, table.filenames, cells, labels, strict=True
        ):
            if label in opposite and read(cell) == opposite[label]:
                yield Wrong(
                    line,
                    filename,
                    f"{column} contradicts column {name!r} (remove or correct one of them)",
                )


def expected(cell: str, is_vague: bool) -> str:
    """Return what a cell should be instead, for a message."""
    if is_vague and parse(cell) in (0, 1):
        return f"stalled or flowing (or name the column {COLUMN} if 1 or yes means stalled)"
    if re.fullmatch(r"[01],0+", cell):
        return "0 or 1 (without a decimal comma)"
    if is_vague:
        return "stalled or flowing (empty without a label)"
    return "0 or 1 (or flowing or stalled; empty without a label)"
