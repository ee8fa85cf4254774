"""Finding recordings in files and folders, and reporting what was skipped."""

import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stallscan import documents
from stallscan.errors import InputError
from stallscan.recordings.kinds import STACK_SUFFIXES, VIDEO_SUFFIXES, kind_of, refusal
from stallscan.words import printable

log = logging.getLogger("stallscan")

ARRAY_SUFFIXES = frozenset({".npy"})
SUFFIXES = VIDEO_SUFFIXES | STACK_SUFFIXES | ARRAY_SUFFIXES

# Kinds of skipped files and folders, besides the suffixes of files. They are keys in run.json.
UNREADABLE = "not readable"
SAME = "read under another name"
LOOP = "linking back to a folder above"
HIDDEN = "hidden"
NO_ENDING = "without ending"
OTHERS = "others"
# At most this many kinds, because suffixes may be running numbers, and names of each kind.
KINDS, NAMED = 50, 1000
# Beside the tables of a simulated corpus: all that its recordings depend on.
SIMULATION = "simulation.json"
# At most this many in the log.
KINDS_SHOWN, NAMES_SHOWN = 8, 3
# Suffixes of files that may be recordings but are not supported; listed first.
VIDEO_LIKE = frozenset(
    {".wmv", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".flv", ".ogv", ".3gp", ".vob", ".asf"}
    | {".webp", ".png", ".jpg", ".jpeg", ".btf", ".tf8", ".lsm", ".czi", ".lif", ".nd2", ".oib"}
    | {".oif", ".oir", ".ims", ".h5", ".npz", ".mat", ".zarr", ".zip"}
    | {".part", ".crdownload", ".download"}
)


class Source(NamedTuple):
    """A recording on disk, and the name that identifies it in every table."""

    filename: str
    path: Path


def are_simulated(paths: Sequence[str | Path]) -> bool:
    """Return whether all paths are in folders of `stallscan simulate`, or their train/."""
    return bool(paths) and all(_simulation_of(Path(path)) for path in paths)


def refuse_other_simulation(table: str | Path, paths: Sequence[str | Path]) -> None:
    """Raise InputError if a table lies in a simulated corpus, and the recordings in others only.

    Recordings have the same names in all corpora, so the table would fit them by name. What was
    moved out of its corpus is not refused.
    """
    origin = Path(table).parent / SIMULATION
    if not origin.is_file():
        return
    others = [other for path in paths if (other := _simulation_of(Path(path)))]
    if not others or _drawn_with(origin) in map(_drawn_with, others):
        return
    folder = others[0].parent
    raise InputError(
        f"{table}: is about other simulated recordings than those in {folder}, which have the same "
        f"names. Give the table of {folder}"
    )


def _simulation_of(path: Path) -> Path | None:
    """Return the file that describes the simulated corpus in which a path is, None without one."""
    files = (folder / SIMULATION for folder in (path, *path.parents[:2]))
    return next((file for file in files if file.is_file()), None)


def _drawn_with(simulation: Path) -> Any:
    """Return what determines the recordings of a corpus, and not how its clips are cut."""
    try:
        content = documents.read_json(simulation)
    except (OSError, ValueError) as error:
        raise InputError(f"{simulation}: not readable ({error}). Simulate again") from None
    if not isinstance(content, dict):
        return content
    return {name: value for name, value in content.items() if name not in ("outline", "clip")}


