"""Checking every byte of a store."""

from pathlib import Path
from typing import NamedTuple

from stallscan.clips import shard
from stallscan.clips.store import Progress, listed_in_table, read_header, read_manifest
from stallscan.errors import StoreError


class Damage(NamedTuple):
    """What is wrong with a shard."""

    file: str  # name of the shard
    what: str  # the message: what is wrong and what to do
    lost: int  # number of recordings lost
    recordings: tuple[str, ...]  # their names, if known


def find_damage(folder: Path, progress: Progress = lambda _done, _of: None) -> list[Damage]:
    """Read every byte of a store and return the shards that are missing or have changed.

    `progress` is called with the number of recordings checked and their total.

    Raises
    ------
    StoreError
        If there is no readable manifest.
    """
    manifest = read_manifest(folder)
    total = sum(entry.recordings for entry in manifest.shards)
    done = 0
    damaged = []
    for entry in manifest.shards:
        progress(done, total)
        try:
            header = read_header(folder, manifest, entry)
        except StoreError as error:
            names = listed_in_table(folder, entry.file)
            damaged.append(Damage(entry.file, str(error), entry.recordings, names))
            done += entry.recordings
            continue
        message, lost = "", []
        for row, place in zip(header.rows, header.places, strict=True):
            try:
                if row.has_clip:
                    shard.read_clip(place, manifest.clip)
            except StoreError as error:
                message = str(error)
                lost.append(row.filename)
            done += 1
            progress(done, total)
        if lost:
            damaged.append(Damage(entry.file, message, len(lost), tuple(lost)))
    progress(total, total)
    return damaged
