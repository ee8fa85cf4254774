"""The names of columns, however people and programs write them."""

import re
from collections.abc import Sequence
from pathlib import Path

from stallscan.errors import TableError

# The column with the recordings' names, which every table has; it reveals the separator.
KEY = "filename"
# Other names of this column, as `plain` writes them.
_KEYS = frozenset(
    (
        *("filename", "filenames", "file", "files", "filepath", "path", "name", "names"),
        *("recording", "recordings", "recordingname", "video", "videos", "videoname"),
        *("movie", "moviename", "clip", "clipname", "datei", "dateiname", "aufnahme"),
    )
)


def plain(name: str) -> str:
    """Return the name of a column without case, blanks, hyphens, underscores, ``?`` and ``:``."""
    return re.sub(r"[\s_\-?:.]+", "", name.casefold())


def has_key(names: Sequence[str]) -> bool:
    """Whether a column holds the recordings' names, by its own name."""
    return any(plain(name) in _KEYS for name in names)


def with_key(path: Path, names: Sequence[str]) -> list[str]:
    """Return the names of the columns, with that of the recordings' names replaced by `KEY`.

    Raises
    ------
    TableError
        If no column is called `KEY`, and several may be meant.
    """
    keys = [name for name in names if plain(name) in _KEYS]
    if KEY in keys or not keys:
        return list(names)
    if len(keys) > 1:
        raise TableError(
            f"{path}: columns {' and '.join(map(repr, keys))} may both hold the names of the "
            f"recordings. Name the right one {KEY}"
        )
    return [KEY if name == keys[0] else name for name in names]
