"""The clip store: a folder of prepared clips, in shards that a manifest names.

What is known of a recording stands in the header of its shard (`shard`), also of one that gave no
clip. The manifest has the settings that all clips were made with, and of each shard the hash of its
header, which has the hash of each clip: no byte of a store can change unseen. To open a store only
the headers are read; a clip is checked whenever it is read.
"""

import collections
import csv
import functools
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stallscan import files
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
# Clips are read in the order of their shards more often than not.
HEADERS_KEPT = 8
# Of a file's beginning and end, to tell it from another one of the same name.
GLANCE_BYTES = 2**16
# What became of a recording that may be mended by copying the file again.
TRY_AGAIN = "unreadable"

Progress = Callable[[int, int], None]
log = logging.getLogger("stallscan")


class Shard(Settings):
    """One file of clips.

    Attributes
    ----------
    file : str
        Name inside the store.
    sha256 : str
        Hash of its header.
    recordings : int
        How many have a row there.
    """

    file: Name
    sha256: str
    recordings: int


class Manifest(Settings):
    """What ``manifest.json`` holds.

    Attributes
    ----------
    format : int
        Number of this format.
    outline, clip
        Settings that all clips were made with.
    complete : bool
        Whether all recordings that were given are in it: not while it is being made.
    shards : tuple of Shard
    """

    format: Literal[2] = 2
    outline: OutlineSettings
    clip: ClipSettings
    complete: bool = False
    shards: tuple[Shard, ...] = ()

    @property
    def view(self) -> Preprocessing:
        """How the recordings are seen."""
        return Preprocessing(self.outline, self.clip)

    def differences(self, view: Preprocessing) -> list[str]:
        """Name each setting that these clips were made with and that is another one now."""
        return [
            f"{group}.{name} is {was}, not {getattr(wanted, name)}"
            for group, stands, wanted in zip(Preprocessing._fields, self.view, view, strict=True)
            for name, was in stands
            if was != getattr(wanted, name)
        ]


