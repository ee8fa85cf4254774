"""Finding recordings in files and folders, and saying what was passed over."""

import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stallscan.errors import InputError
from stallscan.words import printable

log = logging.getLogger("stallscan")

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".gif"})
STACK_SUFFIXES = frozenset({".tif", ".tiff"})
ARRAY_SUFFIXES = frozenset({".npy"})
SUFFIXES = VIDEO_SUFFIXES | STACK_SUFFIXES | ARRAY_SUFFIXES

# Kinds of what is passed over, beside endings of file names.
UNREADABLE = "not readable"
SAME = "read under another name"
LOOP = "linking back to a folder above"
HIDDEN = "hidden"
NO_ENDING = "without ending"
OTHERS = "others"
# Files may be numbered by their endings: no more kinds are told apart, nor more of a kind named.
KINDS, NAMED = 50, 1000
# As many on the console.
KINDS_SHOWN, NAMES_SHOWN = 8, 3
# Endings of recordings that are not read, named first.
VIDEO_LIKE = frozenset(
    {".wmv", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".flv", ".ogv", ".3gp", ".vob", ".asf"}
    | {".webp", ".png", ".jpg", ".jpeg", ".btf", ".tf8", ".lsm", ".czi", ".lif", ".nd2", ".oib"}
    | {".oif", ".oir", ".ims", ".h5", ".npz", ".mat", ".zarr", ".zip"}
    | {".part", ".crdownload", ".download"}
)


class Source(NamedTuple):
    """A recording on disk, under the name that stands for it in every table."""

    filename: str
    path: Path


class PassedOver:
    """Files and folders that were found and are not read, by kind.

    Attributes
    ----------
    counts : Counter of str
        How many there are of each kind: an ending of file names, or one of those above.
    names : dict
        By kind their paths inside the given folder, the first 1,000 of each.
    """

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.names: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count one."""
        kind = printable(kind)
        if kind not in self.counts and len(self.counts) >= KINDS:
            kind = OTHERS
        self.counts[kind] += 1
        names = self.names.setdefault(kind, [])
        if len(names) < NAMED:
            names.append(printable(name))

    def __bool__(self) -> bool:
        return bool(self.counts)

    def __str__(self) -> str:
        """Say in one line how many there are, those that may have been meant first and by name."""
        first = (UNREADABLE, *sorted(VIDEO_LIKE), SAME, LOOP)
        kinds = sorted(
            self.counts,
            key=lambda kind: (first.index(kind) if kind in first else len(first), kind),
        )
        parts = [
            f"{self.counts[kind]} {kind}" + (f" ({self._examples(kind)})" if kind in first else "")
            for kind in kinds
        ]
        if len(parts) > KINDS_SHOWN:
            more = sum(self.counts[kind] for kind in kinds[KINDS_SHOWN:])
            parts = [*parts[:KINDS_SHOWN], f"{more} {OTHERS}"]
        return f"passed over {self.counts.total()} files or folders: {', '.join(parts)}"

    def as_dict(self) -> dict[str, Any]:
        """Return it as a run's notes hold it: counts and names by kind."""
        return {
            kind: {"count": self.counts[kind], "names": self.names[kind]}
            for kind in sorted(self.counts)
        }

    def _examples(self, kind: str) -> str:
        names = self.names[kind][:NAMES_SHOWN]
        more = ", ..." if self.counts[kind] > len(names) else ""
        return ", ".join(names) + more


class Listing(NamedTuple):
    """What was found in files and folders.

    Attributes
    ----------
    sources : list of Source
        The recordings.
    passed_over : PassedOver
        The other files and folders.
    """

    sources: list[Source]
    passed_over: PassedOver


def list_recordings(paths: Sequence[str | Path]) -> list[Source]:
    """Return the recordings that `find_recordings` finds."""
    return find_recordings(paths).sources


