"""The clip store: a folder with prepared clips in shards, and a manifest that lists the shards.

The header of a shard has a row for each of its recordings, with or without a clip (see `shard`).
The manifest holds the settings of all clips and the hash of each shard's header, which in turn
holds the hash of each clip, so any changed byte is detected. Opening a store reads only the
headers; a clip is checked each time it is read.
"""

import collections
import csv
import functools
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stallscan import documents, files
from stallscan.clips import shard
from stallscan.clips.clip import Clip, ClipSettings
from stallscan.clips.prepare import Prepared, Preprocessing
from stallscan.clips.shard import Header, Place, Row
from stallscan.clips.traits import Traits
from stallscan.errors import InputError, SettingsError, StoreError
from stallscan.recordings.recording import Frames
from stallscan.settings import Name, Settings
from stallscan.stamps import Stamp
from stallscan.vessels.outline import OutlineSettings
from stallscan.words import listed

if TYPE_CHECKING:
    import pandas as pd

MANIFEST_NAME = "manifest.json"
TABLE_NAME = "recordings.csv"
TABLE_COLUMNS = ("filename", "status", "reason", "frames", "frames_declared", "shard")
SHARD_NAME = "shard-{:05d}.safetensors"
SHARDS = "shard-*.safetensors"
# Headers cached while rows are read, usually in the order of their shards.
HEADERS_KEPT = 8
# The largest table of recordings that is read; one for half a million has 100 MB.
TABLE_BYTES = 2**30
# The status of recordings that the next run tries again: the file may have been copied again.
TRY_AGAIN = "unreadable"

Progress = Callable[[int, int], None]
log = logging.getLogger("stallscan")


class Shard(Settings):
    """The manifest's entry for one shard."""

    file: Name  # file name inside the store
    sha256: str  # hash of the header
    recordings: int  # number of rows


class Manifest(Settings):
    """The content of ``manifest.json``."""

    format: Literal[2] = 2
    outline: OutlineSettings  # of all clips
    clip: ClipSettings
    complete: bool = False  # False until all recordings of the current run are in the store
    shards: tuple[Shard, ...] = ()

    @property
    def view(self) -> Preprocessing:
        """The settings of all clips."""
        return Preprocessing(self.outline, self.clip)

    def differences(self, view: Preprocessing) -> list[str]:
        """Return a phrase for each setting of these clips that differs from `view`."""
        return [
            f"{group}.{name} is {stored}, not {getattr(wanted, name)}"
            for group, settings, wanted in zip(Preprocessing._fields, self.view, view, strict=True)
            for name, stored in settings
            if stored != getattr(wanted, name)
        ]