class Store:
    """Clips on disk, read one at a time.

    No file is kept open, so a store may be handed to other processes.

    Parameters
    ----------
    folder : Path
        Of the store.

    Raises
    ------
    StoreError
        If there is no readable manifest, or a shard is missing or not the one that was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self._shards = {folder / entry.file: entry for entry in self.manifest.shards}
        self._places: dict[str, Place] = {}  # in the order in which they were first given
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
        """Count the recordings, with and without a clip."""
        return len(self._places)

    def frames(self, filename: str) -> int:
        """Count the frames of a clip without reading it."""
        return self._places[filename].frames

    def read(self, filename: str) -> Frames:
        """Read one clip.

        Returns
        -------
        ndarray
            uint8 (T, S, S, C).

        Raises
        ------
        StoreError
            If its shard is missing, or its pixels are not those that were written.
        """
        return shard.read_clip(self._places[filename], self.manifest.clip)

    def rows(self, filenames: Iterable[str] | None = None) -> Iterator[Row]:
        """Give what is known of each recording, in the order in which they were first given.

        Parameters
        ----------
        filenames : iterable of str, optional
            Only of these.

        Raises
        ------
        StoreError
            If a shard is missing or not the one that was written.
        """
        return (row for row, _ in self._walk(filenames))

    def stream(self, filenames: Iterable[str] | None = None) -> Iterator[Prepared]:
        """Give back what `prepare.one` gave, in the order of `rows`; one recording is in memory.

        Parameters
        ----------
        filenames : iterable of str, optional
            Only of these.

        Raises
        ------
        StoreError
            As `rows` and `read`.
        """
        for row in self.rows(filenames):
            clips: tuple[Clip, ...] = ()
            if row.box is not None and row.traits is not None:
                clips = (Clip(self.read(row.filename), row.box, row.traits),)
            counted = (row.frames, row.frames_declared)
            yield Prepared(row.source, row.status, row.reason, *counted, clips)

    def traits(self, filenames: Iterable[str]) -> "pd.DataFrame":
        """Give what was measured of recordings when their clips were made.

        Returns
        -------
        DataFrame
            A row for each name that has a clip, columns as in `Traits`.

        Raises
        ------
        StoreError
            As `rows`.
        """
        # It takes longer to import than a recording to predict, which needs nothing of it.
        import pandas as pd

        known = {row.filename: row.traits for row in self.rows() if row.traits is not None}
        rows = [known[name] for name in filenames if name in known]
        return pd.DataFrame(rows, columns=list(Traits._fields))

    def not_ok(self) -> dict[str, str]:
        """Give the status of each recording that has a clip, but that prediction does not call.

        Raises
        ------
        StoreError
            As `rows`.
        """
        return {
            row.filename: row.status for row in self.rows() if row.has_clip and row.status != "ok"
        }

    def warn_of_replaced(self) -> None:
        """Say if recordings are not as they were when their clips were made; those gone are not.

        Size and time are looked at only: the store is there so that recordings are not read again.

        Raises
        ------
        StoreError
            As `rows`.
        """
        replaced = [
            row.filename
            for row in self.rows()
            if row.stamp and (now := Stamp.of(row.path)) and now[:2] != row.stamp[:2]
        ]
        if replaced:
            log.warning(
                "%s: %d of its %d recordings have another size or time than when their clips were "
                "made (%s). 'stallscan prepare' with the same recordings brings it up to date",
                *(self.folder, len(replaced), len(self), listed(replaced)),
            )

    def failures(self) -> list[Row]:
        """Give the rows of the recordings without a clip.

        Raises
        ------
        StoreError
            As `rows`.
        """
        return [row for row in self.rows() if not row.has_clip]

    def count(self) -> dict[str, int]:
        """Count the recordings by status.

        Raises
        ------
        StoreError
            As `rows`.
        """
        return dict(collections.Counter(row.status for row in self.rows()))

    def require(self, view: Preprocessing, whose: str, option: str) -> None:
        """Refuse clips that were made with other settings, or that are not all there yet.

        Parameters
        ----------
        view : Preprocessing
            The settings that are asked for.
        whose : str
            Who asks: ``the recipe default``.
        option : str
            What `stallscan prepare` is to be given for such clips: ``--recipe default``.

        Raises
        ------
        StoreError
            If they differ; each setting that does is shown as it is and as it should be. If the
            store is not finished.
        """
        if differences := self.manifest.differences(view):
            simulate = " or 'stallscan simulate --clips'" if option.startswith("--recipe") else ""
            raise StoreError(
                f"{self.folder}: its clips are not those of {whose} ({'; '.join(differences)}); "
                f"'stallscan prepare'{simulate} with {option} makes them anew in another folder"
            )
        if not self.manifest.complete:
            raise StoreError(
                f"{self.folder}: is not finished, it has {len(self._places)} recordings so far; "
                "start the command that makes it again, which goes on where it was"
            )

    def write_table(self) -> None:
        """Write ``recordings.csv``: what became of each recording, and which shard has it.

        One that says so already is left alone.

        Raises
        ------
        StoreError
            As `rows`.
        """
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(TABLE_COLUMNS)
        for row, place in self._walk():
            counted = (row.frames, row.frames_declared)
            writer.writerow([row.filename, row.status, row.reason, *counted, place.path.name])
        path, text = self.folder / TABLE_NAME, table.getvalue()
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
    """Whether a folder is a store: it has a manifest and a shard."""
    path = Path(path)
    # Unlike that of a path, this is false where nothing may be read.
    return os.path.isfile(path / MANIFEST_NAME) and any(path.glob(SHARDS))  # noqa: PTH113


def open_if_store(paths: Sequence[str | Path]) -> Store | None:
    """Open the store that is given in place of recordings; None if none of the paths is one.

    Raises
    ------
    InputError
        If it is given together with something else.
    StoreError
        As `Store`.
    """
    found = [Path(path) for path in paths if is_store(path)]
    if found and len(paths) > 1:
        raise InputError(
            f"{found[0]}: a store of clips is taken by itself; run the command once for it and "
            "once for the rest"
        )
    return Store(found[0]) if found else None


def glance(path: Path) -> tuple[int, bytes, bytes]:
    """Give the size, the beginning and the end of a file: to read it all would take too long."""
    with path.open("rb") as file:
        head = file.read(GLANCE_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - GLANCE_BYTES, 0))
        return size, head, file.read()


def read_manifest(folder: Path) -> Manifest:
    """Read a store's manifest, and refuse one of another format."""
    path = folder / MANIFEST_NAME
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("format") == 1:
            raise StoreError(
                f"{path}: a store of format 1, this stallscan reads format 2; remove the folder "
                "and make the store again"
            )
        return Manifest.parse(content, str(path))
    except (OSError, ValueError, TypeError, SettingsError) as error:
        raise StoreError(f"{path}: not readable as the manifest of a store ({error})") from None


def read_header(folder: Path, manifest: Manifest, entry: Shard) -> Header:
    """Read the header of a shard, and make sure that it is of this store."""
    path = folder / entry.file
    header = shard.read_header(path, entry.sha256)
    if header.view != manifest.view or len(header.rows) != entry.recordings:
        raise shard.refusal(path, f"is not as {MANIFEST_NAME} describes it")
    return header


def listed_in_table(folder: Path, file: str) -> tuple[str, ...]:
    """Names of the recordings of a shard by the store's table; none where that does not know."""
    path = folder / TABLE_NAME
    try:
        with path.open(encoding="utf-8", newline="") as table:
            return tuple(row["filename"] for row in csv.DictReader(table) if row["shard"] == file)
    except (OSError, ValueError, KeyError, csv.Error):
        return ()


def rank_of(row: Row) -> tuple[int, bool]:
    """Order the rows of one recording: the last one that has the highest rank counts.

    Of two by an older version, which counts nothing, the one of the success may come first: a
    shard that is made anew has the place of the one that was lost.
    """
    return row.made, row.status != TRY_AGAIN
