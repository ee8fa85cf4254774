"""Stores made: recordings prepared, and what a store lacks added to it."""

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
    glance,
    log,
    rank_of,
    read_header,
    read_manifest,
)
from stallscan.errors import LostShardError, StoreError
from stallscan.recordings.find import Source
from stallscan.stamps import Stamp
from stallscan.vessels.outline import OutlineSettings

# About 60 MB a shard at 64 px and 56 frames; what a kill can cost is at most one shard's work.
RECORDINGS_PER_SHARD = 128
# Large clips fill a shard sooner: it is in memory until it is written.
BYTES_PER_SHARD = 128 * 2**20


def build(
    folder: Path,
    sources: Sequence[Source],
    outline: OutlineSettings,
    clip: ClipSettings,
    processes: int | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Store:
    """Prepare recordings into a store; what stands there already is not done again.

    Parameters
    ----------
    folder : Path
        Of the store; made if missing.
    sources : sequence of Source
        The recordings, each name once; those that give no clip become rows, too.
    outline, clip
        Settings; those of a store that exists must be the same.
    processes : int, optional
        Default: one a core.
    progress : callable
        Called with how many recordings are done, of how many.

    Raises
    ------
    StoreError
        If the folder holds a store that was made with other settings or of other recordings.
    InputError
        If the folder cannot be written.
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
) -> Store:
    """Fill a store with clips, wherever they come from; those that stand there are not made again.

    Made again are those of a recording that was replaced since, those that could not be read, and
    those of a shard that is missing or whose header is damaged, as far as `sources` has its
    recordings; pixels are not looked at (`verify.find_damage` does that).

    Parameters
    ----------
    folder : Path
        Of the store; made if missing.
    sources : sequence of Source
        All recordings that the store is to hold, each name once.
    make : callable
        Given the recordings that are to be done, yields what becomes of them, in their order.
    outline, clip
        Settings that `make` uses; those of a store that exists must be the same.
    progress : callable
        Called with how many recordings are done, of how many.

    Raises
    ------
    StoreError
        If the folder holds a store that was made with other settings or of other recordings.
    InputError
        If the folder cannot be written, or another process writes into it.
    """
    with runs.hold(folder):
        return _fill(folder, sources, make, Preprocessing(outline, clip), progress)


def _fill(
    folder: Path,
    sources: Sequence[Source],
    make: Callable[[Sequence[Source]], Iterable[Prepared]],
    view: Preprocessing,
    progress: Progress,
) -> Store:
    manifest, on_disk = Manifest(outline=view.outline, clip=view.clip), None
    standing: dict[str, _Standing] = {}
    if (folder / MANIFEST_NAME).exists():
        on_disk = read_manifest(folder)
        _check_settings(folder, on_disk, view)
        manifest, standing = _take_stock(folder, on_disk)
    todo = _to_do(folder, sources, standing)
    stamps = {source.filename: Stamp.of(source.path) for source in todo}
    manifest = manifest.model_copy(update={"complete": False})
    finished = len(sources) - len(todo)
    progress(finished, len(sources))
    batch: list[tuple[Row, Prepared]] = []
    size = 0
    for prepared in make(todo):
        stamp = stamps[prepared.source.filename]
        row = Row.of(prepared)._replace(stamp=stamp and stamp.sealed(prepared.source.path))
        before = standing.get(row.filename)
        if before is not None:
            row = row._replace(made=before.rank[0] + 1)
        # One that was tried again in vain stands there already.
        in_vain = before is not None and before.again is not None and row.is_like(before.again)
        if not in_vain or (before and before.stamp is None and row.stamp is not None):
            batch.append((row, prepared))
            size += prepared.clip.pixels.nbytes if prepared.clip else 0
        finished += 1
        progress(finished, len(sources))
        if len(batch) == RECORDINGS_PER_SHARD or size >= BYTES_PER_SHARD:
            manifest = on_disk = _append(folder, manifest, batch)
            batch, size = [], 0
    if batch:
        manifest = on_disk = _append(folder, manifest, batch)
    manifest = manifest.model_copy(update={"complete": True})
    if manifest != on_disk:
        _write_manifest(folder, manifest)
    made = Store(folder)
    made.write_table()
    return made


class _Standing(NamedTuple):
    """What a store holds of a recording: the best of its rows.

    Attributes
    ----------
    rank : tuple
        Of `rank_of`.
    path, stamp
        As in `Row`.
    again : Row or None
        The row, if the recording is to be tried again: its file could not be read, or frames of it
        were missing and nothing says whether it was replaced.
    """

    rank: tuple[int, bool]
    path: str
    stamp: Stamp | None
    again: Row | None


def _take_stock(folder: Path, manifest: Manifest) -> tuple[Manifest, dict[str, _Standing]]:
    """Find what a store holds already.

    Returns
    -------
    manifest : Manifest
        Without the shards that must be made anew.
    standing : dict
        By the recording's name.
    """
    kept: list[Shard] = []
    standing: dict[str, _Standing] = {}
    for entry in manifest.shards:
        try:
            header = read_header(folder, manifest, entry)
        except LostShardError:
            log.warning(
                "%s: this shard of the store is missing or damaged; of its %d recordings those "
                "that are given are made anew",
                folder / entry.file,
                entry.recordings,
            )
            continue
        kept.append(entry)
        for row in header.rows:
            before = standing.get(row.filename)
            if before is None or rank_of(row) >= before.rank:
                lacking = row.status == "damaged" and row.stamp is None
                again = row if row.status == TRY_AGAIN or lacking else None
                standing[row.filename] = _Standing(rank_of(row), row.path, row.stamp, again)
    return manifest.model_copy(update={"shards": tuple(kept)}), standing


def _to_do(folder: Path, sources: Sequence[Source], standing: dict[str, _Standing]) -> list[Source]:
    """Choose the recordings that are to be done, and say why."""
    todo = []
    counts: collections.Counter[runs.Why] = collections.Counter()
    for source in sources:
        why = _why(folder, source, standing.get(source.filename))
        counts[why] += 1
        if why not in ("kept", "unknown"):
            todo.append(source)
    if standing:
        log.info("%s: %s", folder, runs.say_resumed(counts))
        names = {source.filename for source in sources}
        if others := sum(name not in names for name in standing):
            log.info("%s: %d recordings that were not given stay in it", folder, others)
    return todo


def _why(folder: Path, source: Source, before: _Standing | None) -> runs.Why:
    if before is None:
        return "new"
    # The reason of a file that could not be read says to copy it again: perhaps it was.
    if before.again is not None:
        return "again"
    now = Stamp.of(source.path)
    if before.stamp is None:
        _check_path(folder, source, before)
        return "kept" if now is None else "unknown"
    if now is None or before.stamp.is_of(source.path, now):
        return "kept"
    _check_path(folder, source, before)
    return "changed"


def _check_path(folder: Path, source: Source, before: _Standing) -> None:
    """Refuse another recording of the same name; one that was moved or copied is the same."""
    path, given = Path(before.path), source.path
    if path == given or not path.is_file() or not given.is_file():
        return
    if glance(path) != glance(given):
        raise StoreError(
            f"{folder}: holds {source.filename} from {path}, and {given} is another recording. "
            "Choose another folder for the store, or give the folder above both"
        )


def _append(folder: Path, manifest: Manifest, batch: Sequence[tuple[Row, Prepared]]) -> Manifest:
    """Write a shard, then the manifest that names it."""
    # The first that is free: a shard that is made anew takes the place of the one that was lost.
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