class PassedOver:
    """Files and folders that were skipped, by kind: a suffix, or one of the kinds above.

    Attributes
    ----------
    counts : Counter of str
        Their number.
    names : dict
        Their paths inside the given folder, at most 1,000 of each kind.
    """

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.names: dict[str, list[str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Count a file or folder."""
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
        """Summarize in one line; likely recordings come first, with examples."""
        first = (UNREADABLE, *sorted(VIDEO_LIKE), SAME, LOOP)
        kinds = sorted(
            self.counts,
            key=lambda kind: (first.index(kind) if kind in first else len(first), kind),
        )
        items = [
            f"{self.counts[kind]} {kind}" + (f" ({self._examples(kind)})" if kind in first else "")
            for kind in kinds
        ]
        if len(items) > KINDS_SHOWN:
            more = sum(self.counts[kind] for kind in kinds[KINDS_SHOWN:])
            items = [*items[:KINDS_SHOWN], f"{more} {OTHERS}"]
        total = self.counts.total()
        what = "file or folder" if total == 1 else "files or folders"
        return f"skipped {total:,} {what}: {', '.join(items)}"

    def as_dict(self) -> dict[str, Any]:
        """Return counts and names by kind, as run.json holds them."""
        return {
            kind: {"count": self.counts[kind], "names": self.names[kind]}
            for kind in sorted(self.counts)
        }

    def _examples(self, kind: str) -> str:
        names = self.names[kind][:NAMES_SHOWN]
        more = ", ..." if self.counts[kind] > len(names) else ""
        return ", ".join(names) + more


class Listing(NamedTuple):
    """The recordings found, and what was skipped."""

    sources: list[Source]
    passed_over: PassedOver


def list_recordings(paths: Sequence[str | Path]) -> list[Source]:
    """Return the recordings that `find_recordings` finds."""
    return find_recordings(paths).sources


def find_recordings(paths: Sequence[str | Path]) -> Listing:
    """Find the recordings in files and folders, and log what was skipped.

    Folders are searched recursively, through links, but each only once and without hidden files
    and folders. A recording is named by its path inside the given folder (with ``/``), or by its
    file name if the file itself was given. Recordings that would share a name are named by their
    whole path. The same file given twice counts once. `words.printable` escapes characters that a
    table cannot hold.

    Returns
    -------
    Listing
        Recordings in the order given. Those of a folder are sorted by name, the contents of linked
        folders last.

    Raises
    ------
    InputError
        If a path is empty, missing or unreadable, or there is no recording in any of them.
    """
    files: dict[str, tuple[str, Path]] = {}  # real path -> name and path
    passed_over = PassedOver()
    for text in map(str, paths):
        # Path("") is the current folder.
        if not text:
            raise InputError("a path is empty. Name a file or folder (. is the current folder)")
        given = Path(text)
        if _is_folder(text):
            for name, path, real in _walk(given, passed_over):
                if files.setdefault(real, (name, path))[0] != name:
                    passed_over.add(SAME, name)
        else:
            files.setdefault(os.path.realpath(given), (given.name, given.absolute()))
    if passed_over:
        log.warning("%s", passed_over)
    if not files:
        for path in map(Path, paths):
            if kind_of(path) in ("run", "stack run", "series run"):
                raise InputError(refusal(path, "a folder of recordings"))
        given_names = ", ".join(str(path) for path in paths)
        raise InputError(
            f"{given_names}: no recordings found. Name a file, or a folder with files of type "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    return Listing(_name_uniquely(list(files.values())), passed_over)


def _name_uniquely(files: list[tuple[str, Path]]) -> list[Source]:
    """Name each recording in the most readable form that no other one shares."""
    forms: list[Callable[[str, Path], str]] = [
        lambda name, _: printable(name),
        lambda _, path: printable(path.as_posix()),
        # Unambiguous: backslashes of the path itself differ from those of escapes.
        lambda _, path: printable(path.as_posix().replace("\\", "\\\\")),
    ]
    sources = [Source("", path) for _, path in files]
    todo = list(range(len(sources)))
    for form in forms:
        for index in todo:
            sources[index] = sources[index]._replace(filename=form(*files[index]))
        count = Counter(source.filename for source in sources)
        todo = [index for index in todo if count[sources[index].filename] > 1]
    return sources


def _is_folder(given: str) -> bool:
    """Return whether a path is a folder; raise InputError if it cannot be examined."""
    try:
        return stat.S_ISDIR(Path(given).stat().st_mode)
    except (OSError, ValueError) as error:
        reason = f"cannot be opened ({getattr(error, 'strerror', None) or error})"
        if isinstance(error, FileNotFoundError):
            reason = "no such file or folder"
    hints = {
        r"-$": "stallscan does not read standard input. Name files or folders",
        r"[a-z0-9]{2,}:/": "stallscan does not read from the network. Download the recordings",
        r"~": "The shell replaces ~ by the home folder only outside of quotes. Remove the quotes",
        r".*[*?]": "stallscan does not expand patterns. Name the folder",
        r"": "Check the path and its permissions",
    }
    hint = next(hint for start, hint in hints.items() if re.match(start, given))
    raise InputError(f"{given}: {reason}. {hint}")


def _walk(folder: Path, passed_over: PassedOver) -> Iterator[tuple[str, Path, str]]:
    """Yield name (path inside the folder, with ``/``), path and real path of each recording."""
    top = folder.absolute()
    # Folders to search, and links to folders: (name, real path), (name, real path of its folder).
    # Links come last, so that whatever can be reached without a link is named without it.
    todo, links = [("", os.path.realpath(top))], list[tuple[str, str]]()
    seen = {todo[0][1]}
    while todo or links:
        if not todo:
            name, parent = links.pop(0)
            real = os.path.realpath(top / name)
            # A link to a folder that contains it would never end.
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
    """List a folder, sorted by name; a subfolder that cannot be read counts as empty."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        if not name:
            raise InputError(
                f"{folder}: cannot be read ({error.strerror}). Check the permissions of the folder"
            ) from None
        passed_over.add(UNREADABLE, name)
        return []