class Store:
    """Clips on disk, read one at a time.

    No file stays open, so a store can be pickled and used in other processes. Every method that
    reads rows or clips raises `StoreError` if a shard is missing or has changed.

    Raises
    ------
    StoreError
        If there is no readable manifest, or a shard is missing or has changed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._shards = {folder / entry.file: entry for entry in self.manifest.shards}
        # By filename, in the order in which the recordings were added.
        self._places: dict[str, Place] = {}
        ranks: dict[str, tuple[int, bool]] = {}
        for entry in self.manifest.shards:
            header = read_header(folder, self.manifest, entry)
            for row, place in zip(header.rows, header.places, strict=True):
                if (rank := rank_of(row)) >= ranks.get(row.filename, rank):
                    ranks[row.filename], self._places[row.filename] = rank, place

    def __contains__(self, filename: str) -> bool:
        place = self._places.get(filename)
        return place is not None and bool(place.sha256)

    def __len__(self) -> int:
        """Return the number of recordings, with or without a clip."""
        return len(self._places)

    def frames(self, filename: str) -> int:
        """Return the number of frames of a clip without reading it."""
        return self._places[filename].frames

    def place(self, filename: str) -> Place:
        """Return where `shard.read_clip` finds a clip, for another process."""
        return self._places[filename]

    def read(self, filename: str) -> Frames:
        """Read one clip, uint8 (T, S, S, C)."""
        return shard.read_clip(self._places[filename], self.manifest.clip)

    def rows(self, filenames: Iterable[str] | None = None) -> Iterator[Row]:
        """Yield the rows of all (or some) recordings, in the order in which they were added."""
        return (row for row, _ in self._walk(filenames))

    def stream(self, filenames: Iterable[str] | None = None) -> Iterator[Prepared]:
        """Yield recordings as `prepare.one` returned them, in the order of `rows`.

        Only one clip is in memory at a time.
        """
        for row in self.rows(filenames):
            clips: tuple[Clip, ...] = ()
            if row.box is not None and row.traits is not None:
                clips = (Clip(self.read(row.filename), row.box, row.traits),)
            counts = (row.frames, row.frames_declared)
            yield Prepared(row.source, row.status, row.reason, *counts, clips)

    def traits(self, filenames: Iterable[str]) -> "pd.DataFrame":
        """Return a table with the columns of `Traits` and a row for each filename with a clip."""
        # Importing pandas takes longer than predicting a recording, which does not need it.
        import pandas as pd

        traits = {row.filename: row.traits for row in self.rows() if row.traits is not None}
        rows = [traits[name] for name in filenames if name in traits]
        return pd.DataFrame(rows, columns=list(Traits._fields))

    def hashes(self, filenames: Iterable[str]) -> set[str]:
        """Return the SHA-256 hashes of recordings: of their files, if known, and of their clips."""
        return {sha256 for pair in self.identities(filenames).values() for sha256 in pair} - {""}

    def identities(self, filenames: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return the SHA-256 hashes of file and clip of each recording; empty where unknown."""
        return {
            row.filename: (row.stamp.sha256 if row.stamp else "", row.sha256)
            for row in self.rows(filenames)
        }

    def not_ok(self) -> dict[str, str]:
        """Return the status of each recording that has a clip but gets no call in prediction."""
        return {
            row.filename: row.status for row in self.rows() if row.has_clip and row.status != "ok"
        }

    def warn_of_replaced(self) -> None:
        """Log a warning if recordings were replaced since their clips were made.

        Only the sizes and times of existing files are compared; reading the recordings again is
        what the store avoids.
        """
        replaced = [
            row.filename
            for row in self.rows()
            if row.stamp and (now := Stamp.of(row.path)) and now[:2] != row.stamp[:2]
        ]
        if replaced:
            log.warning(
                "%s: %d of its %d recordings have changed in size or time since their clips were "
                "made (%s). Run 'stallscan prepare' with the same recordings to update the store",
                self.folder,
                len(replaced),
                len(self),
                listed(replaced),
            )

    def failures(self) -> list[Row]:
        """Return the rows of the recordings without a clip."""
        return [row for row in self.rows() if not row.has_clip]

    def count(self) -> dict[str, int]:
        """Count the recordings by status."""
        return dict(collections.Counter(row.status for row in self.rows()))

    def require(self, view: Preprocessing, whose: str, option: str) -> None:
        """Refuse a store that is unfinished or whose clips were made with other settings.

        Parameters
        ----------
        view : Preprocessing
            The settings that the clips should have.
        whose : str
            Whose settings they are, for the message: ``the recipe default``.
        option : str
            The option of `stallscan prepare` for such clips: ``--recipe default``.

        Raises
        ------
        StoreError
            With each setting that differs, as it is and as it should be.
        """
        if differences := self.manifest.differences(view):
            simulate = " or 'stallscan simulate --clips'" if option.startswith("--recipe") else ""
            raise StoreError(
                f"{self.folder}: its clips do not match {whose} ({'; '.join(differences)}). Make "
                f"them again in another folder: 'stallscan prepare'{simulate} with {option}"
            )
        if not self.manifest.complete:
            raise StoreError(
                f"{self.folder}: this store is not finished, it has {len(self._places)} recordings "
                "so far. Repeat the command that made it, which resumes where it left off"
            )

    def write_table(self) -> None:
        """Write ``recordings.csv``, with the status and shard of each recording, if it changed."""
        lines = [files.csv_line(TABLE_COLUMNS)]
        for row, place in self._walk():
            counts = (row.frames, row.frames_declared)
            cells = (row.filename, row.status, row.reason, *counts, place.path.name)
            lines.append(files.csv_line(cells))
        path, text = self.folder / TABLE_NAME, "".join(lines)
        if not path.is_file() or path.read_bytes() != text.encode(errors="backslashreplace"):
            files.write_text(path, text)

    def _walk(self, filenames: Iterable[str] | None = None) -> Iterator[tuple[Row, Place]]:
        header = functools.lru_cache(HEADERS_KEPT)(self._header)
        wanted = self._places.keys() if filenames is None else set(filenames)
        for filename, place in self._places.items():
            if filename in wanted:
                yield header(place.path).rows[place.row], place

    def _header(self, path: Path) -> Header:
        return read_header(self.folder, self.manifest, self._shards[path])


