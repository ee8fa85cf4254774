"""Making stores: prepare recordings and add whatever a store lacks."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from stallscan import files, runs, workers
from stallscan.clips import prepare, shard
from stallscan.clips.clip import ClipSettings
from stallscan.clips.prepare import Prepared, Preprocessing
from stallscan.clips.shard import Row
from stallscan.clips.store import (
    MANIFEST_NAME,
    SHARD_NAME,
    TRY_AGAIN,
    Manifest,
    Progress,
    Shard,
    Store,
    log,
    rank_of,
    read_header,
    read_manifest,
)
from stallscan.errors import LostShardError, StoreError
from stallscan.recordings.find import Source
from stallscan.stamps import Stamp
from stallscan.vessels.outline import OutlineSettings

# About 60 MB per shard at 64 px and 56 frames. A kill loses at most one shard's work.
RECORDINGS_PER_SHARD = 128
# The limit for large clips: a shard stays in memory until it is written.
BYTES_PER_SHARD = 128 * 2**20

_StampOf = Callable[[Path], Stamp | None]


def build(
    folder: Path,
    sources: Sequence[Source],
    outline: OutlineSettings,
    clip: ClipSettings,
    processes: int | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Store:
    """Prepare recordings into a store, without repeating what it already has.

    Parameters and errors as in `fill`; the default is one process per core.
    """
    workers.count(processes)
    make = functools.partial(
        prepare.many, views=[Preprocessing(outline, clip)], processes=processes
    )
    return fill(folder, sources, make, outline, clip, progress)


def fill(
    folder: Path,
    sources: Sequence[Source],
    make: Callable[[Sequence[Source]], Iterable[Prepared]],
    outline: OutlineSettings,
    clip: ClipSettings,
    progress: Progress = lambda _done, _of: None,
    have_files: bool = True,
) -> Store:
    """Fill a store with clips from any source, without repeating what it already has.

    A recording is prepared again if its file was replaced, if it could not be read, or if its shard
    is missing or has a damaged header. Pixels are not checked (see `verify.find_damage`).

    Parameters
    ----------
    folder : Path
        The store; created if missing.
    sources : sequence of Source
        All recordings that the store should hold, each name once. Those without a clip get a row
        too.
    make : callable
        Takes the recordings to prepare and yields the results in the same order.
    outline, clip
        The settings that `make` uses, and that an existing store must have.
    progress : callable
        Called with the number of recordings done and their total.
    have_files : bool
        Whether the recordings are files, which may be replaced. If not, nothing is read at their
        paths.

    Raises
    ------
    StoreError
        If the folder holds a store with other settings, or other recordings of the same names.
    InputError
        If the folder cannot be written, or another process is writing into it.
    """
    with runs.hold(folder):
        view = Preprocessing(outline, clip)
        return _fill(folder, sources, make, view, progress, Stamp.of if have_files else _no_stamp)


def _fill(
    folder: Path,
    sources: Sequence[Source],
    make: Callable[[Sequence[Source]], Iterable[Prepared]],
    view: Preprocessing,
    progress: Progress,
    stamp_of: _StampOf,
) -> Store:
    manifest, on_disk = Manifest(outline=view.outline, clip=view.clip), None
    stored: dict[str, _Stored] = {}
    if (folder / MANIFEST_NAME).exists():
        on_disk = read_manifest(folder)
        _check_settings(folder, on_disk, view)
        manifest, stored = _take_stock(folder, on_disk)
    todo = _to_do(folder, sources, stored, stamp_of)
    stamps = {source.filename: stamp_of(source.path) for source in todo}
    manifest = manifest.model_copy(update={"complete": False})
    done = len(sources) - len(todo)
    progress(done, len(sources))
    batch: list[tuple[Row, Prepared]] = []
    size = 0
    for prepared in make(todo):
        # `make` may only just have fetched the file.
        stamp = stamps[prepared.source.filename] or stamp_of(prepared.source.path)
        row = Row.of(prepared)._replace(stamp=stamp and stamp.sealed(prepared.source.path))
        before = stored.get(row.filename)
        if before is not None:
            row = row._replace(made=before.rank[0] + 1)
        # If another try gave the same result, the store keeps its row, unless only the new one has
        # a stamp.
        same = before is not None and before.again is not None and row.is_like(before.again)
        if not same or (before and before.stamp is None and row.stamp is not None):
            batch.append((row, prepared))
            size += prepared.clip.pixels.nbytes if prepared.clip else 0
        done += 1
        progress(done, len(sources))
        if len(batch) == RECORDINGS_PER_SHARD or size >= BYTES_PER_SHARD:
            manifest = on_disk = _append(folder, manifest, batch)
            batch, size = [], 0
    if batch:
        manifest = on_disk = _append(folder, manifest, batch)
    manifest = manifest.model_copy(update={"complete": True})
    if manifest != on_disk:
        _write_manifest(folder, manifest)
    store = Store(folder)
    store.write_table()
    return store


def _no_stamp(_path: Path) -> None:
    """Return the stamp of what is not a file."""


class _Stored(NamedTuple):
    """What a store knows about a recording, from the row that counts.

    Whole rows are kept only where needed: of half a million recordings they would fill gigabytes.
    """

    rank: tuple[int, bool]  # from `rank_of`
    path: str
    stamp: Stamp | None
    # The row, if the recording must be tried again: its file could not be read, or it lacked frames
    # and has no stamp that would show whether it was replaced.
    again: Row | None


def _take_stock(folder: Path, manifest: Manifest) -> tuple[Manifest, dict[str, _Stored]]:
    """Read an existing store.

    Returns
    -------
    manifest : Manifest
        Without the shards that must be made again.
    stored : dict
        By filename.
    """
    kept: list[Shard] = []
    stored: dict[str, _Stored] = {}
    for entry in manifest.shards:
        try:
            header = read_header(folder, manifest, entry)
        except LostShardError:
            log.warning(
                "%s: this shard of the store is missing or damaged. Its %d recordings are prepared "
                "again, if they are among the inputs",
                folder / entry.file,
                entry.recordings,
            )
            continue
        kept.append(entry)
        for row in header.rows:
            before = stored.get(row.filename)
            if before is None or rank_of(row) >= before.rank:
                unsure = row.status == "damaged" and row.stamp is None
                again = row if row.status == TRY_AGAIN or unsure else None
                stored[row.filename] = _Stored(rank_of(row), row.path, row.stamp, again)
    return manifest.model_copy(update={"shards": tuple(kept)}), stored


def _to_do(
    folder: Path,
    sources: Sequence[Source],
    stored: dict[str, _Stored],
    stamp_of: _StampOf,
) -> list[Source]:
    """Return the recordings to prepare, and log why."""
    todo = []
    counts: collections.Counter[runs.Why] = collections.Counter()
    for source in sources:
        why = _why(folder, source, stored.get(source.filename), stamp_of)
        counts[why] += 1
        if why not in ("kept", "unknown"):
            todo.append(source)
    if stored:
        log.info("%s: %s", folder, runs.say_resumed(counts))
        names = {source.filename for source in sources}
        if others := sum(name not in names for name in stored):
            log.info("%s: keeps %d recordings that are not among the inputs", folder, others)
    return todo


def _why(
    folder: Path,
    source: Source,
    before: _Stored | None,
    stamp_of: _StampOf,
) -> runs.Why:
    if before is None:
        return "new"
    # The message for an unreadable file says to copy it again, which may have happened.
    if before.again is not None:
        return "again"
    now = stamp_of(source.path)
    if before.stamp is None:
        _check_path(folder, source, before)
        return "kept" if now is None else "unknown"
    if now is None or before.stamp.is_of(source.path, now):
        return "kept"
    _check_path(folder, source, before)
    return "changed"


def _check_path(folder: Path, source: Source, before: _Stored) -> None:
    """Refuse a different recording of the same name; a moved or copied one is the same."""
    stored, given = Path(before.path), source.path
    if stored == given or not stored.is_file() or not given.is_file():
        return
    if files.glance(stored) != files.glance(given):
        raise StoreError(
            f"{folder}: has {source.filename} from {stored}, and {given} is a different recording. "
            "Choose another folder for the store, or pass the parent folder of both"
        )


def _append(folder: Path, manifest: Manifest, batch: Sequence[tuple[Row, Prepared]]) -> Manifest:
    """Write a shard, then the manifest that lists it."""
    # The first free name, so a shard that is made again takes the place of the lost one.
    taken = {entry.file for entry in manifest.shards}
    names = map(SHARD_NAME.format, itertools.count())
    file = next(name for name in names if name not in taken)
    sha256 = shard.write_shard(folder / file, batch, manifest.view)
    entries = [*manifest.shards, Shard(file=file, sha256=sha256, recordings=len(batch))]
    entries.sort(key=lambda entry: (len(entry.file), entry.file))
    manifest = manifest.model_copy(update={"shards": tuple(entries)})
    _write_manifest(folder, manifest)
    return manifest


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    files.write_json(folder / MANIFEST_NAME, manifest.model_dump(mode="json"))


def _check_settings(folder: Path, manifest: Manifest, view: Preprocessing) -> None:
    if differences := manifest.differences(view):
        raise StoreError(
            f"{folder}: its clips were made with other settings ({'; '.join(differences)}). Choose "
            "another folder with -o, or remove this one"
        )
