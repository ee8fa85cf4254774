"""Stores read from end to end, and what is damaged named."""

from pathlib import Path
from typing import NamedTuple

from stallscan.clips import shard
from stallscan.clips.store import Progress, listed_in_table, read_header, read_manifest
from stallscan.errors import StoreError


class Damage(NamedTuple):
    """What is wrong with a shard.

    Attributes
    ----------
    file : str
        The shard.
    what : str
        One sentence: what is wrong with it, and what to do.
    lost : int
        Recordings that are lost with it.
    recordings : tuple of str
        Their names, as far as they are known.
    """

    file: str
    what: str
    lost: int
    recordings: tuple[str, ...]


def find_damage(folder: Path, progress: Progress = lambda _done, _of: None) -> list[Damage]:
    """Read every byte of a store, and say which shards are not as they were written.

    Parameters
    ----------
    folder : Path
        Of the store.
    progress : callable
        Called with how many recordings are looked at, of how many.

    Returns
    -------
    list of Damage
        Empty if all is well.

    Raises
    ------
    StoreError
        If there is no readable manifest.
    """
    manifest = read_manifest(folder)
    total = sum(entry.recordings for entry in manifest.shards)
    done = 0
    found = []
    for entry in manifest.shards:
        progress(done, total)
        try:
            header = read_header(folder, manifest, entry)
        except StoreError as error:
            names = listed_in_table(folder, entry.file)
            found.append(Damage(entry.file, str(error), entry.recordings, names))
            done += entry.recordings
            continue
        what, lost = "", []
        for row, place in zip(header.rows, header.places, strict=True):
            try:
                if row.has_clip:
                    shard.read_clip(place, manifest.clip)
            except StoreError as error:
                what = str(error)
                lost.append(row.filename)
            done += 1
            progress(done, total)
        if lost:
            found.append(Damage(entry.file, what, len(lost), tuple(lost)))
    progress(total, total)
    return found