def is_store(path: str | Path) -> bool:
    """Whether a folder has a manifest and a shard."""
    path = Path(path)
    # Unlike Path.is_file, this returns False where permission is denied.
    return os.path.isfile(path / MANIFEST_NAME) and any(path.glob(SHARDS))  # noqa: PTH113


def open_if_store(paths: Sequence[str | Path]) -> Store | None:
    """Open a store that was passed instead of recordings; return None if no path is a store.

    Raises
    ------
    InputError
        If there are other paths besides the store.
    StoreError
        As `Store`.
    """
    stores = [Path(path) for path in paths if is_store(path)]
    if stores and len(paths) > 1:
        raise InputError(
            f"{stores[0]}: a clip store cannot be combined with other inputs. Run the command once "
            "for the store and once for the rest"
        )
    return Store(stores[0]) if stores else None


def read_manifest(folder: Path) -> Manifest:
    """Read a store's manifest.

    Raises
    ------
    StoreError
        If it cannot be read or has another format.
    """
    path = folder / MANIFEST_NAME
    if not path.exists():
        fault = f"not a store, it has no {MANIFEST_NAME}" if folder.is_dir() else "no such folder"
        raise StoreError(
            f"{folder}: {fault}. Check the path, or make a store: stallscan prepare PATH... -o "
            "STORE"
        )
    try:
        content: Any = documents.read_json(path)
        if isinstance(content, dict) and content.get("format") == 1:
            raise StoreError(
                f"{path}: this store has format 1, and this version of stallscan reads format 2. "
                "Remove the folder and make the store again"
            )
        return Manifest.parse(content, str(path))
    except (OSError, ValueError, TypeError, SettingsError) as error:
        raise StoreError(
            f"{path}: cannot be read as the manifest of a store ({error}). Check the path, "
            "or make the store again in another folder"
        ) from None


def read_header(folder: Path, manifest: Manifest, entry: Shard) -> Header:
    """Read the header of a shard and check that it belongs to the manifest."""
    path = folder / entry.file
    header = shard.read_header(path, entry.sha256)
    if header.view != manifest.view or len(header.rows) != entry.recordings:
        raise shard.refusal(path, f"does not match {MANIFEST_NAME}")
    return header


def listed_in_table(folder: Path, file: str) -> tuple[str, ...]:
    """Return the recordings of a shard according to the store's table; none if it is unknown."""
    path = folder / TABLE_NAME
    try:
        table = io.StringIO(documents.read(path, TABLE_BYTES).decode("utf-8"), newline="")
        return tuple(row["filename"] for row in csv.DictReader(table) if row["shard"] == file)
    except (OSError, ValueError, KeyError, csv.Error):
        return ()


def rank_of(row: Row) -> tuple[int, bool]:
    """Return the rank of a row among those of one recording: the last of the highest rank counts.

    Position is not enough, because a shard that is made again takes the place of the lost one. Rows
    of older versions all have `made` 0, so among these a success outranks a failure.
    """
    return row.made, row.status != TRY_AGAIN