def find_recordings(paths: Sequence[str | Path]) -> Listing:
    """Find the recordings in any mix of files and folders, and log what was passed over.

    A folder is searched with all its subfolders, also those that are links, each once; hidden files
    and folders are passed over. A recording's name is its path inside the given folder (with
    ``/``), or the bare file name of a file given by itself; where two would be called the same,
    both are called by their whole path. The same file given twice counts once. Characters that a
    table cannot hold are escaped in names, as `words.printable` does.

    Returns
    -------
    Listing
        The recordings in the order given, sorted by name inside each folder, those behind links to
        folders last; and what was passed over.

    Raises
    ------
    InputError
        If a path is empty, does not exist or cannot be read, or there is no recording in any of
        them.
    """
    found: dict[str, tuple[str, Path]] = {}
    passed_over = PassedOver()
    for text in map(str, paths):
        # Path("") is the current folder.
        if not text:
            raise InputError("a path is empty. Name a file or folder; the current folder is .")
        given = Path(text)
        if _is_folder(text):
            for name, path, real in _walk(given, passed_over):
                if found.setdefault(real, (name, path))[0] != name:
                    passed_over.add(SAME, name)
        else:
            found.setdefault(os.path.realpath(given), (given.name, given.absolute()))
    if passed_over:
        log.warning("%s", passed_over)
    if not found:
        given_names = ", ".join(str(path) for path in paths)
        raise InputError(
            f"{given_names}: no recordings found; expected files ending in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    # Each form is less readable than the one before it; of the last one no two are the same.
    forms: list[Callable[[str, Path], str]] = [
        lambda name, _: printable(name),
        lambda _, path: printable(path.as_posix()),
        lambda _, path: printable(path.as_posix().replace("\\", "\\\\")),
    ]
    sources = [Source("", path) for _, path in found.values()]
    todo = list(range(len(sources)))
    names = list(found.values())
    for form in forms:
        for index in todo:
            sources[index] = sources[index]._replace(filename=form(*names[index]))
        count = Counter(source.filename for source in sources)
        todo = [index for index in todo if count[sources[index].filename] > 1]
    return Listing(sources, passed_over)


def _is_folder(given: str) -> bool:
    """Return whether a given path is a folder.

    Raises
    ------
    InputError
        If it does not exist or cannot be looked at.
    """
    try:
        return stat.S_ISDIR(Path(given).stat().st_mode)
    except (OSError, ValueError) as error:
        reason = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
        if isinstance(error, FileNotFoundError):
            reason = "no such file or folder"
    hints = {
        r"-$": "Recordings are not read from standard input: name files or folders",
        r"[a-z0-9]{2,}:/": "Recordings are not read over the network: download them first",
        r"~": "The shell puts the home folder for ~ only where it is not in quotes",
        r".*[*?]": "Name the folder instead of a pattern",
    }
    remedy = next((f". {hint}" for start, hint in hints.items() if re.match(start, given)), "")
    raise InputError(f"{given}: {reason}{remedy}")


def _walk(folder: Path, passed_over: PassedOver) -> Iterator[tuple[str, Path, str]]:
    """Yield each recording in a folder: its path in it with ``/``, whole path and real path."""
    top = folder.absolute()
    # Folders behind links come last: what can be reached without a link keeps that name.
    todo, links = [("", os.path.realpath(top))], list[tuple[str, str]]()
    seen = {todo[0][1]}
    while todo or links:
        if not todo:
            name, parent = links.pop(0)
            real = os.path.realpath(top / name)
            # Back to where the link lies, or to what holds it, leads round and round.
            is_loop = Path(parent).is_relative_to(real)
            if is_loop or real in seen:
                passed_over.add(LOOP if is_loop else SAME, name)
                continue
            seen.add(real)
            todo.append((name, real))
        name, real = todo.pop()
        folders = list[tuple[str, str]]()
        for entry in _entries(top / name, name, passed_over):
            inside = f"{name}/{entry.name}" if name else entry.name
            is_link = entry.is_symlink()
            if entry.name.startswith("."):
                passed_over.add(HIDDEN, inside)
            elif os.path.isdir(entry.path) if is_link else entry.is_dir():  # noqa: PTH112
                below = os.path.join(real, entry.name)  # noqa: PTH118 - half a million names
                if os.path.realpath(below) != below:  # a link, or a junction of Windows
                    links.append((inside, real))
                elif below in seen:
                    passed_over.add(SAME, inside)
                else:
                    seen.add(below)
                    folders.append((inside, below))
            elif (suffix := os.path.splitext(entry.name)[1].lower()) not in SUFFIXES:  # noqa: PTH122
                passed_over.add(suffix or NO_ENDING, inside)
            else:
                here = os.path.join(real, entry.name)  # noqa: PTH118
                yield inside, top / inside, os.path.realpath(here) if is_link else here
        todo += reversed(folders)


def _entries(folder: Path, name: str, passed_over: PassedOver) -> list[os.DirEntry[str]]:
    """List a folder by name, files and links before folders; none if it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if not name:
            raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
        passed_over.add(UNREADABLE, name)
        return []
